"""What the kernel takes from the network, as the hardening suite sees it: each setting, on every interface."""

from __future__ import annotations

import hardening_answers as more
import pytest
from hardening_answers import parameter, sub
from hardening_bench import CONTROLS, MODULES, FakeGuest, Texts, flavour_named, healthy, outcome_of
from seatrial.guest.facts import Facts
from seatrial.policy.controls import Control
from seatrial.policy.judge import Outcome

NETWORK_ROWS = [control for control in CONTROLS if control.probe_kind == "sysctl"]


def network_outcomes(texts: Texts) -> dict[str, Outcome]:
    facts, flavour = Facts(FakeGuest(texts)), flavour_named("debian-general")
    function = MODULES["test_network"].test_parameter_has_the_value
    live = more.live(facts, texts)
    return {row.id: outcome_of(row, function, live, flavour) for row in NETWORK_ROWS}


@pytest.mark.parametrize("row", NETWORK_ROWS, ids=lambda row: row.id)
def test_every_key_of_a_row_counts_on_every_interface(row: Control) -> None:
    assert row.probe is not None
    keys = row.probe["sysctl"]
    for key in [keys] if isinstance(keys, str) else keys:
        places = ("all", "default", "enp0s3") if "*" in key else ("",)
        for path in (key.replace(".", "/").replace("*", place) for place in places):
            answer, edit = parameter(path, "0" if row.probe["in"][0] == "1" else "1")
            texts = healthy()
            texts[answer] = edit(texts[answer])
            seen = network_outcomes(texts)
            assert {name for name, outcome in seen.items() if outcome is not Outcome.PASS} == {row.id}, path


def test_a_kernel_without_ipv6_has_no_ipv6_settings_to_be_wrong() -> None:
    texts = healthy()
    texts["network-sysctls"] = sub("^net/ipv6/.*\n", "")(texts["network-sysctls"])
    assert set(network_outcomes(texts).values()) == {Outcome.PASS}


@pytest.mark.parametrize("gone", ["net/ipv4/conf/[^/]+/accept_redirects", "net/ipv6/conf/[^/]+/accept_redirects"])
def test_a_missing_setting_is_no_pass_though_others_are_there(gone: str) -> None:
    texts = healthy()
    texts["network-sysctls"] = sub(f"^{gone}:.*\n", "")(texts["network-sysctls"])
    seen = network_outcomes(texts)
    assert seen["net-accept-redirects"] is Outcome.FAIL


def test_interfaces_without_their_common_setting_are_an_error() -> None:
    texts = healthy()
    texts["network-sysctls"] = sub("^net/ipv4/conf/all/rp_filter:.*\n", "")(texts["network-sysctls"])
    assert network_outcomes(texts)["net-rp-filter"] is Outcome.ERROR
