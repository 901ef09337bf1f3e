"""Who listens on the guest's network, and what the kernel takes from it."""

from __future__ import annotations

import pytest
from seatrial.check import Check
from seatrial.evidence.links import (
    LINKS,
    MULTICAST_NAMES,
    RADIOS,
    RESOLVER,
    parse_links,
    parse_multicast_names,
    parse_resolver,
)
from seatrial.evidence.listeners import LISTENERS, Listener, is_expected, parse_listeners
from seatrial.evidence.modules import LOADED, parse_loaded
from seatrial.evidence.units import UNIT_FILES, UNITS, matching_units, parse_unit_files, parse_units
from seatrial.guest.facts import Facts
from seatrial.parameters import judge_parameters
from seatrial.policy.controls import Control
from seatrial.policy.flavours import Flavour

_NAME_PORTS = {5353: "multicast DNS", 5355: "LLMNR"}
_NAME_UNITS = ("avahi-daemon.*", "avahi-dnsconfd.service")
_RADIO_UNITS = ("bluetooth.service", "ofono.service", "wpa_supplicant*.service", "iwd.service", "hostapd*.service")
_RADIO_MODULES = frozenset({"cfg80211", "mac80211", "bluetooth", "btusb", "rfcomm", "bnep"})
_ON = frozenset(
    {"enabled", "wanted", "enabled-runtime", "linked", "linked-runtime", "active", "activating", "reloading"}
)


@pytest.mark.control("net-listeners-tcp")
def test_tcp_listeners_are_expected(facts: Facts, check: Check, flavour: Flavour) -> None:
    _judge("tcp", facts, check, flavour)


@pytest.mark.control("net-listeners-udp")
def test_udp_listeners_are_expected(facts: Facts, check: Check, flavour: Flavour) -> None:
    _judge("udp", facts, check, flavour)


def _listeners(facts: Facts, check: Check) -> tuple[Listener, ...]:
    listeners = parse_listeners(facts.text(LISTENERS))
    if not any(listener.protocol == "tcp" and not listener.is_local for listener in listeners):
        check.cannot_tell("the guest names no TCP listener at all, though its SSH server answers")
    return listeners


def _judge(protocol: str, facts: Facts, check: Check, flavour: Flavour) -> None:
    allowed, listeners = flavour.allowed("listeners"), _listeners(facts, check)
    strange = [x for x in listeners if x.protocol == protocol and not x.is_local and not is_expected(x, allowed)]
    check.nothing(strange, expected=f"{protocol.upper()} listeners on loopback, or one of {', '.join(allowed)}")


@pytest.mark.probe("sysctl")
def test_parameter_has_the_value(row: Control, facts: Facts, check: Check) -> None:
    judge_parameters(row.probe or {}, facts, check)


def _on(facts: Facts, patterns: tuple[str, ...]) -> list[str]:
    """Return the units that are enabled or run."""
    files, units = parse_unit_files(facts.text(UNIT_FILES)), parse_units(facts.text(UNITS))
    return matching_units(files, patterns, _ON) + matching_units(units, patterns, _ON)


@pytest.mark.control("net-no-llmnr-mdns")
def test_neighbours_are_not_asked_for_names(facts: Facts, check: Check) -> None:
    heard = [f"{_NAME_PORTS[x.port]}: {x}" for x in _listeners(facts, check) if x.port in _NAME_PORTS]
    check.nothing(heard, expected="nothing that listens for multicast DNS or LLMNR")
    check.nothing(_on(facts, _NAME_UNITS), expected="no avahi enabled or running")
    said = facts.text(MULTICAST_NAMES)
    running = parse_units(facts.text(UNITS)).get("systemd-resolved.service") == "active"
    if running and not said.strip():
        check.cannot_tell("systemd-resolved runs, but does not say whether it asks the neighbours")
    check.nothing(parse_multicast_names(said), expected="LLMNR and multicast DNS off on every link")


@pytest.mark.control("net-no-wireless-bt")
def test_there_are_no_radios(facts: Facts, check: Check) -> None:
    check.nothing(facts.lines(RADIOS), expected="no wireless or Bluetooth device")
    loaded = sorted(_RADIO_MODULES & parse_loaded(facts.text(LOADED)).keys())
    check.nothing(loaded, expected=f"none of the modules {', '.join(sorted(_RADIO_MODULES))}")
    check.nothing(_on(facts, _RADIO_UNITS), expected="no service for radios enabled or running")


@pytest.mark.control("net-no-promisc")
def test_no_interface_listens_to_others(facts: Facts, check: Check) -> None:
    answer = facts.ask(LINKS)
    if answer.status in {1, 126, 127, 255} and not answer.stdout.strip():
        check.cannot_tell("the guest has no 'ip' that knows of promiscuity: nothing says who listens")
    # A port of a bridge has to take in everything.
    found = [
        f"{link.name} ({link.promiscuity})"
        for link in parse_links(facts.text(LINKS))
        if link.promiscuity and not link.bridge
    ]
    check.nothing(found, expected="no promiscuous interface, but ports of bridges")


@pytest.mark.control("net-resolver")
def test_names_are_resolved_as_the_flavour_says(facts: Facts, check: Check, flavour: Flavour) -> None:
    resolver = parse_resolver(facts.text(RESOLVER))
    check.one_of(resolver.path, flavour.allowed("resolver"), what="/etc/resolv.conf")
    if resolver.path != "none":
        check.holds(
            bool(resolver.servers), expected="a server", seen=f"servers: {', '.join(resolver.servers) or 'none'}"
        )
