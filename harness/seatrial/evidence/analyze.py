"""The prose of ``systemd-analyze``: read as a cross-check of the time stamps, never as the measurement."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from seatrial.errors import ObservationError
from seatrial.evidence.systemd import Phases

__all__ = [
    "ANALYZE",
    "Analyzed",
    "ChainLink",
    "disagreements",
    "parse_analyze",
    "parse_blame",
    "parse_chain",
    "parse_span",
]

ANALYZE: Final = "systemd-analyze time --no-pager"
# systemd's format_timespan(): parts from the largest unit down, the last one may have a fraction.
_SECONDS: Final = {
    "y": 31_557_600.0,
    "month": 2_629_800.0,
    "w": 604_800.0,
    "d": 86_400.0,
    "h": 3600.0,
    "min": 60.0,
    "s": 1.0,
    "ms": 1e-3,
    "us": 1e-6,
    "μs": 1e-6,
}
_PART: Final = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,9})?)(y|month|w|d|h|min|s|ms|us|μs)")
_PHASES: Final = ("firmware", "loader", "kernel", "initrd", "userspace")
# The text is cut to milliseconds, a sum of five phases accordingly.
_CUT_S: Final = 0.006


@dataclass(frozen=True, slots=True, kw_only=True)
class Analyzed:
    """What ``systemd-analyze time`` says: seconds a phase as far as named, the total, the target and when it came."""

    phases: Mapping[str, float]
    total_s: float
    target: str = ""
    target_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ChainLink:
    """A line of ``systemd-analyze critical-chain``: active at, took (seconds; None when not said), and its depth."""

    unit: str
    at_s: float | None
    took_s: float | None
    depth: int


def parse_span(text: str) -> float:
    """Return the seconds of a time span as systemd writes it: ``1min 2.764s``, ``954ms``, ``2.020ms``, ``0``.

    :raises ObservationError: it is none.
    """
    words = text.split()
    if words == ["0"]:
        return 0.0
    parts = [_PART.fullmatch(word) for word in words]
    if not parts or not all(parts):
        raise ObservationError(f"{text[:100]!r} is no time span as systemd writes it")
    return sum(float(part[1]) * _SECONDS[part[2]] for part in parts if part)


def parse_analyze(text: str) -> Analyzed:
    """Return what the sentence of ``systemd-analyze time`` says. A phase that it does not name is absent.

    :raises ObservationError: the boot is not finished, or the text is no such sentence.
    """
    if "not yet finished" in text:
        raise ObservationError("systemd-analyze says that the boot is not yet finished", hint="see bh-no-stuck-jobs")
    first, _, rest = text.strip().partition("\n")
    match = re.fullmatch(r"Startup finished in (.+?)(?: = (.+?))?\s*", first)
    if match is None:
        raise ObservationError(f"systemd-analyze said {first[:200]!r}, expected 'Startup finished in ...'")
    phases = dict(_phase(part) for part in match[1].split(" + "))
    # One phase alone (a container) has no sum.
    total = parse_span(match[2]) if match[2] else sum(phases.values())
    reached = re.match(r"(\S{1,256}) reached after (.+?) in userspace", rest)
    return Analyzed(
        phases=phases,
        total_s=total,
        target=reached[1] if reached else "",
        target_s=parse_span(reached[2]) if reached else None,
    )


def _phase(text: str) -> tuple[str, float]:
    match = re.fullmatch(r"(.+) \(([a-z]+)\)", text.strip())
    if match is None or match[2] not in _PHASES:
        raise ObservationError(f"systemd-analyze said {text[:100]!r}, which is no phase with its time")
    return match[2], parse_span(match[1])


def parse_blame(text: str) -> Sequence[tuple[str, float]]:
    """Return unit and seconds from each line of ``systemd-analyze blame``.

    :raises ObservationError: a line has none.
    """
    return [_blamed(line) for line in text.split("\n") if line.strip()]


def _blamed(line: str) -> tuple[str, float]:
    span, _, unit = line.strip().rpartition(" ")
    if not span:
        raise ObservationError(f"systemd-analyze blame said {line[:200]!r}, expected a time and a unit")
    return unit, parse_span(span)


def parse_chain(text: str) -> Sequence[ChainLink]:
    """Return the lines of ``systemd-analyze critical-chain``; its two lines of explanation are left out.

    :raises ObservationError: a line names no unit, or a time is unreadable.
    """
    lines = [line for line in text.split("\n") if line.strip() and not line.startswith("The time ")]
    return [_link(line) for line in lines]


def _link(line: str) -> ChainLink:
    match = re.fullmatch(r"([\s│└─├]*)(\S{1,256})(?: @([^+]+?))?(?: \+(.+?))?\s*", line)
    if match is None:
        raise ObservationError(f"systemd-analyze critical-chain said {line[:200]!r}, which names no unit")
    return ChainLink(
        unit=match[2],
        at_s=parse_span(match[3]) if match[3] else None,
        took_s=parse_span(match[4]) if match[4] else None,
        depth=len(match[1]) // 2,
    )


def disagreements(phases: Phases, said: Analyzed) -> tuple[str, ...]:
    """Return in words where the prose contradicts the time stamps; empty when they agree."""
    ours = {name.removesuffix("_s"): seconds for name, seconds in phases.measured().items()} | {"total": phases.total_s}
    theirs = {**said.phases, "total": said.total_s}
    found = []
    for name in sorted(ours.keys() | theirs.keys()):
        mine, other = ours.get(name), theirs.get(name)
        if mine is None or other is None or abs(mine - other) > _CUT_S:
            found.append(f"{name}: time stamps say {_told(mine)}, systemd-analyze says {_told(other)}")
    return tuple(found)


def _told(seconds: float | None) -> str:
    return "nothing" if seconds is None else f"{seconds:.3f} s"
