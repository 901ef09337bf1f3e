"""Real guests: both demo images are released; copies broken on purpose are rejected for just what is broken."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from broken import broken_copy, broken_table, demo_image
from seatrial.clock import Deadline, pause
from seatrial.layout import data_dir
from seatrial.suites import built_in_suites
from terminal import terminal, until

pytestmark = pytest.mark.guest

FLAVOURS = {"immutable": "debian-immutable", "general": "debian-general"}
COPIES = Path(__file__).parents[2] / "fixtures" / "suites" / "copies"
COMMAND = (sys.executable, "-m", "seatrial")


def suites(*names: str | Path) -> list[str]:
    """Return the options that select suites."""
    return [word for name in names for word in ("--suite", str(name))]


def qemus() -> set[str]:
    """Return the process ids of QEMUs that Seatrial started and that still run (zombies have no command line)."""
    found = set()
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = entry.read_bytes().split(b"\0")
        except OSError:
            continue
        if b"seatrial,debug-threads=on" in words:
            found.add(entry.parent.name)
    return found


def digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def gate(image: Path, flavour: str, out: Path, *more: str) -> tuple[int, dict[str, Any], str]:
    """Return exit status, record and output of a gate run that leaves no process and no stray file behind."""
    before, running = digest(image), qemus()
    done = subprocess.run(
        [*COMMAND, "gate", str(image), "--flavour", flavour, "--out", str(out), "-q", *more],
        capture_output=True,
        text=True,
        check=False,
    )
    print(done.stdout[-6000:], done.stderr[-3000:])
    (folder,) = out.iterdir()
    record = json.loads((folder / "record.json").read_text(encoding="utf-8"))
    jsonschema.validate(record, json.loads((data_dir("reports") / "record.schema.json").read_text(encoding="utf-8")))
    assert digest(image) == before
    assert qemus() == running
    left = {path.name for path in folder.iterdir()} - set(record["evidence"].values()) - {"record.json"}
    assert left == set()
    return done.returncode, record, done.stdout


def outcomes(record: dict[str, Any], *wanted: str) -> set[str]:
    return {verdict["control"] for verdict in record["verdicts"] if verdict["outcome"] in wanted}


@pytest.mark.parametrize("name", FLAVOURS)
def test_a_healthy_demo_image_is_released(name: str, tmp_path: Path) -> None:
    more = suites(*built_in_suites(), COPIES) if name == "immutable" else ()
    status, record, shown = gate(demo_image(name), FLAVOURS[name], tmp_path / "out", *more)
    assert outcomes(record, "fail", "error", "not-checked") == set()
    assert len(outcomes(record, "pass")) >= 60
    restores = record["restores"]
    assert (restores["method"], restores["lifeline"], restores["reseeded"]) == ("template", True, True)
    assert restores["cold_boots"] == (2 if name == "immutable" else 1)  # two identities; an empty /var
    assert restores["freeze_s"] + min(restores["seconds"]) < record["boot"]["ready_s"] / 10
    assert (status, record["decision"]) == (0, "release")
    assert shown.rstrip().splitlines()[-2].startswith("decision: release")


@pytest.mark.parametrize("name", ["second-root", "no-verity", "weak-start"])
def test_a_broken_copy_is_rejected_for_just_what_is_broken(name: str, tmp_path: Path) -> None:
    table = broken_table(name)
    copy = broken_copy(table, tmp_path)
    # Without the suite that boots a second and a third time: nothing that is broken here is seen by it.
    once = suites(*(name for name in built_in_suites() if name != "identity"))
    status, record, shown = gate(copy, FLAVOURS[table["base"]], tmp_path / "out", *once)
    assert outcomes(record, "fail") == set(table["expected"])
    assert outcomes(record, "error", "not-checked") == set()
    assert (status, record["decision"]) == (1, "reject")
    assert all(control in shown for control in table["expected"])


def test_sigkill_of_the_runner_leaves_no_guest_and_a_record_that_rejects(tmp_path: Path) -> None:
    running, out = qemus(), tmp_path / "out"
    command = [*COMMAND, "gate", str(demo_image("immutable")), "--flavour", "debian-immutable", "--out", str(out), "-q"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as runner:
        deadline = Deadline(120)
        while not list(out.glob("*/console.log")) and not deadline.is_over:
            deadline.pause(0.2)
        assert qemus() - running
        runner.kill()
    deadline = Deadline(10)
    while qemus() - running and not deadline.is_over:
        deadline.pause(0.1)
    assert qemus() == running
    (folder,) = out.iterdir()
    record = json.loads((folder / "record.json").read_text(encoding="utf-8"))
    assert (record["decision"], record["complete"]) == ("reject", False)
    assert {path.name for path in folder.iterdir()} <= {"record.json", "console.log", "qemu.log"}


def test_ctrl_c_ends_the_run_in_order(tmp_path: Path) -> None:
    running, out = qemus(), tmp_path / "out"
    command = [*COMMAND, "gate", str(demo_image("immutable")), "--flavour", "debian-immutable", "--out", str(out), "-q"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as runner:
        deadline = Deadline(120)
        while not list(out.glob("*/console.log")) and not deadline.is_over:
            deadline.pause(0.2)
        pause(3)
        runner.send_signal(signal.SIGINT)
        shown, _ = runner.communicate(timeout=60)
    assert runner.returncode == 2, shown
    assert "the run was interrupted" in shown
    assert qemus() == running


def test_a_person_gets_a_root_shell_in_the_candidate() -> None:
    running = qemus()
    command = [*COMMAND, "boot", str(demo_image("immutable")), "--flavour", "debian-immutable"]
    with (
        terminal() as (ours, theirs),
        subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True) as person,
    ):
        os.close(theirs)
        shown = until(ours, b":~# ", Deadline(400))
        os.write(ours, b"echo I-am-$(id -un)-on-$(. /usr/lib/os-release; echo $VARIANT_ID)\n")
        shown += until(ours, b"I-am-root-on-seatrial-immutable", Deadline(60))
        os.write(ours, b"exit 7\n")
        shown += until(ours, b"\0never\0", Deadline(60))
    assert b"a root shell in the candidate" in shown
    assert b"I-am-root-on-seatrial-immutable" in shown
    assert person.returncode == 7
    assert qemus() == running


def test_the_console_can_be_watched_and_left(tmp_path: Path) -> None:
    running = qemus()
    command = [*COMMAND, "boot", str(demo_image("immutable")), "--flavour", "debian-immutable", "--console"]
    with (
        terminal() as (ours, theirs),
        subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True) as person,
    ):
        os.close(theirs)
        shown = until(ours, b"Started", Deadline(400))
        os.write(ours, b"\x1d")
        until(ours, b"\0never\0", Deadline(60))
    assert b"Started" in shown
    assert person.returncode == 0
    assert qemus() == running
