"""What the kernel was told when it was started."""

from __future__ import annotations

import pytest
from seatrial.check import Check
from seatrial.evidence.boot_entries import BOOT_ENTRIES, parse_entries
from seatrial.evidence.cmdline import CMDLINE, Cmdline, parse_cmdline
from seatrial.evidence.kconfig import KCONFIG, broken_options, options_text, parse_kconfig
from seatrial.guest.facts import Facts
from seatrial.policy.controls import Control
from seatrial.policy.flavours import Flavour


def _cmdline(facts: Facts) -> Cmdline:
    return parse_cmdline(facts.text(CMDLINE))


@pytest.mark.probe("cmdline-absent")
def test_command_line_lacks_the_switch(row: Control, facts: Facts, check: Check) -> None:
    """None of the switches is there but those excepted, not even one that a later one overrides."""
    assert row.probe is not None
    unwanted, fine = row.probe["cmdline-absent"], row.probe.get("except", [])
    found = [word for word in _cmdline(facts).matching(unwanted) if word not in fine]
    check.nothing(found, expected=f"none of {', '.join(unwanted)}{' but ' if fine else ''}{', '.join(fine)}")


@pytest.mark.probe("cmdline")
def test_command_line_or_build_says_so(row: Control, facts: Facts, check: Check) -> None:
    """The last value on the command line is one of those allowed; where there is none, the build decides."""
    assert row.probe is not None
    name, allowed, instead = row.probe["cmdline"], row.probe["in"], row.probe.get("or-kconfig", [])
    line = _cmdline(facts)
    words = " or ".join(f"{name}={value}" if value else name for value in allowed)
    expected = f"{words}, or a kernel with {options_text(instead)}" if instead else words
    value = line.last(name)
    if value is not None:
        check.holds(value.lower() in allowed, expected=expected, seen=f"{name}={value}" if value else name)
    elif instead:
        config = parse_kconfig(facts.text(KCONFIG))
        broken = broken_options(config, instead)
        check.holds(not broken, expected=expected, seen=f"no {name}, and {', '.join(broken) or 'a kernel built so'}")
    else:
        check.holds(False, expected=expected, seen=f"no {name}")
    if "never" in row.probe:
        check.nothing(line.matching(row.probe["never"]), expected=f"none of {', '.join(row.probe['never'])}")


@pytest.mark.control("kcmd-modules-lockdown")
def test_lockdown_and_signatures_are_not_weakened(facts: Facts, check: Check) -> None:
    """No switch turns lockdown or module signatures off; a list of security modules keeps lockdown."""
    line = _cmdline(facts)
    weak = line.matching(["lockdown=none", *(f"module.sig_enforce={no}" for no in ("0", "n", "N", "off"))])
    check.nothing(weak, expected="neither lockdown=none nor module.sig_enforce=0")
    modules = line.last("lsm")
    kept = modules is None or "lockdown" in modules.split(",")
    check.holds(kept, expected="no lsm= without lockdown", seen="no lsm=" if modules is None else f"lsm={modules}")


@pytest.mark.control("kcmd-console")
def test_kernel_speaks_on_the_serial_console(facts: Facts, check: Check, flavour: Flavour) -> None:
    """One of the consoles is a serial one of the flavour."""
    consoles = _cmdline(facts).values("console")
    wanted = flavour.allowed("serial-consoles")
    check.holds(
        any(console.split(",")[0] in wanted for console in consoles),
        expected=f"console={' or '.join(wanted)}",
        seen=", ".join(f"console={console}" for console in consoles) or "no console=",
    )


@pytest.mark.control("kcmd-matches-image")
def test_command_line_is_that_of_the_image(facts: Facts, flavour: Flavour, check: Check) -> None:
    """The running kernel was told what the image's boot entry says, and nothing else but what the platform adds."""
    entries = parse_entries(facts.text(BOOT_ENTRIES))
    if not entries.lines:
        check.cannot_tell(
            "the image has no boot entry that could be read: neither bootctl's, nor in loader/entries, nor GRUB's"
        )
    running = facts.text(CMDLINE)
    once = {f"+{word}" for word in flavour.allowed("first-boot-words")}
    changed = tuple(word for word in entries.difference(running) if word not in once)
    if changed and entries.are_open:
        check.cannot_tell(f"the boot entry holds variables, so {' '.join(changed)[:200]!r} may be right or wrong")
    beside = f", beside the platform's {' '.join(entries.added)}" if entries.added else ""
    check.nothing(changed, expected=f"/proc/cmdline equal to the boot entry's options{beside}")
