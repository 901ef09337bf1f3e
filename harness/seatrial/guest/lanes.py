"""Many questions over several shells of one connection at a time: a guest with several processors uses them all."""

from __future__ import annotations

import contextlib
import re
import threading
from collections import deque
from collections.abc import Collection, Iterator, Sequence
from typing import Final

from seatrial.errors import SeatrialError, SessionError
from seatrial.guest.shell import MOST_OUTPUT, Shell

__all__ = ["Lanes", "is_asked_alone", "turn"]

# What would tell of the other lanes' processes, sockets, memory and jobs, and what writes or tries to.
_ALONE: Final = re.compile(
    r"/proc/\[|/proc/\*|/proc/(?:meminfo|loadavg|locks)\b|\b(?:ps|pgrep|pidof|lsof|fuser|free|top|loginctl)\b"
    r"|\bss -|/proc/net/(?:tcp|udp)|list-jobs|=activating\b|seatrial-calls|\btry\(\)"
)
# The service manager answers one after the other: two lanes that ask it wait for each other. Some verbs ask it nothing.
_SERVICE_MANAGER: Final = re.compile(r"\bsystemctl (?!--root=)|\bsystemd-analyze (?!verify |cat-config )")
# Another shell costs a sudo and a login session: more than a few questions do.
_WORTHWHILE: Final = 16

Given = tuple[int, bytes, bytes] | SessionError


def is_asked_alone(command: str) -> bool:
    """Return whether nothing else may run in the guest while it answers ``command``."""
    return _ALONE.search(command) is not None


def turn(command: str) -> int:
    """Return what to sort questions by: those asked alone, those that the service manager answers, all others."""
    if is_asked_alone(command):
        return 0
    return 1 if _SERVICE_MANAGER.search(command) else 2


class Lanes:
    """Asks by ``shell`` and up to ``most - 1`` more on its connection; a :class:`seatrial.guest.facts.BatchAsker`."""

    def __init__(self, shell: Shell, *, most: int) -> None:
        self._shell = shell
        self._most = most
        self._others: list[Shell] = []
        self._work = _Work(())
        self._are_kept = False

    @contextlib.contextmanager
    def kept(self) -> Iterator[None]:
        """Keep the other shells open from one :meth:`run_all` to the next, but for what is asked alone."""
        self._are_kept = True
        try:
            yield
        finally:
            self._are_kept = False
            self._close()

    def run(self, command: str, *, timeout_s: float | None = None) -> tuple[int, bytes, bytes]:
        """Return exit status, stdout and stderr; see :meth:`Shell.run`."""
        return self._shell.run(command, timeout_s=timeout_s)

    def run_all(
        self, commands: Sequence[str], *, most_output: int = MOST_OUTPUT, timeout_s: float | None = None
    ) -> Iterator[Given]:
        """Give the answers to ``commands`` in order, as :meth:`Shell.run_all` does.

        They should come by :func:`turn`: all up to the last that is asked alone are asked by one shell, and of the
        others the first shell takes the front, which spares the service manager two that ask at a time.

        :raises SessionLost: the connection broke; the answers that were given stay good.
        """
        first = max((number for number, command in enumerate(commands, 1) if is_asked_alone(command)), default=0)
        if first:
            self._close()
        yield from self._shell.run_all(commands[:first], most_output=most_output, timeout_s=timeout_s)
        work = self._work = _Work(commands[first:])
        self._open()
        work.lanes += len(self._others)
        numbers = work.taken()
        try:
            with _at_work(self._others, work, most_output, timeout_s):
                while numbers:
                    asked = [work.commands[number] for number in numbers]
                    answers = self._shell.run_all(asked, most_output=most_output, timeout_s=timeout_s)
                    for number, answer in zip(numbers, answers, strict=True):
                        work.note(number, answer)
                        yield from work.next_in_order()
                    numbers = work.taken(to_the_end=True)
        except SeatrialError:
            yield from work.next_in_order()
            raise
        finally:
            if not (self._are_kept and work.is_done):
                self._close()
        yield from work.next_in_order()

    def _open(self) -> None:
        if self._others or len(self._work.commands) < _WORTHWHILE:
            return
        shells = (self._shell.beside(guard=self._guard) for _lane in range(self._most - 1))
        self._others = [shell for shell in shells if shell is not None]

    def _close(self) -> None:
        while self._others:
            self._others.pop().close()

    def _guard(self) -> None:
        self._work.guard()


@contextlib.contextmanager
def _at_work(shells: Sequence[Shell], work: _Work, most_output: int, timeout_s: float | None) -> Iterator[None]:
    """Have ``shells`` ask during the block."""

    def ask(shell: Shell) -> None:
        # Whatever ends this lane is met by the first one too, which gets what this one leaves undone.
        with contextlib.suppress(SeatrialError):
            while numbers := deque(work.taken_last()):
                asked = [work.commands[number] for number in numbers]
                try:
                    for answer in shell.run_all(asked, most_output=most_output, timeout_s=timeout_s):
                        work.note(numbers.popleft(), answer)
                finally:
                    work.put_back(numbers)

    with contextlib.ExitStack() as stack:
        for shell in shells:
            thread = threading.Thread(target=ask, args=(shell,), name="lane", daemon=True)
            stack.callback(thread.join)
            thread.start()
        stack.callback(work.give_up)
        yield


class _GivenUp(SessionError):
    """Nobody waits any more for what this lane asks."""


class _Work:
    """What is to be asked, by numbers of ``commands``. Each lane takes a part of what is left, smaller and smaller."""

    def __init__(self, commands: Sequence[str]) -> None:
        self.commands = commands
        self.lanes = 1
        self._left = deque(range(len(commands)))
        self._answers: dict[int, Given] = {}
        self._given = 0
        self._given_up = False
        self._changed = threading.Condition()

    @property
    def is_done(self) -> bool:
        """Return whether every command has an answer."""
        return len(self._answers) == len(self.commands)

    def taken(self, *, to_the_end: bool = False) -> list[int]:
        """Take numbers from the front; none when none are left.

        :param to_the_end: wait for what other lanes have taken, and may put back.
        """
        with self._changed:
            while to_the_end and not self._left and not self.is_done:
                self._changed.wait()
            return [self._left.popleft() for _ in range(self._share())]

    def taken_last(self) -> list[int]:
        """Take numbers from the end, in their order; none when none are left."""
        with self._changed:
            return [self._left.pop() for _ in range(self._share())][::-1]

    def _share(self) -> int:
        parts = 2 * self.lanes if self.lanes > 1 else 1
        return 0 if self._given_up else -(-len(self._left) // parts)

    def put_back(self, numbers: Collection[int]) -> None:
        """Leave ``numbers`` to whoever takes next."""
        with self._changed:
            self._left.extend(numbers)
            self._changed.notify_all()

    def note(self, number: int, answer: Given) -> None:
        """Keep the answer to a command."""
        with self._changed:
            self._answers[number] = answer
            self._changed.notify_all()

    def next_in_order(self) -> Iterator[Given]:
        """Give the answers that follow those given before, as far as they are there."""
        while self._given in self._answers:
            self._given += 1
            yield self._answers[self._given - 1]

    def give_up(self) -> None:
        """End the lanes that still ask; one that has given its last answer may read to the end of its script."""
        self._given_up = not self.is_done

    def guard(self) -> None:
        """Raise when a lane need not go on.

        :raises SessionError: nobody waits for it.
        """
        if self._given_up:
            raise _GivenUp("nobody waits for this answer any more")
