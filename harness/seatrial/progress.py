"""Live progress: a moving line on a terminal, plain lines elsewhere. Library code sees only :class:`Progress`."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from typing import Protocol, TextIO

from seatrial.clock import monotonic_s

__all__ = ["Progress", "Silent", "plain_progress", "progress_for", "terminal_progress"]

_PLAIN_EVERY_S = 20.0
_SHOWN = 100


class Progress(Protocol):
    """Where long work says what it does."""

    def phase(self, name: str) -> None:
        """Say that a phase begins."""
        ...

    def note(self, text: str) -> None:
        """Say something that stays on the screen."""
        ...

    def detail(self, text: str) -> None:
        """Show the newest detail (a console line, a share done); the next one replaces it."""
        ...


class Silent:
    """Says nothing."""

    def phase(self, name: str) -> None:
        """Ignore a phase."""

    def note(self, text: str) -> None:
        """Ignore a note."""

    def detail(self, text: str) -> None:
        """Ignore a detail."""


class _Plain:
    def __init__(self, write: Callable[[str], None]) -> None:
        self._write = write
        self._start = self._said = monotonic_s()
        self._name = ""

    def phase(self, name: str) -> None:
        self._name, self._said = name, monotonic_s()
        self._write(f"seatrial: [{self._elapsed()}] {name}")

    def note(self, text: str) -> None:
        self._write(f"seatrial: [{self._elapsed()}] {text}")

    def detail(self, text: str) -> None:
        # A log wants a sign of life, not every line.
        if monotonic_s() - self._said >= _PLAIN_EVERY_S:
            self._said = monotonic_s()
            self._write(f"seatrial: [{self._elapsed()}] {self._name}: {_printable(text)}")

    def _elapsed(self) -> str:
        return f"{monotonic_s() - self._start:5.1f} s"


class _Terminal(_Plain):
    def __init__(self, stream: TextIO) -> None:
        from rich.console import Console  # noqa: PLC0415 -- only where somebody watches

        self._console = Console(file=stream, highlight=False)
        super().__init__(lambda line: self._console.print(line, markup=False))
        self.status = self._console.status("")

    def phase(self, name: str) -> None:
        super().phase(name)
        self._show("")

    def detail(self, text: str) -> None:
        self._show(text)

    def _show(self, text: str) -> None:
        from rich.text import Text  # noqa: PLC0415 -- only where somebody watches

        self.status.update(Text(f"{self._elapsed()}  {self._name}  {_printable(text)}"))


def _printable(text: str) -> str:
    shown = "".join(c if c.isprintable() else " " for c in text).strip()
    return shown if len(shown) <= _SHOWN else shown[: _SHOWN - 1] + "…"


@contextlib.contextmanager
def plain_progress(write: Callable[[str], None]) -> Iterator[Progress]:
    """Give a progress that writes plain lines, with a sign of life every 20 s."""
    yield _Plain(write)


@contextlib.contextmanager
def terminal_progress(stream: TextIO) -> Iterator[Progress]:
    """Give a progress with a spinner, the elapsed time and the newest detail."""
    shown = _Terminal(stream)
    with shown.status:
        yield shown


@contextlib.contextmanager
def progress_for(stream: TextIO | None = None, *, plain: bool = False) -> Iterator[Progress]:
    """Give the progress that fits ``stream`` (stderr by default): live on a terminal, plain lines elsewhere."""
    target = stream or sys.stderr
    if target.isatty() and not plain:
        with terminal_progress(target) as shown:
            yield shown
    else:
        with plain_progress(lambda line: print(line, file=target, flush=True)) as lines:
            yield lines
