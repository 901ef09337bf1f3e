"""What measured boot times prove: medians, intervals, budgets and growth against a baseline. Pure statistics."""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

__all__ = [
    "FEWEST",
    "NOISE",
    "NOISE_OF_PAIRS",
    "NOISE_OF_UNITS",
    "Grower",
    "Interval",
    "Judged",
    "Standing",
    "growers",
    "judge_budget",
    "judge_growth",
    "judge_growth_in_pairs",
    "median_interval",
    "percentile_95",
    "spread",
]

# Fewer boots than this prove nothing on that clock. A counted boot is one draw of the guest's own chaos, no more.
FEWEST: Final = {"wall": 5, "counted": 1}
# What one sample may be off by, as a share; see suites/boot/README.md for how it was measured. On the wall clock the
# samples themselves show the noise.
NOISE: Final = {"wall": 0.0, "counted": 0.01}
# What the growth from one counted boot to that of another image with its seed may be off by, in all and for a unit.
NOISE_OF_PAIRS: Final = 0.01
NOISE_OF_UNITS: Final = 1.2
_FEWEST_FOR_P95: Final = 20
_RESAMPLES: Final = 2000
_CONFIDENCE: Final = 0.95
_SEED: Final = 20_240_229


class Standing(StrEnum):
    """What the measurement proves of a limit."""

    FAIL = "fail"
    INCONCLUSIVE = "inconclusive"
    PASS = "pass"  # noqa: S105 -- an outcome, no password


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """Where the true median lies with 95 % confidence."""

    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """One quantity against one limit: seconds for a budget, percent for growth against the baseline."""

    quantity: str
    unit: str
    value: float
    interval: Interval
    limit: float
    standing: Standing

    @property
    def told(self) -> str:
        """Return the finding in words."""
        among = f"{self.value:.3g} {self.unit} (95 %: {self.interval.low:.3g} to {self.interval.high:.3g})"
        return f"{self.quantity}: {among}, limit {self.limit:g} {self.unit}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Grower:
    """A phase or unit that takes longer than in the baseline: medians in seconds; ``before_s`` None when it is new."""

    name: str
    before_s: float | None
    now_s: float
    on_chain: bool

    @property
    def grew_s(self) -> float:
        """Return by how many seconds it grew."""
        return self.now_s - (self.before_s or 0.0)


def percentile_95(values: Sequence[float]) -> float | None:
    """Return the 95th percentile (nearest rank), or None for fewer than 20 values, which cannot show one."""
    if len(values) < _FEWEST_FOR_P95:
        return None
    return sorted(values)[-(-95 * len(values) // 100) - 1]


def spread(values: Sequence[float]) -> float:
    """Return (max - min) / median."""
    middle = statistics.median(values)
    return (max(values) - min(values)) / middle if middle else 0.0


def median_interval(values: Sequence[float], *, noise: float = 0.0) -> Interval:
    """Return the bootstrap interval of the median of ``values``, at least ``noise`` (a share) to either side of it.

    The resampling has a fixed seed: the same samples give the same interval, everywhere.

    :raises ValueError: there are no values.
    """
    if not values:
        raise ValueError("no boot was measured")
    chance = random.Random(_SEED)  # noqa: S311 -- resampling, nothing secret
    medians = sorted(statistics.median(chance.choices(values, k=len(values))) for _ in range(_RESAMPLES))
    return _widened(medians, statistics.median(values), noise)


def judge_budget(quantity: str, values: Sequence[float], limit: float, *, noise: float = 0.0) -> Judged:
    """Judge the median of ``values`` (seconds) by ``limit``: the whole interval must lie to one side of it."""
    interval = median_interval(values, noise=noise)
    return Judged(
        quantity=quantity,
        unit="s",
        value=statistics.median(values),
        interval=interval,
        limit=limit,
        standing=_standing(interval, limit),
    )


def judge_growth(
    quantity: str, before: Sequence[float], now: Sequence[float], limit_percent: float, *, noise: float = 0.0
) -> Judged | None:
    """Judge by how many percent the median grew from ``before`` to ``now``; None when there is nothing to grow from."""
    middle = statistics.median(before)
    if middle <= 0:
        return None
    value = 100 * (statistics.median(now) / middle - 1)
    chance = random.Random(_SEED)  # noqa: S311 -- resampling, nothing secret
    ratios = []
    for _ in range(_RESAMPLES):
        under = statistics.median(chance.choices(before, k=len(before))) or middle
        ratios.append(100 * (statistics.median(chance.choices(now, k=len(now))) / under - 1))
    interval = _cut(sorted(ratios), value, 100 * noise)
    return _grown(quantity, value, interval, limit_percent)


def _grown(quantity: str, value: float, interval: Interval, limit: float) -> Judged:
    standing = _standing(interval, limit)
    return Judged(quantity=quantity, unit="%", value=value, interval=interval, limit=limit, standing=standing)


def judge_growth_in_pairs(
    quantity: str, pairs: Sequence[tuple[float, float]], limit_percent: float, *, noise: float = 0.0
) -> Judged | None:
    """Judge the median growth from the first to the second of each pair; None when there is nothing to grow from.

    The resampling draws whole pairs: what both boots of a pair owe to their common seed never looks like growth.

    :param noise: what one pair may be off by, as a share; the median of several is off by less.
    """
    grown = [100 * (now / before - 1) for before, now in pairs if before > 0]
    if not grown:
        return None
    value = statistics.median(grown)
    chance = random.Random(_SEED)  # noqa: S311 -- resampling, nothing secret
    medians = sorted(statistics.median(chance.choices(grown, k=len(grown))) for _ in range(_RESAMPLES))
    # A median of n normal values varies 1.2 / sqrt(n) times as much as one of them (n = 3: 0.67, n = 8: 0.42).
    interval = _cut(medians, value, 100 * noise * min(1.0, 1.2 / math.sqrt(len(grown))))
    return _grown(quantity, value, interval, limit_percent)


def growers(
    before: Mapping[str, float], now: Mapping[str, float], *, chain: Sequence[str], at_least_s: float
) -> tuple[Grower, ...]:
    """Return what grew by ``at_least_s`` or more (medians in seconds by name), largest first; new ones count whole."""
    on_chain = set(chain)
    every = (
        Grower(name=name, before_s=before.get(name), now_s=seconds, on_chain=name in on_chain)
        for name, seconds in now.items()
    )
    return tuple(sorted((g for g in every if g.grew_s >= at_least_s), key=lambda g: (-g.grew_s, g.name)))


def _standing(interval: Interval, limit: float) -> Standing:
    if interval.high <= limit:
        return Standing.PASS
    return Standing.FAIL if interval.low > limit else Standing.INCONCLUSIVE


def _widened(ordered: Sequence[float], middle: float, noise: float) -> Interval:
    return _cut(ordered, middle, abs(middle) * noise)


def _cut(ordered: Sequence[float], middle: float, least: float) -> Interval:
    """Return the middle 95 % of ``ordered``, and no less than ``least`` to either side of ``middle``."""
    tail = round(len(ordered) * (1 - _CONFIDENCE) / 2)
    return Interval(low=min(ordered[tail], middle - least), high=max(ordered[-tail - 1], middle + least))
