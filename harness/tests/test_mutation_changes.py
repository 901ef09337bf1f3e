"""How changes are made, and how one that changes nothing is found out, with this computer's own shell."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import cast

import pytest
from seatrial.errors import CommandTimeout
from seatrial.guest.shell import Shell
from seatrial.mutation_changes import Inapplicable, make_change, needed_first, seen_to_write, words_of


class Here:
    """Runs commands here, without the stamp's place and without its pause."""

    def __init__(self, place: Path, *, find: str = "find") -> None:
        self._place = place
        self._find = find

    def run(self, command: str, *, timeout_s: float | None = None) -> tuple[int, bytes, bytes]:
        """Return exit status, stdout and stderr."""
        here = command.replace("/run/seatrial-mutant", str(self._place / "stamp")).replace("sleep 2", "sleep 0.1")
        done = subprocess.run(
            ["sh", "-c", here.replace("find ", f"{self._find} ")], capture_output=True, check=False, timeout=60
        )
        return done.returncode, done.stdout, done.stderr


def wrote(root: Path, change: Callable[[], object], *, text: str = "x", find: str = "find") -> bool:
    shell = cast("Shell", Here(root.parent, find=find))
    try:
        with seen_to_write(shell, text, root=str(root)):
            change()
    except Inapplicable:
        return False
    return True


@pytest.fixture
def image(tmp_path: Path) -> Path:
    root = tmp_path / "root"
    (root / "etc").mkdir(parents=True)
    (root / "etc" / "motd").write_text("hello\n")
    return root


def test_what_a_change_writes_is_seen_however_it_writes(image: Path) -> None:
    file = image / "etc" / "motd"
    assert wrote(image, lambda: file.write_text("other\n"))
    assert wrote(image, lambda: file.chmod(0o600))
    assert wrote(image, lambda: os.utime(file, (0, 0)))
    assert wrote(image, lambda: (image / "etc" / "link").symlink_to("motd"))
    assert wrote(image, file.unlink)


def test_a_change_that_writes_nothing_is_not_applicable(image: Path) -> None:
    assert not wrote(image, (image / "etc" / "motd").read_text)


def test_what_cannot_be_told_counts_as_written(image: Path) -> None:
    """A find that lacks the predicate complains; a change of the bare disk shows in no file."""
    assert wrote(image, lambda: None, find="no-such-find")
    assert wrote(image, lambda: None, text="sgdisk -U 0 $DISK")
    assert not wrote(image, lambda: None, text="echo $DISKS")


def test_a_change_that_does_not_end_has_failed_and_says_so() -> None:
    class Stuck:
        def run(self, command: str, *, timeout_s: float) -> tuple[int, bytes, bytes]:
            raise CommandTimeout(f"command {command[:5]!r} did not end within {timeout_s:.0f} s; it was killed")

    with pytest.raises(Inapplicable, match=r"the change failed: command 'sh -c' did not end within 300 s"):
        make_change(cast("Shell", Stuck()), "sleep 1000")


def test_the_account_is_made_for_changes_that_mention_it_only() -> None:
    assert needed_first(["passwd -d $USER", "rm -f $R/etc/motd"]) == ""
    assert "/etc/shadow" in needed_first(["true", 'chown "${U}" /etc/motd'])


def test_words_are_added_unless_they_are_to_be_dropped() -> None:
    assert words_of("lockdown=none quiet") == (["lockdown=none", "quiet"], [])
    assert words_of("add quiet") == (["quiet"], [])
    assert words_of("drop audit=1") == ([], ["audit=1"])
