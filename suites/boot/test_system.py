"""Clock, randomness, identity and provisioning of the booted system."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

import pytest
from seatrial.check import Check
from seatrial.clock import utc_now
from seatrial.guest.facts import Facts

if TYPE_CHECKING:
    from seatrial.machine.boot import BootFacts
    from testinfra.host import Host

_CLOCKS = "/sys/devices/system/clocksource/clocksource0"
CLOCKSOURCE = f"cat {_CLOCKS}/current_clocksource {_CLOCKS}/available_clocksource"
GOOD_CLOCKS = ("kvm-clock", "tsc", "hyperv_clocksource_tsc_page", "arch_sys_counter")
ENTROPY = "cat /proc/sys/kernel/random/entropy_avail; ls /dev/hwrng 2>/dev/null; true"
MACHINE_ID = "cat /etc/machine-id; uname -n"
_UNFINISHED = "unfinished\n"
# The result is written when the last stage has ended (cloud-init: "Boot stages").
CLOUD_INIT = (
    "cd /run/cloud-init && { if [ -e result.json ]; then cat result.json; else echo unfinished; fi; } && "
    "cat status.json"
)
_OFFSET_S = 120
_READY_BITS = 256


@pytest.mark.control("bh-clocksource")
def test_clock_source_is_fast(facts: Facts, boot: BootFacts, check: Check) -> None:
    """The kernel keeps time by a clock that a virtual machine reads cheaply."""
    lines = facts.lines(CLOCKSOURCE)
    if len(lines) != 2:
        check.cannot_tell(f"expected the current and the available clock sources, saw {lines!r}")
    current, available = lines[0], lines[1].split()
    if boot.accelerator != "kvm" and not set(available) & set(GOOD_CLOCKS):
        check.not_applicable(f"the emulated processor offers {', '.join(available)} only")
    check.one_of(current, GOOD_CLOCKS, what="clock source")


@pytest.mark.control("bh-clock-sane")
def test_clock_is_that_of_the_world(host: Host, check: Check) -> None:
    """The guest's clock is near that of the computer that runs the suite, which gave the machine its clock."""
    said = host.run("date +%s").stdout.strip()
    if not re.fullmatch(r"[0-9]{1,12}", said):
        check.cannot_tell(f"the guest gave {said[:200]!r} as its time, expected seconds")
    offset = abs(int(said) - utc_now().timestamp())
    check.holds(offset <= _OFFSET_S, expected=f"a clock within {_OFFSET_S} s", seen=f"off by {offset:.0f} s")


@pytest.mark.control("bh-entropy-ready")
def test_random_numbers_are_ready(facts: Facts, check: Check) -> None:
    """The kernel's random number generator is seeded."""
    lines = facts.lines(ENTROPY)
    if not lines or not re.fullmatch(r"[0-9]{1,6}", lines[0]):
        check.cannot_tell(f"the guest gave {lines!r} as its entropy, expected a number of bits")
    check.holds(int(lines[0]) >= _READY_BITS, expected=f"{_READY_BITS} bits", seen=f"{lines[0]} bits")


@pytest.mark.control("bh-identity")
def test_system_has_an_identity(facts: Facts, check: Check) -> None:
    """The machine id is valid, and the host has a name."""
    lines = facts.lines(MACHINE_ID)
    if len(lines) != 2:
        check.cannot_tell(f"expected the machine id and the host's name, saw {lines!r}")
    valid = bool(re.fullmatch(r"[0-9a-f]{32}", lines[0])) and len(set(lines[0])) > 4
    check.holds(valid, expected="a machine id of 32 hexadecimal digits", seen=f"machine id {lines[0]}")
    named = lines[1] not in {"localhost", "(none)", "localhost.localdomain"}
    check.holds(named, expected="a host name of its own", seen=f"host name {lines[1]}")


@pytest.mark.control("bh-cloud-init-ok")
def test_provisioning_succeeded(facts: Facts, check: Check) -> None:
    """cloud-init ended without an error in any stage."""
    text = facts.text(CLOUD_INIT)
    if text.startswith(_UNFINISHED):
        check.holds(False, expected="cloud-init has come to its end", seen="no /run/cloud-init/result.json")
        return
    result, stages = _documents(text, check)
    check.nothing(result.get("errors", ["no list of errors"]), expected="cloud-init without errors")
    unfinished = [
        f"{name} ({stage.get('errors') or 'not finished'})"
        for name, stage in stages.items()
        if isinstance(stage, dict)
        and name != "recoverable_errors"
        and (stage.get("errors") or not stage.get("finished"))
    ]
    check.nothing(unfinished, expected="every stage of cloud-init finished without errors")


def _documents(text: str, check: Check) -> tuple[dict[str, list[object]], dict[str, dict[str, object]]]:
    decoder, found, position = json.JSONDecoder(), [], 0
    try:
        while position < len(text.rstrip()):
            position += len(text[position:]) - len(text[position:].lstrip())
            document, position = decoder.raw_decode(text, position)
            found.append(document["v1"])
        result, stages = found
    except (ValueError, KeyError, TypeError, RecursionError):
        check.cannot_tell(f"cloud-init's result and status are unreadable: {text[:200]!r}")
    if not (isinstance(result, dict) and isinstance(stages, dict) and isinstance(result.get("errors", []), list)):
        check.cannot_tell(f"cloud-init's result and status are unreadable: {text[:200]!r}")
    return result, stages
