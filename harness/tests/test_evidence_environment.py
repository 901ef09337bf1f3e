"""Variables that change what programs load: found in what runs, and read without a fault."""

from __future__ import annotations

import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st
from seatrial.errors import ObservationError
from seatrial.evidence.environment import ENVIRONMENT, parse_environment


def test_a_program_that_runs_with_a_variable_is_found() -> None:
    question = f"OPENSSL_CONF=/srv/mine.cnf LD_AUDIT= sleep 30 & {ENVIRONMENT}; kill $!"
    said = subprocess.run(["sh", "-c", question], capture_output=True, text=True, check=True).stdout
    (found,) = [line for line in parse_environment(said, ["OPENSSL_CONF"]) if "/srv/mine.cnf" in line]
    assert found.startswith("/proc/")
    assert parse_environment(said, ["LD_AUDIT"]) == ()


@pytest.mark.parametrize(
    ("line", "names", "count"),
    [
        ("/etc/environment:LD_PRELOAD=/x.so", ("LD_PRELOAD", "LD_AUDIT"), 1),
        ("/etc/security/pam_env.conf:LD_AUDIT DEFAULT=/x.so", ("LD_PRELOAD", "LD_AUDIT"), 1),
        ("login shell:OPENSSL_CONF=/x", ("LD_PRELOAD", "LD_AUDIT"), 0),
    ],
)
def test_each_control_has_variables_of_its_own(line: str, names: tuple[str, ...], count: int) -> None:
    assert len(parse_environment(f"{line}\nend\n", names)) == count


@pytest.mark.parametrize("text", ["", "/etc/environment:LD_PRELOAD=/x.so\n", "end\nmore\n"])
def test_an_answer_without_its_end_is_no_answer(text: str) -> None:
    with pytest.raises(ObservationError, match="the environment of programs"):
        parse_environment(text, ["LD_PRELOAD"])


@given(st.text())
def test_whatever_the_guest_says_is_read_or_refused(text: str) -> None:
    try:
        lines = parse_environment(text, ["LD_PRELOAD"])
    except ObservationError:
        return
    assert all("LD_PRELOAD" in line for line in lines)
