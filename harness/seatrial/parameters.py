"""Judges the rows of control tables that are about kernel parameters; every suite that has some uses it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from seatrial.check import Check
from seatrial.evidence.kconfig import KCONFIG, parse_kconfig
from seatrial.evidence.settings import rule_holds, rule_text
from seatrial.evidence.sysctl import is_without_ipv6, known_path, matching_paths, parse_sysctls, question_for
from seatrial.guest.facts import Facts

__all__ = ["judge_parameters"]

_NOT_OF_THE_RULE: Final = frozenset({"sysctl", "absent", "equals-kconfig", "not-in"})


def judge_parameters(probe: Mapping[str, Any], facts: Facts, check: Check) -> None:
    """Say whether every key of ``probe`` obeys its rule: ``in``, ``min``/``max``, ``not-in`` or ``equals-kconfig``.

    A ``*`` in a key stands for all interfaces, the default of new ones, and each that there is but loopback. A key
    that the kernel lacks fails, unless the probe says ``absent = "ok"``, or ``absent = "without-ipv6"`` and the kernel
    has no IPv6.

    :raises ObservationError: the guest's parameters cannot be read.
    :raises ConfigError: the probe has a key or a rule that is not understood.
    """
    keys = probe["sysctl"]
    for key in [keys] if isinstance(keys, str) else keys:
        path = known_path(key)
        running = parse_sysctls(facts.text(question_for(path)))
        found = matching_paths(path, running)
        if found and _may_be_absent(probe, path, running) and probe.get("absent") == "without-ipv6":
            check.holds(True, expected=f"{key}, or no IPv6", seen="IPv6 is off on every interface")
            continue
        for one in found:
            _judge(check, key if one == path else one.replace("/", "."), running[one], rule=probe, facts=facts)
        if not found:
            accepted = _may_be_absent(probe, path, running)
            seen = f"{key} is absent: the kernel has no such feature"
            check.holds(accepted, expected=f"{key} to be there", seen=seen)


def _may_be_absent(probe: Mapping[str, Any], path: str, running: Mapping[str, str]) -> bool:
    if probe.get("absent") == "without-ipv6":
        return path.startswith("net/ipv6/") and is_without_ipv6(running)
    return probe.get("absent") == "ok"


def _judge(check: Check, key: str, value: str, *, rule: Mapping[str, Any], facts: Facts) -> None:
    if "equals-kconfig" in rule:
        option = rule["equals-kconfig"]
        check.equal(value, parse_kconfig(facts.text(KCONFIG)).value(option), what=f"{key} (as CONFIG_{option})")
    elif "not-in" in rule:
        check.holds(value not in rule["not-in"], expected=f"{key} not {rule['not-in'][0]}", seen=f"{key} = {value}")
    else:
        rest = {name: wanted for name, wanted in rule.items() if name not in _NOT_OF_THE_RULE}
        check.holds(rule_holds(rest, value), expected=f"{key} = {rule_text(rest)}", seen=f"{key} = {value}")
