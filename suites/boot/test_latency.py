"""How soon the kernel hands over the processor: its preemption model, and wake-ups where they can be judged."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

import pytest
from seatrial.check import Check
from seatrial.evidence.kconfig import KCONFIG, parse_kconfig
from seatrial.evidence.latency import (
    CYCLICTEST,
    PREEMPT,
    is_said_by_build_only,
    parse_cyclictest,
    preemption_model,
)
from seatrial.guest.facts import Facts
from seatrial.guest.tools import found_or_pushed
from seatrial.policy.flavours import Flavour

if TYPE_CHECKING:
    from seatrial.machine.boot import BootFacts
    from testinfra.host import Host


@pytest.mark.control("lat-preempt-model")
def test_preemption_model_is_the_promised_one(facts: Facts, flavour: Flavour, check: Check) -> None:
    """The running kernel preempts as the flavour promises."""
    said = facts.text(PREEMPT)
    model = preemption_model(said, _built(facts) if is_said_by_build_only(said) else "")
    check.one_of(model, flavour.allowed("preemption-models"), what="preemption model")


def _built(facts: Facts) -> str:
    config = parse_kconfig(facts.text(KCONFIG))
    return next((model for model in ("none", "voluntary") if config.value(f"PREEMPT_{model.upper()}") == "y"), "")


@pytest.mark.control("lat-cyclictest")
def test_wake_ups_are_in_time(host: Host, flavour: Flavour, boot: BootFacts, check: Check) -> None:
    """No thread of high priority woke up later than the flavour promises, in ten seconds on every processor."""
    limit = flavour.budgets.latency.get("max_us")
    if limit is None:
        check.not_applicable(f"flavour {flavour.name!r} promises no latency (budgets.latency.max_us)")
    if boot.accelerator != "kvm":
        check.not_checked(f"latency under {boot.accelerator} says nothing of the image; judge it on a host with KVM")
    program = found_or_pushed(host, "cyclictest")
    if not program:
        check.not_checked("neither the guest nor this computer has cyclictest (package rt-tests)")
    done = host.run(CYCLICTEST.format(program=shlex.quote(program)))
    if done.rc != 0:
        check.not_checked(f"cyclictest does not run in the guest: {done.stderr.strip()[-200:]!r}")
    for thread, longest in parse_cyclictest(done.stdout).items():
        check.holds(
            longest <= limit,
            expected=f"wake-ups within {limit:g} us",
            seen=f"thread {thread} woke up {longest:g} us late",
        )
