"""A candidate without a flavour, for real: it says itself what it is, once, and is judged as that."""

from __future__ import annotations

from pathlib import Path

import pytest
from micro_run import LONG_S, started

pytestmark = pytest.mark.guest

SAID = "judged as flavour 'general-purpose': no flavour claims ID=micro VERSION_ID=1; it is judged as general-purpose"


def test_a_guest_that_no_flavour_claims_is_judged_by_what_it_is_and_known_the_next_time(tmp_path: Path) -> None:
    looked = []
    for number in ("first", "second"):
        place = tmp_path / number
        place.mkdir()
        with started(place, "repeats", is_known=False, SEATRIAL_CACHE=str(tmp_path / "cache")) as run:
            status = run.ends(LONG_S)
        assert run.left() == [], run.shown
        assert SAID in run.shown
        assert run.record["flavour"]["name"] == "general-purpose"
        assert (status, run.verdicts()["repeats-holds"]["outcome"]) == (1, "pass"), run.shown
        looked.append("booting under tcg to see what it is" in run.shown)
    assert looked == [True, False]
