"""The only door to testinfra: its ``Host`` over our root shell, a new one each boot."""

from __future__ import annotations

import shlex
from typing import Any

import testinfra.backend.base
import testinfra.host

from seatrial.guest.shell import Shell

__all__ = ["GuestBackend", "new_host"]


class GuestBackend(testinfra.backend.base.BaseBackend):  # type: ignore[misc]  # testinfra has no types
    """Runs testinfra's commands in the guest, each exactly once, as root."""

    NAME = "seatrial"

    def __init__(self, shell: Shell, name: str) -> None:
        super().__init__(name)
        self._shell = shell
        # Asking the guest's python for it would cost three commands; the shell runs in the C locale.
        self._encoding = "utf-8"

    def run(self, command: str, *args: str, **_kwargs: Any) -> Any:
        """Return testinfra's ``CommandResult`` with bytes; ``host.run``'s arguments are quoted as testinfra does."""
        text = self.get_command(command, *args)
        status, out, err = self._shell.run(text)
        return self.result(status, text.encode("utf-8", "surrogateescape"), out, err)

    def get_sudo_command(self, command: str, sudo_user: str | None) -> str:
        """Return ``command`` for ``host.sudo()``: we are root already, and an image may have no sudo."""
        if sudo_user is None:
            return command
        user = shlex.quote(sudo_user)
        return f"setpriv --reuid={user} --regid={user} --init-groups sh -c {shlex.quote(command)}"

    def decode(self, data: bytes) -> str:
        """Return guest bytes as text; what is no UTF-8 is escaped, never an exception."""
        return data.decode("utf-8", "backslashreplace")


def new_host(shell: Shell, name: str) -> Any:
    """Return a new ``testinfra.host.Host``; never ``get_host``, whose cache outlives the boot."""
    backend = GuestBackend(shell, name)
    host = testinfra.host.Host(backend)
    backend.set_host(host)
    return host
