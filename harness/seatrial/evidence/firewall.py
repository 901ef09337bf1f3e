"""What the guest's packet filter (nftables) does to a packet: its rules are followed, as the kernel follows them."""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from seatrial.errors import ObservationError

__all__ = ["RULESET", "Chain", "Packet", "Ruleset", "parse_ruleset"]

RULESET: Final = "PATH=$PATH:/usr/sbin:/sbin nft -j list ruleset"

_Json = Mapping[str, Any]
# A condition that cannot be told, and a field that the packet does not have.
_UNKNOWN: Final = object()
_ABSENT: Final = object()
_ENDS: Final = {"accept": "accept", "drop": "drop", "reject": "drop"}
_JUMPS: Final = frozenset({"jump", "goto"})
# Statements that decide nothing.
_HARMLESS: Final = frozenset({"comment", "continue", "counter", "last", "log", "mangle", "notrack", "set"})
_NOTHING: Final = ("", "")
_DEEPEST: Final = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Packet:
    """The first packet of a connection: family (``ip``, ``ip6``), where it comes in, from whom, to which port."""

    family: str
    interface: str
    source: str
    protocol: str
    port: int

    def __str__(self) -> str:
        return f"{self.protocol}/{self.port} from {self.source} on {self.interface}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Chain:
    """A chain of rules; ``hook`` and ``policy`` are empty for one that others jump to."""

    family: str
    table: str
    name: str
    hook: str
    policy: str
    rules: tuple[Sequence[_Json], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ruleset:
    """All chains of the packet filter."""

    chains: tuple[Chain, ...]

    @property
    def rule_count(self) -> int:
        """Return the number of rules in all chains."""
        return sum(len(chain.rules) for chain in self.chains)

    def accepts(self, packet: Packet, hook: str) -> bool:
        """Return whether ``packet`` gets past all chains at ``hook``; without a chain there, everything does.

        :raises ObservationError: whether a rule lets it through cannot be told.
        """
        at_hook = [c for c in self.chains if c.hook == hook and c.family in {packet.family, "inet"}]
        try:
            return all((self._fate(chain, packet, 0) or chain.policy) == "accept" for chain in at_hook)
        except (ValueError, TypeError, RecursionError) as exc:
            raise ObservationError(f"a rule of the packet filter is not understood: {exc!r:.200}") from exc

    def _fate(self, chain: Chain, packet: Packet, depth: int) -> str:
        """Return ``accept`` or ``drop``, or nothing when the chain comes to its end."""
        if depth > _DEEPEST:
            raise ObservationError(f"chain {chain.name[:100]!r} of the packet filter jumps in circles")
        for rule in chain.rules:
            word, target = _decision(rule, packet)
            if word in _ENDS:
                return _ENDS[word]
            if word == "return":
                return ""
            if word in _JUMPS:
                fate = self._fate(self._named(chain, target), packet, depth + 1)
                if fate or word == "goto":
                    return fate
        return ""

    def _named(self, chain: Chain, name: str) -> Chain:
        place = (chain.family, chain.table, name)
        found = next((c for c in self.chains if (c.family, c.table, c.name) == place), None)
        if found is None:
            raise ObservationError(f"the packet filter jumps to a chain {name[:100]!r} that it does not have")
        return found


def parse_ruleset(text: str) -> Ruleset:
    """Return the answer to :data:`RULESET`.

    :raises ObservationError: it is not what nft writes.
    """
    try:
        items = json.loads(text)["nftables"]
        dormant = {
            (item["table"]["family"], item["table"]["name"])
            for item in items
            if "table" in item and "dormant" in item["table"].get("flags", [])
        }
        chains = [c for c in (item["chain"] for item in items if "chain" in item) if _place(c) not in dormant]
        rules = [item["rule"] for item in items if "rule" in item]
        return Ruleset(chains=tuple(_chain(chain, rules) for chain in chains))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as exc:
        raise ObservationError(f"nft said {text[:200]!r}, which is no rule set: {exc!r:.200}") from exc


def _place(chain: _Json) -> tuple[str, str]:
    return chain["family"], chain["table"]


def _chain(chain: _Json, rules: Sequence[_Json]) -> Chain:
    place = (chain["family"], chain["table"], chain["name"])
    own = [rule for rule in rules if (rule["family"], rule["table"], rule["chain"]) == place]
    hook = str(chain.get("hook", ""))
    return Chain(
        family=str(place[0]),
        table=str(place[1]),
        name=str(place[2]),
        hook=hook,
        # The kernel's own default where a chain has a hook and says no more.
        policy=str(chain.get("policy", "accept")) if hook else "",
        rules=tuple(tuple(dict(part) for part in rule.get("expr", [])) for rule in own),
    )


def _decision(rule: Sequence[_Json], packet: Packet) -> tuple[str, str]:
    """Return what the rule does with the packet, and with which chain; two empty texts when nothing.

    :raises ObservationError: the rule may let the packet through, and whether it does cannot be told.
    """
    is_sure = True
    for part in _parts(rule):
        kind, what = _mapped(part[1], packet) if part[0] == "vmap" else part
        if kind == "match":
            held = _holds(what, packet)
            if held is False:
                return _NOTHING
            is_sure = is_sure and held is True
        elif kind == "limit" or (kind == "set" and _limits_each(what)):
            is_sure = False
        elif kind == "":
            return _NOTHING
        elif _ENDS.get(kind) == "drop":
            return (kind, "") if is_sure else _NOTHING
        elif kind not in _HARMLESS:
            if not is_sure or kind not in {"accept", "return", *_JUMPS}:
                raise ObservationError(f"what the packet filter does to {packet} cannot be told: {str(rule)[:300]}")
            return kind, str(what.get("target", "")) if isinstance(what, Mapping) else ""
    return _NOTHING


def _limits_each(what: Any) -> bool:
    """Return whether an entry of a set holds back whoever it is for, as ``limit`` does: it may do more than count."""
    stmts = what.get("stmt") if isinstance(what, Mapping) else None
    if not isinstance(stmts, list):
        return bool(stmts)
    return not all(isinstance(one, Mapping) and one.keys() <= {"counter", "last"} for one in stmts)


def _parts(rule: Sequence[_Json]) -> Iterator[tuple[str, Any]]:
    for part in rule:
        for kind, what in part.items():
            if kind == "xt" and isinstance(what, Mapping) and what.get("name") == "REJECT":
                yield "reject", None
            else:
                yield str(kind), what


def _mapped(vmap: object, packet: Packet) -> tuple[str, Any]:
    """Return the verdict that a verdict map has for the packet, ``vmap`` itself when that cannot be told."""
    value = _value(vmap.get("key"), packet) if isinstance(vmap, Mapping) else _UNKNOWN
    data = vmap.get("data") if isinstance(vmap, Mapping) else None
    pairs = data.get("set") if isinstance(data, Mapping) else None
    if value is _UNKNOWN or not isinstance(pairs, Sequence):
        return "vmap", None
    for key, verdict in pairs if value is not _ABSENT else ():
        held = _is_in(value, key)
        if held is None or not isinstance(verdict, Mapping) or not verdict:
            return "vmap", None
        if held:
            return next(iter(verdict.items()))
    return "", None


def _holds(match: object, packet: Packet) -> bool | None:
    """Return whether the packet fits; None when that cannot be told."""
    if not isinstance(match, Mapping):
        return None
    value = _value(match.get("left"), packet)
    if value is _ABSENT:
        return False
    inside = None if value is _UNKNOWN else _is_in(value, match.get("right"))
    if inside is None and _is_destination(match.get("left")) and packet.interface != "lo":
        # Which of the guest's addresses it goes to is open; a loopback address it is not.
        inside = False if _is_loopback(match.get("right")) else None
    if inside is None or match.get("op") not in {"==", "in", "!="}:
        return None
    return not inside if match.get("op") == "!=" else inside


def _is_destination(left: object) -> bool:
    payload = left.get("payload") if isinstance(left, Mapping) else None
    return isinstance(payload, Mapping) and payload.get("field") == "daddr"


def _is_loopback(right: object) -> bool:
    match right:
        case {"prefix": {"addr": str(address)}} | str(address):
            try:
                return ipaddress.ip_address(address).is_loopback
            except ValueError:
                return False
        case _:
            return False


def _value(left: object, packet: Packet) -> object:
    if not isinstance(left, Mapping) or len(left) != 1:
        return _UNKNOWN
    kind, what = next(iter(left.items()))
    if not isinstance(what, Mapping):
        return _UNKNOWN
    if kind == "meta":
        return _meta(str(what.get("key")), packet)
    if kind == "ct":
        return {"state": "new", "status": "none", "direction": "original"}.get(str(what.get("key")), _UNKNOWN)
    if kind == "payload":
        return _payload(str(what.get("protocol")), str(what.get("field")), packet)
    return _UNKNOWN


def _meta(key: str, packet: Packet) -> object:
    known = {
        "iif": packet.interface,
        "iifname": packet.interface,
        "l4proto": packet.protocol,
        "nfproto": {"ip": "ipv4", "ip6": "ipv6"}[packet.family],
        "protocol": packet.family,
    }
    return known.get(key, _UNKNOWN)


def _payload(protocol: str, field: str, packet: Packet) -> object:
    if protocol in {"ip", "ip6"}:
        known = {"saddr": packet.source, "protocol": packet.protocol, "nexthdr": packet.protocol}
        return known.get(field, _UNKNOWN) if protocol == packet.family else _ABSENT
    if protocol in {"th", packet.protocol}:
        return packet.port if field == "dport" else _UNKNOWN
    # A header of another protocol, such as ICMP's: the packet has none.
    return _ABSENT if protocol in {"tcp", "udp", "icmp", "icmpv6", "sctp", "dccp", "udplite", "ah", "esp"} else _UNKNOWN


def _is_in(value: object, right: object) -> bool | None:
    """Return whether ``value`` is what ``right`` names: one value, some, a prefix or a range; None: cannot be told."""
    match right:
        case {"set": options}:
            held = _is_in_any(value, options)
        case {"prefix": prefix}:
            held = _is_within(value, prefix)
        case {"range": [int(low), int(high)]} if isinstance(value, int):
            held = low <= value <= high
        case str() if not right.startswith("@") and isinstance(value, str):
            held = value.startswith(right[:-1]) if right.endswith("*") else value == right
        case int() if isinstance(value, int):
            held = value == right
        case [*options]:
            held = _is_in_any(value, options)
        case _:
            held = None
    return held


def _is_in_any(value: object, options: object) -> bool | None:
    if not isinstance(options, Sequence) or isinstance(options, str):
        return None if not isinstance(options, (str, int)) else _is_in(value, options)
    held = [_is_in(value, option) for option in options]
    return True if True in held else None if None in held else False


def _is_within(value: object, prefix: object) -> bool | None:
    if not isinstance(prefix, Mapping):
        return None
    try:
        network = ipaddress.ip_network(f"{prefix.get('addr')}/{prefix.get('len')}", strict=False)
        return ipaddress.ip_address(str(value)) in network
    except ValueError:
        return None
