"""What a mutant comes to, from the verdicts before it and after it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from seatrial.errors import ConfigError
from seatrial.mutants_file import Mutant, Stage
from seatrial.mutation_files import mutant_files
from seatrial.mutation_results import Result, Results, Tried, compared, outcome_of
from seatrial.mutation_run import chosen
from seatrial.policy.judge import Outcome, Severity, Verdict, Waived


def verdict(control: str, outcome: Outcome) -> Verdict:
    return Verdict(
        control=control, suite="s", title="t", severity=Severity.LOW, outcome=outcome, because=f"{control} is {outcome}"
    )


def verdicts(**outcomes: Outcome) -> dict[str, Verdict]:
    return {name: verdict(name, outcome) for name, outcome in outcomes.items()}


ALL_PASS = verdicts(one=Outcome.PASS, two=Outcome.PASS, three=Outcome.PASS)
SEEDED = Mutant(id="M1", stage=Stage.GUEST, change="x", caught_by=("one", "two"))
HARMLESS = Mutant(id="N1", stage=Stage.GUEST, change="x", stays_green=("t*",))


def after(**outcomes: Outcome) -> dict[str, Verdict]:
    return ALL_PASS | verdicts(**outcomes)


def test_it_is_killed_by_each_expected_control_that_went_red() -> None:
    done = compared(SEEDED, ALL_PASS, after(one=Outcome.FAIL), image="i")
    assert (done.result, done.killed_by, done.unexpected) == (Result.KILLED, ("one",), ())
    done = compared(SEEDED, ALL_PASS, after(one=Outcome.FAIL, two=Outcome.ERROR), image="i")
    assert done.killed_by == ("one", "two")


def test_it_has_survived_when_nothing_changed_and_the_controls_say_what_they_saw() -> None:
    done = compared(SEEDED, ALL_PASS, ALL_PASS, image="i")
    assert (done.result, done.killed_by) == (Result.SURVIVED, ())
    assert "one: pass: one is pass" in done.error


@pytest.mark.parametrize("became", [Outcome.FAIL, Outcome.ERROR, Outcome.NOT_CHECKED, Outcome.NOT_APPLICABLE])
def test_another_control_that_changes_is_a_false_alarm_beside_a_kill_too(became: Outcome) -> None:
    done = compared(SEEDED, ALL_PASS, after(one=Outcome.FAIL, three=became), image="i")
    assert (done.result, done.killed_by) == (Result.FALSE_ALARM, ("one",))
    assert done.unexpected == (f"three: {became}: three is {became}",)


def test_a_control_that_passes_since_the_change_is_no_alarm() -> None:
    before = ALL_PASS | verdicts(two=Outcome.NOT_APPLICABLE, three=Outcome.FAIL)
    tried = compared(SEEDED, before, after(one=Outcome.FAIL), image="i")
    assert (tried.result, tried.unexpected) == (Result.KILLED, ())
    assert compared(HARMLESS, ALL_PASS | verdicts(three=Outcome.FAIL), ALL_PASS, image="i").unexpected == ()


def test_a_kill_by_errors_alone_says_so() -> None:
    tried = compared(SEEDED, ALL_PASS, after(one=Outcome.ERROR), image="i")
    assert (tried.result, tried.error) == (
        Result.KILLED,
        "none failed, these could not tell: one: error: one is error; two: pass: two is pass",
    )
    assert compared(SEEDED, ALL_PASS, after(one=Outcome.ERROR, two=Outcome.FAIL), image="i").error == ""


def test_a_control_that_follows_those_of_the_mutant_is_no_false_alarm() -> None:
    red = after(one=Outcome.FAIL, three=Outcome.FAIL)
    follows = {"three": ("on*",)}
    assert compared(SEEDED, ALL_PASS, red, image="i", follows=follows).result is Result.KILLED
    assert compared(SEEDED, ALL_PASS, red, image="i", follows={"three": ("x*",)}).result is Result.FALSE_ALARM
    # It proves nothing for those that it follows.
    only_follower = after(three=Outcome.FAIL)
    assert compared(SEEDED, ALL_PASS, only_follower, image="i", follows=follows).result is Result.SURVIVED


def test_an_expected_control_that_merely_becomes_not_applicable_kills_nothing() -> None:
    done = compared(SEEDED, ALL_PASS, after(one=Outcome.NOT_APPLICABLE), image="i")
    assert (done.result, done.unexpected) == (Result.SURVIVED, ())


def test_a_control_that_was_red_before_proves_nothing() -> None:
    red = ALL_PASS | verdicts(one=Outcome.FAIL)
    assert compared(SEEDED, red, after(one=Outcome.FAIL), image="i").result is Result.SURVIVED
    both = ALL_PASS | verdicts(one=Outcome.FAIL, two=Outcome.FAIL)
    done = compared(SEEDED, both, both, image="i")
    assert (done.result, done.error.partition(":")[0]) == (
        Result.NOT_APPLICABLE,
        "red before the change, so nothing can be shown on this image",
    )
    unclear = ALL_PASS | verdicts(one=Outcome.ERROR, two=Outcome.ERROR)
    assert compared(SEEDED, unclear, unclear, image="i").result is Result.SURVIVED


def test_it_is_not_applicable_where_none_of_its_controls_is() -> None:
    before = ALL_PASS | verdicts(one=Outcome.NOT_APPLICABLE, two=Outcome.NOT_APPLICABLE)
    done = compared(SEEDED, before, before, image="i")
    assert done.result is Result.NOT_APPLICABLE
    assert "one: not-applicable" in done.error
    only_one = ALL_PASS | verdicts(one=Outcome.NOT_APPLICABLE)
    assert compared(SEEDED, only_one, only_one, image="i").result is Result.SURVIVED


def test_a_failure_that_a_waiver_accepts_is_no_kill() -> None:
    waived = Waived(reason="r", owner="o", tracker="t", expires="2030-01-01", extensions=0)
    accepted = ALL_PASS | {"one": replace(verdict("one", Outcome.FAIL), waived=waived)}
    assert compared(SEEDED, ALL_PASS, accepted, image="i").killed_by == ()


def test_a_harmless_variant_may_change_what_it_does_not_name_only() -> None:
    assert compared(HARMLESS, ALL_PASS, after(one=Outcome.FAIL), image="i").result is Result.SURVIVED
    done = compared(HARMLESS, ALL_PASS, after(two=Outcome.FAIL), image="i")
    assert (done.result, done.unexpected) == (Result.FALSE_ALARM, ("two: fail: two is fail",))


def test_a_harmless_variant_that_names_no_control_shows_nothing() -> None:
    misspelt = Mutant(id="N2", stage=Stage.GUEST, change="x", stays_green=("thr33*",))
    assert compared(misspelt, ALL_PASS, after(three=Outcome.FAIL), image="i").result is Result.NOT_APPLICABLE


def tried(name: str, result: Result) -> Tried:
    return Tried(id=name, image="i", result=result)


@pytest.mark.parametrize(
    ("results", "text", "stood"),
    [
        ([tried("M1", Result.KILLED), tried("N1", Result.SURVIVED)], "1 of 1 mutants killed (100.0%)", True),
        ([tried("M1", Result.KILLED), tried("M2", Result.SURVIVED)], "1 of 2 mutants killed (50.0%)", False),
        ([tried("M1", Result.KILLED), tried("N1", Result.FALSE_ALARM)], "1 false alarms", False),
        ([tried("M1", Result.FALSE_ALARM)], "0 of 1 mutants killed", False),
        ([tried("M1", Result.NOT_APPLICABLE)], "0 of 0 mutants killed", False),
        ([tried("M1", Result.NOT_APPLICABLE), tried("M2", Result.KILLED)], "1 not applicable", True),
        ([], "0 of 0 mutants killed", False),
    ],
)
def test_a_run_stands_the_test_only_when_something_was_killed_and_nothing_survived(
    results: list[Tried], text: str, stood: bool
) -> None:
    said, has_stood = outcome_of(results, frozenset({"N1"}))
    assert text in said
    assert has_stood is stood


def test_what_is_known_of_a_mutant_is_kept_before_its_last_word_and_says_that_it_is_not(tmp_path: Path) -> None:
    file = tmp_path / "results.json"
    results = Results(file)
    first = [Tried(id=f"M{n}", image="i", result=Result.KILLED, killed_by=("one",)) for n in (1, 2)]
    for tried in first:
        results.known_so_far(tried)
    alarm = replace(first[1], result=Result.FALSE_ALARM, unexpected=("two: fail: x",))
    results.final(alarm)
    written = json.loads(file.read_text("utf-8"))
    assert [(one["id"], one["result"]) for one in written] == [("M1", "killed"), ("M2", "false alarm")]
    assert [one["error"].partition(":")[0] for one in written] == ["not final", ""]
    assert results.of("i") == (alarm,)
    assert results.of("another") == ()


def test_mutants_are_chosen_by_their_ids_or_their_controls() -> None:
    other = Mutant(id="M2", stage=Stage.GUEST, change="x", caught_by=("three",))
    assert chosen([SEEDED, other], []) == (SEEDED, other)
    assert chosen([SEEDED, other], ["M2"]) == (other,)
    assert chosen([SEEDED, other], ["three,M1"]) == (SEEDED, other)
    rebooted = Mutant(id="M3", stage=Stage.REBOOT, change="x", caught_by=("one",))
    assert chosen([SEEDED, rebooted], ["R"]) == (rebooted,)
    with pytest.raises(ConfigError, match="M9"):
        chosen([SEEDED, other], ["M1,M9"])


def test_files_that_changes_use_are_a_key_and_a_certificate(tmp_path: Path) -> None:
    files = mutant_files()
    assert files["mutant.pub"].startswith("ssh-ed25519 AAAA")
    assert files["mutant-ca.pem"].startswith("-----BEGIN CERTIFICATE-----")
    assert files is mutant_files()
