"""Root's rights for a user who is not root: by sudo, by doas, or because the UID is 0 under another name."""

from __future__ import annotations

import shlex
from typing import Final, Protocol

from seatrial.clock import Deadline
from seatrial.errors import RightsRefused
from seatrial.guest.ssh import Channel, Guard

__all__ = ["as_root", "require_root"]

_WAYS: Final = ("sudo -n --", "doas -n --")
_ANSWER: Final = "seatrial-rights:"
_MOST_TEXT: Final = 8192
_ASK_S: Final = 60.0


class Opener(Protocol):
    """Whoever can start a command in the guest."""

    @property
    def user(self) -> str:
        """Return the user that logs in."""
        ...

    def open(self, command: str, *, deadline: Deadline) -> Channel:
        """Start ``command`` on a channel of its own."""
        ...


def as_root(user: str, command: str) -> str:
    """Return what ``user`` runs, in whatever login shell, so that ``command`` runs as root, asking nothing."""
    if user == "root":
        return command
    tries = "; ".join(f'{way} true 2>/dev/null && exec {way} sh -c "$1"' for way in _WAYS)
    script = f'[ "$(id -u)" = 0 ] && exec sh -c "$1"; {tries}; exit 126'
    return f"sh -c {shlex.quote(script)} sh {shlex.quote(command)}"


def require_root(connection: Opener, *, guard: Guard) -> None:
    """Make sure that the user who logged in can become root without a question.

    :raises RightsRefused: neither way leads there; the text holds what was tried and what was said.
    :raises SessionLost: the connection broke.
    """
    if connection.user == "root":
        return
    tries = "; ".join(
        f'said=$({way} id -u 2>&1); [ "$said" = 0 ] && {{ echo "{_ANSWER}yes"; exit; }}; echo "{way} $said"'
        for way in _WAYS
    )
    script = f'[ "$(id -u)" = 0 ] && {{ echo "{_ANSWER}yes"; exit; }}; {tries}'
    said = _said(connection, f"sh -c {shlex.quote(script)}", guard)
    if f"{_ANSWER}yes" not in said.splitlines():
        tried = "; ".join(line.strip() for line in said.splitlines() if line.strip()) or "the shell said nothing"
        raise RightsRefused(
            f"user {connection.user!r} logged in, but cannot become root without a password: {tried[:600]}",
            hint="give the user a NOPASSWD rule for sudo (or nopass for doas), or log in as root: --ssh-user root",
        )


def _said(connection: Opener, command: str, guard: Guard) -> str:
    deadline = Deadline(_ASK_S)
    channel = connection.open(command, deadline=deadline)
    try:
        channel.end_of_input()
        heard = b""
        while len(heard) < _MOST_TEXT and (piece := channel.receive(deadline=deadline, guard=guard)):
            heard += piece[0] + piece[1]
            if piece == (b"", b""):
                break
    finally:
        channel.close()
    return heard[:_MOST_TEXT].decode("ascii", "backslashreplace")
