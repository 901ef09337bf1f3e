"""Reading the kernel command line as the kernel does."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from seatrial.errors import ObservationError
from seatrial.evidence.cmdline import parse_cmdline


def test_last_of_several_wins() -> None:
    line = parse_cmdline("init_on_alloc=1 quiet init_on_alloc=0\n")
    assert line.last("init_on_alloc") == "0"
    assert line.values("init_on_alloc") == ["1", "0"]


def test_dash_and_underscore_are_one() -> None:
    assert parse_cmdline("page-alloc.shuffle=1\n").last("page_alloc.shuffle") == "1"


def test_quotes_keep_blanks_together() -> None:
    line = parse_cmdline('dyndbg="file a.c +p" "b.c=x y" end\n')
    assert line.last("dyndbg") == "file a.c +p"
    assert line.last("b.c") == "x y"
    assert line.last("end") == ""


def test_words_after_two_dashes_are_not_the_kernels() -> None:
    assert parse_cmdline("quiet -- nokaslr\n").last("nokaslr") is None


def test_value_is_not_mistaken_for_a_parameter() -> None:
    assert parse_cmdline("note=nokaslr xnokaslr\n").matching(["nokaslr"]) == []


@pytest.mark.parametrize(("text", "on"), [("a", True), ("a=1", True), ("a=on", True), ("a=0", False), ("b", None)])
def test_switch_is_read_by_the_kernels_rules(text: str, on: bool | None) -> None:
    assert parse_cmdline(text).is_on("a") is on


def test_pattern_with_a_value_fits_that_value_among_several() -> None:
    line = parse_cmdline("mitigations=auto,nosmt spectre_v2=OFF debug")
    assert line.matching(["mitigations=off", "spectre_v2=off", "debug"]) == ["spectre_v2=OFF", "debug"]


def test_overridden_value_counts_as_well() -> None:
    assert parse_cmdline("mitigations=off mitigations=auto").matching(["mitigations=off"]) == ["mitigations=off"]


@pytest.mark.parametrize("text", ["", "\n", "a\nb\n"])
def test_anything_but_one_line_is_an_error(text: str) -> None:
    with pytest.raises(ObservationError, match="expected one"):
        parse_cmdline(text)


@given(st.lists(st.from_regex(r"[a-z]{1,5}(=[a-z0-9,]{0,4})?", fullmatch=True), min_size=1))
def test_every_word_is_found_again(words: list[str]) -> None:
    line = parse_cmdline(" ".join(words))
    assert [name if value is None else f"{name}={value}" for name, value in line.parameters] == words


@given(st.text())
def test_any_text_is_read_or_refused(text: str) -> None:
    with contextlib.suppress(ObservationError):
        assert all("=" not in name for name, _value in parse_cmdline(text).parameters)
