"""One self-contained HTML page: the decision first, then the facts, then what stands against a release."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Final

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from seatrial.layout import data_dir
from seatrial.policy.judge import Outcome
from seatrial.report.record import BootTimes, Record, counts
from seatrial.report.summary import (
    WORDS,
    acceptance,
    accepted,
    against,
    another_flavour,
    disk_told,
    grounds,
    says_more,
    waivers_to_mend,
    with_outcome,
)
from seatrial.report.text import duration, shortened, size

__all__ = ["html_page"]

_MOST_TEXT = 4000
_NARROWEST_BAR = 1.2  # of 100: a single failure among many passes must be seen
_COLOURED = (Outcome.FAIL, Outcome.ERROR, Outcome.NOT_CHECKED, Outcome.PASS, Outcome.NOT_APPLICABLE)
_SEEN_FROM_OUTSIDE: Final = ("until the SSH banner", "until the login", "until the system settled")
# What a reader finds in the evidence of that name; another name speaks for itself.
_EVIDENCE: Final = {
    "console": "what came over the serial line, from the firmware on",
    "journal": "the guest's journal of this boot, or the kernel's log where there is none",
    "facts": "every answer of the guest; 'seatrial judge' takes it",
    "errors": "the traces of checks that broke",
    "lynis": "lynis' report, as the guest wrote it",
    "lynis-xml": "the same, parsed",
    "qemu": "what QEMU said",
    "swtpm": "what the TPM's emulator said",
    "restored": "consoles of the copies that changing checks ran in",
    "workers": "consoles of the workers' copies",
    "screenshot": "the guest's screen when the run could not go on",
    "disk-writes": "what the guest wrote to its disk, by partition",
    "junit": "the verdicts as test results, for CI",
}


@dataclass(frozen=True, slots=True)
class _Piece:
    """One part of a bar, in hundredths of its full length."""

    name: str
    css: str
    start: float
    length: float
    told: str


@dataclass(frozen=True, slots=True)
class _Bar:
    name: str
    pieces: tuple[_Piece, ...]


def html_page(record: Record, console_tail: tuple[str, ...] = (), *, timeline: str = "") -> str:
    """Return the page on ``record``; ``console_tail`` is shown when the run could not judge.

    :param timeline: the boot as SVG, in which every name is escaped; nothing is drawn without it.
    """
    environment = Environment(
        loader=FileSystemLoader(data_dir("reports") / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_shown,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(duration=duration, size=size)
    environment.tests["saying_more"] = says_more
    return environment.get_template("report.html.j2").render(
        record=record,
        grounds=grounds(record),
        facts=tuple(_facts(record)),
        bars=_suite_bars(record),
        legend=[(outcome, WORDS[outcome], number) for outcome, number in _present(counts(record))],
        groups=against(record),
        waived=[(verdict, acceptance(verdict.waived)) for verdict in accepted(record) if verdict.waived],
        waivers_to_mend=waivers_to_mend(record),
        boot_bars=_boot_bars(record.boot) if record.boot else (),
        timeline=Markup(timeline),  # noqa: S704 -- lxml made it, and escaped what the guest wrote
        console_tail=console_tail,
        passes=with_outcome(record, Outcome.PASS),
        not_applicable=with_outcome(record, Outcome.NOT_APPLICABLE),
        disk_told=disk_told(record),
        links=[(file, _EVIDENCE.get(name, name)) for name, file in record.evidence.items() if name != "html"],
    )


def _shown(value: object) -> object:
    # Every value that the template prints comes through here, then through autoescape: none can be forgotten.
    return shortened(value, _MOST_TEXT) if isinstance(value, str) and not isinstance(value, Markup) else value


def _facts(record: Record) -> Iterator[tuple[str, str]]:
    image, machine = record.image, record.machine
    yield "Image", f"{image.path} ({image.format}, {size(image.size_bytes)})"
    yield "SHA-256", image.sha256
    yield "After the run", _digest_after(record)
    if text := another_flavour(record):
        yield "But", text
    if record.replay is not None:
        yield "Judged from", f"{record.replay.facts}, taken {record.replay.taken.isoformat(timespec='seconds')}"
        yield "Left out", ", ".join(record.replay.left_out) or "no control"
    yield "Flavour", f"{record.flavour.name}: {record.flavour.title} ({record.flavour.kind})"
    if machine is not None:
        yield "Machine", f"{machine.definition}: {machine.cpus} CPUs, {machine.memory_mib} MiB, {machine.firmware}"
        yield "Ran on", f"QEMU {machine.qemu}, {machine.accelerator}: {machine.accelerator_reason}"
    else:
        yield "Machine", "none was powered on"
    yield "Started", f"{record.started:%Y-%m-%d %H:%M:%S %Z}"
    if record.finished is not None:
        yield "Took", duration((record.finished - record.started).total_seconds())
    else:
        yield "Took", "the run has not ended, or was killed"
    yield "Run", f"{record.run}, seatrial {record.seatrial}"


def _digest_after(record: Record) -> str:
    if record.replay is not None:
        return "as the facts say; the image was not opened"
    if record.image.sha256_after is None:
        return "not compared"
    return "unchanged" if record.image.sha256_after == record.image.sha256 else f"CHANGED: {record.image.sha256_after}"


def _present(numbers: Mapping[Outcome, int]) -> list[tuple[Outcome, int]]:
    return [(outcome, numbers[outcome]) for outcome in _COLOURED if numbers[outcome]]


def _suite_bars(record: Record) -> tuple[_Bar, ...]:
    suites = list(dict.fromkeys([*record.suites, *(v.suite for v in record.verdicts)]))
    rows = {name: _present(counts(record, name)) for name in suites}
    longest = max((sum(number for _, number in row) for row in rows.values()), default=0)
    return tuple(_suite_bar(name, row, longest) for name, row in rows.items())


def _suite_bar(name: str, row: list[tuple[Outcome, int]], longest: int) -> _Bar:
    lengths = [max(_NARROWEST_BAR, 100 * number / longest) for _, number in row]
    shrink = min(1.0, 100 / sum(lengths)) if lengths else 1.0
    edges = [0.0, *accumulate(length * shrink for length in lengths)]
    return _Bar(
        name,
        tuple(
            _Piece(WORDS[outcome], outcome, start, end - start, f"{number} {WORDS[outcome]}")
            for (outcome, number), (start, end) in zip(row, pairwise(edges), strict=True)
        ),
    )


def _boot_bars(boot: BootTimes) -> tuple[_Bar, ...]:
    outside = [0.0, boot.banner_s, boot.login_s, boot.ready_s]
    inside = [0.0, *accumulate(boot.phases.values())]
    scale = max(*outside, *inside) or 1.0
    bars = [_timeline("Seen from outside", _SEEN_FROM_OUTSIDE, outside, scale)]
    if boot.phases:
        bars.append(_timeline("Told by the guest", tuple(boot.phases), inside, scale))
    return tuple(bars)


def _timeline(name: str, names: tuple[str, ...], edges: list[float], scale: float) -> _Bar:
    return _Bar(
        name,
        tuple(
            _Piece(
                what, f"phase{number % 5}", 100 * start / scale, 100 * max(0.0, end - start) / scale, _span(start, end)
            )
            for number, (what, (start, end)) in enumerate(zip(names, pairwise(edges), strict=True))
        ),
    )


def _span(start: float, end: float) -> str:
    return f"{duration(max(0.0, end - start))}, at {duration(end)}"
