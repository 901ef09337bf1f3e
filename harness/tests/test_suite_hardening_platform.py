"""A healthy host of another platform: rules of iptables, and a time service that wants the clock of that platform."""

from __future__ import annotations

import pytest
from hardening_answers import add, sub
from hardening_bench import flavour_named, healthy, outcomes
from seatrial.policy.judge import Outcome


@pytest.mark.parametrize(
    ("units", "outcome"),
    [
        (("chronyd.service",), Outcome.PASS),
        (("other.service",), Outcome.FAIL),
    ],
)
def test_a_time_service_may_want_the_clock_of_another_platform(units: tuple[str, ...], outcome: Outcome) -> None:
    texts = healthy()
    texts["units"] = sub("^systemd-timesyncd.service loaded active running", "chronyd.service loaded failed failed")(
        texts["units"]
    )
    texts["unit-files"] = add("chronyd.service enabled enabled")(texts["unit-files"])
    flavour = flavour_named("debian-general")
    flavour = flavour.model_copy(update={"expect": {**flavour.expect, "needs-platform": units}})
    assert outcomes(texts, flavour)["svc-time-sync"] is outcome


FILTER = """family ip
*filter
:INPUT {policy} [0:0]
:FORWARD DROP [0:0]
:OUTPUT ACCEPT [0:0]
-A INPUT -i lo -j ACCEPT
-A INPUT -s 127.0.0.0/8 -j DROP
-A INPUT -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A INPUT -p tcp -m tcp --dport 22 -j ACCEPT
COMMIT
"""


@pytest.mark.parametrize(("policy", "outcome"), [("DROP", Outcome.PASS), ("ACCEPT", Outcome.FAIL)])
def test_rules_of_iptables_are_followed_where_nftables_has_none(policy: str, outcome: Outcome) -> None:
    texts = healthy()
    texts["ruleset"], texts["legacy-tables"] = '{"nftables": []}', "filter\n"
    filters = FILTER.format(policy=policy)
    texts["iptables"] = (
        f"{filters}{filters.replace('family ip', 'family ip6').replace('127.0.0.0/8', '::1/128')}the end\n"
    )
    seen = outcomes(texts, flavour_named("debian-general"))
    assert seen["net-fw-default-deny"] is outcome
    assert seen["net-fw-loopback"] is Outcome.PASS
    assert seen["net-fw-active"] is Outcome.PASS
