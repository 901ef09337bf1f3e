"""What a lynis run means for the decision: verdicts on the run itself, and one for each finding."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from seatrial.evidence.lynis.records import Detail, Finding, FindingKind, LynisRun
from seatrial.evidence.lynis.text import shorten
from seatrial.policy.controls import Control, verdict_on
from seatrial.policy.flavours import LynisPolicy
from seatrial.policy.judge import Outcome, Verdict

__all__ = ["OUTSIDE", "SUITE", "Outside", "finding_ids", "judge_lynis"]

SUITE: Final = "lynis"
_LONGEST: Final = 300
_TITLE: Final = 120
_SHOWN: Final = 10
_OPTION: Final = re.compile(r"([A-Za-z][A-Za-z0-9._]{0,63}) \(set ")


@dataclass(frozen=True, slots=True)
class Outside:
    """Findings about the run's surroundings: those of one test, or only its messages that begin in a certain way."""

    test: str
    because: str
    message: str = ""

    def covers(self, finding: Finding) -> bool:
        """Return whether ``finding`` is one of them."""
        return finding.test == self.test and finding.message.startswith(self.message)


_CLOCK: Final = "depends on the guest's clock, not on the image"
_AGE: Final = "says how old lynis is, and nothing about the image"
_LISTS: Final = "depends on package lists of that day, which the guest has no network to fetch"
_SYNC: Final = "depends on time servers, which the guest has no network to reach"
_NAMES: Final = "depends on the name service that the guest's network offers"
_MOMENT: Final = "depends on the moment, not on the image"

OUTSIDE: Final = (
    Outside("LYNIS", _AGE, "This release is more than"),
    Outside("LYNIS", _AGE, "Version of Lynis"),
    Outside("GEN-0010", _CLOCK + ", and on the list of end-of-life dates that lynis has"),
    Outside("CRYP-7902", _CLOCK),
    *(
        Outside(test, _LISTS)
        for test in (
            "KRNL-5788",
            "MALW-3286",
            "PKGS-7312",
            "PKGS-7322",
            "PKGS-7330",
            "PKGS-7352",
            "PKGS-7386",
            "PKGS-7392",
            "PKGS-7393",
        )
    ),
    *(
        Outside(test, _SYNC)
        for test in (
            "TIME-3106",
            "TIME-3116",
            "TIME-3120",
            "TIME-3124",
            "TIME-3128",
            "TIME-3132",
            "TIME-3181",
            "TIME-3182",
            "TIME-3185",
        )
    ),
    *(Outside(test, _NAMES) for test in ("NAME-4028", "NETW-2704", "NETW-2705")),
    *(Outside(test, _MOMENT) for test in ("KRNL-5830", "LOGG-2190", "NETW-3028")),
)


def judge_lynis(run: LynisRun, policy: LynisPolicy, controls: Sequence[Control]) -> list[Verdict]:
    """Return a verdict for each of ``controls`` (the rows of ``suites/lynis/controls.toml``), and one for each finding.

    A run that did not come to its end, or whose report is damaged, is an error and passes nothing: what it did not
    find may be in the part that is missing.
    """
    verdicts: list[Verdict] = []
    for control in controls:
        judge_row = _ROWS.get(control.id)
        if judge_row is None:
            verdicts.append(_verdict(control, Outcome.NOT_CHECKED, because="nothing judges this control"))
        else:
            verdicts += judge_row(run, policy, control)
    return verdicts if run.is_complete else [_doubted(verdict) for verdict in verdicts]


def _doubted(verdict: Verdict) -> Verdict:
    if verdict.outcome is not Outcome.PASS:
        return verdict
    return replace(verdict, outcome=Outcome.NOT_CHECKED, because="the lynis run is not complete")


def _verdict(
    control: Control, outcome: Outcome, *, because: str, expected: str = "", seen: str = "", title: str = ""
) -> Verdict:
    verdict = verdict_on(
        control,
        SUITE,
        outcome,
        because=shorten(because, _LONGEST),
        expected=shorten(expected, _LONGEST),
        seen=shorten(seen, _LONGEST),
    )
    return replace(verdict, title=title) if title else verdict


def _listed(names: Iterable[str]) -> str:
    every = list(names)
    more = f" and {len(every) - _SHOWN} more" if len(every) > _SHOWN else ""
    return ", ".join(every[:_SHOWN]) + more


