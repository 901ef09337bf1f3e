"""Following the rules of a packet filter."""

from __future__ import annotations

import contextlib
import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from seatrial.errors import ObservationError
from seatrial.evidence.firewall import Packet, Ruleset, parse_ruleset
from suite_bench import recorded

STRANGER = Packet(family="ip", interface="eth0", source="198.51.100.7", protocol="tcp", port=4444)


def rules(*expressions: list[dict[str, Any]], policy: str = "drop", family: str = "inet", **chains: Any) -> Ruleset:
    place = {"family": family, "table": "t"}
    items: list[dict[str, Any]] = [{"metainfo": {"version": "1.1.3"}}]
    items.append({"chain": {**place, "name": "in", "hook": "input", "policy": policy}})
    items += [{"rule": {**place, "chain": "in", "expr": expression}} for expression in expressions]
    for name, own in chains.items():
        items.append({"chain": {**place, "name": name}})
        items += [{"rule": {**place, "chain": name, "expr": expression}} for expression in own]
    return parse_ruleset(json.dumps({"nftables": items}))


def match(left: dict[str, Any], right: Any, op: str = "==") -> dict[str, Any]:
    return {"match": {"op": op, "left": left, "right": right}}


def meta(key: str) -> dict[str, Any]:
    return {"meta": {"key": key}}


def field(protocol: str, name: str) -> dict[str, Any]:
    return {"payload": {"protocol": protocol, "field": name}}


ACCEPT: dict[str, Any] = {"accept": None}
DROP: dict[str, Any] = {"drop": None}


def test_recorded_rules_let_in_what_they_say() -> None:
    found = parse_ruleset(recorded("hardening/ruleset"))
    assert not found.accepts(STRANGER, "input")
    ssh = Packet(family="ip6", interface="eth0", source="2001:db8::7", protocol="tcp", port=22)
    assert found.accepts(ssh, "input")
    assert not found.accepts(ssh, "forward")


def test_without_a_chain_everything_gets_in() -> None:
    assert parse_ruleset('{"nftables": []}').accepts(STRANGER, "input")
    assert rules(family="ip6").accepts(STRANGER, "input")


@pytest.mark.parametrize(
    "condition",
    [
        match(meta("nfproto"), "ipv4"),
        match(meta("iifname"), "eth*"),
        match(meta("iif"), "lo", "!="),
        match(meta("l4proto"), {"set": ["tcp", "udp"]}),
        match({"ct": {"key": "state"}}, ["new", "established"], "in"),
        match(field("tcp", "dport"), {"range": [4000, 5000]}),
        match(field("tcp", "dport"), {"set": [22, {"range": [4000, 5000]}]}),
        match(field("ip", "saddr"), {"prefix": {"addr": "198.51.100.0", "len": 24}}),
        match(field("th", "dport"), 4444),
        {"counter": {"packets": 0, "bytes": 0}},
    ],
)
def test_a_condition_that_fits_lets_the_packet_in(condition: dict[str, Any]) -> None:
    assert rules([condition, ACCEPT]).accepts(STRANGER, "input")


@pytest.mark.parametrize(
    "condition",
    [
        match(meta("iifname"), "lo"),
        match({"ct": {"key": "state"}}, ["established", "related"], "in"),
        match({"ct": {"key": "status"}}, "dnat", "in"),
        match(field("tcp", "dport"), 22),
        match(field("udp", "dport"), 4444),
        match(field("icmp", "type"), "echo-request"),
        match(field("ip6", "saddr"), "::1", "!="),
        match(field("ip", "saddr"), {"prefix": {"addr": "127.0.0.0", "len": 8}}),
    ],
)
def test_a_condition_that_does_not_fit_is_passed_over(condition: dict[str, Any]) -> None:
    assert not rules([condition, ACCEPT]).accepts(STRANGER, "input")


@pytest.mark.parametrize(
    "condition",
    [
        match(meta("mark"), 1),
        match(field("ip", "saddr"), "@trusted"),
        match({"concat": []}, "x"),
        match(field("tcp", "dport"), "ssh"),
        {"limit": {"rate": 5, "per": "second"}},
        {"xt": {"type": "match", "name": "addrtype"}},
        {"something": "new"},
    ],
)
def test_a_rule_that_may_let_in_is_never_guessed(condition: dict[str, Any]) -> None:
    with pytest.raises(ObservationError, match="what the packet filter does to tcp/4444"):
        rules([condition, ACCEPT]).accepts(STRANGER, "input")
    # One that may drop is not counted on.
    assert rules([match(meta("mark"), 1), DROP], policy="accept").accepts(STRANGER, "input")


