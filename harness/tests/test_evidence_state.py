"""Trees of files and state of an instance: every difference is told, and what cannot be read is refused."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from seatrial.errors import ObservationError
from seatrial.evidence.instance import parse_instance_state
from seatrial.evidence.trees import Tree, differences, parse_tree, tree_command


def _tree(top: Path) -> Tree:
    done = subprocess.run(["sh", "-c", tree_command(str(top))], capture_output=True, text=True, check=True, timeout=60)
    return parse_tree(done.stdout)


def _etc(top: Path) -> Path:
    (top / "ssh").mkdir(parents=True)
    (top / "passwd").write_text("root\n")
    (top / "odd name'quoted").write_text("x\n")
    (top / "ssh/config").write_text("Port 22\n")
    (top / "mtab").symlink_to("../proc/self/mounts")
    return top


CHANGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "a file more": (lambda etc: (etc / "more").write_text(""), "more is not among the defaults"),
    "a file less": (lambda etc: (etc / "passwd").unlink(), "passwd is missing"),
    "other contents": (lambda etc: (etc / "ssh/config").write_text("Port 23\n"), "ssh/config has other contents"),
    "other rights": (lambda etc: (etc / "passwd").chmod(0o666), "passwd has mode 81b6, owner "),
    "a link that leads elsewhere": (
        lambda etc: (etc.parent / "elsewhere").rename(etc / "mtab"),
        "mtab has mode a1ff, owner ",
    ),
}


@pytest.mark.parametrize("name", CHANGES)
def test_each_kind_of_drift_is_told(name: str, tmp_path: Path) -> None:
    change, told = CHANGES[name]
    etc, defaults = _etc(tmp_path / "etc"), _etc(tmp_path / "defaults")
    (tmp_path / "elsewhere").symlink_to("/tmp/mtab")
    pristine = _tree(defaults)
    assert differences(_tree(etc), pristine, allowed=()) == []
    change(etc)
    found = differences(_tree(etc), pristine, allowed=())
    assert len(found) == 1
    assert found[0].startswith(told)
    assert differences(_tree(etc), pristine, allowed=[told.partition(" ")[0]]) == []


def test_names_with_line_ends_stay_one_name(tmp_path: Path) -> None:
    (tmp_path / "a\nb").write_text("")
    tree = _tree(tmp_path)
    assert len(tree.entries) == len(tree.digests) == 1
    assert "is not among the defaults" in differences(tree, Tree({}, {}), allowed=())[0]


def test_a_folder_that_is_not_there_gives_no_tree(tmp_path: Path) -> None:
    done = subprocess.run(
        ["sh", "-c", tree_command(str(tmp_path / "gone"))], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode != 0
    with pytest.raises(ObservationError):
        parse_tree(done.stdout)


@given(st.text())
def test_a_tree_takes_any_text(text: str) -> None:
    with contextlib.suppress(ObservationError):
        parse_tree(f"{text}\ncontents\nthe end\n")


def test_state_from_before_the_boot_is_told_by_its_birth_or_its_time() -> None:
    state = parse_instance_state(
        "1000 5000 /etc/nvme/hostid\n5003 900 /var/lib/cloud/instance\n5003 - /etc/fresh\n4990 ? /a b\nbtime 5000\n"
    )
    assert state.older_than(120) == [
        "/etc/nvme/hostid (4000 s before the boot)",
        "/var/lib/cloud/instance (4100 s before the boot)",
    ]


def test_no_state_at_all_is_fine() -> None:
    assert parse_instance_state("btime 5000\n").older_than(0) == []


@pytest.mark.parametrize(
    "text", ["", "1 2 /x\n", "btime\n", "1 2 x\nbtime 5\n", "x 2 /x\nbtime 5\n", "1 2 /x\nbtime 5\n\nmore\n"]
)
def test_state_that_cannot_be_read_is_refused(text: str) -> None:
    with pytest.raises(ObservationError):
        parse_instance_state(text)


@given(st.text())
def test_instance_state_takes_any_text(text: str) -> None:
    with contextlib.suppress(ObservationError):
        parse_instance_state(f"{text}\nbtime 1\n")
