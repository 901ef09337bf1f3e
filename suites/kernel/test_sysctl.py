"""Kernel parameters at run time."""

from __future__ import annotations

import pytest
from seatrial.check import Check
from seatrial.evidence.sysctl import SYSCTL_D, parse_sysctl_d, parse_sysctls, sysctls_command
from seatrial.guest.facts import Facts
from seatrial.parameters import judge_parameters
from seatrial.policy.controls import Control
from seatrial.policy.flavours import Flavour


@pytest.mark.probe("sysctl")
def test_parameter_has_the_value(row: Control, facts: Facts, check: Check) -> None:
    """Every key of the row obeys its rule."""
    assert row.probe is not None
    judge_parameters(row.probe, facts, check)


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
        if path in running and not _is_same(running[path], value) and path.replace("/", ".") not in owned
    ]
    check.nothing(changed, expected="running values equal to those of sysctl.d")


def _is_same(running: str, wanted: str) -> bool:
    """Return whether the kernel shows what it was told: a vector keeps its rest, numbers are written its own way."""
    told, shown = wanted.split(), running.split()
    return (bool(told) and [*map(_number, told)] == [*map(_number, shown[: len(told)])]) or running == wanted


def _number(word: str) -> object:
    try:
        return int(word, base=0)
    except ValueError:
        return word
