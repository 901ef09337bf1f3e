"""Which mutants are looked at together, and which of them are to be looked at alone after that."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Final

from seatrial.mutants_file import Mutant

__all__ = ["Asked", "shared_out", "slow_ones", "suspects"]

# So many mutants at most are looked at together for alarms.
_TOGETHER: Final = 16
# One that took this many times as long as half of them would keep its neighbours waiting.
_SLOW: Final = 3.0

# The only controls that are asked; None for all.
Asked = Collection[str] | None


def shared_out(mutants: Sequence[Mutant], jobs: int) -> list[Sequence[Mutant]]:
    """Return groups of nearly the same size, one for each job if there are mutants enough."""
    number = max(-(-len(mutants) // _TOGETHER), min(jobs, len(mutants)))
    edges = [at * len(mutants) // number for at in range(number + 1)] if number else []
    return [mutants[start:end] for start, end in itertools.pairwise(edges)]


def slow_ones(seconds: Mapping[str, float]) -> frozenset[str]:
    """Return the ids of those that took far longer than half of them did."""
    limit_s = _SLOW * statistics.median(seconds.values()) if seconds else 0.0
    return frozenset(name for name, took_s in seconds.items() if took_s > limit_s)


def suspects(
    mutants: Sequence[Mutant], look: Callable[[Sequence[Mutant], Asked], frozenset[str] | None], asked: Asked = None
) -> dict[str, Asked]:
    """Return by id what each of ``mutants`` that may have changed something is to meet by itself.

    :param look: makes the changes of several together; returns those of the asked controls that changed and should
        not have, None when it could not be found out: together they may break the guest or exclude each other.
    :param asked: the controls that may have changed.
    """
    if len(mutants) < 2:
        return {mutant.id: asked for mutant in mutants}
    changed = look(mutants, asked)
    if changed is not None and not changed:
        return {}
    half = len(mutants) // 2
    again = asked if changed is None else changed
    return suspects(mutants[:half], look, again) | suspects(mutants[half:], look, again)
