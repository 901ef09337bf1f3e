"""Finds out what checks will ask before they run, so that the guest answers everything in a few round trips.

Nobody declares questions: each check is called with the answers that are there, and ends at the first that is lacking.
What all of them lack is asked at once; then the checks that have not come to their end are called again. What a check
observed on the way counts for nothing: it is judged in its own run, which finds its questions answered.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NoReturn

from seatrial.check import Check
from seatrial.guest.facts import Answer, Facts

__all__ = ["NEEDS", "Collection", "Offer", "Rehearsal", "collect", "not_yet"]

# What a check may ask for and still be called without a guest.
NEEDS: Final = frozenset({"facts", "check", "flavour", "boot", "host", "row"})
_FROM_OUTSIDE: Final = frozenset({"boot", "check", "flavour", "row"})
# The longest chain of questions that follow from each other has five; more is a check that asks without end.
_MOST_ROUNDS: Final = 12


# Where a check finds facts: what of its needs they stand for, made of the facts that note what is lacking.
Offer = Callable[[Facts], Mapping[str, object]]


class Unanswered(BaseException):
    """A check needs an answer that is not there yet. No check catches it: it is no ``Exception``."""


class _Foreseen(Facts):
    """Facts that note what is lacking instead of asking for it."""

    def __init__(self, answers: dict[str, Answer]) -> None:
        super().__init__(_NoGuest())
        self.answers = answers
        self.lacking: dict[str, None] = {}

    def ask(self, command: str) -> Answer:
        if command not in self.answers:
            self.lacking[command] = None
            raise Unanswered(command)
        return super().ask(command)

    def ask_all(self, commands: Iterable[str]) -> None:
        if lacking := [command for command in commands if command not in self.answers]:
            self.lacking.update(dict.fromkeys(lacking))
            raise Unanswered(lacking[0])


class _NoGuest:
    """A host that is touched by no rehearsal: what a check does to the guest happens in its own run only."""

    def __getattr__(self, name: str) -> NoReturn:
        raise Unanswered(name)

    def run(self, command: str, *, timeout_s: float | None = None) -> NoReturn:  # noqa: ARG002 -- an Asker
        raise Unanswered(command)


@dataclass(frozen=True, slots=True)
class Rehearsal:
    """A check and what it asks for: names of :data:`NEEDS`, ``facts`` among them, and whether it changes the guest."""

    function: Callable[..., object]
    needs: frozenset[str]
    row: Any = None
    changes_guest: bool = False

    @property
    def asks_no_guest(self) -> bool:
        """Return whether it judges by what was seen of the boot from outside, which a lost guest leaves as well."""
        return "boot" in self.needs and self.needs <= _FROM_OUTSIDE


@dataclass(frozen=True, slots=True)
class Collection:
    """What collecting came to: questions answered, and rounds of questions that were asked together."""

    questions: int
    rounds: int


def not_yet() -> Facts:
    """Return facts of a guest that is not there yet: whoever asks for one waits for another rehearsal."""
    return Facts(_NoGuest())


def _as_facts(facts: Facts) -> Mapping[str, object]:
    return {"facts": facts}


def collect(
    facts: Facts, checks: Sequence[Rehearsal], *, flavour: object, boot: object, offer: Offer = _as_facts
) -> Collection:
    """Ask the guest everything that ``checks`` ask for, in as many round trips as questions follow from each other.

    :param offer: as what the checks get ``facts``.
    :raises SessionLost: the connection broke.
    """
    before, trips = len(facts.answers), facts.rounds
    todo = [check for check in checks if check.needs & offer(facts).keys()]
    with facts.in_rounds():
        for _round in range(_MOST_ROUNDS):
            foreseen = _Foreseen(facts.answers)
            offered = {"facts": not_yet(), "flavour": flavour, "boot": boot, "host": _NoGuest(), **offer(foreseen)}
            todo = [check for check in todo if not _ended(check, offered)]
            if not foreseen.lacking:
                break
            facts.ask_all(foreseen.lacking)
            if any(command not in facts.answers for command in foreseen.lacking):
                break  # whoever answers takes no batches: each question is asked when its check runs
    return Collection(questions=len(facts.answers) - before, rounds=facts.rounds - trips)


def _ended(check: Rehearsal, offered: Mapping[str, object]) -> bool:
    """Return whether ``check`` came to an end without lacking an answer, whatever that end is."""
    given = {**offered, "check": Check(), "row": check.row}
    try:
        check.function(**{name: given[name] for name in check.needs})
    except Unanswered:
        return False
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException:  # noqa: BLE001 -- whatever a check raises, pytest.skip included, it will raise again when judged
        return True
    return True
