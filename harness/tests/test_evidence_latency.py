"""The kernel's preemption model and cyclictest's JSON: read rightly, or not at all."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from seatrial.errors import ObservationError
from seatrial.evidence.latency import parse_cyclictest, preemption_model
from suite_bench import recorded


@pytest.mark.parametrize(
    ("text", "model"),
    [
        ("#1 SMP PREEMPT_DYNAMIC Debian 6.12\nnone voluntary (full)\nDynamic Preempt: voluntary\n", "full"),
        ("#1 SMP PREEMPT_DYNAMIC Debian 6.12\nDynamic Preempt: lazy\n", "lazy"),
        ("#1 SMP PREEMPT_RT Debian 6.12\n", "rt"),
        ("#1 SMP PREEMPT 2026\n", "full"),
        ("#1 SMP PREEMPT_LAZY 2026\n", "lazy"),
    ],
)
def test_model_is_the_one_in_force(text: str, model: str) -> None:
    assert preemption_model(text) == model


def test_recorded_kernel_is_voluntary() -> None:
    assert preemption_model(recorded("boot/preempt")) == "voluntary"


@pytest.mark.parametrize("text", ["", "#1 SMP 2026\n", "#1 SMP PREEMPT_DYNAMIC 2026\n", "x\nDynamic Preempt: odd\n"])
def test_kernel_that_does_not_say_is_an_error(text: str) -> None:
    with pytest.raises(ObservationError, match="does not say"):
        preemption_model(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{}",
        "[]",
        '{"thread": {}}',
        '{"thread": {"0": {"max": 5}}}',
        '{"thread": {"0": {"max": 5, "cycles": 0}}}',
        '{"thread": {"0": {"max": NaN, "cycles": 9}}}',
        '{"thread": {"0": {"max": Infinity, "cycles": Infinity}}}',
    ],
)
def test_measurement_of_nothing_is_an_error(text: str) -> None:
    with pytest.raises(ObservationError):
        parse_cyclictest(text)


def test_longest_wake_up_of_each_thread_is_read() -> None:
    assert parse_cyclictest('{"thread": {"0": {"max": 5, "cycles": 9}, "1": {"max": 7, "cycles": 9}}}') == {
        "0": 5,
        "1": 7,
    }


@given(st.text())
def test_any_text_is_read_or_refused(text: str) -> None:
    for parse in (preemption_model, parse_cyclictest):
        with contextlib.suppress(ObservationError):
            assert parse(text)