def test_the_first_rule_that_fits_decides() -> None:
    assert not rules([DROP], [ACCEPT], policy="accept").accepts(STRANGER, "input")
    assert not rules([{"reject": {"type": "icmpx"}}], policy="accept").accepts(STRANGER, "input")


def test_a_limit_on_each_address_holds_nobody_back() -> None:
    flood = {"set": {"op": "add", "elem": field("ip", "saddr"), "set": "@flood", "stmt": [{"limit": {"rate": 10}}]}}
    assert rules([flood, DROP], policy="accept").accepts(STRANGER, "input")
    known = {"set": {"op": "add", "elem": field("ip", "saddr"), "set": "@seen"}}
    assert not rules([known, DROP], policy="accept").accepts(STRANGER, "input")
    counted = {"set": {**known["set"], "stmt": [{"counter": None}, {"last": None}]}}
    assert not rules([counted, DROP], policy="accept").accepts(STRANGER, "input")
    assert rules([counted, ACCEPT]).accepts(STRANGER, "input")


def test_a_dormant_table_filters_nothing() -> None:
    place = {"family": "inet", "name": "t"}
    chain = {"chain": {"family": "inet", "table": "t", "name": "in", "hook": "input", "policy": "drop"}}
    asleep = {"nftables": [{"table": {**place, "flags": ["dormant"]}}, chain]}
    assert parse_ruleset(json.dumps(asleep)).accepts(STRANGER, "input")
    assert not parse_ruleset(json.dumps({"nftables": [{"table": place}, chain]})).accepts(STRANGER, "input")


def test_what_comes_from_outside_goes_to_no_loopback_address() -> None:
    forged = replace(STRANGER, source="127.0.0.1")
    rich = [match(field("ip", "saddr"), "127.0.0.1"), match(field("ip", "daddr"), "127.0.0.1", "!="), DROP]
    assert not rules(rich, policy="accept").accepts(forged, "input")
    other = [match(field("ip", "daddr"), "192.0.2.1", "!="), DROP]
    assert rules(other, policy="accept").accepts(forged, "input")


def test_jumps_come_back_and_gotos_do_not() -> None:
    jump, goto = [{"jump": {"target": "more"}}], [{"goto": {"target": "more"}}]
    back = [{"return": None}]
    assert rules(jump, [ACCEPT], more=[back, [DROP]]).accepts(STRANGER, "input")
    assert not rules(goto, [ACCEPT], more=[back]).accepts(STRANGER, "input")
    assert rules(jump, more=[[ACCEPT]]).accepts(STRANGER, "input")


def test_a_circle_and_a_missing_chain_are_errors() -> None:
    with pytest.raises(ObservationError, match="jumps in circles"):
        rules([{"jump": {"target": "a"}}], a=[[{"jump": {"target": "a"}}]]).accepts(STRANGER, "input")
    with pytest.raises(ObservationError, match="does not have"):
        rules([{"jump": {"target": "gone"}}]).accepts(STRANGER, "input")


def test_a_map_of_verdicts_is_looked_up() -> None:
    def mapped(*pairs: list[Any]) -> list[dict[str, Any]]:
        return [{"vmap": {"key": {"ct": {"key": "state"}}, "data": {"set": list(pairs)}}}]

    assert rules(mapped(["established", DROP], ["new", ACCEPT])).accepts(STRANGER, "input")
    assert not rules(mapped(["established", ACCEPT])).accepts(STRANGER, "input")
    with pytest.raises(ObservationError, match="cannot be told"):
        rules([{"vmap": {"key": {"ct": {"key": "state"}}, "data": "@states"}}]).accepts(STRANGER, "input")


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"nftables": 1}', '{"nftables": [{"chain": 1}]}', "[" * 100000])
def test_what_is_no_rule_set_is_an_error(text: str) -> None:
    with pytest.raises(ObservationError, match="no rule set"):
        parse_ruleset(text)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["match", "left", "right", "op", "meta", "key", "set", "prefix", "range", "vmap", "data"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(JSON)
def test_any_rule_is_followed_or_refused(expression: Any) -> None:
    items = [
        {"chain": {"family": "inet", "table": "t", "name": "in", "hook": "input", "policy": "drop"}},
        {"rule": {"family": "inet", "table": "t", "chain": "in", "expr": expression}},
    ]
    with contextlib.suppress(ObservationError):
        assert parse_ruleset(json.dumps({"nftables": items})).accepts(STRANGER, "input") in {True, False}


@given(st.text())
def test_any_text_is_read_or_refused(text: str) -> None:
    with contextlib.suppress(ObservationError):
        parse_ruleset(text)
