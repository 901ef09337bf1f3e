"""What measured boots prove: an interval on one side of the limit, or nothing."""

from __future__ import annotations

import random
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st
from seatrial.policy.boot_time import (
    NOISE_OF_PAIRS,
    Standing,
    growers,
    judge_budget,
    judge_growth,
    judge_growth_in_pairs,
    median_interval,
    percentile_95,
    spread,
)

NOISY = [10.0, 10.4, 9.8, 10.2, 10.1, 9.9, 10.3]
seconds = st.floats(min_value=0.01, max_value=1e4)


@pytest.mark.parametrize(
    ("limit", "standing"), [(11.0, Standing.PASS), (9.0, Standing.FAIL), (10.1, Standing.INCONCLUSIVE)]
)
def test_whole_interval_must_lie_to_one_side_of_the_limit(limit: float, standing: Standing) -> None:
    assert judge_budget("total", NOISY, limit).standing is standing


def test_interval_is_the_same_every_time() -> None:
    assert median_interval(NOISY) == median_interval(list(NOISY))


def test_single_boot_is_as_uncertain_as_its_clock() -> None:
    interval = median_interval([100.0], noise=0.01)
    assert (interval.low, interval.high) == (99.0, 101.0)
    assert judge_budget("total", [100.0], 100.5, noise=0.01).standing is Standing.INCONCLUSIVE


def test_no_boot_is_an_error_and_no_pass() -> None:
    with pytest.raises(ValueError, match="no boot"):
        median_interval([])


def test_95th_percentile_needs_twenty_boots() -> None:
    assert percentile_95([1.0] * 19) is None
    assert percentile_95([float(n) for n in range(1, 21)]) == 19.0


def test_spread_is_range_over_median() -> None:
    assert spread([9.0, 10.0, 11.0]) == pytest.approx(0.2)


def test_growth_is_told_in_percent_of_the_baseline() -> None:
    grown = judge_growth("total", [10.0, 10.0], [10.5, 10.5], 2.0)
    assert grown is not None
    assert (round(grown.value, 6), grown.standing) == (5.0, Standing.FAIL)
    same = judge_growth("total", [10.0, 10.0], [10.0, 10.0], 2.0, noise=0.01)
    assert same is not None
    assert same.standing is Standing.PASS


def test_growth_from_nothing_cannot_be_told() -> None:
    assert judge_growth("unit", [0.0], [1.0], 2.0) is None


def test_seed_shared_by_a_pair_does_not_look_like_growth() -> None:
    """Seeds that differ by 10 % hide a growth of 3 %, unless each boot is held against the one of its own seed."""
    before = [100.0, 110.0, 104.0]
    pairs = [(seconds, 1.03 * seconds) for seconds in before]
    together = judge_growth("total", before, [now for _before, now in pairs], 2.0)
    apart = judge_growth_in_pairs("total", pairs, 2.0, noise=0.005)
    assert together is not None
    assert apart is not None
    assert (together.standing, apart.standing) == (Standing.INCONCLUSIVE, Standing.FAIL)
    assert [apart.interval.low, apart.interval.high] == pytest.approx([2.65, 3.35], abs=0.01)


def test_unchanged_pairs_hardly_ever_seem_to_grow_even_against_a_limit_of_nothing() -> None:
    """Two images whose totals differ by chance alone, 0.43 % from boot to boot of a pair: below 1 % of false alarms."""
    chance = random.Random(11)
    for boots in (1, 3, 8):
        alarms = 0
        for _ in range(300):
            pairs = [(100.0, chance.gauss(100, 0.43)) for _ in range(boots)]
            judged = judge_growth_in_pairs("total", pairs, 0.0, noise=NOISE_OF_PAIRS)
            alarms += judged is not None and judged.standing is Standing.FAIL
        assert alarms < 0.02 * 300, boots


def test_pairs_without_a_time_before_tell_no_growth() -> None:
    assert judge_growth_in_pairs("unit", [(0.0, 1.0)], 2.0) is None


def test_growers_come_largest_first_and_new_ones_count_whole() -> None:
    found = growers(
        {"a": 1.0, "b": 1.0, "c": 1.0}, {"a": 1.2, "b": 1.01, "c": 0.5, "new": 0.7}, chain=("a",), at_least_s=0.05
    )
    assert [(g.name, g.before_s, g.on_chain) for g in found] == [("new", None, False), ("a", 1.0, True)]


@given(st.lists(seconds, min_size=1, max_size=30))
def test_interval_holds_the_median_and_lies_within_the_samples(values: list[float]) -> None:
    interval = median_interval(values)
    assert min(values) <= interval.low <= statistics.median(values) <= interval.high <= max(values)


@given(st.lists(seconds, min_size=1, max_size=12), seconds)
def test_verdict_never_contradicts_every_sample(values: list[float], limit: float) -> None:
    standing = judge_budget("total", values, limit).standing
    if max(values) <= limit:
        assert standing is Standing.PASS
    elif min(values) > limit:
        assert standing is Standing.FAIL


def test_false_alarms_of_unchanged_boots_stay_rare() -> None:
    """Three against three boots with 0.3 % noise, limit 1 %: the widened interval keeps false alarms below 1 %."""
    chance = random.Random(7)
    alarms = 0
    for _ in range(400):
        before, now = ([chance.gauss(100, 0.3) for _ in range(3)] for _ in range(2))
        judged = judge_growth("total", before, now, 1.0, noise=0.003)
        alarms += judged is not None and judged.standing is Standing.FAIL
    assert alarms <= 4
