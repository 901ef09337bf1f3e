"""Workers of pytest-xdist for real: each works on a clone of the one guest that was booted, and nothing is left."""

from __future__ import annotations

from pathlib import Path

import pytest
from micro_run import LONG_S, MicroRun, started
from seatrial.clock import Deadline

pytestmark = pytest.mark.guest

CLONES = {"workers/gw0/restored/001", "workers/gw1/restored/001"}


def qemus(run: MicroRun) -> int:
    run.family.look()
    return sum("qemu-system" in command.partition(" ")[0] for command in run.family.living().values())


def test_two_workers_judge_clones_of_one_guest(tmp_path: Path) -> None:
    with started(tmp_path, "workers", "-n", "2") as run:
        status = run.ends(LONG_S)
    assert run.left() == [], run.shown
    verdicts = run.verdicts()
    assert {control: verdict["outcome"] for control, verdict in verdicts.items()} == {
        "workers-first": "pass",
        "workers-second": "pass",
        "workers-third": "pass",
        "workers-broken": "fail",
    }
    assert (status, run.record["decision"], run.record["problem"]) == (1, "reject", None), run.shown
    # Each check found the name of its own worker and no other: 'guest HOST-KEY, workers [NAME]'.
    seen = {verdicts[control]["seen"] for control in ("workers-first", "workers-second", "workers-third")}
    guests = {text.partition(",")[0] for text in seen}
    assert {text.rpartition("= ")[2] for text in seen} == {"['gw0']", "['gw1']"}, seen
    assert len(guests) == 1, seen
    assert run.clones() == CLONES
    assert run.record["restores"]["method"] == "template"
    assert len(run.record["restores"]["seconds"]) == 2
    assert "copies    2 by template" in run.shown


def test_sigkill_while_workers_hold_clones_leaves_nothing(tmp_path: Path) -> None:
    with started(tmp_path, "workers", "-n", "2", WORKERS_WAIT_S="300") as run:
        deadline = Deadline(LONG_S)
        while qemus(run) < 3 and not deadline.is_over:
            deadline.pause(0.2)
        # A worker's own folder is there before its clone; the guest's answer comes when it goes on.
        while run.clones() != CLONES and not deadline.is_over:
            deadline.pause(0.2)
        assert (qemus(run), run.clones()) == (3, CLONES), run.shown
        run.process.kill()
        run.process.wait()
    assert run.left() == [], run.shown
    assert (run.record["decision"], run.record["complete"]) == ("reject", False)
    assert {verdict["outcome"] for verdict in run.verdicts().values()} == {"not-checked"}


def test_a_person_cannot_be_asked_by_workers(tmp_path: Path) -> None:
    with started(tmp_path, "workers", "-n", "2", "--break") as run:
        assert run.ends(LONG_S) == 4
    assert "--break needs a person" in run.shown
    assert not (tmp_path / "out").exists()
