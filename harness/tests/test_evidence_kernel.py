"""Reading states of the running kernel."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from seatrial.errors import ObservationError
from seatrial.evidence.kernel import chosen, parse_vulnerabilities, taint_reasons
from suite_bench import recorded


def test_choice_in_brackets_is_chosen() -> None:
    assert chosen("none [integrity] confidentiality\n") == "integrity"


@pytest.mark.parametrize("text", ["", "none integrity", "[none] [integrity]"])
def test_anything_but_one_choice_is_an_error(text: str) -> None:
    with pytest.raises(ObservationError, match="choices in brackets"):
        chosen(text)


@pytest.mark.parametrize(
    ("text", "reasons"),
    [
        ("0\n", ()),
        ("1\n", ("a proprietary module",)),
        ("4608\n", ("a warning", "a module built outside of the kernel")),
        (f"{1 << 18}\n", ("an in-kernel test",)),
        (f"{1 << 30}\n", (f"unknown bits {1 << 30}",)),
    ],
)
def test_taint_is_told_in_words(text: str, reasons: tuple[str, ...]) -> None:
    assert taint_reasons(text) == reasons


@pytest.mark.parametrize("text", ["", "-1", "1e3", "yes"])
def test_taint_that_is_no_number_is_an_error(text: str) -> None:
    with pytest.raises(ObservationError, match="expected a number"):
        taint_reasons(text)


def test_recorded_vulnerabilities_are_read() -> None:
    assert parse_vulnerabilities(recorded("kernel/vulnerabilities"))["meltdown"] == "Not affected"


@given(st.text())
def test_any_text_is_read_or_refused(text: str) -> None:
    for parse in (chosen, taint_reasons, parse_vulnerabilities):
        with contextlib.suppress(ObservationError):
            assert parse(text) is not None
