"""A root shell in the guest that was opened before a freeze and answers at once in every clone, without SSH."""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Iterator
from typing import Final

from seatrial.clock import Deadline
from seatrial.errors import SessionError
from seatrial.guest.shell import Shell
from seatrial.machine.arguments import LIFELINE
from seatrial.machine.lifeline import Lifeline

__all__ = ["held_open"]

_OPEN_S: Final = 20.0


@contextlib.contextmanager
def held_open(shell: Shell, lifeline: Lifeline | None, *, say_why: list[str]) -> Iterator[bool]:
    """Have a second shell in the guest on the lifeline while the block runs; yield whether there is one.

    Nothing of it stays in the guest that goes on: the shell ends with the block. A guest without bash, or with a
    network or firewall of its own making, has none; ``say_why`` gets the reason.
    """
    opened = lifeline is not None and _open(shell, lifeline, say_why)
    try:
        yield opened
    finally:
        if opened and lifeline is not None:
            lifeline.send(b"exit\n", deadline=Deadline(_OPEN_S))


def _open(shell: Shell, lifeline: Lifeline, say_why: list[str]) -> bool:
    address, (output, errors) = LIFELINE
    connect = (
        f"exec 3<>/dev/tcp/{address}/{output} 4>/dev/tcp/{address}/{errors} && "
        "exec env LC_ALL=C sh <&3 >&3 2>&4 3>&- 4>&-"
    )
    started = f"command -v bash && {{ setsid bash -c {shlex.quote(connect)} </dev/null >/dev/null 2>&1 & }}"
    try:
        status, _out, _err = shell.run(started)
        if status != 0:
            say_why.append("the guest has no bash to open a lifeline with")
            return False
        lifeline.forget()
        lifeline.send(b"echo lifeline; echo lifeline >&2\n", deadline=Deadline(_OPEN_S))
        return _answers(lifeline, say_why)
    except SessionError as exc:
        say_why.append(f"no lifeline: {exc.message}")
        return False


def _answers(lifeline: Lifeline, say_why: list[str]) -> bool:
    deadline, heard = Deadline(_OPEN_S), [b"", b""]
    while not all(b"lifeline\n" in stream for stream in heard):
        piece = lifeline.receive(deadline=deadline, guard=lambda: None)
        if piece is None or piece == (b"", b""):
            say_why.append("the guest's shell did not reach the lifeline (a network or firewall of its own?)")
            return False
        heard = [(stream + more)[-4096:] for stream, more in zip(heard, piece, strict=True)]
    return True
