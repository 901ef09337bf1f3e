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


class _Terminal:
    """One moving line: a spinner, the time since the start, the phase and the newest detail."""

    def __init__(self, stream: TextIO) -> None:
        # Only where somebody watches: rich is no small import.
        from rich.console import Console  # noqa: PLC0415
        from rich.progress import Progress as Bar  # noqa: PLC0415
        from rich.progress import SpinnerColumn, TextColumn, TimeElapsedColumn  # noqa: PLC0415
        from rich.table import Column  # noqa: PLC0415

        text = TextColumn(
            "{task.description}  {task.fields[detail]}",
            markup=False,
            table_column=Column(no_wrap=True, overflow="ellipsis", ratio=1),
        )
        console = Console(file=stream, highlight=False, soft_wrap=True)
        self.bar = Bar(
            SpinnerColumn(),
            TimeElapsedColumn(),
            text,
            console=console,
            transient=True,
            expand=True,
            refresh_per_second=4,
        )
        self._task = self.bar.add_task("", total=None, detail="")
        self._lines = _Plain(lambda line: self.bar.console.print(line, markup=False))

    def phase(self, name: str) -> None:
        self._lines.phase(name)
        self.bar.update(self._task, description=name, detail="")

    def note(self, text: str) -> None:
        self._lines.note(text)

    def detail(self, text: str) -> None:
        self.bar.update(self._task, detail=_printable(text))


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
    with shown.bar:
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
