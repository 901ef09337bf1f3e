"""Attempts at what must be refused."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from seatrial.clock import Deadline
from seatrial.errors import ObservationError
from seatrial.evidence.attempts import Attempt, attempts_script, parse_attempts
from seatrial.process import run

HERE = Path("/proc/sys/kernel/random/boot_id")
ELSEWHERE = "00000000-0000-4000-8000-000000000000"


def tried(commands: dict[str, str], boot_id: str) -> tuple[int, str]:
    done = run(["sh", "-c", attempts_script(commands, boot_id=boot_id)], deadline=Deadline(20))
    return done.status, done.text


def test_each_attempt_is_reported_with_its_first_line(tmp_path: Path) -> None:
    commands = {
        "fail on a redirection": f": > {tmp_path}/none/file",
        "fail with words": "echo one; echo two; exit 3",
        "succeed": f": > {tmp_path}/file && rm {tmp_path}/file",
    }
    status, text = tried(commands, HERE.read_text())
    refused, worded, worked = parse_attempts(text, expected=3)
    assert status == 0
    assert not refused.succeeded
    assert worded == Attempt("fail with words", False, "one")
    assert worked == Attempt("succeed", True, "")


def test_nothing_is_tried_on_another_computer(tmp_path: Path) -> None:
    status, text = tried({"write": f": > {tmp_path}/file"}, ELSEWHERE)
    assert (status, text) == (125, "")
    assert not (tmp_path / "file").exists()
    with pytest.raises(ObservationError, match="0 attempts were reported, expected 1"):
        parse_attempts(text, expected=1)


@pytest.mark.parametrize("boot_id", ["", "\n", "$(reboot)", ELSEWHERE.upper() + "x"])
def test_without_a_boot_id_there_is_no_script(boot_id: str) -> None:
    with pytest.raises(ObservationError, match="boot id"):
        attempts_script({"a": "b"}, boot_id=boot_id)


def test_quote_in_a_command_is_refused() -> None:
    with pytest.raises(ValueError, match="single quotes"):
        attempts_script({"a": "echo 'b'"}, boot_id=ELSEWHERE)


@pytest.mark.parametrize("text", ["a\t1\n", "a\tx\tno\n", "a\t127\tunshare: not found\n", "a\t1\tx\nb\t1\tx\n"])
def test_report_that_is_none_is_an_error(text: str) -> None:
    with pytest.raises(ObservationError):
        parse_attempts(text, expected=1)


@given(st.text())
def test_any_report_is_read_or_refused(text: str) -> None:
    with contextlib.suppress(ObservationError):
        assert len(parse_attempts(text, expected=1)) == 1
