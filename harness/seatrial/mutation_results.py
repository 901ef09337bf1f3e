"""What mutants came to: killed, survived, a false alarm or not applicable, told from verdicts before and after."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from fnmatch import fnmatchcase
from pathlib import Path
from types import MappingProxyType
from typing import Final

from seatrial.mutants_file import Mutant
from seatrial.policy.judge import Outcome, Verdict
from seatrial.report.atomic import write_atomic

__all__ = ["Result", "Results", "Tried", "Verdicts", "compared", "fits", "is_worse", "outcome_of", "tried_twice"]

Verdicts = Mapping[str, Verdict]
NO_FOLLOWERS: Final[Mapping[str, Sequence[str]]] = MappingProxyType({})
_SHOWN: Final = 400
_NOT_FINAL: Final = "not final: the run ended before it looked whether other controls changed"


class Result(StrEnum):
    """What became of a mutant."""

    KILLED = "killed"
    SURVIVED = "survived"
    FALSE_ALARM = "false alarm"
    NOT_APPLICABLE = "not-applicable"


@dataclass(frozen=True, slots=True, kw_only=True)
class Tried:
    """One mutant's result. ``unexpected`` names controls that changed but should not, with what they became."""

    id: str
    image: str
    result: Result
    killed_by: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    error: str = ""
    seconds: float = 0.0


def compared(
    mutant: Mutant,
    before: Verdicts,
    after: Verdicts,
    *,
    image: str,
    follows: Mapping[str, Sequence[str]] = NO_FOLLOWERS,
) -> Tried:
    """Return what ``mutant`` came to: a control is red when it stands against a release and did not before.

    :param follows: by control, globs for others that it goes red with; see :class:`seatrial.policy.controls.Control`.
    """
    red = tuple(name for name, verdict in after.items() if verdict.rejects and not before[name].rejects)
    killed_by = tuple(name for name in red if name in mutant.caught_by)
    changed = [n for n in after if is_worse(before[n], after[n]) and n not in mutant.caught_by]
    if mutant.is_benign:
        changed = [n for n in changed if fits(n, mutant.stays_green)]
    changed = [n for n in changed if not any(fits(name, follows.get(n, ())) for name in mutant.caught_by)]
    unexpected = tuple(f"{name}: {after[name].outcome}: {after[name].because[:_SHOWN]}" for name in changed)
    error = ""
    if mutant.is_benign and not any(fits(n, mutant.stays_green) and before[n].outcome is Outcome.PASS for n in before):
        result = Result.NOT_APPLICABLE
        error = f"no control that passes fits {', '.join(mutant.stays_green)}: that it stays green cannot be shown"
    elif killed_by or mutant.is_benign:
        result = Result.KILLED if killed_by else Result.SURVIVED
        if killed_by and all(after[name].outcome is Outcome.ERROR for name in killed_by):
            error = f"none failed, these could not tell: {_why_not(mutant, after)}"
    elif not any(n in before for n in mutant.caught_by):
        result, error = Result.SURVIVED, f"no suite that was judged has a control for it: {', '.join(mutant.caught_by)}"
    elif all(before[n].outcome is Outcome.NOT_APPLICABLE for n in mutant.caught_by if n in before):
        result, error = Result.NOT_APPLICABLE, _why_not(mutant, before)
    elif all(before[n].rejects for n in mutant.caught_by if n in before):
        error = f"red before the change, so nothing can be shown on this image: {_why_not(mutant, before)}"
        is_fail = all(before[n].outcome is Outcome.FAIL for n in mutant.caught_by if n in before)
        result = Result.NOT_APPLICABLE if is_fail else Result.SURVIVED
    else:
        result, error = Result.SURVIVED, _why_not(mutant, after)
    if unexpected:
        result = Result.FALSE_ALARM
    return Tried(id=mutant.id, image=image, result=result, killed_by=killed_by, unexpected=unexpected, error=error)


def is_worse(before: Verdict, after: Verdict) -> bool:
    """Return whether a control changed, and not to a pass: one that passes no more, for whatever reason, went blind."""
    return after.outcome is not before.outcome and after.outcome is not Outcome.PASS


def tried_twice(first: Tried, again: Tried) -> Tried:
    """Return what a mutant came to when it was tried twice, the second time for alarms only."""
    unexpected = tuple(dict.fromkeys([*first.unexpected, *again.unexpected]))
    result = Result.FALSE_ALARM if unexpected else first.result
    seconds = round(first.seconds + again.seconds, 1)
    return replace(first, result=result, unexpected=unexpected, seconds=seconds)


class Results:
    """The results of a run, kept in ``output`` (a list of :class:`Tried`, written anew with each) if that is a path.

    Any thread may add one. What is known of a mutant before its neighbours are through stands until its last word.
    """

    def __init__(self, output: Path | None) -> None:
        self._output = output
        self._lock = threading.Lock()
        self._found: dict[tuple[str, str], Tried] = {}
        self._final: set[tuple[str, str]] = set()

    def known_so_far(self, tried: Tried) -> None:
        """Keep what may not be the last word, and say so where it is written."""
        with self._lock:
            self._put(replace(tried, error=f"{tried.error}; {_NOT_FINAL}" if tried.error else _NOT_FINAL))

    def final(self, tried: Tried) -> None:
        """Keep the last word."""
        with self._lock:
            self._final.add((tried.image, tried.id))
            self._put(tried)

    def of(self, image: str) -> tuple[Tried, ...]:
        """Return what is final of ``image``."""
        with self._lock:
            return tuple(tried for key, tried in self._found.items() if key in self._final and tried.image == image)

    def _put(self, tried: Tried) -> None:
        self._found[tried.image, tried.id] = tried
        if self._output is not None:
            write_atomic(self._output, json.dumps([asdict(one) for one in self._found.values()], indent=1) + "\n")


def fits(name: str, globs: Sequence[str]) -> bool:
    """Return whether one of ``globs`` fits ``name``."""
    return any(fnmatchcase(name, glob) for glob in globs)


def outcome_of(tried: Sequence[Tried], benign: frozenset[str]) -> tuple[str, bool]:
    """Return the last line of a run, and whether the controls have stood the test.

    :param benign: ids of harmless variants; they are to survive.
    """
    seeded = [t for t in tried if t.id not in benign and t.result is not Result.NOT_APPLICABLE]
    killed = sum(t.result is Result.KILLED for t in seeded)
    alarms = sum(t.result is Result.FALSE_ALARM for t in tried)
    left = sum(t.result is Result.NOT_APPLICABLE for t in tried)
    harmless = sum(t.id in benign and t.result is Result.SURVIVED for t in tried)
    share = f" ({killed / len(seeded):.1%})" if seeded else ""
    text = (
        f"{killed} of {len(seeded)} mutants killed{share}, {alarms} false alarms, "
        f"{harmless} harmless variants changed nothing, {left} not applicable"
    )
    return text, bool(seeded or harmless) and killed == len(seeded) and not alarms


def _why_not(mutant: Mutant, verdicts: Verdicts) -> str:
    told = [f"{n}: {verdicts[n].outcome}: {verdicts[n].because[:_SHOWN]}" for n in mutant.caught_by if n in verdicts]
    return "; ".join(told)
