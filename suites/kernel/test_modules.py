"""Kernel modules: which cannot be loaded, which can, and whether the kernel asks for signatures."""

from __future__ import annotations

import pytest
from seatrial.check import Check
from seatrial.evidence.kernel import LOCKDOWN, chosen
from seatrial.evidence.modules import LOADED, dry_run_command, module_name, parse_dry_runs, parse_loaded
from seatrial.guest.facts import Facts
from seatrial.policy.controls import Control
from seatrial.policy.flavours import Flavour


@pytest.mark.probe("modules")
def test_module_cannot_be_loaded(row: Control, facts: Facts, check: Check) -> None:
    """modprobe is barred from the module or does not find it, and the module is not loaded already."""
    assert row.probe is not None
    names = row.probe["modules"]
    loaded = parse_loaded(facts.text(LOADED))
    would = parse_dry_runs(facts.text(dry_run_command(names)))
    there = [f"{name} (loaded)" for name in names if module_name(name) in loaded]
    can = [f"{name} ({would.get(name, 'no answer')})" for name in names if would.get(name) not in {"barred", "missing"}]
    check.nothing([*there, *can], expected=f"none of {', '.join(names)} loaded or loadable")


@pytest.mark.control("mod-required-present")
def test_required_modules_can_be_loaded(facts: Facts, check: Check, flavour: Flavour) -> None:
    """modprobe finds every module that the flavour promises."""
    names = flavour.allowed("required-modules")
    if not names:
        check.not_applicable("the flavour promises no modules")
    would = parse_dry_runs(facts.text(dry_run_command(names)))
    lacking = [f"{n} ({would.get(n, 'no answer')})" for n in names if would.get(n) not in {"loadable", "built-in"}]
    check.nothing(lacking, expected=f"{', '.join(names)} loadable or built in")


@pytest.mark.control("mod-loaded-untainted")
def test_loaded_modules_are_the_kernels_own(facts: Facts, check: Check) -> None:
    """No loaded module taints the kernel."""
    foreign = [f"{name} ({taint})" for name, taint in parse_loaded(facts.text(LOADED)).items() if taint]
    check.nothing(foreign, expected="no module with taint flags")


@pytest.mark.control("mod-signature-enforced")
def test_unsigned_modules_are_refused(facts: Facts, check: Check) -> None:
    """Signatures are enforced by the module loader itself or by lockdown."""
    enforced = facts.text("cat /sys/module/module/parameters/sig_enforce").strip()
    mode = chosen(facts.text(LOCKDOWN)) if enforced != "Y" else "not asked"
    check.holds(
        enforced == "Y" or mode in {"integrity", "confidentiality"},
        expected="sig_enforce = Y, or lockdown",
        seen=f"sig_enforce = {enforced}, lockdown = {mode}",
    )
