"""What an emulator needs that hardware does not: a boot in which it lost a timer is made once more."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import TypeVar

from seatrial.errors import TimerLost

__all__ = ["once_more"]

Started = TypeVar("Started")


@contextlib.contextmanager
def once_more(start: Callable[[], contextlib.AbstractContextManager[Started]]) -> Iterator[Started]:
    """Give what ``start`` gives; it is called once more when the emulator lost a timer before it gave anything.

    :raises TimerLost: that happened twice.
    """
    with contextlib.ExitStack() as stack:
        try:
            started = stack.enter_context(start())
        except TimerLost:
            started = stack.enter_context(start())
        yield started
