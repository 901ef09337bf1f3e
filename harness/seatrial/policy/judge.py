"""From observations to verdicts, and from verdicts to a decision."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

__all__ = [
    "Decision",
    "Observation",
    "Outcome",
    "Severity",
    "Verdict",
    "Waived",
    "decide",
    "judge",
]


class Outcome(StrEnum):
    """What a verdict says of a control; worst first."""

    ERROR = "error"
    FAIL = "fail"
    NOT_CHECKED = "not-checked"
    PASS = "pass"  # noqa: S105 -- an outcome, not a password
    NOT_APPLICABLE = "not-applicable"


_REJECTING: Final = frozenset({Outcome.ERROR, Outcome.FAIL, Outcome.NOT_CHECKED})


class Severity(StrEnum):
    """How much a broken control matters."""

    CRITICAL = "critical"
    HIGH = "high"
    MEDIUM = "medium"
    LOW = "low"


class Decision(StrEnum):
    """What becomes of the candidate."""

    RELEASE = "release"
    REJECT = "reject"


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """One thing that a check saw: does it hold, what was expected, what was there, as short text for people."""

    holds: bool
    expected: str
    seen: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Waived:
    """Why a failure is accepted, who answers for it, until when (a date), and how often that day was put off."""

    reason: str
    owner: str
    tracker: str
    expires: str
    extensions: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What became of one control in one run. ``waived`` says why a failure is accepted: it stays one."""

    control: str
    suite: str
    title: str
    severity: Severity
    outcome: Outcome
    expected: str = ""
    seen: str = ""
    because: str = ""
    rationale: str = ""
    remedy: str = ""
    refs: tuple[str, ...] = ()
    seconds: float | None = None
    repeats: int = 0
    repeats_failed: int = 0
    waived: Waived | None = None

    def __post_init__(self) -> None:
        """Refuse a waiver on anything but a failure.

        :raises ValueError: something that could not be told, or was not checked, is said to be accepted.
        """
        if self.waived is not None and self.outcome is not Outcome.FAIL:
            raise ValueError(f"a waiver accepts failures only, and {self.control!r} has outcome {self.outcome}")

    @property
    def rejects(self) -> bool:
        """Return whether this verdict stands against a release."""
        return self.outcome in _REJECTING and self.waived is None


def judge(observations: Sequence[Observation]) -> tuple[Outcome, str, str, str]:
    """Return outcome, expected, seen and because for all that one check observed; no observation is an error."""
    if not observations:
        return Outcome.ERROR, "", "", "the check ended without observing anything"
    broken = [o for o in observations if not o.holds]
    shown = broken or list(observations)
    expected = "; ".join(dict.fromkeys(o.expected for o in shown if o.expected))
    seen = "; ".join(dict.fromkeys(o.seen for o in shown if o.seen))
    if broken:
        return Outcome.FAIL, expected, seen, f"expected {expected}, saw {seen}"
    return Outcome.PASS, expected, seen, f"saw {seen}"


def decide(verdicts: Sequence[Verdict]) -> Decision:
    """Return release only when there is at least one pass and nothing that failed, errored or was not checked.

    A failure that a waiver accepts does not reject; it is no pass either.
    """
    if any(verdict.rejects for verdict in verdicts) or Outcome.PASS not in {verdict.outcome for verdict in verdicts}:
        return Decision.REJECT
    return Decision.RELEASE
