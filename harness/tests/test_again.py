"""A check repeated on copies that are made up: what its verdict says, copies that do not come up included."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any, cast

import pytest
from seatrial.again import broken_into, repeated
from seatrial.check import Check
from seatrial.errors import GuestStopped, HostError
from seatrial.plan import Ended
from seatrial.policy.flavours import Flavour
from seatrial.policy.judge import Outcome, Severity, Verdict, judge
from seatrial.rehearsal import Rehearsal
from seatrial.session import Session

FAILED = Verdict(
    control="c", suite="s", title="t", severity=Severity.LOW, outcome=Outcome.FAIL, because="expected 1, saw 2"
)
FLAVOUR = cast(Flavour, None)  # no check here asks for it


class Copies:
    """Stands for a session whose copies answer ``values`` one after the other; None is a copy that does not come up."""

    def __init__(self, values: Sequence[int | None]) -> None:
        self._values = iter(values)
        self.host: int | None = None
        self.facts = self.boot_facts = None

    @contextlib.contextmanager
    def restored(self) -> Iterator[Copies]:
        self.host = next(self._values)
        if self.host is None:
            raise HostError("no memory is left")
        yield self


def look(host: int, check: Check) -> None:
    check.equal(host, 1, what="answer")


def judge_again(ended: Ended) -> Verdict:
    outcome, _expected, _seen, because = judge(ended.observations)
    return Verdict(control="c", suite="s", title="t", severity=Severity.LOW, outcome=outcome, because=because)


def repeat(*values: int | None) -> Verdict:
    return repeated(
        FAILED,
        Rehearsal(look, frozenset({"host", "check"})),
        cast(Session, Copies(values)),
        judge_again=judge_again,
        flavour=FLAVOUR,
        times=len(values),
    )


@pytest.mark.parametrize(
    ("values", "counted", "text"),
    [
        ((2, 2), (2, 2), "(repeated 2 times from the snapshot, failed 2 times: each time)"),
        ((2, 1, 1), (3, 1), "failed 1 time: a flake, it passed 2 times)"),
        ((1, 1), (2, 0), "a flake, it passed 2 times, so it may be what an earlier check left in the guest)"),
        ((2, None, 1), (1, 1), "failed 1 time: each time; a further copy did not come up: no memory is left)"),
        ((None, 1), (0, 0), "which says nothing; a further copy did not come up: no memory is left)"),
    ],
)
def test_a_repeated_failure_stays_one_and_says_how_often_it_fails(
    values: tuple[int | None, ...], counted: tuple[int, int], text: str
) -> None:
    verdict = repeat(*values)
    assert (verdict.outcome, verdict.repeats, verdict.repeats_failed) == (Outcome.FAIL, *counted)
    assert verdict.because.startswith("expected 1, saw 2 (repeated ")
    assert verdict.because.endswith(text)


def test_a_copy_that_does_not_come_up_brings_a_person_back_to_the_prompt(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    choices: Iterator[Any] = iter(["repeat", "continue"])
    monkeypatch.setattr("seatrial.again.hold", lambda *_args, **_named: next(choices))
    check = Rehearsal(look, frozenset({"host", "check"}))
    copies = cast(Session, Copies([None]))
    assert broken_into(FAILED, check, copies, judge_again=judge_again, flavour=FLAVOUR) == "continue"
    assert "the fresh copy was lost: no memory is left" in capsys.readouterr().out


def test_a_guest_that_is_lost_at_the_prompt_is_left_to_the_next_check(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def lost(*_args: object, **_named: object) -> str:
        raise GuestStopped("the guest stopped by itself")

    monkeypatch.setattr("seatrial.again.hold", lost)
    session = cast(Session, Copies([]))
    assert broken_into(FAILED, None, session, judge_again=judge_again, flavour=FLAVOUR) == "continue"
    assert "the guest was lost: the guest stopped by itself" in capsys.readouterr().out
