"""The way in from a bare checkout, ``.ci/tox``, with a Python and a tox that only take notes."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from seatrial.clock import Deadline
from seatrial.process import Finished, run

CHECKOUT = Path(__file__).resolve().parents[2]

# Answers as Python would; notes what it is asked to do; "makes" an environment whose tox takes notes too.
PYTHON = """#!/bin/sh
case "$1 $2" in
"-c import sys"*) exit 0 ;;
"-c "*) exit 0 ;;
"--version ") echo "Python 3.12.1"; exit 0 ;;
"-m venv")
    mkdir -p "$4/bin"
    cp "$0" "$4/bin/python"
    printf '#!/bin/sh\\necho "tox $*" >>"$NOTES"; echo "in $PWD" >>"$NOTES"\\nexit 7\\n' >"$4/bin/tox"
    chmod +x "$4/bin/tox" ;;
"-m seatrial.doctor") [ -z "$DOCTOR_FAILS" ] || exit 2 ;;
esac
echo "python $*" >>"$NOTES"
"""


class Machine:
    """A checkout in a folder of its own and a PATH with nothing but what the script may use."""

    def __init__(self, root: Path) -> None:
        self.checkout = root / "check out"
        self.bin = root / "bin"
        self.notes = root / "notes"
        self.notes.touch()
        self.bin.mkdir()
        for program in ("sh", "dirname", "cat", "cksum", "mkdir", "cp", "chmod"):
            found = shutil.which(program)
            assert found, f"{program} is part of every system"
            (self.bin / program).symlink_to(found)
        for name in (".ci/tox", "pyproject.toml", "tox.ini", "harness/seatrial/doctor/requirements.py"):
            target = self.checkout / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(CHECKOUT / name, target)
        self.program("python3", PYTHON)
        self.program("qemu-system-x86_64", "#!/bin/sh\n")

    def program(self, name: str, text: str) -> None:
        (self.bin / name).write_text(text)
        (self.bin / name).chmod(0o755)

    def tox(self, *words: str, **env: str) -> Finished:
        self.notes.write_text("")
        given = {"PATH": str(self.bin), "NOTES": str(self.notes), "DOCTOR_FAILS": "", **env}
        return run([self.checkout / ".ci" / "tox", *words], deadline=Deadline(20), env=given, cwd=self.checkout.parent)

    def noted(self) -> list[str]:
        return [line.replace(str(self.checkout), "HERE") for line in self.notes.read_text().splitlines()]


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_the_first_call_sets_up_and_hands_the_arguments_to_tox(machine: Machine) -> None:
    done = machine.tox("-e", "hardening", "--", "--image", "an image.raw")
    assert machine.noted() == [
        "python -m seatrial.doctor --install --brief",
        "python -m venv --clear HERE/.venv",
        "python -m pip install --quiet --disable-pip-version-check tox>=4.22,<5",
        "tox --conf HERE/tox.ini -e hardening -- --image an image.raw",
        f"in {os.fspath(machine.checkout.parent)}",
    ]
    assert done.status == 7, "the status is tox's own"


def test_the_second_call_starts_tox_at_once(machine: Machine) -> None:
    machine.tox()
    done = machine.tox("-e", "unit")
    assert machine.noted()[0] == "tox --conf HERE/tox.ini -e unit"
    assert done.stderr == b""


@pytest.mark.parametrize("changed", ["pyproject.toml", "tox.ini", "harness/seatrial/doctor/requirements.py"])
def test_set_up_is_done_again_when_what_it_depends_on_changed(machine: Machine, changed: str) -> None:
    machine.tox()
    with (machine.checkout / changed).open("a") as file:
        file.write("# changed\n")
    machine.tox()
    assert "python -m seatrial.doctor --install --brief" in machine.noted()


def test_set_up_is_done_again_when_the_programs_are_gone(machine: Machine) -> None:
    machine.tox()
    (machine.bin / "qemu-system-x86_64").unlink()
    machine.tox()
    assert "python -m seatrial.doctor --install --brief" in machine.noted()


def test_missing_programs_stop_before_anything_is_made(machine: Machine) -> None:
    done = machine.tox(DOCTOR_FAILS="yes")
    assert done.status == 2
    assert b"SEATRIAL_SKIP_DOCTOR=1" in done.stderr
    assert not (machine.checkout / ".venv").exists()


def test_the_doctor_can_be_left_out(machine: Machine) -> None:
    machine.tox(SEATRIAL_SKIP_DOCTOR="1", DOCTOR_FAILS="yes")
    assert machine.noted()[0] == "python -m venv --clear HERE/.venv"


def test_an_old_python_is_refused_with_its_version_and_the_way_out(machine: Machine) -> None:
    machine.program("python3", '#!/bin/sh\n[ "$1" = --version ] && echo "Python 3.9.2" && exit 0\nexit 1\n')
    done = machine.tox()
    assert done.status == 2
    assert b"Python 3.11 or newer is needed, and none was found (python3: Python 3.9.2)" in done.stderr
    assert b"PYTHON=/path/to/python3" in done.stderr


def test_python_can_be_named(machine: Machine) -> None:
    machine.program("mine", PYTHON)
    machine.program("python3", "#!/bin/sh\nexit 1\n")
    assert machine.tox(PYTHON="mine").status == 7
