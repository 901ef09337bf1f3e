"""The identity suite: two boots that share anything are red, and so is a restart that changes anything."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from seatrial.check import Check
from seatrial.errors import HostKeyChanged, ObservationError
from seatrial.guest.facts import Facts
from seatrial.policy.judge import Outcome, judge
from suite_bench import Guest, bench

SUITE = bench("identity")
BOOTS = SUITE.modules["test_two_boots"]
REBOOT = SUITE.modules["test_reboot"]
TWO_BOOTS = sorted(control for control in SUITE.controls if control != "idn-survives-reboot")


def answers(number: int) -> dict[str, str]:
    digit = str(number)
    return {
        BOOTS.MACHINE_ID: f"{digit * 32}\n",
        BOOTS.HOST_KEYS: f"ssh-ed25519 AAAA{digit}\nssh-rsa BBBB{digit}\n",
        BOOTS.SEEDS: f"{digit * 64}  /var/lib/systemd/random-seed\n",
        BOOTS.NUMBERS: f"boot-id-{digit}\n{digit * 64}\n",
    }


def outcome(control: str, first: dict[str, str], second: dict[str, str]) -> Outcome:
    check = Check()
    boots = (Facts(Guest(first)), Facts(Guest(second)))
    try:
        SUITE.checks[control](cold_boots=boots, check=check)
    except ObservationError:
        return Outcome.ERROR
    return judge(check.observations)[0]


@pytest.mark.parametrize("control", TWO_BOOTS)
def test_two_boots_that_differ_are_green(control: str) -> None:
    assert outcome(control, answers(1), answers(2)) is Outcome.PASS


@pytest.mark.parametrize("control", TWO_BOOTS)
def test_two_boots_that_are_alike_are_red(control: str) -> None:
    assert outcome(control, answers(1), answers(1)) is Outcome.FAIL


@pytest.mark.parametrize(
    ("control", "question", "answer"),
    [
        ("idn-host-keys-differ", "HOST_KEYS", "ssh-ed25519 AAAA2\nssh-rsa BBBB1\n"),
        ("idn-random-numbers-differ", "NUMBERS", f"boot-id-1\n{'2' * 64}\n"),
        ("idn-random-numbers-differ", "NUMBERS", f"boot-id-2\n{'1' * 64}\n"),
        (
            "idn-random-seed-differs",
            "SEEDS",
            f"{'2' * 64}  /boot/loader/random-seed\n{'1' * 64}  /var/lib/systemd/random-seed\n",
        ),
    ],
)
def test_one_thing_in_common_is_enough(control: str, question: str, answer: str) -> None:
    second = {**answers(2), getattr(BOOTS, question): answer}
    assert outcome(control, answers(1), second) is Outcome.FAIL


@pytest.mark.parametrize("control", [c for c in TWO_BOOTS if c != "idn-random-seed-differs"])
def test_silence_is_no_difference(control: str) -> None:
    silent = dict.fromkeys(answers(2), "")
    assert outcome(control, answers(1), silent) is Outcome.ERROR
    assert outcome(control, silent, answers(2)) is Outcome.ERROR


def test_without_any_seed_nothing_is_shared() -> None:
    assert outcome("idn-random-seed-differs", {**answers(1), BOOTS.SEEDS: ""}, answers(2)) is Outcome.PASS


@given(st.sampled_from(TWO_BOOTS), st.text(max_size=80), st.text(max_size=80))
def test_whatever_two_guests_say_equal_answers_are_never_green(control: str, text: str, more: str) -> None:
    said = f"{text}\n{more}\n".encode("utf-8", "backslashreplace").decode()
    if control == "idn-random-seed-differs":
        assume(any(len(line.split(maxsplit=1)) == 2 for line in said.split("\n")))
    assert outcome(control, dict.fromkeys(answers(1), said), dict.fromkeys(answers(1), said)) is not Outcome.PASS


class Restarting:
    """A guest of one's own that says something else after its restart."""

    def __init__(self, before: dict[str, str], after: dict[str, str], error: Exception | None = None) -> None:
        self.facts = Facts(Guest(before))
        self._after, self._error = after, error

    def reboot(self) -> None:
        if self._error:
            raise self._error
        self.facts = Facts(Guest(self._after))


def rebooted(after: dict[str, str], error: Exception | None = None) -> tuple[Outcome, str]:
    check, before = Check(), {REBOOT.IDENTITY: "id\nname\n", REBOOT.HOST_KEYS: "ssh-rsa A\n"}
    guest: Any = Restarting(before, {**before, **after}, error)
    SUITE.checks["idn-survives-reboot"](guest=guest, check=check)
    found = judge(check.observations)
    return found[0], found[3]


def test_a_restart_that_keeps_everything_is_green() -> None:
    assert rebooted({})[0] is Outcome.PASS


@pytest.mark.parametrize("changed", [{"IDENTITY": "other\nname\n"}, {"HOST_KEYS": "ssh-rsa B\n"}, {"HOST_KEYS": ""}])
def test_a_restart_that_changes_anything_is_red(changed: dict[str, str]) -> None:
    assert rebooted({getattr(REBOOT, name): text for name, text in changed.items()})[0] is Outcome.FAIL


def test_a_host_key_that_changes_is_the_image_s_failure_and_no_error() -> None:
    found, because = rebooted({}, HostKeyChanged("the guest's SSH host key changed"))
    assert found is Outcome.FAIL
    assert "host key changed" in because


def test_a_guest_without_an_identity_cannot_keep_it() -> None:
    guest: Any = SimpleNamespace(facts=Facts(Guest({REBOOT.IDENTITY: "", REBOOT.HOST_KEYS: ""})))
    with pytest.raises(ObservationError, match="expected machine id, host name and SSH host keys"):
        SUITE.checks["idn-survives-reboot"](guest=guest, check=Check())
