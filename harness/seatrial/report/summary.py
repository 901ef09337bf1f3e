"""What a reader needs first: the decision in one line, and what stands against a release in order of weight."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from seatrial.policy.judge import Outcome, Severity, Verdict, Waived
from seatrial.policy.waivers import State, WaiverNote
from seatrial.report.record import DiskWrites, Record, counts, reasons_to_reject, waived_count
from seatrial.report.text import one_line, size

__all__ = [
    "WORDS",
    "Group",
    "acceptance",
    "accepted",
    "against",
    "another_flavour",
    "console_tail",
    "disk_told",
    "grounds",
    "headline",
    "run_reasons",
    "says_more",
    "waivers_to_mend",
    "with_outcome",
]

WORDS: Final[Mapping[Outcome, str]] = {
    Outcome.FAIL: "failed",
    Outcome.ERROR: "in error",
    Outcome.NOT_CHECKED: "not checked",
    Outcome.PASS: "passed",
    Outcome.NOT_APPLICABLE: "not applicable",
}
_SHOWN_FIRST = (Outcome.FAIL, Outcome.ERROR, Outcome.NOT_CHECKED)
_MANY = 4
_MOST_TAIL = 65_536
_MOST_PARTS = 6
_SEVERITIES = tuple(Severity)
# Colours and cursor moves: half of a console log, and of no use in a report. Any other escape stays, and is shown.
_COLOURS = re.compile(r"\x1b\[[0-?]{0,32}[@-~]")


@dataclass(frozen=True, slots=True)
class Group:
    """Verdicts that are shown together: one, or many that could not be judged for the same reason."""

    outcome: Outcome
    because: str
    verdicts: tuple[Verdict, ...]


def with_outcome(record: Record, outcome: Outcome) -> tuple[Verdict, ...]:
    """Return the verdicts with ``outcome``, most severe first."""
    found = [v for v in record.verdicts if v.outcome is outcome]
    return tuple(sorted(found, key=lambda v: (_SEVERITIES.index(v.severity), v.suite, v.control)))


def against(record: Record) -> tuple[Group, ...]:
    """Return what failed, then errors, then what was not checked, each by severity; many with one reason as one."""
    groups: list[Group] = []
    for outcome in _SHOWN_FIRST:
        by_reason: dict[str, list[Verdict]] = {}
        for verdict in (v for v in with_outcome(record, outcome) if v.waived is None):
            # A failure always stands alone: its expected and seen are its own.
            key = verdict.control if outcome is Outcome.FAIL else verdict.because
            by_reason.setdefault(key, []).append(verdict)
        for found in by_reason.values():
            parts = [tuple(found)] if len(found) >= _MANY else [(verdict,) for verdict in found]
            groups.extend(Group(outcome, part[0].because, part) for part in parts)
    return tuple(groups)


def accepted(record: Record) -> tuple[Verdict, ...]:
    """Return the failures that a waiver accepts, most severe first."""
    return tuple(v for v in with_outcome(record, Outcome.FAIL) if v.waived is not None)


def waivers_to_mend(record: Record) -> tuple[WaiverNote, ...]:
    """Return the waivers that need attention: expired, not needed, unused."""
    return tuple(note for note in record.waivers if note.state is not State.USED)


def another_flavour(record: Record) -> str:
    """Return that the system says it is another flavour than it was judged by, in words; empty when it does not."""
    flavour = record.flavour
    if flavour.recognised in ("", flavour.name):
        return ""
    return f"the system looks like {flavour.recognised!r} ({flavour.recognised_by}); it was judged as {flavour.name!r}"


def acceptance(waived: Waived) -> str:
    """Return who accepts a failure, until when, and how often that was put off, in words."""
    put_off = {0: "", 1: ", extended once"}.get(waived.extensions, f", extended {waived.extensions} times")
    return f"{waived.owner}, until {waived.expires}{put_off}: {waived.reason} ({waived.tracker})"


def run_reasons(record: Record) -> tuple[str, ...]:
    """Return what stands against a release beside verdicts that reject, in words."""
    numbers = counts(record)
    reasons = [] if record.problem is None else [f"could not judge: {record.problem.kind}"]
    told_otherwise = ("the run met a problem", "the verdicts do not allow it")
    reasons += [reason for reason in reasons_to_reject(record) if reason not in told_otherwise]
    if not record.verdicts:
        reasons.append("no control was selected")
    elif not any(numbers[outcome] for outcome in (*_SHOWN_FIRST, Outcome.PASS)):
        reasons.append("no control applies")
    return tuple(reasons)


def headline(record: Record) -> str:
    """Return the decision and what it rests on: ``reject (2 failed, 1 not checked of 97 controls)``."""
    return f"{record.decision} ({grounds(record)})"


def grounds(record: Record) -> str:
    """Return what the decision rests on: ``2 failed, 1 not checked of 97 controls``."""
    waived = waived_count(record)
    numbers = {**counts(record), Outcome.FAIL: counts(record)[Outcome.FAIL] - waived}
    told = [outcome for outcome in _SHOWN_FIRST if numbers[outcome]]
    told = told or [outcome for outcome in (Outcome.PASS, Outcome.NOT_APPLICABLE) if numbers[outcome]]
    if not told:
        return "; ".join(run_reasons(record))
    total = len(record.verdicts)
    parts = [f"{numbers[outcome]} {WORDS[outcome]}" for outcome in told]
    shares = ", ".join([*parts, *([f"{waived} failed and waived"] if waived else [])])
    said = [*run_reasons(record), f"{shares} of {total} {'control' if total == 1 else 'controls'}"]
    if record.replay is not None and record.replay.left_out:
        said.append(f"from facts: {len(record.replay.left_out)} that need a guest left out")
    return "; ".join(said)


def says_more(verdict: Verdict) -> bool:
    """Return whether ``because`` says more than expected and seen do."""
    repeated = (f"expected {verdict.expected}, saw {verdict.seen}", f"saw {verdict.seen}", "")
    return verdict.because not in repeated


def console_tail(record: Record, folder: Path, lines: int = 30) -> tuple[str, ...]:
    """Return the last console lines, without colours, when a problem kept the run from judging; none otherwise."""
    if record.problem is None:
        return ()
    tail = record.problem.console_tail or _last_lines(folder / record.evidence.get("console", "console.log"))
    plain = (_COLOURS.sub("", line).rstrip() for line in tail)
    return tuple(line for line in plain if line)[-lines:]


def _last_lines(path: Path) -> tuple[str, ...]:
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - _MOST_TAIL))
            text = file.read(_MOST_TAIL).decode("utf-8", "backslashreplace")
    except OSError:
        return ()
    return tuple(re.split(r"[\r\n]+", text))


def disk_told(record: Record) -> str:
    """Return in one line which parts of the disk the guest changed, and which immutable ones it did not."""
    changed = sorted((w for w in record.disk_writes if w.changed_bytes), key=lambda w: -w.changed_bytes)
    told = [
        f"{_part(w)}{' (immutable!)' if w.immutable else ''} {size(w.changed_bytes)}" for w in changed[:_MOST_PARTS]
    ]
    more = [f"{len(changed) - _MOST_PARTS} more"] if len(changed) > _MOST_PARTS else []
    kept = [_part(w) for w in record.disk_writes if w.immutable and not w.changed_bytes]
    untouched = f"; unchanged as it must be: {', '.join(dict.fromkeys(kept))}" if kept else ""
    return f"changed: {', '.join(told + more) or 'nothing'}{untouched}"


def _part(writes: DiskWrites) -> str:
    return f"{writes.number} {one_line(writes.label or writes.type)}" if writes.number else writes.label
