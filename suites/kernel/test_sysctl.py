"""Kernel parameters at run time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from seatrial.check import Check
from seatrial.evidence.kconfig import KCONFIG, parse_kconfig
from seatrial.evidence.settings import rule_holds, rule_text
from seatrial.evidence.sysctl import (
    SYSCTL_D,
    SYSCTLS,
    known_path,
    parse_sysctl_d,
    parse_sysctls,
    sysctls_command,
)
from seatrial.guest.facts import Facts
from seatrial.policy.controls import Control
from seatrial.policy.flavours import Flavour

_NOT_OF_THE_RULE = frozenset({"sysctl", "absent", "equals-kconfig", "not-in"})


@pytest.mark.probe("sysctl")
def test_parameter_has_the_value(row: Control, facts: Facts, check: Check) -> None:
    """Every key of the row obeys its rule; a key that the kernel lacks fails unless the row says ``absent = "ok"``."""
    assert row.probe is not None
    running = parse_sysctls(facts.text(SYSCTLS))
    keys = row.probe["sysctl"]
    for key in [keys] if isinstance(keys, str) else keys:
        value = running.get(known_path(key))
        if value is None:
            accepted = row.probe.get("absent") == "ok"
            check.holds(
                accepted, expected=f"{key} to be there", seen=f"{key} is absent: the kernel has no such feature"
            )
        else:
            _judge(check, key, value, rule=row.probe, facts=facts)


def _judge(check: Check, key: str, value: str, *, rule: Mapping[str, Any], facts: Facts) -> None:
    if "equals-kconfig" in rule:
        option = rule["equals-kconfig"]
        check.equal(value, parse_kconfig(facts.text(KCONFIG)).value(option), what=f"{key} (as CONFIG_{option})")
    elif "not-in" in rule:
        check.holds(value not in rule["not-in"], expected=f"{key} not {rule['not-in'][0]}", seen=f"{key} = {value}")
    else:
        rest = {name: wanted for name, wanted in rule.items() if name not in _NOT_OF_THE_RULE}
        check.holds(rule_holds(rest, value), expected=f"{key} = {rule_text(rest)}", seen=f"{key} = {value}")


@pytest.mark.control("sysctl-persisted")
def test_parameters_are_as_configured(facts: Facts, check: Check, flavour: Flavour) -> None:
    """What sysctl.d says is what runs, for keys that this kernel has and that no daemon owns."""
    wanted = parse_sysctl_d(facts.text(SYSCTL_D))
    if not wanted:
        check.cannot_tell("systemd-analyze shows no key in sysctl.d: even systemd's own files hold some")
    running = parse_sysctls(facts.text(sysctls_command(wanted)))
    owned = set(flavour.allowed("sysctls-of-daemons"))
    changed = [
        f"{path}={running[path]} (configured: {value})"
        for path, value in wanted.items()
        if path in running and running[path] != value and path.replace("/", ".") not in owned
    ]
    check.nothing(changed, expected="running values equal to those of sysctl.d")
