"""The only module that reads the clock or sleeps."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from datetime import UTC, datetime

__all__ = ["Deadline", "monotonic_s", "pause", "utc_now"]


def monotonic_s() -> float:
    """Return seconds on a clock that never goes back."""
    return time.monotonic()


def utc_now() -> datetime:
    """Return the wall-clock time, aware, in UTC."""
    return datetime.now(UTC)


def pause(seconds: float) -> None:
    """Sleep for ``seconds``; negative values do not sleep."""
    time.sleep(max(0.0, seconds))


@dataclass(frozen=True, slots=True)
class Deadline:
    """A point in time by which something must have happened; made once at the top and passed down."""

    total_s: float
    started_s: float = field(default_factory=monotonic_s)

    @property
    def remaining_s(self) -> float:
        """Return the seconds left, never below zero."""
        return max(0.0, self.started_s + self.total_s - monotonic_s())

    @property
    def elapsed_s(self) -> float:
        """Return the seconds since the deadline was made."""
        return monotonic_s() - self.started_s

    @property
    def is_over(self) -> bool:
        """Return whether the time is up."""
        return self.remaining_s == 0.0

    def within(self, seconds: float) -> Deadline:
        """Return a deadline of at most ``seconds`` from now that does not outlive this one."""
        return Deadline(min(seconds, self.remaining_s))

    def pause(self, seconds: float) -> None:
        """Sleep for ``seconds``, or for what is left when that is less."""
        pause(min(seconds, self.remaining_s))
