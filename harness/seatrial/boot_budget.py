"""A measurement judged: by the flavour's budgets for just this clock and machine, and against a baseline."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from seatrial.policy.boot_time import (
    FEWEST,
    NOISE,
    NOISE_OF_PAIRS,
    NOISE_OF_UNITS,
    Grower,
    Judged,
    Standing,
    growers,
    judge_budget,
    judge_growth,
    judge_growth_in_pairs,
)
from seatrial.policy.flavours import Budgets
from seatrial.policy.judge import Outcome
from seatrial.report.boot_record import BootRecord

__all__ = ["BootVerdict", "judged", "mismatch"]

# A unit's time is judged only where a person could notice it.
_LEAST_UNIT_S = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class BootVerdict:
    """All findings; ``unjudged`` says what could not be judged, and why. ``chain`` is that of the newest sample."""

    findings: tuple[Judged, ...]
    unjudged: tuple[str, ...]
    growers: tuple[Grower, ...]
    chain: tuple[str, ...]

    @property
    def outcome(self) -> Outcome:
        """Return the worst: fail, not-checked (also when nothing was judged), pass."""
        standings = {finding.standing for finding in self.findings}
        if Standing.FAIL in standings:
            return Outcome.FAIL
        if self.unjudged or Standing.INCONCLUSIVE in standings or not standings:
            return Outcome.NOT_CHECKED
        return Outcome.PASS

    @property
    def is_open(self) -> bool:
        """Return whether more boots could settle it: something is inconclusive, and nothing failed."""
        standings = {finding.standing for finding in self.findings}
        return Standing.INCONCLUSIVE in standings and Standing.FAIL not in standings


def judged(record: BootRecord, baseline: BootRecord | None, budgets: Budgets, *, machine: str) -> BootVerdict:
    """Judge ``record`` by ``budgets``, which are for ``machine``, and by its growth against ``baseline``."""
    unjudged = [f"boot {s.number}: {odd}" for s in record.samples for odd in s.odd]
    if len(record.samples) < FEWEST[record.clock]:
        few = f"{len(record.samples)} boots prove nothing on the {record.clock} clock; {FEWEST[record.clock]} would"
        return BootVerdict(findings=(), unjudged=(few,), growers=(), chain=record.samples[-1].chain)
    found = [*_by_budget(record, budgets, machine)]
    if baseline is not None:
        found += _by_baseline(record, baseline, budgets)
    findings = [finding for finding in found if isinstance(finding, Judged)]
    unjudged += [finding for finding in found if isinstance(finding, str)]
    if not findings and not unjudged:
        unjudged.append(_nothing(record))
    return BootVerdict(
        findings=tuple(findings),
        unjudged=tuple(unjudged),
        growers=_growers(record, baseline) if baseline is not None else (),
        chain=record.samples[-1].chain,
    )


def _nothing(record: BootRecord) -> str:
    return (
        f"nothing was judged: flavour {record.flavour!r} has no budget on the {_table(record)} clock, and there is no "
        f"baseline (budgets.{_table(record)}, --budgets FILE, --baseline RECORD)"
    )


def _table(record: BootRecord) -> str:
    return "counted" if record.clock == "counted" else record.accelerator


def _by_budget(record: BootRecord, budgets: Budgets, machine: str) -> Iterator[Judged | str]:
    limits = budgets.limits(_table(record))
    if not limits:
        return
    if record.machine != machine:
        yield (
            f"the budgets are for machine {machine!r}, the boots ran on {record.machine!r}: "
            "a budget of another machine judges nothing"
        )
        return
    noise = NOISE[record.clock]
    for quantity, limit in limits.items():
        values = record.values(quantity)
        # A phase that this platform does not have (firmware, initrd) has nothing to keep to.
        if values:
            yield judge_budget(quantity.removesuffix("_s"), values, limit, noise=noise)
    of_units = budgets.unit_limit(_table(record))
    if of_units is not None:
        yield from _slow_units(record, budgets, of_units, noise)


def _slow_units(record: BootRecord, budgets: Budgets, limit: float, noise: float) -> Iterator[Judged]:
    for name in record.unit_names:
        values = record.unit_values(name)
        if values and not name.endswith(".device") and not budgets.is_slow(name):
            finding = judge_budget(name, values, limit, noise=noise)
            if finding.standing is not Standing.PASS:
                yield finding


def mismatch(record: BootRecord, baseline: BootRecord) -> str:
    """Return why the two measurements cannot be compared; empty when they can."""
    every = {
        "clock": (record.clock, baseline.clock),
        "nanoseconds an instruction (shift)": (record.shift, baseline.shift),
        "machine": (record.machine, baseline.machine),
        "accelerator": (record.accelerator, baseline.accelerator),
        "flavour": (record.flavour, baseline.flavour),
        "kind of boot": (record.which, baseline.which),
    }
    if record.clock == "wall":
        every["host"] = (record.host.fingerprint, baseline.host.fingerprint)
    else:
        every["QEMU"] = (record.qemu, baseline.qemu)
    return ", ".join(
        f"{name} {ours!r}, in the baseline {theirs!r}" for name, (ours, theirs) in every.items() if ours != theirs
    )


def _by_baseline(record: BootRecord, baseline: BootRecord, budgets: Budgets) -> Iterator[Judged | str]:
    if why := mismatch(record, baseline):
        yield f"the baseline cannot be compared with: {why}"
        return
    if len(baseline.samples) < FEWEST[record.clock]:
        yield f"the baseline holds {len(baseline.samples)} boots; {FEWEST[record.clock]} are needed on this clock"
        return
    for quantity in record.quantities:
        limit = budgets.growth_limit(quantity)
        if limit is None:
            continue
        name = quantity.removesuffix("_s")
        if not baseline.values(quantity):
            yield f"the baseline has no {name}: its growth cannot be told"
            continue
        finding = _growth(name, record, baseline, quantity, limit)
        if finding is not None:
            yield finding
    yield from _grown_units(record, baseline, budgets)


def _growth(name: str, record: BootRecord, baseline: BootRecord, quantity: str, limit: float) -> Judged | None:
    """Compare boots that had the same seed with each other, where there are such, else all with all."""
    what = f"{name} against the baseline"
    pairs = _paired(baseline.values_by_seed(quantity), record.values_by_seed(quantity))
    if pairs:
        return judge_growth_in_pairs(what, pairs, limit, noise=NOISE_OF_PAIRS)
    return judge_growth(what, baseline.values(quantity), record.values(quantity), limit, noise=NOISE[record.clock])


def _paired(before: Mapping[int, float], now: Mapping[int, float]) -> list[tuple[float, float]]:
    return [(before[seed], value) for seed, value in now.items() if seed in before]


def _grown_units(record: BootRecord, baseline: BootRecord, budgets: Budgets) -> Iterator[Judged]:
    limit = budgets.growth_limit("unit_s")
    if limit is None:
        return
    for name in record.unit_names:
        before, now = baseline.unit_values(name), record.unit_values(name)
        if not before or not now or name.endswith(".device") or budgets.is_slow(name):
            continue
        if statistics.median(now) - statistics.median(before) < _LEAST_UNIT_S:
            continue
        pairs = _paired(baseline.unit_values_by_seed(name), record.unit_values_by_seed(name))
        what = f"{name} against the baseline"
        noise = NOISE_OF_UNITS if record.clock == "counted" else 0.0
        finding = (
            judge_growth_in_pairs(what, pairs, limit, noise=noise)
            if pairs
            else judge_growth(what, before, now, limit, noise=noise)
        )
        if finding is not None and finding.standing is not Standing.PASS:
            yield finding


def _growers(record: BootRecord, baseline: BootRecord) -> tuple[Grower, ...]:
    if mismatch(record, baseline):
        return ()
    before, now = _medians(baseline), _medians(record)
    middle = statistics.median(record.values("total_s") or (10.0,))
    return growers(before, now, chain=record.samples[-1].chain, at_least_s=max(0.02, middle * 0.002))


def _medians(record: BootRecord) -> Mapping[str, float]:
    phases = {
        f"phase {name.removesuffix('_s')}": record.values(name)
        for name in dict.fromkeys(name for sample in record.samples for name in sample.phases)
        if name != "total_s"
    }
    # A device is not started but waited for: its time is that of everything before it.
    units = {name: record.unit_values(name) for name in record.unit_names if not name.endswith(".device")}
    return {name: statistics.median(values) for name, values in {**phases, **units}.items() if values}
