"""The table of faults and the engine behind it: that it sees what it should, and that a row that is wrong fails."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path

import pytest
from fault_rows import FAULTS
from fault_run import Fault, Result, run_fault
from faults import BEGIN, END, markdown, save, with_table
from leftovers import Family, stray_files
from micro import Micro, micro_guest
from seatrial.clock import Deadline

NOBODY = Micro(kernel=Path("/nonexistent"), initrd=Path("/nonexistent"))
RESULT = Result(
    fault="a | in a name",
    error="KernelPanic: the console said '<b>|*'",
    seconds=1.25,
    limit_s=10.0,
    exit_status=1,
    leftovers=0,
    digest_unchanged=True,
)
# One of each kind: a file, the console, a runner that is killed or interrupted, the end of QEMU, a real panic.
REPRESENTATIVE = (
    "an empty file",
    "GRUB's prompt",
    "SIGKILL of the runner",
    "Ctrl-C",
    "QEMU is killed",
    "kernel panic, told by console and pvpanic",
)

NOBODYS_PID = 2**22 + 1  # above the most that Linux gives (proc(5), pid_max)


def row(name: str) -> Fault:
    (found,) = [fault for fault in FAULTS if fault.name == name]
    return found


def test_the_table_has_at_least_forty_rows_each_with_a_name_of_its_own() -> None:
    assert len({fault.name for fault in FAULTS}) == len(FAULTS) >= 40


def test_every_candidate_of_the_table_can_be_made(tmp_path: Path) -> None:
    for number, fault in enumerate(FAULTS):
        if fault.image:
            folder = tmp_path / str(number)
            folder.mkdir()
            assert fault.image(folder).parent == folder


def test_what_the_console_shows_has_ten_seconds() -> None:
    slow = [
        fault.name for fault in FAULTS if fault.error.startswith("^(Kernel|Emergency|NoBoot)") and fault.limit_s > 10
    ]
    assert slow == []


def test_a_row_holds_and_the_same_row_with_another_expectation_does_not(tmp_path: Path) -> None:
    empty = row("an empty file")
    (tmp_path / "good").mkdir()
    good = run_fault(empty, tmp_path / "good", NOBODY)
    assert (good.wrong, good.exit_status, good.leftovers, good.digest_unchanged) == ((), 4, 0, True)
    assert good.error.startswith("ConfigError: image 'empty.raw' is empty")
    (tmp_path / "bad").mkdir()
    bad = run_fault(replace(empty, error="^KernelPanic", exit_status=1, limit_s=0.01), tmp_path / "bad", NOBODY)
    assert [text.split()[0] for text in bad.wrong] == ["expected", "expected", "took"]


def test_a_process_that_left_its_family_is_still_found(tmp_path: Path) -> None:
    # The middle process ends at once, so that no chain of parents leads to the one that stays.
    orphan = (
        "import subprocess as s, sys; print(s.Popen(['sleep', '60'], start_new_session=True, stdout=-3, stderr=-3).pid)"
    )
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", orphan], env=environment, capture_output=True, text=True, check=True)
    pid = int(done.stdout)
    try:
        family = Family(NOBODYS_PID, tmp_path)  # no chain of parents leads from there to any process
        assert family.living()[pid] == "sleep 60"
        assert family.find("sleep") == pid
    finally:
        os.kill(pid, 9)
    deadline = Deadline(10)
    while pid in family.living() and not deadline.is_over:
        deadline.pause(0.01)
    assert pid not in family.living()


def test_a_file_that_nobody_expects_is_stray(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    for name in ("record.json", "overlay.qcow2"):
        (tmp_path / "run" / name).touch()
    assert stray_files(tmp_path, {"run", "run/record.json"}) == ["run/overlay.qcow2"]


def test_the_results_are_saved_with_exactly_the_promised_fields(tmp_path: Path) -> None:
    save([RESULT], tmp_path / "out" / "faults.json")
    (saved,) = json.loads((tmp_path / "out" / "faults.json").read_text("utf-8"))
    assert list(saved) == [field.name for field in fields(Result) if field.name != "wrong"]
    assert saved["seconds"] == 1.25


def test_the_readme_gets_the_new_table_in_place_of_the_old_one() -> None:
    readme = f"before\n{BEGIN}\nold\n{END}\nafter\n"
    once = with_table(readme, markdown([RESULT]))
    assert once == with_table(once, markdown([RESULT]))
    assert once.startswith("before\n")
    assert once.endswith("after\n")
    assert "old" not in once
    assert "&lt;b>\\|\\*" in once
    assert "| a \\| in a name |" in once


def test_a_readme_without_a_place_for_the_table_is_an_error() -> None:
    with pytest.raises(ValueError, match="no place for the table"):
        with_table("nothing here", "table")


@pytest.mark.guest
@pytest.mark.parametrize("name", REPRESENTATIVE)
def test_a_representative_fault_comes_to_what_the_table_says(name: str, tmp_path: Path) -> None:
    fault = row(name)
    result = run_fault(fault, tmp_path, micro_guest() if fault.kernel else NOBODY)
    assert result.wrong == (), (tmp_path / "shown").read_text("utf-8", "replace")
