"""When the units of a boot started, and what the end of the boot waited for."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from seatrial.errors import ObservationError
from seatrial.evidence.analyze import parse_chain
from seatrial.evidence.boot_units import UnitTime, critical_chain, parse_unit_times
from suite_bench import recorded


def block(name: str, started: int, active: int, ended: int = 0, after: str = "") -> str:
    return (
        f"Id={name}\nAfter={after}\nInactiveExitTimestampMonotonic={started}\n"
        f"ActiveEnterTimestampMonotonic={active}\nInactiveEnterTimestampMonotonic={ended}\n"
    )


def test_unit_starts_and_becomes_active() -> None:
    units = parse_unit_times(block("a.service", 1_000_000, 1_500_000, after="b.service c.target"))
    assert units["a.service"].took_s == pytest.approx(0.5)
    assert units["a.service"].after == ("b.service", "c.target")


def test_oneshot_is_done_when_it_ended() -> None:
    assert parse_unit_times(block("a.service", 1_000_000, 0, 3_000_000))["a.service"].took_s == pytest.approx(2.0)


def test_time_of_an_earlier_life_is_not_taken_for_this_one() -> None:
    """A service that runs again was active and ended before its present start: both stamps are old."""
    assert parse_unit_times(block("a.service", 9_000_000, 2_000_000, 3_000_000))["a.service"].done_s is None


def test_unit_that_never_started_is_left_out() -> None:
    assert list(parse_unit_times(block("a.service", 0, 0) + "\n" + block("b.service", 5, 6))) == ["b.service"]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\n\n",
        block("a.service", 0, 0),
        "Id=a.service\nAfter=\n",
        block("a service.service", 1, 2),
        block("a.service", 1, 2) + "\n" + block("a.service", 1, 3),
        block("a.service", 1, 2).replace("=2", "=soon"),
        "Failed to connect to bus: No such file or directory\n",
    ],
)
def test_unreadable_units_are_an_error(text: str) -> None:
    with pytest.raises(ObservationError):
        parse_unit_times(text)


def unit(name: str, started: float, done: float | None, *after: str) -> UnitTime:
    return UnitTime(name=name, started_s=started, done_s=done, after=after)


def chain_of(*units: UnitTime, since_s: float = 0.0) -> tuple[str, ...]:
    return critical_chain({u.name: u for u in units}, "end.target", since_s=since_s)


def test_chain_goes_to_what_was_done_last_before() -> None:
    slow, quick = unit("slow.service", 1, 5), unit("quick.service", 1, 2)
    after_end = unit("late.service", 5, 8)
    end = unit("end.target", 6, 6, "quick.service", "slow.service", "late.service", "absent.service")
    assert chain_of(slow, quick, after_end, end) == ("end.target", "slow.service")


def test_chain_ends_where_the_system_itself_began() -> None:
    early, end = unit("initrd.service", 1, 2), unit("end.target", 6, 6, "initrd.service")
    assert chain_of(early, end, since_s=3) == ("end.target",)


def test_chain_does_not_run_in_circles() -> None:
    one, end = unit("one.service", 6, 6, "end.target"), unit("end.target", 6, 6, "one.service")
    assert chain_of(one, end) == ("end.target", "one.service")


def test_chain_of_a_target_that_was_never_reached_is_empty() -> None:
    assert chain_of(unit("a.service", 1, 2)) == ()


def test_recorded_chain_is_the_one_that_systemd_finds() -> None:
    theirs = [link.unit for link in parse_chain(recorded("boot/critical-chain"))]
    ours = critical_chain(parse_unit_times(recorded("boot/units")), "graphical.target", since_s=13.4951)
    assert list(ours[:9]) == theirs[:9]


@given(st.text())
def test_any_text_is_read_or_refused(text: str) -> None:
    with contextlib.suppress(ObservationError):
        assert parse_unit_times(text)


names = st.sampled_from([f"u{n}.service" for n in range(6)])
times = st.integers(min_value=1, max_value=9)


@given(st.lists(st.tuples(names, times, times, st.lists(names)), max_size=12))
def test_chain_always_ends_and_only_goes_back(rows: list[tuple[str, int, int, list[str]]]) -> None:
    units = {name: unit(name, start, start + took, *after) for name, start, took, after in rows}
    chain = critical_chain(units, "u0.service")
    assert len(set(chain)) == len(chain)
    starts = [units[name].started_s for name in chain]
    assert starts == sorted(starts, reverse=True)
