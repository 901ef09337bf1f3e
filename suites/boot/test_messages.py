"""What the boot said: in the journal, in the kernel's log and on the console."""

from __future__ import annotations

import re
from collections.abc import Collection
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

import pytest
from seatrial.check import Check
from seatrial.evidence.console import Finding, Kind, with_reasons
from seatrial.evidence.journal import (
    COREDUMPS,
    ERRORS,
    KERNEL,
    KERNEL_TROUBLE,
    OOM,
    STALLED,
    parse_journal,
    troubles,
    unexpected,
)
from seatrial.guest.facts import Facts
from seatrial.policy.flavours import Flavour

if TYPE_CHECKING:
    from seatrial.machine.boot import BootFacts

DUMPED = "ls -1A /var/lib/systemd/coredump /var/crash /var/lib/apport/coredump 2>/dev/null | grep -v '^/.*:$'; true"
UNITS_TROUBLE = (
    ("a dependency failed", r"Dependency failed for "),
    ("a unit failed to start", r"\[ ?FAILED ?\]|Failed to (start|mount|listen on|activate swap) "),
    # What systemd says of a service each time it ends badly, also where it starts it again. Ours are made to.
    ("a unit failed", r"^(?!seatrial-).*: Failed with result '"),
    ("a promise of a unit was not kept", r"Assertion failed (for|on) "),
    ("units wait for each other", r"ordering cycle|deleted to break"),
    ("a unit timed out", r"Timed out (waiting for device|starting)|start operation timed out"),
)
# systemd of a service whose program died by a signal that no program sends itself to end (systemd.exec(5)).
ENDED_BADLY = (("a service crashed", r"code=(killed|dumped), status=\d+/(ABRT|SEGV|BUS|ILL|FPE|TRAP|SYS)\b"),)
CRASHES = (("a program crashed", r"\bsegfault at |\btraps: .*(general protection|trap (invalid opcode|divide error))"),)
_VERSION = re.compile(r"Linux version \d+\.\d+")


def _kernel_lines(facts: Facts, check: Check) -> list[str]:
    lines = facts.text(KERNEL).split("\n")
    if not any(_VERSION.match(line) for line in lines):
        check.cannot_tell("the journal lacks the kernel's first line, 'Linux version ...': it was cut or rotated away")
    return lines


@pytest.mark.control("bh-journal-errors")
def test_journal_has_no_unexpected_error(facts: Facts, check: Check, flavour: Flavour) -> None:
    """Every message of this boot at err or worse fits a pattern that the flavour accepts."""
    _kernel_lines(facts, check)  # an empty journal must not look like a clean one
    entries = parse_journal(facts.text(ERRORS, allowed=(0, 1)))
    found = unexpected(entries, flavour.allowed("journal-accepted"))
    check.nothing(found, expected="no error in the journal outside the flavour's list")


@pytest.mark.control("bh-kernel-log-clean")
def test_kernel_log_has_no_oops_or_warning(facts: Facts, check: Check, boot: BootFacts) -> None:
    """The kernel reported neither an oops, a warning, a stall nor damage."""
    found = troubles(_kernel_lines(facts, check), KERNEL_TROUBLE)
    is_hosts = boot.accelerator != "kvm" and any(line.startswith(STALLED) for line in found)
    doubt = " (a stall under emulation can be a busy host's doing: repeat it on an idle one, or with KVM)"
    check.nothing(found, expected=f"no trouble in the kernel's log{doubt if is_hosts else ''}")


@pytest.mark.control("bh-no-oom")
def test_nothing_was_killed_for_memory(facts: Facts, check: Check) -> None:
    """The kernel killed nothing for lack of memory."""
    check.nothing(troubles(_kernel_lines(facts, check), OOM), expected="nothing killed for lack of memory")


@pytest.mark.control("bh-no-coredumps")
def test_nothing_crashed(facts: Facts, check: Check) -> None:
    """No program dumped core, in whichever place it would be kept, and the kernel saw none crash."""
    check.nothing(facts.lines(DUMPED), expected="no core dump on disk")
    check.nothing(
        map(str, parse_journal(facts.text(COREDUMPS, allowed=(0, 1)))), expected="no core dump in the journal"
    )
    check.nothing(troubles(_kernel_lines(facts, check), CRASHES), expected="no crash in the kernel's log")
    check.nothing(troubles(_manager_lines(facts), ENDED_BADLY), expected="no service that crashed")


@pytest.mark.control("bh-console-clean")
def test_console_shows_no_trouble(boot: BootFacts, flavour: Flavour, check: Check) -> None:
    """Since power-on, console and QEMU showed nothing suspicious that the policy does not accept with a reason."""
    if not boot.console.strip():
        check.cannot_tell("the console stayed empty: the kernel does not speak on it (see kcmd-console)")
    check.nothing(map(_told, _open_findings(boot, flavour)), expected="nothing suspicious on the console")


@pytest.mark.control("bh-no-dependency-failures")
def test_no_unit_failed_on_the_way(facts: Facts, boot: BootFacts, flavour: Flavour, check: Check) -> None:
    """No unit failed, timed out or lost its dependencies during the boot, even when a later attempt succeeded."""
    excused = flavour.allowed("needs-platform")
    found = [finding for finding in _open_findings(boot, flavour) if finding.kind is Kind.UNIT]
    found = [finding for finding in found if not _is_about(finding.line, excused)]
    lines = [line for line in _manager_lines(facts) if not _is_about(line, excused)]
    said = [*map(_told, found), *troubles(lines, UNITS_TROUBLE)]
    check.nothing(said, expected="no failed dependency, time-out or ordering cycle")


def _is_about(line: str, units: Collection[str]) -> bool:
    """Return whether ``line`` tells of the failure of one of ``units`` (globs for its name, or for the whole line)."""
    if re.search(r"ordering cycle|deleted to break", line):
        return False
    words = [line, *(word.rstrip(":.") for word in line.split())]
    return any(fnmatchcase(word, unit) for word in words for unit in units)


def _open_findings(boot: BootFacts, flavour: Flavour) -> list[Finding]:
    return [finding for finding in with_reasons(boot.findings, flavour.console_accepted) if not finding.accepted]


def _told(finding: Finding) -> str:
    times = f" ({finding.count} times)" if finding.count > 1 else ""
    return f"{finding.title}{times}: {finding.line[:200]}"


def _manager_lines(facts: Facts) -> list[str]:
    question = "journalctl -b -q --no-pager -n 3000 -o cat _PID=1 -p warning"
    return facts.text(question, allowed=(0, 1)).split("\n")
