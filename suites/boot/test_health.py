"""Whether the boot reached its end, with every unit at rest and none broken."""

from __future__ import annotations

from fnmatch import fnmatchcase

import pytest
from seatrial.check import Check
from seatrial.evidence.systemd import FAILED, JOBS, MANAGER, SERVICES, UNSETTLED, parse_jobs, parse_services, parse_show
from seatrial.evidence.units import parse_units
from seatrial.guest.facts import Facts
from seatrial.policy.flavours import Flavour

TARGETS = (
    't=$(systemctl get-default) && echo "$t" && '
    'systemctl is-active "$t" rescue.target emergency.target rescue.service emergency.service; true'
)
_PLATFORM = "needs-platform"
# systemd-journald is started twice, once in the initrd and once in the system, and counts that.
_FEW_RESTARTS = 1


@pytest.mark.control("bh-running")
def test_system_is_running(facts: Facts, flavour: Flavour, check: Check) -> None:
    """The manager calls the system running: neither degraded, nor starting, nor in maintenance.

    It may be degraded by nothing but units that need a platform which the run has not.
    """
    state = parse_show(facts.text(MANAGER)).get("SystemState")
    if state == "degraded" and flavour.allowed(_PLATFORM):
        failed, excused = _failed(facts, flavour)
        if excused and not failed:
            told = f"degraded by {', '.join(excused)} alone"
            check.holds(True, expected="running but for units of expect.needs-platform", seen=told)
            return
    check.equal(state, "running", what="state of the system")


@pytest.mark.control("bh-no-failed-units")
def test_no_unit_failed(facts: Facts, flavour: Flavour, check: Check) -> None:
    """No unit is failed, by name and by the manager's own count, but what needs a platform that the run has not."""
    failed, excused = _failed(facts, flavour)
    check.nothing(failed, expected="no failed unit" + (f" beside {', '.join(excused)}" if excused else ""))
    count = parse_show(facts.text(MANAGER)).get("NFailedUnits")
    check.equal(count, str(len(failed) + len(excused)), what="failed units by the manager's count")


def _failed(facts: Facts, flavour: Flavour) -> tuple[list[str], list[str]]:
    """Return the units that failed, and those of them that expect.needs-platform excuses, apart."""
    text = facts.text(FAILED)
    names = list(parse_units(text)) if text.strip() else []
    excused = [name for name in names if any(fnmatchcase(name, p) for p in flavour.allowed(_PLATFORM))]
    return [name for name in names if name not in excused], excused


def _targets(facts: Facts, check: Check) -> tuple[str, list[str]]:
    lines = facts.lines(TARGETS)
    if len(lines) != 6 or not lines[0].endswith(".target"):
        check.cannot_tell(f"expected the default target and five states, saw {lines!r}")
    return lines[0], lines[1:]


@pytest.mark.control("bh-default-target")
def test_default_target_is_reached(facts: Facts, check: Check) -> None:
    """The target that the boot aims at is active, and is none of rescue or emergency."""
    name, states = _targets(facts, check)
    aims = name not in {"rescue.target", "emergency.target"}
    check.holds(aims, expected="a default target for work", seen=f"default target {name}")
    check.equal(states[0], "active", what=name)


@pytest.mark.control("bh-no-rescue")
def test_no_rescue_or_emergency_is_active(facts: Facts, check: Check) -> None:
    """Neither rescue nor emergency mode is active."""
    _name, states = _targets(facts, check)
    names = ("rescue.target", "emergency.target", "rescue.service", "emergency.service")
    busy = [f"{n} ({s})" for n, s in zip(names, states[1:], strict=True) if s not in {"inactive", "unknown"}]
    check.nothing(busy, expected=f"none of {', '.join(names)} active")


@pytest.mark.control("bh-no-stuck-jobs")
def test_no_unit_is_stuck(facts: Facts, check: Check, flavour: Flavour) -> None:
    """No job waits, and no unit is on its way up or down, but what timers start in the background."""
    background = flavour.allowed("background-units")
    facts.ask_all([UNSETTLED, JOBS])
    text = facts.text(UNSETTLED)
    moving = [f"{name} ({state})" for name, state in (parse_units(text) if text.strip() else {}).items()]
    jobs = parse_jobs(facts.text(JOBS))
    stuck = [unit for unit in (*moving, *jobs) if not any(fnmatchcase(unit.split()[0], p) for p in background)]
    check.nothing(stuck, expected="no unit that starts or stops, no job that waits")


@pytest.mark.control("bh-no-restart-loops")
def test_no_service_restarts_again_and_again(facts: Facts, check: Check) -> None:
    """No service was restarted more than once, or is about to be."""
    loops = [
        f"{service.name} ({service.restarts} restarts, {service.sub_state})"
        for service in parse_services(facts.text(SERVICES))
        if service.restarts > _FEW_RESTARTS or service.sub_state.startswith("auto-restart")
    ]
    check.nothing(loops, expected=f"at most {_FEW_RESTARTS} restart of each service")
