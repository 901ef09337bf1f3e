"""Who listens on the guest's network."""

from __future__ import annotations

import pytest
from seatrial.check import Check
from seatrial.evidence.listeners import LISTENERS, is_expected, parse_listeners
from seatrial.guest.facts import Facts
from seatrial.policy.flavours import Flavour


@pytest.mark.control("net-listeners-tcp")
def test_tcp_listeners_are_expected(facts: Facts, check: Check, flavour: Flavour) -> None:
    _judge("tcp", facts, check, flavour)


@pytest.mark.control("net-listeners-udp")
def test_udp_listeners_are_expected(facts: Facts, check: Check, flavour: Flavour) -> None:
    _judge("udp", facts, check, flavour)


def _judge(protocol: str, facts: Facts, check: Check, flavour: Flavour) -> None:
    allowed = flavour.allowed("listeners")
    listeners = parse_listeners(facts.text(LISTENERS))
    if not any(listener.protocol == "tcp" and not listener.is_local for listener in listeners):
        check.cannot_tell("the guest names no TCP listener at all, though its SSH server answers")
    strange = [x for x in listeners if x.protocol == protocol and not x.is_local and not is_expected(x, allowed)]
    check.nothing(strange, expected=f"{protocol.upper()} listeners on loopback, or one of {', '.join(allowed)}")
