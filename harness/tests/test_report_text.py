"""Text from a hostile guest, made visible."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lxml import etree
from seatrial.report.text import duration, shortened, size, visible

ANY_TEXT = st.text(st.characters())  # surrogates included


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain, größer, 日本", "plain, größer, 日本"),
        ("\x1b[31mred\x1b[0m", r"\x1b[31mred\x1b[0m"),
        ("\x9b2J", r"\x9b2J"),
        ("a\x00b\x07", r"a\x00b\x07"),
        ("\u202egnp.exe\u2066", r"\u202egnp.exe\u2066"),
        ("zero\u200bwidth\ufeff", r"zero\u200bwidth\ufeff"),
        ("\ud800\udcff", r"\ud800\udcff"),
        ("\ufffe\uffff", r"\ufffe\uffff"),
        ("\U000e0041", r"\U000e0041"),
        ("a\u2028b\u00a0c", r"a\u2028b\xa0c"),
        ("one\r\ntwo\nthree\rover", "one\ntwo\nthree\\rover"),
        ("a\tb", "a    b"),
    ],
)
def test_what_cannot_be_seen_is_shown_as_an_escape(text: str, shown: str) -> None:
    assert visible(text) == shown


@given(ANY_TEXT)
def test_what_remains_is_printable_and_stays_as_it_is(text: str) -> None:
    shown = visible(text)
    assert all(c.isprintable() or c == "\n" for c in shown)
    assert visible(shown) == shown


@given(ANY_TEXT)
def test_what_remains_goes_through_xml_unchanged(text: str) -> None:
    element = etree.Element("t")
    element.text = visible(text)
    assert (etree.fromstring(etree.tostring(element, encoding="UTF-8")).text or "") == visible(text)


@given(st.text(st.characters(categories=["L", "N", "P"])))
def test_ordinary_text_is_not_touched(text: str) -> None:
    assert visible(text) == text


@given(ANY_TEXT, st.integers(30, 200))
def test_shortened_text_is_bounded_and_keeps_both_ends(text: str, limit: int) -> None:
    shown, whole = shortened(text, limit), visible(text)
    assert len(shown) <= limit + 40
    assert shown == whole or (shown[:20] == whole[:20] and shown[-10:] == whole[-10:])


def test_shortened_text_counts_what_is_left_out() -> None:
    assert shortened("a" * 20 + "b" * 80 + "c" * 10, 30) == "a" * 20 + " […80 characters…] " + "c" * 10


@pytest.mark.parametrize(
    ("seconds", "told"),
    [
        (0.04, "0.0 s"),
        (99.9, "99.9 s"),
        (99.97, "1 min 40 s"),
        (143, "2 min 23 s"),
        (3599.6, "1 h 00 min"),
        (7320, "2 h 02 min"),
    ],
)
def test_durations_are_for_people(seconds: float, told: str) -> None:
    assert duration(seconds) == told


@pytest.mark.parametrize(
    ("number", "told"), [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (1 << 30, "1.0 GiB"), (1 << 41, "2.0 TiB")]
)
def test_sizes_are_for_people(number: int, told: str) -> None:
    assert size(number) == told