def _judge_complete(run: LynisRun, _: LynisPolicy, control: Control) -> list[Verdict]:
    damage = [flaw for flaw in run.flaws if flaw.kind.is_damage]
    expected = "a whole report of one run that came to its end"
    if damage or not run.is_complete:
        seen = "; ".join(f"{flaw.kind}: {flaw.text}" for flaw in damage) or "an incomplete report"
        return [_verdict(control, Outcome.ERROR, expected=expected, seen=seen, because=f"cannot tell: {seen}")]
    seen = f"lynis {run.lynis_version or 'of unknown version'} ran {len(run.executed)} tests to the end"
    return [_verdict(control, Outcome.PASS, expected=expected, seen=seen, because=seen)]


def _judge_root(run: LynisRun, _: LynisPolicy, control: Control) -> list[Verdict]:
    wanted = _tests_of(control, "executed-any")
    ran = sorted(wanted & run.executed)
    expected = f"tests that only root may run were executed ({_listed(sorted(wanted))})"
    seen = f"executed: {_listed(ran) or 'none'}"
    if not ran:
        because = "cannot tell: no test that needs root was executed, so lynis did not run as root"
        return [_verdict(control, Outcome.ERROR, expected=expected, seen=seen, because=because)]
    return [_verdict(control, Outcome.PASS, expected=expected, seen=seen, because=seen)]


def _judge_executed(run: LynisRun, policy: LynisPolicy, control: Control) -> list[Verdict]:
    wanted = _tests_of(control, "executed")
    floor = int((control.probe or {}).get("at-least", len(wanted)))
    missing = sorted(test for test in wanted - run.executed if test not in policy.accepted)
    expected = f"at least {floor} tests were executed, the {len(wanted)} that need nothing among them"
    seen = f"{len(run.executed)} tests were executed" + (f", not among them: {_listed(missing)}" if missing else "")
    if missing or len(run.executed) < floor:
        because = f"cannot tell: {seen}; a test that is skipped finds nothing and raises the index"
        return [_verdict(control, Outcome.ERROR, expected=expected, seen=seen, because=because)]
    return [_verdict(control, Outcome.PASS, expected=expected, seen=seen, because=seen)]


def _tests_of(control: Control, key: str) -> frozenset[str]:
    return frozenset(str(test) for test in (control.probe or {}).get(key, ()))


def _judge_exceptions(run: LynisRun, policy: LynisPolicy, control: Control) -> list[Verdict]:
    # "TEST-ID:NNN: text"
    open_ones = [text for text in run.exceptions if text.split(":", 1)[0] not in policy.accepted]
    seen = _listed(shorten(text, 80) for text in open_ones) or "none"
    outcome = Outcome.FAIL if open_ones else Outcome.PASS
    return [_verdict(control, outcome, expected="no exception", seen=seen, because=f"exceptions: {seen}")]


def _judge_index(run: LynisRun, policy: LynisPolicy, control: Control) -> list[Verdict]:
    expected = f"hardening index of at least {policy.min_index}"
    if run.hardening_index is None:
        because = "cannot tell: the report has no hardening index"
        return [_verdict(control, Outcome.ERROR, expected=expected, seen="none", because=because)]
    outcome = Outcome.PASS if run.hardening_index >= policy.min_index else Outcome.FAIL
    because = f"the hardening index is {run.hardening_index}, the flavour expects at least {policy.min_index}"
    return [_verdict(control, outcome, expected=expected, seen=str(run.hardening_index), because=because)]


def _judge_warnings(run: LynisRun, policy: LynisPolicy, control: Control) -> list[Verdict]:
    return _judge_findings(run, policy, control, "warning")


def _judge_suggestions(run: LynisRun, policy: LynisPolicy, control: Control) -> list[Verdict]:
    return _judge_findings(run, policy, control, "suggestion")


def _judge_findings(run: LynisRun, policy: LynisPolicy, control: Control, kind: FindingKind) -> list[Verdict]:
    verdicts = [
        _judge_finding(finding, name, run.details, policy, control)
        for finding, name in finding_ids(run.findings)
        if finding.kind == kind
    ]
    failed = [verdict.control for verdict in verdicts if verdict.outcome is Outcome.FAIL]
    expected = f"no {kind} that the flavour does not accept"
    seen = f"{len(verdicts)} {kind}s, not accepted: {_listed(failed) or 'none'}"
    if kind == "suggestion" and not policy.gate_on_suggestions:
        outcome, because = Outcome.NOT_APPLICABLE, _NO_GATE
    else:
        outcome, because = (Outcome.FAIL if failed else Outcome.PASS), seen
    return [_verdict(control, outcome, expected=expected, seen=seen, because=because), *verdicts]


