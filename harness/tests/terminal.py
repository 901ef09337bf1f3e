"""A terminal with a program at its other end, typed at and read like a person does."""

from __future__ import annotations

import contextlib
import os
import pty
from collections.abc import Iterator

from seatrial.clock import Deadline

__all__ = ["terminal", "until"]


@contextlib.contextmanager
def terminal() -> Iterator[tuple[int, int]]:
    """Give our end of a new terminal and the program's, which the caller closes when the program has it."""
    ours, theirs = pty.openpty()
    try:
        yield ours, theirs
    finally:
        os.close(ours)


def until(terminal: int, wanted: bytes, deadline: Deadline) -> bytes:
    """Read the terminal until ``wanted`` was shown, its other end is closed, or the time is up."""
    shown = b""
    os.set_blocking(terminal, False)
    while wanted not in shown and not deadline.is_over:
        try:
            piece = os.read(terminal, 65536)
        except BlockingIOError:
            deadline.pause(0.1)
            continue
        except OSError:
            break
        if not piece:
            break
        shown += piece
    print(shown.decode("utf-8", "backslashreplace"))
    return shown
