"""Real machines: every bus and firmware starts a guest, Secure Boot refuses what is not signed, a TPM measures."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from seatrial.clock import Deadline
from seatrial.errors import BootFatal, TpmLost
from seatrial.evidence.event_log import parse_event_log, replayed
from seatrial.evidence.tpm import EVENT_LOG, REGISTERS, TPM, parse_log_bytes, parse_registers, parse_tpm
from seatrial.guest.ready import Guest, Patience, ready_guest
from seatrial.guest.ssh import Address, RunKey
from seatrial.machine.boot import Boot, powered_on
from seatrial.machine.provision import KEY_COMMENT
from seatrial.machine.snapshot import cloned, frozen
from seatrial.options import resolve
from seatrial.progress import Silent
from seatrial.session import examine, launch_of
from uki import SNAKEOIL_FIRMWARE, uki_disk

pytestmark = pytest.mark.guest

COMMAND_LINE = "console=ttyS0 panic=-1 quiet loglevel=5"
KEY = RunKey(KEY_COMMENT)
PATIENCE = Patience(boot_s=300, settle_s=60, command_s=60)
MESSAGE = b"the boot sector speaks\r\n"
# 16-bit x86: each byte of the message to the first serial port, then halt for ever.
SECTOR = bytes.fromhex("31c08ed8fcbe167cbaf803ac84c07403eeebf8f4ebfd") + MESSAGE + b"\0"


@contextlib.contextmanager
def running(image: Path, folder: Path, **options: str) -> Iterator[Boot]:
    """Boot ``image`` under TCG with ``options`` as on the command line."""
    given = {"image": str(image), "flavour": "debian-immutable", "accel": "tcg", "memory": "512", "cpus": "1"}
    wanted = {f"SEATRIAL_{name.upper()}": text for name, text in (given | options).items()}
    candidate = examine(resolve(lambda _name: None, lambda _name: None, wanted))
    launch = launch_of(candidate, candidate.tries[0], folder, run="test", key=KEY, is_cloneable=True)
    with powered_on(launch) as boot:
        yield boot


@contextlib.contextmanager
def logged_in(boot: Boot) -> Iterator[Guest]:
    address = Address(boot.port)
    with ready_guest(address, "root", KEY, guard=boot.guard, patience=PATIENCE, progress=Silent()) as guest:
        yield guest


def answer(guest: Guest, command: str) -> str:
    status, out, err = guest.shell.run(command)
    assert status == 0, f"{command}: {err!r}"
    return out.decode()


def wait_for_words(boot: Boot, wanted: str) -> None:
    deadline = Deadline(60)
    # SeaBIOS goes on writing while the sector writes: look for the words, not for the line.
    while not any(wanted in line for line in boot.console.tail(50)):
        boot.guard()
        assert not deadline.is_over, boot.console.tail(20)
        deadline.pause(0.05)


def sector_disk(folder: Path, sector: bytes) -> Path:
    path = folder / "sector.raw"
    path.write_bytes(sector.ljust(510, b"\0") + b"\x55\xaa" + bytes(2**20))
    return path


@pytest.mark.parametrize("bus", ["virtio-blk", "virtio-scsi", "nvme", "ahci"])
def test_a_bios_starts_a_boot_sector_from_every_bus(bus: str, tmp_path: Path) -> None:
    with running(sector_disk(tmp_path, SECTOR), tmp_path, machine="q35-bios", disk_bus=bus) as boot:
        wait_for_words(boot, MESSAGE.decode().strip())


def test_a_disk_that_no_bios_can_start_ends_the_boot_at_once(tmp_path: Path) -> None:
    # The sector gives up as real ones do: interrupt 18h, back to the BIOS.
    with running(sector_disk(tmp_path, b"\xcd\x18"), tmp_path, machine="q35-bios") as boot, pytest.raises(BootFatal):
        wait_for_words(boot, "never")


@pytest.mark.parametrize(
    ("bus", "path", "seen"),
    [
        ("virtio-scsi", "Scsi(", "ls /sys/block/sda"),
        # Debian 12's cloud kernel has no driver for AHCI: the controller is there (class 0106), the disk is not.
        ("ahci", "Sata(", "grep -l 0x010601 /sys/bus/pci/devices/*/class"),
    ],
)
def test_uefi_starts_a_kernel_from_the_bus(bus: str, path: str, seen: str, tmp_path: Path) -> None:
    disk = uki_disk(COMMAND_LINE, signed=False)
    before = disk.read_bytes()
    with running(disk, tmp_path, disk_bus=bus) as boot, logged_in(boot) as guest:
        answer(guest, seen)
    started = next(line for line in boot.console.tail(10_000) if "BdsDxe: starting" in line)
    assert path in started
    assert disk.read_bytes() == before


def test_a_signed_kernel_starts_under_secure_boot_and_is_measured(tmp_path: Path) -> None:
    """One boot for what belongs together: signature, lockdown, TPM with measurements, NVMe, a clone with the same."""
    disk = uki_disk(COMMAND_LINE, signed=True)
    options = {"machine": "q35-uefi-secureboot-tpm", "firmware": SNAKEOIL_FIRMWARE, "disk_bus": "nvme"}
    with running(disk, tmp_path, **options) as boot, logged_in(boot) as guest:
        assert "nvme0n1" in answer(guest, "ls /sys/block").split()
        assert "Secure boot enabled" in answer(guest, "dmesg")
        answer(guest, "mount -t securityfs none /sys/kernel/security")
        assert "[integrity]" in answer(guest, "cat /sys/kernel/security/lockdown")
        measured = answer(guest, "cat /sys/class/tpm/tpm0/pcr-sha256/7")
        assert re.fullmatch(r"[0-9A-F]{64}\n", measured)
        assert set(measured.strip()) != {"0"}
        # This guest has busybox alone: its tools answer the same questions.
        log = parse_event_log(parse_log_bytes(answer(guest, EVENT_LOG)))
        assert replayed(log)[:8] == parse_registers(answer(guest, REGISTERS))
        assert parse_tpm(answer(guest, TPM)).is_seen
        assert boot.tpm is not None
        assert len(boot.tpm.state()) > 1000
        assert _user_of(boot.process.pid) == _user_of(boot.tpm.process.pid) != ("0" if os.geteuid() == 0 else "")


def test_a_clone_has_the_measurements_of_its_template(tmp_path: Path) -> None:
    (tmp_path / "clone").mkdir()
    with running(uki_disk(COMMAND_LINE, signed=False), tmp_path, tpm="on") as boot:
        with logged_in(boot) as guest:
            measured = answer(guest, "cat /sys/class/tpm/tpm0/pcr-sha256/[0-7]")
        with frozen(boot) as template, cloned(template, tmp_path / "clone") as clone, logged_in(clone) as guest:
            assert answer(guest, "cat /sys/class/tpm/tpm0/pcr-sha256/[0-7]") == measured
        assert boot.tpm is not None
        os.kill(boot.tpm.process.pid, 9)
        assert boot.tpm.process.ends_within(10)
        with pytest.raises(TpmLost):
            boot.guard()


@pytest.mark.parametrize("firmware", [SNAKEOIL_FIRMWARE, "uefi-secure"])
def test_secure_boot_refuses_a_kernel_without_a_signature(firmware: str, tmp_path: Path) -> None:
    disk = uki_disk(COMMAND_LINE, signed=False)
    with running(disk, tmp_path, machine="q35-uefi-secureboot", firmware=firmware) as boot, pytest.raises(BootFatal):
        wait_for_words(boot, "never")
    console = (tmp_path / "console.log").read_text(errors="replace")
    assert "Access Denied" in console
    assert "Linux version" not in console


def _user_of(pid: int) -> str:
    status = Path(f"/proc/{pid}/status").read_text()
    found = re.search(r"^Uid:\s+(\d+)", status, re.MULTILINE)
    assert found is not None
    return found[1]