_NO_GATE: Final = "flavour does not gate on lynis suggestions"


def _judge_finding(
    finding: Finding, name: str, details: Sequence[Detail], policy: LynisPolicy, control: Control
) -> Verdict:
    outcome, because = _outcome_of(finding, name, policy)
    expected, seen = _values_of(finding, details)
    verdict = _verdict(
        control, outcome, because=because, expected=expected, seen=seen, title=shorten(finding.message, _TITLE)
    )
    return replace(
        verdict,
        control=name,
        remedy=shorten(finding.solution, _LONGEST) if finding.solution else control.remedy,
        refs=(f"lynis:{finding.test}",) if finding.test else (),
    )


def _outcome_of(finding: Finding, name: str, policy: LynisPolicy) -> tuple[Outcome, str]:
    accepted = policy.accepted.get(name) or policy.accepted.get(finding.test or "")
    if accepted:
        return Outcome.NOT_APPLICABLE, f"accepted: {accepted}"
    outside = next((row for row in OUTSIDE if row.covers(finding)), None)
    if outside is not None:
        return Outcome.NOT_APPLICABLE, outside.because
    if finding.kind == "suggestion" and not policy.gate_on_suggestions:
        return Outcome.NOT_APPLICABLE, _NO_GATE
    told = f" ({finding.details})" if finding.details else ""
    return Outcome.FAIL, f"lynis {finding.kind}: {finding.message}{told}"


def _values_of(finding: Finding, details: Sequence[Detail]) -> tuple[str, str]:
    """Return what lynis prefers and what it found, of the fields that belong to ``finding``."""
    option = _option_of(finding)
    rows = [row for row in details if row.test == finding.test and row.field and option in (None, row.field)]
    if not rows:
        return f"no {finding.kind}", finding.details or finding.message
    return _listed(f"{row.field}={row.prefval}" for row in rows), _listed(f"{row.field}={row.value}" for row in rows)


def _option_of(finding: Finding) -> str | None:
    match = _OPTION.match(finding.details or "")
    return match[1] if match else None


def finding_ids(findings: Sequence[Finding]) -> list[tuple[Finding, str]]:
    """Return the findings, exact duplicates left out, each with a control id of its own.

    ``lynis-auth-9230`` when the test found one thing. With the option's name when there is one
    (``lynis-ssh-7408-port``), else with a digest of the text, so that an id does not depend on the order.
    """
    once = [finding for finding in findings if not finding.is_duplicate]
    names = [_name_of(finding) for finding in once]
    counts = Counter(names)
    full = [_digested(finding, name) if counts[name] > 1 else name for finding, name in zip(once, names, strict=True)]
    return list(zip(once, _unique(full), strict=True))


def _name_of(finding: Finding) -> str:
    option = _option_of(finding)
    base = f"{SUITE}-{_slug(finding.test or 'unnamed')}"
    return f"{base}-{_slug(option)}" if option else base


def _digested(finding: Finding, base: str) -> str:
    text = "\0".join((finding.kind, finding.message, finding.details or "", finding.solution or ""))
    return f"{base}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def _unique(names: Sequence[str]) -> list[str]:
    # Names that a guest chose so that they collide, with one another or with a row, still get an id each.
    unique: dict[str, None] = {}
    for name in names:
        candidate, number = name, 1
        while candidate in unique or candidate in _ROWS:
            number += 1
            candidate = f"{name}-{number}"
        unique[candidate] = None
    return list(unique)


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-") or "x"


_Judge = Callable[[LynisRun, LynisPolicy, Control], list[Verdict]]
_ROWS: Final[Mapping[str, _Judge]] = {
    "lynis-run-complete": _judge_complete,
    "lynis-ran-as-root": _judge_root,
    "lynis-tests-executed": _judge_executed,
    "lynis-no-exceptions": _judge_exceptions,
    "lynis-hardening-index": _judge_index,
    "lynis-warnings": _judge_warnings,
    "lynis-suggestions": _judge_suggestions,
}
