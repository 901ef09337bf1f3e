"""``--break`` for real, at a terminal: the guest is held, lets a person in by the ways that are shown, and goes on."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from micro_run import LONG_S, started
from seatrial.clock import Deadline
from terminal import terminal, until

pytestmark = pytest.mark.guest

PROMPT = b"seatrial> "
SSH = re.compile(r"^  (ssh -i /proc/\d+/fd/\d+ -p \d+ .*root@127\.0\.0\.1)\r?$", re.MULTILINE)
# The guest is asked once, by nobody who could answer for the key.
ONCE = ("-o", "BatchMode=yes", "-o", "LogLevel=ERROR")


def ssh(command: str, *words: str) -> tuple[int, str]:
    """Run what was shown, and a command behind it; return its exit status and what it wrote."""
    done = subprocess.run([*shlex.split(command), *ONCE, *words], capture_output=True, text=True, check=False)
    print(done.stderr)
    return done.returncode, done.stdout


def test_a_person_looks_at_a_failing_check_repeats_it_and_goes_on(tmp_path: Path) -> None:
    with terminal() as (ours, theirs), started(tmp_path, "repeats", "--break", terminal=theirs) as run:

        def typed(text: str, wanted: bytes = PROMPT) -> str:
            os.write(ours, text.encode())
            return until(ours, wanted, Deadline(LONG_S)).decode("utf-8", "backslashreplace")

        shown = until(ours, PROMPT, Deadline(LONG_S)).decode("utf-8", "backslashreplace")
        assert "fail: repeats-always: The guest is what no guest is" in shown
        command = SSH.search(shown)
        assert command, shown
        # It is held: nobody gets in.
        assert ssh(command[1], "-o", "ConnectTimeout=2", "true")[0] == 255
        assert "Enter holds it again" in typed("l\n", b"Enter holds it again")
        # It is as the check left it.
        assert ssh(command[1], "cat /run/trace") == (0, "always\n")
        assert "[c]" in typed("\n")
        _the_shell_is_roots(typed)
        again = typed("r\n")
        assert "in a fresh copy: fail: expected system = Plan 9" in again
        assert "[r]" not in again  # the copy's own prompt
        typed("c\n")
        assert "fail: repeats-flake: Nobody was here before" in typed("c\n")
        assert "in a fresh copy: pass: saw who was here = nobody" in typed("r\n")
        typed("q\n", b"never shown")
        assert run.ends(LONG_S) == 2
    assert run.left() == []
    assert {c: v["outcome"] for c, v in run.verdicts().items()} == {
        "repeats-always": "fail",
        "repeats-flake": "fail",
        "repeats-holds": "not-checked",
    }
    assert run.record["decision"] == "reject"
    assert "ended by the person at the break" in run.record["problem"]["message"]


def _the_shell_is_roots(typed: Callable[..., str]) -> None:
    """Open a shell in the guest from the prompt, and come back."""
    typed("s\n", b"# ")
    assert "I am 0 after always" in typed('echo "I am $(id -u) after $(cat /run/trace)"\n', b"I am 0 after always")
    assert "[c]" in typed("exit\n")


def test_ctrl_c_at_the_prompt_ends_the_run_in_order(tmp_path: Path) -> None:
    with terminal() as (ours, theirs), started(tmp_path, "repeats", "--break", terminal=theirs) as run:
        until(ours, PROMPT, Deadline(LONG_S))
        os.write(ours, b"\x03")
        until(ours, b"never shown", Deadline(LONG_S))
        assert run.ends(LONG_S) == 2
    assert run.left() == []
    assert run.record["problem"]["message"] == "the run was interrupted"
    assert run.record["decision"] == "reject"


def test_a_person_who_powers_the_guest_off_ends_the_run_with_that_reason(tmp_path: Path) -> None:
    with terminal() as (ours, theirs), started(tmp_path, "repeats", "--break", terminal=theirs) as run:
        until(ours, PROMPT, Deadline(LONG_S))
        os.write(ours, b"s\n")
        until(ours, b"# ", Deadline(LONG_S))
        os.write(ours, b"poweroff -f\n")
        until(ours, b"never shown", Deadline(LONG_S))
        assert run.ends(LONG_S) == 1
    assert run.left() == []
    assert run.record["problem"]["kind"] == "GuestStopped"
    assert run.verdicts()["repeats-always"]["outcome"] == "fail"
    assert run.record["decision"] == "reject"


def test_without_a_terminal_nobody_is_waited_for(tmp_path: Path) -> None:
    with started(tmp_path, "repeats", "--break") as run:
        assert run.ends(LONG_S) == 1
    assert run.left() == [], run.shown
    assert [v["outcome"] for v in run.verdicts().values()] == ["fail", "fail", "pass"]
