"""Rules of declarative controls: what a single value must be."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from seatrial.errors import ConfigError

__all__ = ["rule_holds", "rule_text"]

_KINDS = frozenset({"in", "min", "max", "within"})


def rule_holds(rule: Mapping[str, Any], value: str) -> bool:
    """Return whether ``value`` obeys ``rule``: one of ``in``, from ``min`` to ``max``, a comma list ``within`` others.

    :raises ConfigError: the rule says nothing, or something unknown.
    """
    if not rule or rule.keys() - _KINDS:
        raise ConfigError(f"a probe has the rule {dict(rule)!r}; known: {', '.join(sorted(_KINDS))}")
    if "in" in rule and value.lower() not in {str(allowed).lower() for allowed in rule["in"]}:
        return False
    if "within" in rule and not (value and set(value.split(",")) <= set(rule["within"])):
        return False
    if {"min", "max"} & rule.keys():
        if not (value.isascii() and value.isdigit() and len(value) <= 18):
            return False
        return int(rule.get("min", 0)) <= int(value) <= int(rule.get("max", 10**18))
    return True


def rule_text(rule: Mapping[str, Any]) -> str:
    """Return ``rule`` in words for people."""
    parts = []
    if "in" in rule:
        parts.append(" or ".join(str(allowed) for allowed in rule["in"]))
    if "within" in rule:
        parts.append(f"nothing but {','.join(rule['within'])}")
    if "min" in rule:
        parts.append(f"at least {rule['min']}")
    if "max" in rule:
        parts.append(f"at most {rule['max']}")
    return " and ".join(parts)
