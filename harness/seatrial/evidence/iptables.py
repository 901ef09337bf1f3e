"""The packet filter of iptables, told in the terms of nftables, where it can be followed: see :mod:`.firewall`."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping
from typing import Any, Final

from seatrial.errors import ObservationError
from seatrial.evidence.firewall import Chain, Ruleset

__all__ = ["IPTABLES", "parse_iptables"]

# iptables-legacy's rules are seen by its own programs alone; where there is one kind only, it has the plain name.
IPTABLES: Final = (
    "PATH=$PATH:/usr/sbin:/sbin; for f in ip ip6; do "
    'p=${f}tables-legacy-save; command -v "$p" >/dev/null 2>&1 || p=${f}tables-save; '
    'echo "family $f"; "$p" || exit; done; echo "the end"'
)
_HOOKS: Final = {
    "PREROUTING": "prerouting",
    "INPUT": "input",
    "FORWARD": "forward",
    "OUTPUT": "output",
    "POSTROUTING": "postrouting",
}
_VERDICTS: Final = ("accept", "drop", "reject", "return")
# Targets that decide nothing of a filter.
_HARMLESS: Final = frozenset(
    {"LOG", "NFLOG", "MARK", "CONNMARK", "CT", "TCPMSS", "TRACE", "AUDIT", "SECMARK", "CONNSECMARK"}
)
_CHAIN: Final = re.compile(r":(\S+) (\S+)(?: \[\d+:\d+\])?")
_RULE: Final = re.compile(r"(?:\[\d+:\d+\] )?-A (\S+)( .*)?")

_Part = Mapping[str, Any]


def parse_iptables(text: str) -> Ruleset:
    """Return the answer to :data:`IPTABLES`: the tables of both families (iptables-save(8)).

    A condition that is not known here is kept as one that cannot be told.

    :raises ObservationError: a line is none of what iptables-save writes, or the end is missing.
    """
    lines = text.rstrip("\n").split("\n")
    if lines[-1] != "the end":
        raise ObservationError(f"the rules of iptables were cut off: they end with {lines[-1][:200]!r}")
    family = table = ""
    policies: dict[tuple[str, str, str], str] = {}
    rules: dict[tuple[str, str, str], list[list[_Part]]] = {}
    for line in lines[:-1]:
        if line.startswith("family "):
            family, table = line.removeprefix("family "), ""
        elif line.startswith("*"):
            table = line[1:]
        elif table and (chain := _CHAIN.fullmatch(line)):
            policies[family, table, chain[1]] = chain[2]
            rules[family, table, chain[1]] = []
        elif table and (rule := _RULE.fullmatch(line)) and (family, table, rule[1]) in rules:
            rules[family, table, rule[1]].append(_expressions(rule[2] or "", family))
        elif line and line != "COMMIT" and not line.startswith("#"):
            raise ObservationError(f"iptables-save said {line[:200]!r}, which is neither table, chain nor rule")
    return Ruleset(
        chains=tuple(
            Chain(
                family=place[0],
                table=place[1],
                name=place[2],
                hook=_HOOKS.get(place[2], ""),
                policy="" if policy == "-" else policy.lower(),
                rules=tuple(rules[place]),
            )
            for place, policy in policies.items()
        )
    )


def _expressions(text: str, family: str) -> list[_Part]:
    """Return the conditions and the target of a rule, as ``nft -j`` would write them."""
    try:
        words = shlex.split(text)
    except ValueError as exc:
        raise ObservationError(f"iptables-save said {text[:200]!r}, which is no rule: {exc}") from exc
    found: list[_Part] = []
    for name, is_not, values in _options(words):
        value = values[0] if values else ""
        if name in {"-j", "--jump"}:
            found += _target(value, "jump")
            break  # what follows are options of the target
        if name in {"-g", "--goto"}:
            found += _target(value, "goto")
            break
        if name not in {"-m", "--match", "--comment"}:
            found.append({"match": {"op": "!=" if is_not else "==", **_condition(name, values, family)}})
    return found


def _options(words: list[str]) -> Iterator[tuple[str, bool, list[str]]]:
    """Give each option with whether ``!`` stands before it, and its values."""
    at = 0
    while at < len(words):
        is_not = words[at] == "!"
        at += is_not
        start = at
        at += 1
        while at < len(words) and not (words[at] == "!" or re.fullmatch(r"-[A-Za-z]|--[a-z][a-z0-9-]*", words[at])):
            at += 1
        yield words[start] if start < len(words) else "", is_not, words[start + 1 : at]


def _target(name: str, how: str) -> list[_Part]:
    if name.lower() in _VERDICTS and name.isupper():
        return [{name.lower(): None}]
    if name in _HARMLESS:
        return [{"log": None}]
    if name.isupper():  # an extension that may do whatever it likes
        return [{name: None}]
    return [{how: {"target": name}}]


def _condition(name: str, values: list[str], family: str) -> _Part:
    """Return left and right side of a match; an option that is not known is a condition that cannot be told."""
    value = values[0] if values else ""
    left: _Part
    right: object
    match name:
        case "-i" | "--in-interface":
            left, right = _meta("iifname"), _interface(value)
        case "-p" | "--protocol":
            left, right = _meta("l4proto"), value
        case "-s" | "--source":
            left, right = _payload(family, "saddr"), _address(value)
        case "-d" | "--destination":
            left, right = _payload(family, "daddr"), _address(value)
        case "--dport" | "--destination-port" | "--dports" | "--destination-ports":
            left, right = _payload("th", "dport"), {"set": [_ports(port) for port in value.split(",")]}
        case "--tcp-flags" if len(values) == 2:
            # The first packet of a connection has SYN alone; "none" is no protocol.
            looked_at, wanted = (set(flags.split(",")) for flags in values)
            left, right = _meta("l4proto"), "tcp" if looked_at & {"SYN"} == wanted - {"NONE"} else "none"
        case "--ctstate" | "--state":
            left, right = {"ct": {"key": "state"}}, {"set": value.lower().split(",")}
        case _:
            left, right = {"unknown": {"key": name}}, value
    return {"left": left, "right": right}


def _meta(key: str) -> _Part:
    return {"meta": {"key": key}}


def _payload(protocol: str, field: str) -> _Part:
    return {"payload": {"protocol": protocol, "field": field}}


def _interface(name: str) -> str:
    return f"{name[:-1]}*" if name.endswith("+") else name


def _address(text: str) -> object:
    address, slash, length = text.partition("/")
    return {"prefix": {"addr": address, "len": length}} if slash else address


def _ports(text: str) -> object:
    low, colon, high = text.partition(":")
    if not (low or "0").isdigit() or not (high or "0").isdigit():
        return text
    return {"range": [int(low or 0), int(high or 65535)]} if colon else int(low)
