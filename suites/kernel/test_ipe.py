"""Integrity Policy Enforcement: the kernel runs only code from where its policy trusts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from seatrial.check import Check
from seatrial.evidence.attempts import BOOT_ID, attempts_script, parse_attempts
from seatrial.evidence.cmdline import CMDLINE, parse_cmdline
from seatrial.evidence.ipe import IPE, REFUSED, UNTRUSTED, parse_ipe
from seatrial.guest.facts import Facts
from seatrial.policy.flavours import Flavour

if TYPE_CHECKING:
    from testinfra.host import Host

_UNUSED = "the kernel has no policy of IPE, and the flavour promises none"


@pytest.mark.control("ib-ipe-enforcing")
def test_ipe_enforces_its_policy(facts: Facts, flavour: Flavour, check: Check) -> None:
    """Nothing switches it off; where it has a policy, or the flavour promises one, it enforces one that is active."""
    facts.ask_all([CMDLINE, IPE])
    words, ipe = parse_cmdline(facts.text(CMDLINE)), parse_ipe(facts.text(IPE))
    promised, is_off = flavour.allowed("ipe-policies"), words.is_on("ipe.enforce") is False
    is_used = bool(promised) or (ipe is not None and bool(ipe.policies))
    if not is_used and not is_off and (ipe is None or ipe.enforces):
        check.not_applicable(_UNUSED)
    check.holds(not is_off, expected="no ipe.enforce=0", seen=f"ipe.enforce={words.last('ipe.enforce')}")
    if ipe is not None or promised:
        check.equal(f"enforce {int(ipe.enforces)}" if ipe else "a kernel without it", "enforce 1", what="IPE")
    if is_used:
        active = ipe.active if ipe else []
        check.holds(
            any(not promised or name in promised for name in active),
            expected=f"an active policy, {' or '.join(promised) or 'whichever'}",
            seen=", ".join(active) or "none active",
        )


@pytest.mark.control("ib-ipe-blocks-exec")
def test_ipe_refuses_what_no_policy_can_trust(host: Host, facts: Facts, flavour: Flavour, check: Check) -> None:
    """Neither a program nor a library that root copies to memory is executed."""
    ipe = parse_ipe(facts.text(IPE))
    if not (ipe and ipe.policies) and not flavour.allowed("ipe-policies"):
        check.not_applicable(_UNUSED)
    script = attempts_script(UNTRUSTED, boot_id=facts.text(BOOT_ID))
    for attempt in parse_attempts(host.run(script).stdout, expected=len(UNTRUSTED)):
        if not attempt.succeeded and not REFUSED.search(attempt.said):
            check.cannot_tell(f"could not {attempt.what}: {attempt.said[:200]}")
        check.holds(not attempt.succeeded, expected=f"root cannot {attempt.what}", seen=f"{attempt.what}: it worked")
