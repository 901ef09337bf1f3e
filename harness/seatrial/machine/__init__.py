"""The virtual machine: arguments, disk, firmware, provisioning, QMP, console, boot."""
