"""The decision for a terminal: what somebody needs at three in the morning, and nothing that a guest can abuse."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from seatrial.policy.judge import Decision, Outcome, Severity, Verdict
from seatrial.report.record import Record, Replay, RestoreFacts, counts, waived_count
from seatrial.report.summary import (
    Group,
    acceptance,
    accepted,
    against,
    another_flavour,
    console_tail,
    disk_told,
    headline,
    run_reasons,
    says_more,
    waivers_to_mend,
)
from seatrial.report.text import duration, one_line, shortened, size

__all__ = ["summary_lines"]

_NARROWEST, _WIDEST = 40, 120
_MOST_TEXT = 600
_MOST_NAMED = 12
_TAIL = 8
_MOST_FINDINGS = 6
_SGR: Final = {
    Decision.RELEASE: "1;32",
    Decision.REJECT: "1;31",
    Outcome.FAIL: "31",
    Outcome.ERROR: "35",
    Outcome.NOT_CHECKED: "33",
}


def summary_lines(record: Record, folder: Path, *, width: int = 100, colour: bool = False) -> list[str]:
    """Return the summary of ``record``, whose reports are in ``folder``, as lines of at most ``width`` columns.

    Without ``colour`` no line holds an escape sequence; with it, only those of the decision and the outcomes.
    """
    page = _Page(max(_NARROWEST, min(width, _WIDEST)), colour)
    return [
        *_subject(record, page),
        *_problem(record, folder, page),
        *_findings(record, page),
        *_table(record, page),
        *(line for group in against(record) for line in _group(group, page)),
        *(line for verdict in accepted(record) for line in _accepted(verdict, page)),
        *_waivers(record, page),
        *_evidence(record, folder, page),
        page.painted(f"decision: {one_line(headline(record))}", record.decision),
    ]


class _Page:
    def __init__(self, width: int, colour: bool) -> None:
        self.width = width
        self._colour = colour

    def painted(self, text: str, meaning: Decision | Outcome) -> str:
        return f"\x1b[{_SGR[meaning]}m{text}\x1b[0m" if self._colour and meaning in _SGR else text

    def field(self, name: str, text: str, indent: int = 2, column: int = 10) -> Iterator[str]:
        """Wrap ``text`` beside ``name``; its own line feeds stay line feeds."""
        first = f"{' ' * indent}{name:<{column}}"
        rest = " " * len(first)
        for number, line in enumerate(shortened(text, _MOST_TEXT).split("\n")):
            yield from textwrap.wrap(
                line,
                self.width,
                initial_indent=rest if number else first,
                subsequent_indent=rest,
                break_on_hyphens=False,
            )


def _subject(record: Record, page: _Page) -> Iterator[str]:
    image, machine, boot = record.image, record.machine, record.boot
    yield page.painted(str(record.decision).upper(), record.decision) + f" {one_line(image.name)}"
    yield from page.field("image", f"{image.path} ({image.format}, {size(image.size_bytes)})")
    yield from page.field("sha256", f"{image.sha256[:16]}… ({_digest_state(record)})")
    yield from page.field("flavour", f"{record.flavour.name}: {record.flavour.title} ({record.flavour.kind})")
    if text := another_flavour(record):
        yield from page.field("BUT", text)
    if record.replay is not None:
        yield from _replay(record.replay, page)
    elif machine is None:
        yield from page.field("machine", "none was powered on")
    else:
        yield from page.field("machine", f"{machine.definition}, {machine.firmware}, QEMU {machine.qemu}")
        yield from page.field("ran on", f"{machine.accelerator}: {machine.accelerator_reason}")
    if record.differences:
        kinds = ", ".join(dict.fromkeys(difference.kind for difference in record.differences))
        yield from page.field("differs", f"from how it ships, by {kinds}; record.json says how")
    if boot is not None:
        steps = ((boot.banner_s, "banner"), (boot.login_s, "login"), (boot.ready_s, "ready"))
        yield from page.field("boot", ", ".join(f"{name} {duration(at)}" for at, name in steps) + f" ({boot.state})")
    if record.restores is not None:
        yield from page.field("copies", _restored(record.restores))
    if record.disk_writes:
        yield from page.field("disk", disk_told(record))
    yield ""


def _replay(replay: Replay, page: _Page) -> Iterator[str]:
    yield from page.field(
        "facts", f"{replay.facts}, taken {replay.taken.isoformat(timespec='seconds')}; nothing was booted"
    )
    if replay.left_out:
        number = f"{len(replay.left_out)} {'control needs' if len(replay.left_out) == 1 else 'controls need'} a guest"
        yield from page.field("left out", f"{number}: {', '.join(replay.left_out)}")


def _restored(restores: RestoreFacts) -> str:
    booted = f"{restores.cold_boots} cold boot{'s' * (restores.cold_boots != 1)} beside the first"
    if not restores.seconds:
        return booted
    mean_s = sum(restores.seconds) / len(restores.seconds)
    slow = f"; {one_line(restores.reason)}" if restores.method != "template" else ""
    copies = f"{len(restores.seconds)} by {restores.method}, frozen in {duration(restores.freeze_s)}"
    return f"{copies}, each there in {duration(mean_s)} on average{slow}; {booted}"


def _digest_state(record: Record) -> str:
    if record.replay is not None:
        return "as the facts say; the image was not opened"
    if record.image.sha256_after is None:
        return "not compared after the run"
    return "unchanged by the run" if record.image.sha256_after == record.image.sha256 else "CHANGED during the run"


def _problem(record: Record, folder: Path, page: _Page) -> Iterator[str]:
    problem = record.problem
    if problem is None:
        for reason in run_reasons(record):
            yield page.painted(one_line(reason), Outcome.ERROR)
            yield ""
        return
    yield page.painted(f"could not judge: {one_line(problem.kind)}", Outcome.ERROR)
    when = "" if problem.at_s is None else f"{duration(problem.at_s)} after power-on, phase {problem.phase}"
    for name, text in (("what", problem.message), ("when", when), ("hint", problem.hint), ("see", problem.evidence)):
        if text:
            yield from page.field(name, text)
    if tail := console_tail(record, folder, _TAIL):
        yield "  last console lines:"
        yield from (f"    | {one_line(line)}"[: page.width] for line in tail)
    yield ""


def _findings(record: Record, page: _Page) -> Iterator[str]:
    """Show what was suspicious from outside: it decides nothing here, the control ``bh-console-clean`` does."""
    open_ones = [found for found in record.findings if not found.accepted]
    if not open_ones:
        return
    yield page.painted(f"seen on the console and in QEMU's events: {len(open_ones)} suspicious", Outcome.NOT_CHECKED)
    for found in open_ones[:_MOST_FINDINGS]:
        times = f", {found.count} times" if found.count > 1 else ""
        text = f"{found.title} ({duration(found.at_s)}, {found.phase}{times}): {one_line(found.line)}"
        yield from page.field("-", text, column=2)
    if len(open_ones) > _MOST_FINDINGS:
        yield f"  and {len(open_ones) - _MOST_FINDINGS} more in record.json"
    yield ""


def _table(record: Record, page: _Page) -> Iterator[str]:
    columns = _columns(record, None)
    shown = [name for name, number in columns.items() if number]
    if not shown:
        return
    suites = list(dict.fromkeys([*record.suites, *(v.suite for v in record.verdicts)]))
    name_width = min(max(map(len, ["suite", *suites])), max(8, page.width - sum(len(name) + 2 for name in shown)))
    yield "".join([f"{'suite':<{name_width}}", *(f"  {name}" for name in shown)])
    for suite in [*suites, None]:
        numbers = _columns(record, suite)
        cells = [_cell(name, numbers[name], page) for name in shown]
        yield f"{one_line(suite or 'all')[:name_width]:<{name_width}}" + "".join(cells)
    yield ""


def _columns(record: Record, suite: str | None) -> dict[str, int]:
    """Return heads and numbers of the table; a waived failure is counted as such and not among the others."""
    numbers, waived = counts(record, suite), waived_count(record, suite)
    columns = {str(outcome): number for outcome, number in numbers.items()}
    columns[Outcome.FAIL] -= waived
    return {**columns, "waived": waived}


def _cell(name: str, number: int, page: _Page) -> str:
    text = f"  {number or '-':>{len(name)}}"
    return page.painted(text, Outcome(name)) if number and name != "waived" else text


def _group(group: Group, page: _Page) -> Iterator[str]:
    if len(group.verdicts) == 1:
        yield from _verdict(group.verdicts[0], page)
    else:
        severities = Counter(v.severity for v in group.verdicts)
        weights = ", ".join(f"{severities[severity]} {severity}" for severity in Severity if severities[severity])
        yield page.painted(f"{group.outcome}: {len(group.verdicts)} controls for one reason ({weights})", group.outcome)
        yield from page.field("because", group.because)
        if len(group.verdicts) <= _MOST_NAMED:
            yield from page.field("controls", ", ".join(v.control for v in group.verdicts))
    yield ""


def _verdict(verdict: Verdict, page: _Page, *, word: str = "") -> Iterator[str]:
    head = one_line(f"{word or verdict.outcome}: {verdict.control} [{verdict.severity}] {verdict.title}")
    lines = textwrap.wrap(head, page.width, subsequent_indent="  ", break_on_hyphens=False)
    yield from (page.painted(line, verdict.outcome) for line in lines)
    fields = {
        "expected": verdict.expected,
        "seen": verdict.seen,
        "because": verdict.because if says_more(verdict) else "",
        "remedy": verdict.remedy,
    }
    for name, text in fields.items():
        if text:
            yield from page.field(name, text)


def _accepted(verdict: Verdict, page: _Page) -> Iterator[str]:
    yield from _verdict(verdict, page, word="waived")
    if verdict.waived is not None:
        yield from page.field("accepted", acceptance(verdict.waived))
    yield ""


def _waivers(record: Record, page: _Page) -> Iterator[str]:
    notes = waivers_to_mend(record)
    for note in notes:
        controls = f" ({', '.join(note.controls)})" if note.controls else ""
        yield from page.field(
            "waiver",
            f"{note.control} is {note.state}: {note.because}{controls}; {note.owner}, {note.tracker}",
            indent=0,
        )
    if notes:
        yield ""


def _evidence(record: Record, folder: Path, page: _Page) -> Iterator[str]:
    files = [*record.evidence.values()]
    # A path is not wrapped: it is there to be copied.
    yield f"reports and evidence: {one_line(str(folder))}"
    yield from page.field("", ", ".join(dict.fromkeys(["record.json", *files])), indent=2, column=0)
