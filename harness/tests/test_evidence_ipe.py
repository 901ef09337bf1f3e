"""What the kernel says of IPE, by whoever wrote a policy's name; and the attempts that it must refuse."""

from __future__ import annotations

import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st
from seatrial.errors import ObservationError
from seatrial.evidence.attempts import harmless_script
from seatrial.evidence.ipe import IPE, REFUSED, UNTRUSTED, Ipe, IpePolicy, parse_ipe


def test_state_and_policies_are_read() -> None:
    assert parse_ipe("none\n") is None
    assert parse_ipe("enforce 1\n") == Ipe(enforces=True, policies=[])
    told = parse_ipe("enforce 0\npolicy 0 1.0.0 old\npolicy 1 1.2.3 new\n")
    assert told == Ipe(
        enforces=False,
        policies=[IpePolicy("old", "1.0.0", is_active=False), IpePolicy("new", "1.2.3", is_active=True)],
    )
    assert told is not None
    assert told.active == ["new"]


@pytest.mark.parametrize(
    "text", ["", "enforce\n", "enforce 2\n", "enforce 1\npolicy 1 x\n", "none\nenforce 1\n", "enforce 1\nnone\n"]
)
def test_another_answer_is_no_observation(text: str) -> None:
    with pytest.raises(ObservationError):
        parse_ipe(text)


@given(st.text())
def test_any_answer_is_read_or_refused(text: str) -> None:
    try:
        told = parse_ipe(text)
    except ObservationError:
        return
    assert told is None or len(told.policies) == text.rstrip("\n").count("\n")


def test_the_question_is_answered_where_there_is_no_securityfs_or_no_ipe() -> None:
    done = subprocess.run(["sh", "-c", IPE], capture_output=True, text=True, check=True)
    assert done.stdout == "" or parse_ipe(done.stdout) is None or done.stdout.startswith("enforce ")


@pytest.mark.parametrize(
    ("said", "is_refused"),
    [
        ("sh: 1: /run/true: Permission denied", True),
        ("sh: line 1: /run/true: Permission denied", True),
        (
            "ERROR: ld.so: object '/run/lib.so' from LD_PRELOAD cannot be preloaded (failed to map segment): ignored.",
            True,
        ),
        ("no shared library", True),
        ("cp: cannot create regular file '/run/true': Permission denied", False),
        ("unshare: unshare failed: Operation not permitted", False),
        ("mount: /run: permission denied.", False),
    ],
)
def test_a_refusal_is_told_from_an_attempt_that_could_not_be_made(said: str, is_refused: bool) -> None:
    assert bool(REFUSED.search(said)) is is_refused


def test_attempts_are_one_script() -> None:
    done = subprocess.run(["sh", "-n", "-c", harmless_script(UNTRUSTED)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
