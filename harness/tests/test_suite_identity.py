"""The identity suite: two boots that share anything are red, and so is a restart that changes anything."""

from __future__ import annotations

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from seatrial.check import Check
from seatrial.errors import ObservationError
from seatrial.evidence.first_boot import CONDITIONS, SIGNS, unit_conditions
from seatrial.evidence.first_boot import MARKS as MARKS_QUESTION
from seatrial.guest.facts import Facts
from seatrial.policy.judge import Outcome, judge
from suite_bench import Guest, bench

SUITE = bench("identity")
BOOTS = SUITE.modules["test_two_boots"]
REBOOT = SUITE.modules["test_reboot"]
ONE_REBOOT = {"idn-survives-reboot", "imm-first-boot-once"}
TWO_BOOTS = sorted(SUITE.controls.keys() - ONE_REBOOT)


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


MARKS = {
    "/etc/machine-id": 100,
    "/etc/ssh/ssh_host_ed25519_key": 120,
    "/var/lib/cloud/instances/i-1/sem/config_ssh": 130,
}
ONCE = ("first-boot-complete.target", "keys.service")
FILES = "".join(f"/usr/lib/systemd/system/{unit}:ConditionFirstBoot=yes\n" for unit in ONCE)


def marks(**changed: int | None) -> dict[str, str]:
    """Return the answer for the marks, some of them with another time or gone, by the last part of their names."""
    now = {path: changed.get(path.rsplit("/", 1)[-1].replace("-", "_"), when) for path, when in MARKS.items()}
    return {MARKS_QUESTION: "".join(f"{when} {path}\n" for path, when in now.items() if when is not None)}


def conditions(*results: str) -> dict[str, str]:
    blocks = (
        f"Id={unit}\nConditionResult={result}\nConditionTimestampMonotonic=5\n"
        for unit, result in zip(ONCE, results, strict=True)
    )
    return {unit_conditions(ONCE): "\n".join(blocks)}


HEALTHY = {
    REBOOT.IDENTITY: "id\nname\n",
    REBOOT.HOST_KEYS: "ssh-rsa A\n",
    CONDITIONS: FILES,
    SIGNS: "root=/dev/vda2 quiet\n",
    **marks(),
    **conditions("no", "no"),
}


def rebooted(
    control: str, after: dict[str, str], *, before: dict[str, str] | None = None, new_host_key: str = ""
) -> tuple[Outcome, str]:
    guest = Guest({**HEALTHY, **(before or {})}, later=after, new_host_key=new_host_key)
    return SUITE.explained(control, guest)


@pytest.mark.parametrize("control", sorted(ONE_REBOOT))
def test_a_restart_that_keeps_everything_is_green(control: str) -> None:
    assert rebooted(control, {})[0] is Outcome.PASS


@pytest.mark.parametrize("changed", [{"IDENTITY": "other\nname\n"}, {"HOST_KEYS": "ssh-rsa B\n"}, {"HOST_KEYS": ""}])
def test_a_restart_that_changes_anything_is_red(changed: dict[str, str]) -> None:
    after = {getattr(REBOOT, name): text for name, text in changed.items()}
    assert rebooted("idn-survives-reboot", after)[0] is Outcome.FAIL


def test_a_host_key_that_changes_is_the_image_s_failure_and_no_error() -> None:
    key = "the key with which the SSH server answers changed"
    found, because = rebooted("idn-survives-reboot", {}, new_host_key=key)
    assert found is Outcome.FAIL
    assert key in because
    assert rebooted("imm-first-boot-once", {}, new_host_key=key)[0] is Outcome.PASS


def test_a_guest_without_an_identity_cannot_keep_it() -> None:
    found, because = rebooted("idn-survives-reboot", {}, before={REBOOT.IDENTITY: "", REBOOT.HOST_KEYS: ""})
    assert found is Outcome.ERROR
    assert "expected machine id, host name and SSH host keys" in because


@pytest.mark.parametrize(
    ("after", "because"),
    [
        ({SIGNS: "root=/dev/vda2 flatcar.first_boot=detected\n"}, "flatcar.first_boot=detected"),
        ({SIGNS: "quiet\n/run/systemd/first-boot\n"}, "/run/systemd/first-boot"),
        (conditions("no", "yes"), "saw keys.service"),
        (marks(config_ssh=999), "sem/config_ssh was made anew"),
        (marks(config_ssh=None), "sem/config_ssh is gone"),
        (marks(ssh_host_ed25519_key=999), "ssh_host_ed25519_key was made anew"),
        (marks(machine_id=999), "/etc/machine-id was made anew"),
        ({MARKS_QUESTION: marks()[MARKS_QUESTION] + "140 /var/lib/cloud/instances/i-2/sem/config_ssh\n"}, "is new"),
    ],
)
def test_provisioning_that_runs_again_is_red(after: dict[str, str], because: str) -> None:
    found, why = rebooted("imm-first-boot-once", after)
    assert found is Outcome.FAIL
    assert because in why


def test_a_guest_without_any_first_boot_has_nothing_to_run_once() -> None:
    nothing = {CONDITIONS: "", MARKS_QUESTION: ""}
    assert rebooted("imm-first-boot-once", {}, before=nothing)[0] is Outcome.NOT_APPLICABLE


@pytest.mark.parametrize("after", [{unit_conditions(ONCE): ""}, {MARKS_QUESTION: "sh: stat: not found\n"}])
def test_silence_of_the_second_boot_is_no_pass(after: dict[str, str]) -> None:
    assert rebooted("imm-first-boot-once", after)[0] is Outcome.ERROR
