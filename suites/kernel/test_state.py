"""What the running kernel says of itself, and what it refuses."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest
from seatrial.check import Check
from seatrial.evidence.attempts import BOOT_ID, attempts_script, parse_attempts
from seatrial.evidence.cmdline import CMDLINE, parse_cmdline
from seatrial.evidence.kernel import (
    LOCKDOWN,
    RANDOM_STRUCTURES,
    SYMBOLS,
    TAINTED,
    VULNERABILITIES,
    chosen,
    is_vulnerable,
    parse_vulnerabilities,
    shown_symbols,
    taint_reasons,
)
from seatrial.evidence.mounts import MOUNTINFO, parse_mountinfo
from seatrial.guest.facts import Facts
from seatrial.policy.flavours import Flavour

if TYPE_CHECKING:
    from testinfra.host import Host

# Reading a byte of memory changes nothing; a kernel without the device has nothing to refuse.
READ_MEMORY = {
    "read /dev/mem": "[ -e /dev/mem ] || { echo no such device; exit 1; }; dd if=/dev/mem of=/dev/null bs=1 count=1"
}
KFENCE = "f=/sys/module/kfence/parameters/sample_interval; if [ -e $f ]; then cat $f; else echo none; fi"
KERNELS = "uname -r; ls -1 /usr/lib/modules"
# The others need microcode or features that the virtual processor may lack: no fault of the image.
SOFTWARE_ONLY = ("meltdown", "spectre_v1", "spectre_v2")


@pytest.mark.control("ib-lockdown-active")
def test_lockdown_is_in_the_mode_of_the_flavour(facts: Facts, check: Check, flavour: Flavour) -> None:
    """The chosen mode is one that the flavour accepts, and no word asks for none: which of two counts is no policy."""
    check.one_of(chosen(facts.text(LOCKDOWN)), flavour.allowed("lockdown-modes"), what="lockdown")
    check.nothing(
        parse_cmdline(facts.text(CMDLINE)).matching(["lockdown=none"]), expected="no lockdown=none on the command line"
    )


@pytest.mark.control("ib-lockdown-behaviour")
def test_lockdown_refuses_memory_and_hibernation(host: Host, facts: Facts, check: Check) -> None:
    """Root cannot read raw memory, and cannot have memory written to a disk."""
    script = attempts_script(READ_MEMORY, boot_id=facts.text(BOOT_ID))
    (attempt,) = parse_attempts(host.run(script).stdout, expected=1)
    refused = not attempt.succeeded and bool(re.search("not permitted|no such device", attempt.said))
    check.holds(refused, expected="reading /dev/mem is not permitted", seen=f"reading /dev/mem: {attempt.said}")
    sleep = facts.text("if [ -e /sys/power/disk ]; then cat /sys/power/disk; else echo '[disabled]'; fi")
    check.equal(sleep.strip(), "[disabled]", what="/sys/power/disk")


@pytest.mark.control("kcfg-kfence")
def test_memory_errors_are_sampled(facts: Facts, check: Check) -> None:
    """The kernel has KFENCE, and an interval at which it samples: 0, the default of some builds, switches it off."""
    interval = facts.text(KFENCE).strip()
    if interval != "none" and not interval.isdecimal():
        check.cannot_tell(f"KFENCE gave {interval[:200]!r} as its interval, expected milliseconds")
    built = "a kernel without KFENCE" if interval == "none" else f"every {interval} ms"
    check.holds(interval not in ("none", "0"), expected="KFENCE with a sample interval above 0 ms", seen=built)


@pytest.mark.control("ib-kernel-untainted")
def test_kernel_is_not_tainted(facts: Facts, check: Check) -> None:
    """No taint bit is set but that of structures in random order, which is a hardening of the build (RANDSTRUCT)."""
    reasons = [reason for reason in taint_reasons(facts.text(TAINTED)) if reason != RANDOM_STRUCTURES]
    check.nothing(reasons, expected="no taint")


@pytest.mark.control("kernel-software-mitigations")
def test_software_mitigates_what_it_can(facts: Facts, check: Check) -> None:
    """The flaws that need no microcode are mitigated, or the processor does not have them."""
    found = parse_vulnerabilities(facts.text(VULNERABILITIES))
    lacking = [name for name in SOFTWARE_ONLY if name not in found]
    if lacking:
        check.cannot_tell(f"the kernel says nothing of {', '.join(lacking)}")
    open_ones = [f"{name}: {found[name]}" for name in SOFTWARE_ONLY if is_vulnerable(found[name])]
    check.nothing(open_ones, expected=f"none of {', '.join(SOFTWARE_ONLY)} vulnerable")


@pytest.mark.control("kernel-symbols-hidden")
def test_users_see_no_symbol_addresses(facts: Facts, check: Check) -> None:
    """An ordinary user reads zeros, or nothing at all."""
    shown = shown_symbols(facts.text(SYMBOLS, allowed=(0, 1)), facts.ask(SYMBOLS).stderr)
    check.nothing(shown, expected="zeros in the place of addresses in /proc/kallsyms")


@pytest.mark.control("kernel-debugfs-closed")
def test_debugfs_is_not_mounted(facts: Facts, check: Check) -> None:
    """No debugfs is mounted anywhere."""
    mounted = [mount.target for mount in parse_mountinfo(facts.text(MOUNTINFO)) if mount.kind == "debugfs"]
    check.nothing(mounted, expected="no debugfs mounted")


@pytest.mark.control("bh-kernel-is-newest")
def test_one_kernel_is_installed_and_it_runs(facts: Facts, check: Check) -> None:
    """The only folder of modules is that of the running kernel."""
    lines = facts.lines(KERNELS)
    if len(lines) < 2:
        check.cannot_tell(f"expected the release and the folders of modules, saw {lines!r}")
    check.equal(", ".join(lines[1:]), lines[0], what="kernels with modules")
