"""A boot drawn as inline SVG: phases, then units as a waterfall, the baseline behind, the critical chain marked."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from lxml import etree

from seatrial.report.boot_record import BootRecord, Span
from seatrial.report.text import one_line, shortened

__all__ = ["boot_svg", "timeline_svg"]

_WIDTH: Final = 1040
_LEFT: Final = 300
_RIGHT: Final = 90
_ROW: Final = 19
_TOP: Final = 34
_MOST_UNITS: Final = 36
_GROWN_S: Final = 0.1
# Their colours are dark; behind a boot of today one of before is drawn pale.
_DARK: Final = frozenset({"loader_s", "kernel_s"})
_PHASES: Final = ("firmware_s", "loader_s", "kernel_s", "initrd_s", "userspace_s")
# Every rule is for this drawing only: it stands in pages with rules of their own.
_STYLE: Final = """
.timeline rect { stroke: none; }
.timeline text { font: 12px system-ui, "DejaVu Sans", sans-serif; fill: var(--ink, #1a1f26); }
.timeline .name { text-anchor: end; } .timeline .on { font-weight: 700; }
.timeline .quiet, .timeline .tick { fill: var(--quiet, #5a6573); }
.timeline .tick { text-anchor: middle; font-size: 11px; } .timeline .grid { stroke: var(--line, #d8dee6); }
.timeline .unit { fill: #5b94d2; } .timeline .chain { fill: #d9822b; }
.timeline .ghost { fill: #b8c2cc; opacity: .55; }
.timeline .grown { fill: var(--bad, #c22f2f); font-weight: 700; }
.timeline .firmware_s { fill: #8fa6bd; } .timeline .loader_s { fill: #5c7a99; }
.timeline .kernel_s { fill: #2f6db5; } .timeline .initrd_s { fill: #5b94d2; }
.timeline .userspace_s { fill: #93bde8; } .timeline .in { fill: #10202f; font-weight: 600; font-size: 11px; }
.timeline .in.light { fill: #fff; }
""".strip()


@dataclass(frozen=True, slots=True)
class _Scale:
    longest: float

    def x(self, seconds: float) -> float:
        """Return the column of a time since power-on."""
        return _LEFT + max(0.0, seconds) / self.longest * (_WIDTH - _LEFT - _RIGHT)


def timeline_svg(record: BootRecord, baseline: BootRecord | None = None) -> str:
    """Return the drawing of the boot whose total is the median one, with the median one of ``baseline`` behind it."""
    return _drawn(_typical(record), _typical(baseline) if baseline is not None else None)


def boot_svg(phases: Mapping[str, float], units: Sequence[Span], chain: Sequence[str]) -> str:
    """Return the drawing of one boot: ``phases`` in seconds by their names in a record (``kernel_s``)."""
    return _drawn(_boot(phases, units, chain), None)


def _drawn(now: _Boot, before: _Boot | None) -> str:
    shown = _shown(now.units, now.chain, before.units if before else {})
    ends = [_total(now), *(span.done_s + now.offset for span in shown if span.done_s is not None)]
    scale = _Scale(max([*ends, _total(before) if before else 0.0, 0.001]) * 1.02)
    rows = 2 if before else 1
    height = _TOP + (rows + 1 + len(shown)) * _ROW + 46
    svg = etree.Element("svg", viewBox=f"0 0 {_WIDTH} {height}", role="img")
    svg.set("aria-label", "Timeline of the boot: phases above, units below")
    svg.set("class", "timeline")
    svg.set("style", "width:100%;height:auto")
    etree.SubElement(svg, "style").text = _STYLE
    _grid(svg, scale, height)
    _phases(svg, scale, now, 0, "this image")
    if before:
        _phases(svg, scale, before, 1, "baseline")
    for number, span in enumerate(shown):
        _unit(svg, scale, _TOP + (rows + number) * _ROW + 12, span, now, before)
    _legend(svg, height - 12, with_baseline=before is not None, left_out=len(now.units) - len(shown))
    return etree.tostring(svg, encoding="unicode")


@dataclass(frozen=True, slots=True)
class _Boot:
    """One boot, drawn from power-on: ``offset`` seconds passed before the kernel, whose clock the units have."""

    phases: Mapping[str, float]
    units: Mapping[str, Span]
    chain: Sequence[str]
    offset: float


def _typical(record: BootRecord) -> _Boot:
    middle = statistics.median_low([sample.phases.get("total_s", 0.0) for sample in record.samples])
    sample = next(s for s in record.samples if s.phases.get("total_s", 0.0) == middle)
    return _boot(sample.phases, sample.units, sample.chain)


def _boot(phases: Mapping[str, float], units: Sequence[Span], chain: Sequence[str]) -> _Boot:
    offset = phases.get("firmware_s", 0.0) + phases.get("loader_s", 0.0)
    return _Boot(phases, {span.name: span for span in units}, chain, offset)


def _total(boot: _Boot) -> float:
    return sum(boot.phases.get(name, 0.0) for name in _PHASES)


def _shown(units: Mapping[str, Span], chain: Sequence[str], before: Mapping[str, Span]) -> list[Span]:
    """Return the units of the chain, and of the others those that took longest or changed most, by start."""

    def weight(span: Span) -> float:
        old = before.get(span.name)
        return max(span.took_s, abs(span.took_s - old.took_s) * 10 if old else 0.0)

    others = [s for s in units.values() if s.name not in chain and not s.name.endswith((".device", ".slice"))]
    longest = sorted(others, key=weight, reverse=True)[: max(0, _MOST_UNITS - len(chain))]
    chosen = [*(units[name] for name in chain if name in units), *(span for span in longest if weight(span) >= 0.005)]
    return sorted(chosen[:_MOST_UNITS], key=lambda span: (span.started_s, span.name))


def _grid(svg: etree._Element, scale: _Scale, height: int) -> None:
    step = next(s for s in (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 1e9) if scale.longest / s <= 10)
    for number in range(int(scale.longest / step) + 1):
        x = f"{scale.x(number * step):.1f}"
        etree.SubElement(svg, "line", {"class": "grid", "x1": x, "x2": x, "y1": "20", "y2": str(height - 30)})
        tick = etree.SubElement(svg, "text", {"class": "tick", "x": x, "y": "14"})
        tick.text = f"{number * step:g} s"


def _phases(svg: etree._Element, scale: _Scale, boot: _Boot, row: int, name: str) -> None:
    y, at = _TOP + row * _ROW - 6, 0.0
    _label(svg, y + 13, name, "name on" if row == 0 else "name quiet")
    for phase in _PHASES:
        seconds = boot.phases.get(phase)
        if seconds is None:
            continue
        left, right = scale.x(at), scale.x(at + seconds)
        bar = _bar(svg, left, right, y, _ROW - 2, phase)
        if row:
            bar.set("opacity", ".5")
        told = phase.removesuffix("_s")
        etree.SubElement(bar, "title").text = f"{told}: {seconds:.3f} s"
        if right - left > 9 * len(told):
            look = "in light" if phase in _DARK and row == 0 else "in"
            inside = etree.SubElement(svg, "text", {"class": look, "x": f"{left + 5:.1f}", "y": f"{y + 13}"})
            inside.text = f"{told} {seconds:.1f}" if right - left > 9 * len(told) + 34 else told
        at += seconds
    after = etree.SubElement(svg, "text", {"class": "quiet", "x": f"{scale.x(at) + 6:.1f}", "y": f"{y + 13}"})
    after.text = f"{at:.2f} s"


def _unit(svg: etree._Element, scale: _Scale, y: int, span: Span, now: _Boot, before: _Boot | None) -> None:
    on_chain = span.name in now.chain
    _label(svg, y + 12, span.name, "name on" if on_chain else "name")
    old = before.units.get(span.name) if before else None
    if before and old is not None and old.done_s is not None:
        left, right = scale.x(old.started_s + before.offset), scale.x(old.done_s + before.offset)
        ghost = _bar(svg, left, right, y, _ROW - 3, "ghost")
        etree.SubElement(ghost, "title").text = f"baseline: {old.took_s:.3f} s"
    left = scale.x(span.started_s + now.offset)
    right = scale.x((span.done_s if span.done_s is not None else span.started_s) + now.offset)
    bar = _bar(svg, left, right, y + 4, _ROW - 11, "chain" if on_chain else "unit")
    told = "still starting" if span.done_s is None else f"{span.took_s:.3f} s"
    etree.SubElement(bar, "title").text = f"{one_line(span.name)}: {told}, from {span.started_s:.3f} s"
    grew = f" ({span.took_s - old.took_s:+.2f})" if old is not None and abs(span.took_s - old.took_s) >= 0.01 else ""
    if span.took_s >= 0.01 or grew or span.done_s is None:
        css = "grown" if old is not None and span.took_s - old.took_s >= _GROWN_S else "quiet"
        text = etree.SubElement(svg, "text", {"class": css, "x": f"{right + 5:.1f}", "y": f"{y + 12}"})
        text.text = (told if span.done_s is None else f"{span.took_s:.2f} s") + grew


def _bar(svg: etree._Element, left: float, right: float, y: int, height: int, css: str) -> etree._Element:
    size = {"x": f"{left:.1f}", "y": str(y), "width": f"{max(1.5, right - left):.1f}", "height": str(height)}
    return etree.SubElement(svg, "rect", {"class": css, "rx": "2", **size})


def _label(svg: etree._Element, y: int, text: str, css: str) -> None:
    label = etree.SubElement(svg, "text", {"class": css, "x": str(_LEFT - 8), "y": str(y)})
    label.text = shortened(one_line(text), 40)


def _legend(svg: etree._Element, y: int, *, with_baseline: bool, left_out: int) -> None:
    x = _LEFT
    parts = [("chain", "on the critical chain"), ("unit", "other unit")]
    if with_baseline:
        parts.append(("ghost", "the same unit in the baseline"))
    for css, text in parts:
        _bar(svg, x, x + 14, y - 9, 9, css)
        label = etree.SubElement(svg, "text", {"class": "quiet", "x": str(x + 20), "y": str(y)})
        label.text = text
        x += 34 + 6 * len(text)
    if left_out > 0:
        label = etree.SubElement(svg, "text", {"class": "quiet", "x": str(x), "y": str(y)})
        label.text = f"{left_out} quick units left out"
