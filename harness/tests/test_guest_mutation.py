"""Mutants on a real guest: each in a copy of its own, the results as they are."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import CancelledError
from dataclasses import replace
from pathlib import Path

import pytest
from micro_boot import micro_session
from seatrial.check import Check
from seatrial.errors import BootHung, BootTimeout, SessionLost
from seatrial.guest.facts import Facts
from seatrial.machine.boot import BootFacts
from seatrial.mutants_file import Mutant, Stage
from seatrial.mutation import Bench, Probe
from seatrial.mutation_results import Result
from seatrial.plan import Plan
from seatrial.policy.controls import Control, parse_controls
from seatrial.rehearsal import Rehearsal
from seatrial.session import Session
from seatrial.suites import Suite, read_flavour
from testinfra.host import Host

pytestmark = pytest.mark.guest

ROW = """
[[control]]
id = "{name}"
title = "the file {name} is absent"
severity = "low"
rationale = "r"
remedy = "r"
refs = []
applies-to = ["immutable-host"]
"""


def control(name: str) -> Control:
    return parse_controls(ROW.format(name=name), where=name)[0]


def absent(name: str) -> Probe:
    def check_it(facts: Facts, check: Check) -> None:
        check.nothing(facts.lines(f"ls /tmp/{name} 2>/dev/null", allowed=(0, 1)), expected=f"no {name}")

    return Probe(name, Rehearsal(check_it, frozenset({"facts", "check"})))


def calm() -> Probe:
    def check_it(boot: BootFacts, check: Check) -> None:
        check.nothing([finding.title for finding in boot.findings], expected="nothing suspicious on the console")

    return Probe("calm", Rehearsal(check_it, frozenset({"boot", "check"})))


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    names = ("one", "two", "calm", "touching", "up", "follower")
    up = control("up").model_copy(update={"fails_without_boot": True})
    follower = control("follower").model_copy(update={"follows": ("calm",)})
    others = tuple(control(name) for name in (*names[:-2], "other"))
    suite = Suite(name="s", folder=Path("/s"), controls=(*others, up, follower))
    plan = Plan(suites=(suite,), control_of={n: n for n in names}, unchecked={}, not_applicable=frozenset())

    def touching(host: Host, check: Check) -> None:
        check.equal(host.run("touch /tmp/two").rc, 0, what="status")

    marked = Probe("touching", Rehearsal(touching, frozenset({"host", "check"}), changes_guest=True))
    with micro_session(tmp_path_factory.mktemp("micro")) as ready:
        made = Bench(
            image="micro",
            ready=ready,
            plan=plan,
            probes=[absent("one"), absent("two"), calm(), marked, absent("up"), absent("follower")],
            flavour=read_flavour("debian-immutable"),
            boot_again=no_other_boot,
        )
        made.warmed_up()
        yield made


def no_other_boot(*, words: str = "", disk: int | None = None) -> contextlib.AbstractContextManager[Session]:
    raise AssertionError(f"booted with {words!r} from {disk}: no mutant here asks for it")


def seeded(change: str, *caught_by: str, stage: Stage = Stage.GUEST) -> Mutant:
    return Mutant(id="M1", stage=stage, change=change, caught_by=caught_by)


def test_four_mutants_side_by_side_come_to_four_results(bench: Bench) -> None:
    mutants = [
        seeded("touch /tmp/one", "one"),
        seeded("true", "one"),
        seeded("touch /tmp/one /tmp/two", "one"),
        seeded("ls /nowhere", "one"),
        Mutant(id="N1", stage=Stage.GUEST, change="touch /tmp/three", stays_green=("*",)),
    ]
    results = list(bench.tried_all(mutants, jobs=2))
    assert [one.result for one in results] == [
        Result.KILLED,
        Result.SURVIVED,
        Result.FALSE_ALARM,
        Result.NOT_APPLICABLE,
        Result.SURVIVED,
    ]
    assert results[0].killed_by == ("one",)
    assert results[2].unexpected[0].startswith("two: fail: expected no two, saw /tmp/two")
    assert "/nowhere" in results[3].error
    assert all(one.seconds > 0 for one in results)


def test_a_check_that_is_marked_to_change_the_guest_meets_only_those_that_name_it(bench: Bench) -> None:
    assert "touching" in bench.apart
    assert bench.tried(seeded("touch /tmp/one", "one")).result is Result.KILLED  # 'two' did not change
    assert bench.tried(seeded("mount -o remount,ro /tmp || mount -t proc proc /tmp", "touching")).killed_by == (
        "touching",
    )


def test_what_changed_for_some_together_is_found_for_the_one_that_did_it(bench: Bench) -> None:
    mutants = [seeded("touch /tmp/one", "one"), seeded("touch /tmp/one /tmp/two", "one"), seeded("ls /nowhere", "one")]
    results = list(bench.tried_all(mutants, jobs=1))
    assert [one.result for one in results] == [Result.KILLED, Result.FALSE_ALARM, Result.NOT_APPLICABLE]
    alone = bench.tried(mutants[1], asked=["one"])
    assert alone.result is Result.KILLED  # the other control was not asked


def test_a_harmless_change_is_not_excused_by_what_its_neighbour_names(bench: Bench) -> None:
    harmless = Mutant(id="N1", stage=Stage.GUEST, change="touch /tmp/follower", stays_green=("follower",))
    results = list(bench.tried_all([seeded("touch /tmp/nothing", "calm"), harmless], jobs=1))
    assert [one.unexpected for one in results] == [(), ("follower: fail: expected no follower, saw /tmp/follower",)]


def test_changes_that_break_the_guest_together_are_looked_at_alone(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    mutants = [seeded("touch /tmp/one", "one"), seeded("touch /tmp/one /tmp/two", "one")]
    really = Bench._before_and_after

    def breaking(self: Bench, mutants: Sequence[Mutant], asked: Collection[str] | None) -> object:
        if len(mutants) > 1:
            raise SessionLost("the guest is gone")
        return really(self, mutants, asked)

    monkeypatch.setattr(Bench, "_before_and_after", breaking)
    results = list(bench.tried_all(mutants, jobs=1))
    assert [one.result for one in results] == [Result.KILLED, Result.FALSE_ALARM]


@pytest.mark.parametrize(("hangs", "result"), [(1, Result.KILLED), (2, Result.SURVIVED)])
def test_a_boot_that_hung_once_is_tried_again(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, hangs: int, result: Result
) -> None:
    really, left = Bench._before_and_after, [BootHung("the boot hangs")] * hangs

    def hanging(self: Bench, mutants: Sequence[Mutant], asked: Collection[str] | None) -> object:
        if left:
            raise left.pop()
        return really(self, mutants, asked)

    monkeypatch.setattr(Bench, "_before_and_after", hanging)
    assert bench.tried(seeded("touch /tmp/one", "one")).result is result


def test_a_guest_that_does_not_come_up_again_fails_the_control_that_is_about_that_and_no_other(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(_self: Session) -> None:
        raise BootTimeout("the guest was not ready within 9 s")

    monkeypatch.setattr(Session, "power_cut", gone)
    down = bench.tried(seeded("true", "one", "up", stage=Stage.REBOOT))
    assert (down.result, down.killed_by, down.unexpected) == (Result.KILLED, ("up",), ())
    assert down.error == "the guest was not ready within 9 s"
    unseen = bench.tried(seeded("true", "one", stage=Stage.REBOOT))
    assert (unseen.result, unseen.killed_by, unseen.error) == (Result.SURVIVED, (), down.error)


def test_a_change_has_its_files_its_account_and_its_root(bench: Bench) -> None:
    change = 'grep -q ^ssh-ed25519 mutant.pub && id "$U" >/dev/null && test -f "$R/etc/passwd" && touch "$R/tmp/one"'
    done = bench.tried(seeded(change, "one"))
    assert (done.result, done.error) == (Result.KILLED, "")


def test_the_end_of_the_guest_is_seen_by_a_control_that_looks_from_outside(bench: Bench) -> None:
    panic = "echo c > /proc/sysrq-trigger; sleep 60"
    done = bench.tried(seeded(panic, "calm"))
    assert (done.result, done.killed_by) == (Result.KILLED, ("calm",)), done
    assert "panic" in done.error
    unseen = bench.tried(seeded(panic, "one"))
    assert (unseen.result, unseen.killed_by) == (Result.FALSE_ALARM, ())


def test_a_run_that_was_ended_starts_no_further_guest(bench: Bench) -> None:
    ended = replace(bench, _ending=threading.Event())
    # One job, sixteen neighbours: the second group waits for the first.
    results = ended.tried_all([seeded("ls /nowhere", "one")] * 17, jobs=1)
    next(results)
    results.close()
    with pytest.raises(CancelledError):
        ended.tried(seeded("touch /tmp/one", "one"))


def test_what_no_guest_can_show_is_not_applicable(bench: Bench) -> None:
    for stage in (Stage.HARNESS, Stage.BUILD, Stage.QEMU):
        done = bench.tried(seeded("x", "one", stage=stage))
        assert done.result is Result.NOT_APPLICABLE
        assert f"stage {stage}" in done.error
    other_kind = bench.tried(seeded("true", "other"))
    assert other_kind.result is Result.NOT_APPLICABLE
    assert "other" in other_kind.error


def test_a_mutant_that_nobody_looks_for_has_survived(bench: Bench) -> None:
    unknown = bench.tried(seeded("true", "no-such-control"))
    assert unknown.result is Result.SURVIVED
    assert "no-such-control" in unknown.error
