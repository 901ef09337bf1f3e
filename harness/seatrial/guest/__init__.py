"""The running guest: SSH, one persistent root shell, the testinfra backend."""
