"""The verdict on boots that were really measured: the demo image as it is, and slowed by two percent of its boot."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from seatrial.boot_budget import judged
from seatrial.policy.boot_time import Standing
from seatrial.policy.flavours import Budgets
from seatrial.policy.judge import Outcome
from seatrial.report.boot_record import BootRecord, read_boot_record
from seatrial.suites import read_flavour

RECORDS = Path(__file__).parents[2] / "fixtures" / "boot-time"
UNCHANGED = read_boot_record(RECORDS / "unchanged.json")
# The unit that was slowed by a drop-in, and by how much: two percent of the boot.
VICTIM, PLANTED_S = "systemd-user-sessions.service", 0.52
GROWTH = Budgets(growth={"total_s": 0.5, "unit_s": 30.0})
SLOWED = sorted(path.stem for path in RECORDS.glob("slow-*.json"))
assert SLOWED


def slowed(name: str) -> BootRecord:
    return read_boot_record(RECORDS / f"{name}.json")


@pytest.mark.parametrize("name", SLOWED)
def test_two_percent_more_fail_and_the_unit_is_named_first(name: str) -> None:
    verdict = judged(slowed(name), UNCHANGED, GROWTH, machine="q35-uefi")
    assert verdict.outcome is Outcome.FAIL
    # By chance alone other units take longer, none as much as that one; one boot blames none for it.
    assert [one.quantity for one in verdict.findings if one.standing is Standing.FAIL] == ["total against the baseline"]
    longest = max(
        (grower for grower in verdict.growers if "phase" not in grower.name), key=lambda grower: grower.grew_s
    )
    assert longest.name == VICTIM
    assert longest.grew_s == pytest.approx(PLANTED_S, abs=0.1)


@pytest.mark.parametrize(
    ("name", "outcome"), [("slow-cpu", Outcome.FAIL), ("slow-sleep", Outcome.NOT_CHECKED), ("unchanged", Outcome.PASS)]
)
def test_one_boot_of_two_percent_more_fails_or_leaves_it_open_but_never_passes(name: str, outcome: Outcome) -> None:
    budgets = read_flavour("debian-immutable").budgets
    assert judged(slowed(name), UNCHANGED, budgets, machine="q35-uefi").outcome is outcome


def test_first_and_later_boots_are_never_compared() -> None:
    later = replace(UNCHANGED, which="later")
    verdict = judged(later, UNCHANGED, GROWTH, machine="q35-uefi")
    assert verdict.outcome is Outcome.NOT_CHECKED
    assert "kind of boot 'later', in the baseline 'first'" in verdict.unjudged[0]
    assert judged(later, later, Budgets(growth={"total_s": 1.0}), machine="q35-uefi").outcome is Outcome.PASS
