"""A boot-time measurement for people: ten lines on a terminal, one page with the drawing in HTML."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from seatrial.boot_budget import BootVerdict
from seatrial.layout import data_dir
from seatrial.policy.boot_time import Grower, Judged, Standing, median_interval, percentile_95, spread
from seatrial.policy.judge import Outcome
from seatrial.report.boot_record import BootRecord
from seatrial.report.text import one_line, shortened
from seatrial.report.timeline import timeline_svg

__all__ = ["boot_lines", "boot_page", "grower_told"]

_MOST_LINES = 10
_MOST_CHAIN = 6
_MOST_TEXT = 2000


def boot_lines(record: BootRecord, baseline: BootRecord | None, verdict: BootVerdict, *, width: int = 100) -> list[str]:
    """Return the measurement in at most ten lines: verdict, phases, what broke its limit, what grew, the chain."""
    lines = [
        f"{verdict.outcome.upper()} boot time of {one_line(record.image)}: {len(record.samples)} {record.which} boots "
        f"on the {record.clock} clock ({record.accelerator}, {record.steps})",
        f"  medians  {', '.join(_medians(record, baseline))}",
    ]
    broken = [finding for finding in verdict.findings if finding.standing is Standing.FAIL]
    open_ones = [finding for finding in verdict.findings if finding.standing is Standing.INCONCLUSIVE]
    held = len(verdict.findings) - len(broken) - len(open_ones)
    lines += [f"  too slow {finding.told}" for finding in _by_excess(broken)[:3]]
    lines += [f"  unclear  {finding.told}" for finding in open_ones[:1]]
    if verdict.growers:
        told = "; ".join(grower_told(grower) for grower in verdict.growers[:4])
        lines.append(f"  grew     {told}")
    if broken and verdict.chain:
        lines.append(f"  chain    {' <- '.join(map(one_line, verdict.chain[:_MOST_CHAIN]))}")
    lines += [f"  unjudged {one_line(why)}" for why in verdict.unjudged[:2]]
    if held:
        lines.append(f"  held     {held} of {len(verdict.findings)} limits")
    return [shortened(line, 3 * width) for line in lines[:_MOST_LINES]]


def grower_told(grower: Grower) -> str:
    """Return what grew in words, such as ``nginx.service +0.52 s (0.10 s before, on the chain)``."""
    before = "not in the baseline" if grower.before_s is None else f"{grower.before_s:.2f} s before"
    chain = ", on the chain" if grower.on_chain else ""
    return f"{one_line(grower.name)} {grower.grew_s:+.2f} s ({before}{chain})"


def _by_excess(findings: Sequence[Judged]) -> list[Judged]:
    return sorted(findings, key=lambda f: (f.quantity.partition(" ")[0] != "total", -f.value / f.limit))


def _medians(record: BootRecord, baseline: BootRecord | None) -> Iterator[str]:
    for quantity in record.quantities:
        if quantity in {"multi_user_s", "ready_s", "quiet_s"}:
            continue
        value = statistics.median(record.values(quantity))
        before = baseline.values(quantity) if baseline is not None else ()
        grown = (
            f" ({100 * (value / statistics.median(before) - 1):+.1f} %)" if before and statistics.median(before) else ""
        )
        yield f"{quantity.removesuffix('_s').replace('_', ' ')} {value:.2f} s{grown}"


def boot_page(record: BootRecord, baseline: BootRecord | None, verdict: BootVerdict) -> str:
    """Return the measurement as one self-contained page."""
    environment = Environment(
        loader=FileSystemLoader(data_dir("reports") / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=lambda value: (
            shortened(value, _MOST_TEXT) if isinstance(value, str) and not isinstance(value, Markup) else value
        ),
        trim_blocks=True,
        lstrip_blocks=True,
    )
    drawn = any(sample.phases for sample in record.samples)
    return environment.get_template(
        "boot-time.html.j2"
    ).render(
        record=record,
        baseline=baseline,
        verdict=verdict,
        passed=verdict.outcome is Outcome.PASS,
        # The drawing is made by lxml, which escapes every name in it.
        drawing=Markup(timeline_svg(record, baseline)) if drawn else "",  # noqa: S704 -- see above
        rows=list(_rows(record, baseline)),
        findings=_by_excess(verdict.findings),
        growers=[grower_told(grower) for grower in verdict.growers[:20]],
    )


def _rows(record: BootRecord, baseline: BootRecord | None) -> Iterator[tuple[str, ...]]:
    for quantity in record.quantities:
        values = record.values(quantity)
        interval, p95 = median_interval(values), percentile_95(values)
        before = baseline.values(quantity) if baseline is not None else ()
        yield (
            quantity.removesuffix("_s").replace("_", " "),
            f"{statistics.median(values):.3f}",
            f"{interval.low:.3f} to {interval.high:.3f}",
            f"{p95:.3f}" if p95 is not None else "needs 20 boots",
            f"{100 * spread(values):.2f} %",
            f"{statistics.median(before):.3f}" if before else "",
            str(len(values)),
        )
