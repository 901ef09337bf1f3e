"""Reading bundles of trusted authorities."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from seatrial.errors import ObservationError
from seatrial.evidence.certificates import parse_bundle
from suite_bench import recorded

BUNDLE = recorded("hardening/authorities")


def test_every_certificate_is_read_and_text_between_is_not() -> None:
    found = parse_bundle(f"# a comment\n{BUNDLE}\nsubject: x\n{BUNDLE}")
    assert len(found) == 2
    assert found[0].name
    assert 2035 <= found[0].ends.year <= 2044


@pytest.mark.parametrize(
    "text",
    [
        "",
        "no certificate\n",
        BUNDLE.replace("-----END CERTIFICATE-----", ""),
        f"{BUNDLE}-----BEGIN CERTIFICATE-----\n",
        BUNDLE.replace("MII", "AAA", 1),
    ],
)
def test_a_broken_bundle_is_an_error(text: str) -> None:
    with pytest.raises(ObservationError):
        parse_bundle(text)


@given(st.text(max_size=200), st.integers(0, len(BUNDLE)))
def test_any_damage_gives_certificates_or_our_error(text: str, at: int) -> None:
    with contextlib.suppress(ObservationError):
        parse_bundle(BUNDLE[:at] + text + BUNDLE[at:])
