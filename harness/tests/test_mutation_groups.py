"""Which mutants are looked at together, and who of them is suspected afterwards."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from seatrial.mutants_file import Mutant, Stage
from seatrial.mutation_groups import Asked, shared_out, slow_ones, suspects


def _mutants(number: int) -> list[Mutant]:
    return [Mutant(id=f"M{at:03}", stage=Stage.GUEST, change=":", caught_by=("a",)) for at in range(number)]


@pytest.mark.parametrize(
    ("number", "jobs", "sizes"),
    [
        (0, 2, []),
        (1, 2, [1]),
        (2, 2, [1, 1]),
        (9, 2, [4, 5]),
        (28, 2, [14, 14]),
        (37, 2, [12, 12, 13]),
        (18, 4, [4, 5, 4, 5]),
    ],
)
def test_every_job_has_a_group_and_none_is_too_large(number: int, jobs: int, sizes: list[int]) -> None:
    groups = shared_out(_mutants(number), jobs)
    assert [len(group) for group in groups] == sizes
    assert [mutant.id for group in groups for mutant in group] == [mutant.id for mutant in _mutants(number)]


def test_one_that_takes_far_longer_than_most_is_slow() -> None:
    assert slow_ones({"M1": 30.0, "M2": 33.0, "M3": 240.0}) == {"M3"}
    assert slow_ones({}) == frozenset()


@given(guilty=st.sets(st.integers(0, 12)), breaking=st.sets(st.integers(0, 12), max_size=2))
def test_who_changed_something_is_found_among_the_suspects_with_what_was_changed(
    guilty: set[int], breaking: set[int]
) -> None:
    mutants = _mutants(13)
    looks = 0

    def look(some: Sequence[Mutant], asked: Asked) -> frozenset[str] | None:
        nonlocal looks
        looks += 1
        numbers = {int(mutant.id[1:]) for mutant in some}
        if len(numbers & breaking) == 2:
            return None
        return frozenset(f"control-{n}" for n in numbers & guilty if asked is None or f"control-{n}" in asked)

    found = suspects(mutants, look)
    for number in guilty:
        asked = found[f"M{number:03}"]
        assert asked is None or f"control-{number}" in asked
    if not guilty and len(breaking) < 2:
        assert found == {}
        assert looks == 1
