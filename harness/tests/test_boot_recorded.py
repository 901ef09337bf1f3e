"""The verdict on boots that were really measured: the demo image as it is, and slowed by two percent of its boot."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from seatrial.boot_budget import judged
from seatrial.policy.boot_time import NOISE_OF_PAIRS, Standing
from seatrial.policy.flavours import Budgets
from seatrial.policy.judge import Outcome
from seatrial.report.boot_record import BootRecord, read_boot_record
from seatrial.suites import read_flavour

RECORDS = Path(__file__).parents[2] / "fixtures" / "boot-time"
UNCHANGED = read_boot_record(RECORDS / "unchanged.json")
# The unit that was slowed by a drop-in, and by how much: two percent of the boot.
VICTIM, PLANTED_S = "systemd-user-sessions.service", 0.52
GROWTH = Budgets(growth={"total_s": 2.0, "unit_s": 30.0})
SLOWED = sorted(path.stem for path in RECORDS.glob("slow-*.json"))
assert SLOWED


def slowed(name: str) -> BootRecord:
    return read_boot_record(RECORDS / f"{name}.json")


@pytest.mark.parametrize("name", SLOWED)
def test_two_percent_more_fail_and_the_unit_is_named(name: str) -> None:
    verdict = judged(slowed(name), UNCHANGED, GROWTH, machine="q35-uefi")
    total, *units = verdict.findings
    assert verdict.outcome is Outcome.FAIL
    assert total.value == pytest.approx(2.0, abs=100 * NOISE_OF_PAIRS)
    # By chance alone other units grow by up to 31 %; none of them is blamed.
    assert [unit.quantity for unit in units if unit.standing is Standing.FAIL] == [f"{VICTIM} against the baseline"]
    (unit,) = [grower for grower in verdict.growers if grower.name == VICTIM]
    assert unit.grew_s == pytest.approx(PLANTED_S, abs=0.1)


@pytest.mark.parametrize("name", SLOWED)
def test_flavour_of_the_demo_image_finds_two_percent(name: str) -> None:
    budgets = read_flavour("debian-immutable").budgets
    assert judged(slowed(name), UNCHANGED, budgets, machine="q35-uefi").outcome is Outcome.FAIL
    assert judged(UNCHANGED, UNCHANGED, budgets, machine="q35-uefi").outcome is Outcome.PASS


def test_first_and_later_boots_are_never_compared() -> None:
    later = replace(UNCHANGED, which="later")
    verdict = judged(later, UNCHANGED, GROWTH, machine="q35-uefi")
    assert verdict.outcome is Outcome.NOT_CHECKED
    assert "kind of boot 'later', in the baseline 'first'" in verdict.unjudged[0]
    assert judged(later, later, GROWTH, machine="q35-uefi").outcome is Outcome.PASS
