"""Judging a boot's phases by the budget of the right accelerator."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from seatrial.errors import ConfigError
from seatrial.policy.budgets import PHASES, Timing, compare_with_budget
from seatrial.policy.flavours import Budgets

BUDGETS = Budgets(kvm={"total_s": 30.0}, tcg={"total_s": 240.0, "kernel_s": 60.0})


def test_phase_is_judged_by_the_budget_of_its_accelerator() -> None:
    (slow,) = compare_with_budget({"total_s": 100.0}, BUDGETS, "kvm")
    (fine,) = compare_with_budget({"total_s": 100.0}, BUDGETS, "tcg")
    assert (slow.holds, slow.limit_s) == (False, 30.0)
    assert (fine.holds, fine.limit_s) == (True, 240.0)


def test_phase_without_a_budget_does_not_hold() -> None:
    (kernel,) = compare_with_budget({"kernel_s": 0.1}, BUDGETS, "kvm")
    assert kernel == Timing(phase="kernel_s", seconds=0.1, limit_s=None)
    assert not kernel.holds


def test_unknown_accelerator_has_no_budget() -> None:
    assert [t.limit_s for t in compare_with_budget({"total_s": 1.0}, BUDGETS, "hvf")] == [None]


def test_limit_itself_is_within_the_budget() -> None:
    (even,) = compare_with_budget({"total_s": 30.0}, BUDGETS, "kvm")
    assert even.holds


def test_budget_for_a_phase_that_is_never_measured_is_a_fault() -> None:
    with pytest.raises(ConfigError, match=r"budgets\.tcg names unknown phases: totl_s"):
        compare_with_budget({"total_s": 1.0}, Budgets(tcg={"totl_s": 5.0}), "tcg")


@given(st.dictionaries(st.sampled_from(PHASES), st.floats(min_value=0, max_value=1e6)), st.sampled_from(["kvm", "tcg"]))
def test_every_measured_phase_gets_an_answer(measured: dict[str, float], accelerator: str) -> None:
    assert [timing.phase for timing in compare_with_budget(measured, BUDGETS, accelerator)] == list(measured)
