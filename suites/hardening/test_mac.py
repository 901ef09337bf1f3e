"""Security modules and mandatory access control."""

from __future__ import annotations

import re

import pytest
from seatrial.check import Check
from seatrial.guest.facts import Facts
from seatrial.policy.flavours import Flavour

_LSM = "cat /sys/kernel/security/lsm"
_APPARMOR = (
    "cat /sys/module/apparmor/parameters/enabled 2>/dev/null || echo absent; "
    "cat /sys/kernel/security/apparmor/profiles 2>/dev/null; true"
)
_SELINUX = (
    "cat /sys/fs/selinux/enforce 2>/dev/null || echo absent; echo; "
    "grep -asE '^[[:space:]]*SELINUX[[:space:]]*=' /etc/selinux/config; true"
)


@pytest.mark.control("mac-lsm-stack")
def test_security_modules_are_active(facts: Facts, check: Check, flavour: Flavour) -> None:
    active = facts.text(_LSM).strip().split(",")
    missing = [module for module in flavour.allowed("lsm") if module not in active]
    check.nothing(
        missing,
        expected=f"{', '.join(flavour.allowed('lsm'))} among the active modules ({', '.join(active)}); missing: none",
    )


@pytest.mark.control("mac-enforcing")
def test_mandatory_access_control_enforces(facts: Facts, check: Check, flavour: Flavour) -> None:
    kinds = {"apparmor": _apparmor_enforces, "selinux": _selinux_enforces, "any": _either_enforces}
    for name in flavour.allowed("mac"):
        kinds[name](facts, check, flavour)


def _either_enforces(facts: Facts, check: Check, flavour: Flavour) -> None:
    """Judge the one that is there: SELinux when its file system is mounted, else AppArmor."""
    facts.ask_all([_SELINUX, _APPARMOR])
    is_selinux = not facts.text(_SELINUX).startswith("absent")
    (_selinux_enforces if is_selinux else _apparmor_enforces)(facts, check, flavour)


def _apparmor_enforces(facts: Facts, check: Check, flavour: Flavour) -> None:
    enabled, *profiles = [line for line in facts.text(_APPARMOR).split("\n") if line] or ["no answer"]
    check.equal(enabled, "Y", what="AppArmor's parameter 'enabled'")
    modes = [re.fullmatch(r"(.+) \((\w+)\)", line) for line in profiles]
    if None in modes:
        check.cannot_tell(f"AppArmor describes a profile by {profiles[modes.index(None)][:200]!r}")
    loaded = [(match[1], match[2]) for match in modes if match]
    enforced = [name for name, mode in loaded if mode in {"enforce", "kill"}]
    check.holds(
        bool(enforced),
        expected="AppArmor enforces at least one profile",
        seen=f"{len(enforced)} of {len(loaded)} enforced",
    )
    lax = [
        name
        for name, mode in loaded
        if mode in {"complain", "mixed"} and name not in flavour.allowed("apparmor-complain")
    ]
    check.nothing(lax, expected="no profile that only complains but those of expect.apparmor-complain")


def _selinux_enforces(facts: Facts, check: Check, _flavour: Flavour) -> None:
    now, *configured = [line.strip() for line in facts.text(_SELINUX).split("\n") if line.strip()] or ["no answer"]
    check.equal(now, "1", what="/sys/fs/selinux/enforce")
    values = [line.partition("=")[2].strip() for line in configured]
    check.equal(values[-1:], ["enforcing"], what="SELINUX in /etc/selinux/config")
