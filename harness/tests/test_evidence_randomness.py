"""Reading where the parts of a program lie, start after start."""

from __future__ import annotations

import contextlib
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st
from seatrial.errors import ObservationError
from seatrial.evidence.randomness import MAPS, STARTS, parse_maps, varying_bits

START = "start\ntext 5000\nheap 6000\nmmap 7f0000\nstack 7fff00\nvdso 7fff80\n"


def test_this_computer_answers_the_question() -> None:
    said = subprocess.run(["sh", "-c", MAPS], capture_output=True, text=True, check=True).stdout
    assert {len(addresses) for addresses in parse_maps(said).values()} == {STARTS}


def test_the_first_address_of_a_region_counts() -> None:
    found = parse_maps(START.replace("heap", "text 5800\nheap") * STARTS)
    assert found["text"] == (0x5000,) * STARTS


@pytest.mark.parametrize(
    "text",
    [
        "",
        START,
        START * (STARTS + 1),
        START.replace("vdso 7fff80\n", "") * STARTS,
        f"text 5000\n{START * STARTS}",
        f"{START * STARTS}rubbish\n",
    ],
)
def test_a_start_too_few_or_a_region_less_is_an_error(text: str) -> None:
    with pytest.raises(ObservationError):
        parse_maps(text)


@given(st.text())
def test_any_text_gives_regions_or_our_error(text: str) -> None:
    with contextlib.suppress(ObservationError):
        parse_maps(text)


@given(st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1))
def test_bits_that_differ_are_counted(one: int, other: int) -> None:
    assert varying_bits((one, other, one)) == (one ^ other).bit_count()
