"""Limits that are set, run into: each must stop whoever does, in a copy of the guest."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from seatrial.check import Check
from seatrial.evidence.cgroups import TRY_LIMITS, parse_bitten

if TYPE_CHECKING:
    from seatrial.restore import Session


@pytest.mark.changes_guest
@pytest.mark.control("sb-cgroup-limits-bite")
def test_limits_stop_whoever_runs_into_them(guest: Session, check: Check) -> None:
    """Memory without end is killed for it, the seventh process is refused, and who spins gets a tenth."""
    bitten = parse_bitten(guest.facts.text(TRY_LIMITS))
    if bitten is None:
        check.not_applicable("no systemd sets limits here")
    check.equal(bitten.memory, "oom-kill", what="a service with MemoryMax=24M that takes memory without end")
    check.holds(
        bitten.tasks == "exit-code" or bool(bitten.refused),
        expected="a service with TasksMax=6 cannot start 24 processes",
        seen=f"result {bitten.tasks}, {bitten.refused or 0} forks refused",
    )
    check.holds(
        bool(bitten.throttled),
        expected="a service with CPUQuota=10% that spins is throttled",
        seen=f"{bitten.throttled or 0} times throttled",
    )
