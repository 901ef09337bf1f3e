"""How long the boot took, judged by the budget of the accelerator that it ran on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import pytest
from seatrial.check import Check
from seatrial.errors import BootTimeout
from seatrial.evidence.boot_units import UNITS, parse_unit_times
from seatrial.evidence.systemd import MANAGER, Phases, boot_phases, parse_show
from seatrial.guest.facts import Facts
from seatrial.policy.budgets import compare_with_budget
from seatrial.policy.flavours import Flavour

if TYPE_CHECKING:
    from seatrial.machine.boot import BootFacts
    from seatrial.restore import Session


def _phases(facts: Facts) -> Phases:
    return boot_phases(parse_show(facts.text(MANAGER)))


def _judge(measured: Mapping[str, float], flavour: Flavour, accelerator: str, check: Check) -> None:
    timings = compare_with_budget(measured, flavour.budgets, accelerator)
    for timing in timings:
        if timing.limit_s is not None:
            check.holds(
                timing.holds,
                expected=f"{timing.phase.removesuffix('_s')} at most {timing.limit_s:g} s under {accelerator}",
                seen=f"{timing.phase.removesuffix('_s')} took {timing.seconds:.1f} s",
            )
    lacking = [timing.phase for timing in timings if timing.limit_s is None]
    if lacking and all(timing.holds for timing in timings if timing.limit_s is not None):
        check.not_checked(
            f"flavour {flavour.name!r} has no budget for {', '.join(lacking)} in budgets.{accelerator}; "
            "a budget of another accelerator judges nothing"
        )


@pytest.mark.control("bt-total")
def test_boot_keeps_to_its_budget(facts: Facts, flavour: Flavour, boot: BootFacts, check: Check) -> None:
    """The whole boot, by the guest's own clock, takes no longer than the flavour allows."""
    _judge({"total_s": _phases(facts).total_s}, flavour, boot.accelerator, check)


@pytest.mark.control("bt-phases")
def test_every_phase_keeps_to_its_budget(facts: Facts, flavour: Flavour, boot: BootFacts, check: Check) -> None:
    """Each phase that the guest measured takes no longer than the flavour allows."""
    _judge(_phases(facts).measured(), flavour, boot.accelerator, check)


@pytest.mark.control("bt-ssh-ready")
def test_login_comes_in_time(flavour: Flavour, boot: BootFacts, check: Check) -> None:
    """From power-on to the first command over SSH, by this computer's clock."""
    _judge({"ssh_s": boot.login_s}, flavour, boot.accelerator, check)


@pytest.mark.changes_guest
@pytest.mark.control("bt-shutdown")
def test_power_off_keeps_to_its_budget(guest: Session, flavour: Flavour, check: Check) -> None:
    """From the order to power off until the machine is off, by this computer's clock."""
    accelerator = guest.boot_facts.accelerator
    try:
        took_s = guest.power_off()
    except BootTimeout as exc:
        check.holds(False, expected="the machine off", seen=exc.message)
        return
    _judge({"shutdown_s": took_s}, flavour, accelerator, check)


@pytest.mark.control("bt-unit-budget")
def test_no_unit_takes_too_long(facts: Facts, flavour: Flavour, boot: BootFacts, check: Check) -> None:
    """Each unit became active within the limit, but those that may be slow, and devices, which are only waited for."""
    units = parse_unit_times(facts.text(UNITS))
    limit = flavour.budgets.unit_limit(boot.accelerator)
    if limit is None:
        check.not_checked(
            f"flavour {flavour.name!r} has no unit_s in budgets.{boot.accelerator}; "
            "a budget of another accelerator judges nothing"
        )
    slow = [
        f"{unit.name} ({unit.took_s:.1f} s)"
        for unit in units.values()
        if unit.took_s is not None
        and unit.took_s > limit
        and not unit.name.endswith(".device")
        and not flavour.budgets.is_slow(unit.name)
    ]
    check.nothing(slow, expected=f"every unit started within {limit:g} s under {boot.accelerator}")
