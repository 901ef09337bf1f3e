"""One reboot answers several checks: what they ask is asked before it and after it, and nothing can be asked later."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from types import SimpleNamespace
from typing import Any, cast

import pytest
from seatrial.check import Check
from seatrial.errors import BootTimeout, HostKeyChanged, ObservationError, SeatrialError, SessionError
from seatrial.guest.facts import Facts
from seatrial.guest.shell import MOST_OUTPUT
from seatrial.mutation import Bench, Probe
from seatrial.plan import Plan
from seatrial.policy.flavours import Flavour
from seatrial.rebooted import Rebooted, reboot_once
from seatrial.rehearsal import Rehearsal
from seatrial.restore import Session

FLAVOUR = cast(Flavour, SimpleNamespace(name="x"))
KEY, OTHER = ("ssh-ed25519", b"key"), ("ssh-ed25519", b"other")


class Rebooting:
    """Stands for a session whose guest answers every question with the number of its boot; keeps what it was asked."""

    def __init__(self, *, key: tuple[str, bytes] = KEY, error: SeatrialError | None = None) -> None:
        self.boot = 1
        self.asked: list[tuple[int, list[str]]] = []
        self.guest = SimpleNamespace(address=SimpleNamespace(host_key=KEY))
        self.facts = Facts(self)
        self.key = key
        self.error = error
        self.host = self.boot_facts = None

    def guard(self) -> None:
        """Be there."""

    def run(self, command: str, *, timeout_s: float | None = None) -> tuple[int, bytes, bytes]:
        raise AssertionError(f"{command!r} was asked alone")

    def run_all(
        self, commands: Sequence[str], *, most_output: int = MOST_OUTPUT, timeout_s: float | None = None
    ) -> Iterator[tuple[int, bytes, bytes] | SessionError]:
        self.asked.append((self.boot, list(commands)))
        for command in commands:
            yield 0, f"{command} of boot {self.boot}".encode(), b""

    def reboot(self, *, key_may_change: bool) -> None:
        assert key_may_change
        self.boot += 1
        if self.error is not None:
            raise self.error
        self.guest = SimpleNamespace(address=SimpleNamespace(host_key=self.key))
        self.facts = Facts(self)


def check_of(function: Callable[..., object], *needs: str) -> Rehearsal:
    return Rehearsal(function, frozenset({"rebooted", *needs}))


def compare(rebooted: Rebooted, check: Check) -> None:
    one, other = rebooted.before.text("a"), rebooted.after.text("a")
    check.holds(one != other, expected="another answer", seen=f"{one} and {other}")


def derive(rebooted: Rebooted) -> None:
    rebooted.after.text(f"what came of {rebooted.before.text('b')}")


def rebooted_once(session: Rebooting, *checks: Rehearsal) -> Rebooted:
    made: Any = session
    return reboot_once(cast(Session, made), checks, flavour=FLAVOUR, boot=None)


def test_all_checks_are_answered_by_one_reboot() -> None:
    session, check = Rebooting(), Check()
    rebooted = rebooted_once(session, check_of(compare, "check"), check_of(derive))
    assert session.asked == [(1, ["a", "b"]), (2, ["a", "what came of b of boot 1"])]
    compare(rebooted, check)
    derive(rebooted)
    assert [seen.holds for seen in check.observations] == [True]
    assert (session.boot, rebooted.new_host_key) == (2, "")
    assert len(session.asked) == 2


def test_a_question_that_no_rehearsal_met_is_an_error_and_no_answer() -> None:
    session = Rebooting()
    rebooted = rebooted_once(session, check_of(compare, "check"))
    with pytest.raises(ObservationError, match="'late' was not asked before the reboot"):
        rebooted.before.text("late")
    with pytest.raises(ObservationError, match="'late' was not asked after the reboot"):
        rebooted.after.text("late")
    assert session.asked == [(1, ["a"]), (2, ["a"])]


def test_what_a_check_does_to_a_guest_of_its_own_is_not_rehearsed() -> None:
    def meddle(rebooted: Rebooted, host: Any, facts: Facts) -> None:
        rebooted.before.text("first")
        host.run("rm -rf /")
        facts.text("never")

    session = Rebooting()
    rebooted_once(session, check_of(meddle, "host", "facts"))
    assert session.asked == [(1, ["first"])]


def test_another_host_key_is_told_and_the_other_checks_are_still_answered() -> None:
    rebooted = rebooted_once(Rebooting(key=OTHER), check_of(compare, "check"))
    assert "changed from ssh-ed25519 to ssh-ed25519 (other bytes)" in rebooted.new_host_key
    assert rebooted.after.text("a") == "a of boot 2"


def test_a_host_key_that_goes_on_changing_leaves_nobody_to_ask() -> None:
    rebooted = rebooted_once(Rebooting(error=HostKeyChanged("changed within one boot")), check_of(compare, "check"))
    assert rebooted.new_host_key == "changed within one boot"
    assert rebooted.before.text("a") == "a of boot 1"
    with pytest.raises(HostKeyChanged):
        rebooted.after.text("a")


def test_a_guest_that_does_not_come_back_is_an_error() -> None:
    with pytest.raises(BootTimeout):
        rebooted_once(Rebooting(error=BootTimeout("it did not come back")), check_of(compare, "check"))


class Planned:
    """Stands for a plan in which each check is the only one of the control of its name, and no copy falsifies any."""

    suites = ()

    def __init__(self, nodes: Sequence[str]) -> None:
        self.control_of = {node: node for node in nodes}

    def is_falsified(self, _node: str, _difference: object) -> bool:
        return False

    def verdict(self, node: str, _ended: object) -> str:
        return f"judged {node}"


def test_in_a_mutant_a_reboot_comes_after_the_looks_and_before_whatever_changes_the_guest() -> None:
    session, order = Rebooting(), []

    def look(facts: Facts) -> None:
        order.append(("look", facts.text("quiet")))

    def change(guest: Rebooting) -> None:
        order.append(("change", str(guest.boot)))

    checks = {
        "change": Rehearsal(change, frozenset({"guest"})),
        "compare": check_of(compare, "check"),
        "derive": check_of(derive),
        "look": Rehearsal(look, frozenset({"facts"})),
    }
    bench = Bench(
        image="i",
        ready=cast(Session, session),
        plan=cast(Plan, Planned(list(checks))),
        probes=[Probe(name, check) for name, check in checks.items()],
        flavour=FLAVOUR,
        boot_again=cast(Any, None),
    )
    assert bench.apart == {"change", "compare", "derive"}
    assert bench.rebooting == {"compare", "derive"}
    assert bench.judged(cast(Session, session)).keys() == {"look"}
    assert session.boot == 1
    assert bench.judged(cast(Session, session), also=checks).keys() == checks.keys()
    assert (session.boot, order[-2:]) == (2, [("look", "quiet of boot 1"), ("change", "2")])
