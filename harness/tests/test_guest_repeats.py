"""``--repeat-failed`` for real: how often a check fails on fresh copies is in every report, and nothing turns green."""

from __future__ import annotations

from pathlib import Path

import pytest
from lxml import etree
from micro_run import LONG_S, started

pytestmark = pytest.mark.guest

ALWAYS = "repeated 3 times from the snapshot, failed 3 times: each time"
FLAKE = "repeated 3 times from the snapshot, failed 0 times: a flake, it passed 3 times"


def test_a_check_that_fails_each_time_and_a_flake_are_told_apart_and_both_reject(tmp_path: Path) -> None:
    with started(tmp_path, "repeats", "--repeat-failed", "3") as run:
        status = run.ends(LONG_S)
    assert run.left() == [], run.shown
    verdicts = run.verdicts()
    told = {c: (v["outcome"], v["repeats"], v["repeats_failed"]) for c, v in verdicts.items()}
    assert told == {
        "repeats-always": ("fail", 3, 3),
        "repeats-flake": ("fail", 3, 0),
        "repeats-holds": ("pass", 0, 0),
    }
    assert (status, run.record["decision"]) == (1, "reject"), run.shown
    assert len(run.clones()) == len(run.record["restores"]["seconds"]) == 6
    # Every report says it to people.
    junit = etree.parse(run.folder / "junit.xml")
    messages = {case.get("name"): case.findtext("failure") or "" for case in junit.iter("testcase")}
    page = (run.folder / "report.html").read_text("utf-8")
    for control, text in (("repeats-always", ALWAYS), ("repeats-flake", FLAKE)):
        assert text in verdicts[control]["because"]
        assert text in messages[control]
        assert text in page
        assert text in " ".join(run.shown.split())
    counted = {
        case.get("name"): [p.get("value") for p in case.iter("property") if "repeats" in str(p.get("name"))]
        for case in junit.iter("testcase")
    }
    assert {control: counted[control] for control in verdicts} == {
        "repeats-always": ["3", "3"],
        "repeats-flake": ["3", "0"],
        "repeats-holds": [],
    }
