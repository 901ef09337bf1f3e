"""What the firmware let start, and what it measured on the way."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from seatrial.check import Check
from seatrial.evidence.efi import EFIVARS, SECURE_BOOT, parse_switches
from seatrial.evidence.event_log import EventKind, EventLog, parse_event_log, replayed
from seatrial.evidence.mounts import MOUNTINFO, parse_mountinfo
from seatrial.evidence.tpm import EVENT_LOG, REGISTERS, TPM, parse_log_bytes, parse_registers, parse_tpm
from seatrial.guest.facts import Facts

if TYPE_CHECKING:
    from seatrial.machine.boot import BootFacts

BANK = "sha256"
# PCRs 0 to 7 are the firmware's: nothing may be measured into them once the kernel runs. Each is closed by a separator
# before the firmware starts the loader (TCG PC Client Platform Firmware Profile, EV_SEPARATOR), so that none is empty.
# The others go on: systemd measures into 9, 11 and 15 from user space, IMA into 10.
FIRMWARE = range(8)
LOADER = 4
# What a separator says when all went well; 00000001 says that measuring failed.
NO_ERROR = {bytes(4), b"\xff" * 4}
# What an EFI firmware starts, and what a BIOS starts.
STARTED = (EventKind.EFI_BOOT_SERVICES_APPLICATION, EventKind.INITIAL_PROGRAM_LOAD)


@pytest.mark.control("ib-secureboot-on")
def test_secure_boot_is_on(facts: Facts, boot: BootFacts, check: Check) -> None:
    """Firmware that was given with keys checks signatures, and its keys cannot be replaced by anybody."""
    if boot.firmware != "uefi-secure":
        check.not_applicable(f"this run's firmware is {boot.firmware!r}; Secure Boot takes --firmware uefi-secure")
    mounts = parse_mountinfo(facts.text(MOUNTINFO))
    if not any((mount.target, mount.kind) == (EFIVARS, "efivarfs") for mount in mounts):
        check.cannot_tell(f"no efivarfs is mounted at {EFIVARS}: the guest does not show the firmware's variables")
    found = parse_switches(facts.text(SECURE_BOOT, allowed=(0, 1)))
    for name, wanted in {"SecureBoot": 1, "SetupMode": 0}.items():
        check.equal(found.get(name, "not there"), wanted, what=name)


@pytest.mark.control("ib-tpm-measured")
def test_boot_is_measured(facts: Facts, boot: BootFacts, check: Check) -> None:
    """The TPM that the run gave holds what firmware and loader say that they measured, and nothing else."""
    if boot.tpm == "none":
        check.not_applicable("this run's machine has no TPM; --tpm on gives it one")
    tpm = parse_tpm(facts.text(TPM))
    check.holds(
        tpm.is_seen,
        expected="the machine's TPM 2.0 in the guest: /sys/class/tpm/tpm0 and /dev/tpmrm0",
        seen=f"/sys/class/tpm/tpm0: {_shown(tpm.has_class)}, /dev/tpmrm0: {_shown(tpm.has_device)}",
    )
    check.holds(tpm.has_log, expected="an event log of the firmware", seen=f"event log: {_shown(tpm.has_log)}")
    if tpm.has_class and not tpm.banks:
        check.cannot_tell("the kernel shows no PCRs in /sys/class/tpm/tpm0; Linux does since 5.12")
    check.holds(BANK in tpm.banks, expected=f"PCRs of {BANK}", seen=f"PCRs of {', '.join(tpm.banks) or 'nothing'}")
    if not (tpm.has_class and tpm.has_log and BANK in tpm.banks):
        return
    held = parse_registers(facts.text(REGISTERS))
    content = parse_log_bytes(facts.text(EVENT_LOG))
    check.holds(bool(content), expected="an event log with events", seen=f"an event log of {len(content)} bytes")
    if content:
        _compare(parse_event_log(content), held, check)


def _compare(log: EventLog, held: tuple[bytes, ...], check: Check) -> None:
    untouched = [f"PCR {n}: {held[n].hex()}" for n in FIRMWARE if held[n] in {bytes(32), b"\xff" * 32}]
    check.nothing(untouched, expected="PCRs 0 to 7 extended")
    unclosed = [f"PCR {n}" for n in FIRMWARE if not _is_closed(log, n)]
    check.nothing(unclosed, expected="PCRs 0 to 7 closed by a separator without an error; lacking: none")
    check.holds(
        log.holds(LOADER, *STARTED),
        expected=f"what was started, in PCR {LOADER}",
        seen=f"PCR {LOADER} with {'' if log.holds(LOADER, *STARTED) else 'nothing of '}what was started",
    )
    said = replayed(log)
    other = [
        f"PCR {n}: {said[n].hex()[:16]} by the log, {held[n].hex()[:16]} in the TPM"
        for n in FIRMWARE
        if said[n] != held[n]
    ]
    check.nothing(other, expected="an event log that replays to the PCRs 0 to 7")


def _is_closed(log: EventLog, register: int) -> bool:
    separators = {event.data for event in log.events if (event.register, event.kind) == (register, EventKind.SEPARATOR)}
    return bool(separators) and separators <= NO_ERROR


def _shown(is_there: bool) -> str:
    return "there" if is_there else "not there"
