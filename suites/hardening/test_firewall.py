"""The packet filter: that there is one, and what becomes of packets that nobody asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest
from seatrial.check import Check
from seatrial.evidence.firewall import RULESET, Packet, Ruleset, parse_ruleset
from seatrial.evidence.iptables import IPTABLES, parse_iptables
from seatrial.evidence.sysctl import NETWORK_SYSCTLS, interfaces, is_without_ipv6, parse_sysctls
from seatrial.evidence.units import UNIT_FILES, UNITS, parse_unit_files, parse_units
from seatrial.guest.facts import Facts

# Who loads rules; those of one line belong together.
_MANAGERS: Mapping[str, frozenset[str]] = {
    "nftables": frozenset({"nftables.service"}),
    "firewalld": frozenset({"firewalld.service"}),
    "ufw": frozenset({"ufw.service"}),
    "iptables": frozenset({"iptables.service", "ip6tables.service"}),
    "netfilter-persistent": frozenset({"netfilter-persistent.service"}),
    "shorewall": frozenset({"shorewall.service", "shorewall6.service"}),
}
_ON = frozenset({"enabled", "enabled-runtime", "wanted"})
_STRANGERS = {"ip": "198.51.100.7", "ip6": "2001:db8::7"}
_LOOPBACK = {"ip": "127.0.0.1", "ip6": "::1"}
_LEGACY_TABLES = "cat /proc/net/ip_tables_names /proc/net/ip6_tables_names 2>/dev/null; true"
# Ports that no service of a host has.
_CLOSED = (4444, 61000)
_SSH = 22


def _rules(facts: Facts, check: Check) -> Ruleset:
    if facts.ask(RULESET).status not in {126, 127}:
        rules = parse_ruleset(facts.text(RULESET))
        if rules.rule_count or not facts.text(_LEGACY_TABLES).strip():
            return rules
    if facts.ask(IPTABLES).status in {126, 127}:
        check.cannot_tell(
            "the guest has neither nft nor iptables-save, so what its packet filter does is unknown: install nftables"
        )
    return parse_iptables(facts.text(IPTABLES))


def _places(facts: Facts, check: Check) -> tuple[Sequence[str], Sequence[str]]:
    """Return the interfaces that a stranger may come in by, and the families that he may speak."""
    running = parse_sysctls(facts.text(NETWORK_SYSCTLS))
    names = interfaces(running) or check.cannot_tell("the guest has no network interface but loopback")
    return names, ["ip"] if is_without_ipv6(running) else ["ip", "ip6"]


@pytest.mark.control("net-fw-active")
def test_one_manager_has_loaded_a_filter(facts: Facts, check: Check) -> None:
    rules = _rules(facts, check)
    hooks = {chain.hook for chain in rules.chains}
    seen = f"{rules.rule_count} rules; hooks: {', '.join(sorted(hooks - {''})) or 'none'}"
    check.holds("input" in hooks and rules.rule_count > 0, expected="rules, and a chain for what comes in", seen=seen)
    files, units = parse_unit_files(facts.text(UNIT_FILES)), parse_units(facts.text(UNITS))
    enabled = [name for name, own in _MANAGERS.items() if any(files.get(unit) in _ON for unit in own)]
    running = [name for name, own in _MANAGERS.items() if any(units.get(unit) == "active" for unit in own)]
    check.holds(
        len(enabled) == 1 and running == enabled,
        expected=f"one of {', '.join(_MANAGERS)}, enabled and active",
        seen=f"enabled: {', '.join(enabled) or 'none'}; active: {', '.join(running) or 'none'}",
    )


@pytest.mark.control("net-fw-default-deny")
def test_unasked_packets_are_dropped(facts: Facts, check: Check) -> None:
    rules = _rules(facts, check)
    names, families = _places(facts, check)
    packets = [
        Packet(family=family, interface=name, source=_STRANGERS[family], protocol=protocol, port=port)
        for family in families
        for name in names
        for protocol in ("tcp", "udp")
        for port in _CLOSED
    ]
    for hook in ("input", "forward"):
        let_in = [packet for packet in packets if rules.accepts(packet, hook)]
        check.nothing(let_in, expected=f"none of {len(packets)} packets that nobody asked for gets past {hook}")


@pytest.mark.control("net-fw-loopback")
def test_loopback_is_for_the_host_alone(facts: Facts, check: Check) -> None:
    rules = _rules(facts, check)
    names, families = _places(facts, check)

    def packet(family: str, interface: str, port: int) -> Packet:
        return Packet(family=family, interface=interface, source=_LOOPBACK[family], protocol="tcp", port=port)

    own = [packet(family, "lo", port) for family in families for port in _CLOSED]
    check.nothing((p for p in own if not rules.accepts(p, "input")), expected="everything on loopback is let in")
    # The port of the service that strangers may use: only a rule about the source stops these.
    forged = [packet(family, name, _SSH) for family in families for name in names]
    check.nothing(
        (p for p in forged if rules.accepts(p, "input")), expected="no packet with a loopback source from elsewhere"
    )
