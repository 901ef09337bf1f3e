"""The table of faults: what is broken, and what a run must come to.

Three kinds of candidates: files that are no image, disks whose boot sector says on the console what a broken system
says (they start at once), and the micro guest, which really breaks.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fault_files import (
    backed_qcow2,
    blank_disk,
    boot_sector,
    cut,
    differencing_vhd,
    directory,
    empty,
    extents_elsewhere,
    external_data,
    fifo,
    filled,
    large_disk,
    missing,
    packed_garbage,
)
from fault_run import MICRO, Fault, Running
from micro import LINES

__all__ = ["FAULTS"]

REJECT, CANNOT_JUDGE, USAGE = 1, 2, 4
_MARK = "starts here"
_NONE = boot_sector(f"\r\n{_MARK}\r\n")
# The shortest time that a boot can be given: under emulation it is eight times as long.
_SOON = ("--boot-timeout", "1")


def _text(name: str) -> str:
    """Return what the micro guest would say of the fault ``name``."""
    rows = (line.partition("\t") for line in LINES.read_text("utf-8").splitlines())
    said = "\r\n".join(text for key, _tab, text in rows if key == name)
    return said if name.endswith("-prompt") else f"{said}\r\n"


def _said(name: str, text: str, error: str) -> Fault:
    """Return a row whose disk says ``text`` and stops."""
    return _disk(name, error, image=boot_sector(f"\r\n{_MARK}\r\n{text}"))


def _disk(name: str, error: str, status: int = REJECT, **other: Any) -> Fault:
    values = {"mark": _MARK.encode(), "image": _NONE, "kernel": False, **other}
    return Fault(name=name, error=error, exit_status=status, **values)


def _suspicious(name: str, text: str, sign: str) -> Fault:
    """Return a row of a state that a guest can survive: a finding. That its guest never answers ends the run."""
    return _disk(
        name,
        rf"^BootTimeout: .*findings: .*\b{sign}\b",
        image=boot_sector(f"\r\n{_MARK}\r\n{_text(text)}"),
        options=_SOON,
        limit_s=20,
    )


def _micro(name: str, fault: str, error: str, status: int = REJECT, **other: Any) -> Fault:
    """Return a row whose micro guest breaks before it has a network."""
    more = other.pop("more", "")
    return Fault(name=name, error=error, exit_status=status, append=f"micro.early={fault} {more}".strip(), **other)


def _suite(name: str, fault: str, error: str, status: int = REJECT, **other: Any) -> Fault:
    """Return a row whose micro guest breaks under a check."""
    return Fault(name=name, error=error, exit_status=status, append=f"micro.suite={fault}", **other)


def _ssh(name: str, fault: str, error: str = "^BootTimeout: ") -> Fault:
    """Return a row whose micro guest has a hostile server where SSH should be."""
    return Fault(
        name=name,
        error=error,
        exit_status=REJECT,
        append=f"micro.nosshd=1 micro.fault={fault}",
        options=("--boot-timeout", "5", "--settle-timeout", "2"),
        limit_s=60,
    )


def _file(name: str, make: Callable[[Path], Path], error: str) -> Fault:
    """Return a row whose candidate is refused before anything starts."""
    return _disk(name, error, USAGE, mark=b"", image=make, boots=False, limit_s=20)


def _killed(program: str) -> Callable[[Running], None]:
    return lambda running: running.kill(program)


def _signalled(number: signal.Signals) -> Callable[[Running], None]:
    return lambda running: running.runner.send_signal(number)


def _interrupted_twice(running: Running) -> None:
    running.interrupt()
    time.sleep(0.3)
    running.interrupt()


def _rewritten(running: Running) -> None:
    with running.images[0].open("r+b") as file:
        file.seek(1 << 20)
        file.write(os.urandom(4096))


CONSOLE = (
    _said("emergency mode", _text("emergency"), "^EmergencyShell: .*emergency"),
    _said("emergency mode, root locked", _text("emergency-locked"), "^EmergencyShell: .*emergency"),
    _said("rescue mode", _text("rescue"), "^EmergencyShell: .*rescue"),
    _said("dracut's prompt", _text("dracut-prompt"), "^EmergencyShell: "),
    _said("initramfs-tools' prompt", _text("initramfs-prompt"), "^EmergencyShell: "),
    _said("a question waits for a key", _text("question"), "^QuestionAsked: "),
    _said("a passphrase is asked for", _text("passphrase-prompt"), "^QuestionAsked: "),
    _said("dm-verity finds corrupted data", _text("verity"), "^DataCorrupted: "),
    _disk(
        "the emulator loses a processor's timer",
        "^TimerLost: .*lost the timer of a processor",
        CANNOT_JUDGE,
        image=boot_sector(f"\r\n{_MARK}\r\n{_text('lost-timer')}"),
        limit_s=20,  # it is booted twice
    ),
    _said("systemd freezes", _text("froze"), "^BootFatal: .*froze"),
    _said("SELinux policy cannot be loaded", _text("selinux"), "^BootFatal: .*SELinux"),
    _said("Ignition fails", _text("ignition"), "^BootFatal: .*Ignition"),
    _said("the image needs a newer processor", _text("cpu"), "^BootFatal: .*processor"),
    _said("the system halts", _text("halted"), "^BootFatal: .*halted"),
    _said(
        "GRUB's rescue prompt", "error: no such partition.\r\nEntering rescue mode...\r\ngrub rescue> ", "^NoBootable"
    ),
    _said("GRUB's prompt", "Minimal BASH-like line editing is supported.\r\ngrub> ", "^NoBootableSystem: "),
    _said("a boot sector without a system", "Missing operating system", "^NoBootableSystem: "),
    _said("SYSLINUX without a kernel", "Could not find kernel image: linux", "^NoBootableSystem: "),
    _said("the UEFI shell's prompt", "Shell> ", "^NoBootableSystem: "),
    _suspicious("kernel oops", "oops", "oops"),
    _suspicious("kernel BUG", "bug", "kernel-bug"),
    _suspicious("soft lockup", "soft-lockup", "soft-lockup"),
    _suspicious("hung task", "hung-task", "hung-task"),
    _suspicious("I/O error", "io-error", "io-error"),
    _suspicious("ext4 error", "ext4-error", "filesystem-error"),
    _suspicious("a unit's dependency failed", "dependency", "unit-dependency"),
    _suspicious("out of memory", "oom-line", "oom"),
    _disk("an empty disk under BIOS", "^NoBootableSystem: ", mark=b"SeaBIOS", image=blank_disk),
    _disk(
        "an empty disk under UEFI",
        "^NoBootableSystem: ",
        mark=b"BdsDxe",
        image=blank_disk,
        options=("--machine", "q35-uefi"),
    ),
    _disk(
        "console flood without end",
        "^BootTimeout: ",
        image=boot_sector("starts here\r\n" + "x" * 300, is_endless=True),
        options=_SOON,
        limit_s=30,
    ),
    _disk(
        "escape sequences, invalid UTF-8 and NULs, then GRUB's prompt",
        r"^NoBootableSystem: [ -~]*$",
        image=boot_sector(f"\r\n{_MARK}\r\n\x1b[2J\x1b]0;title\x07\xff\xfe\x1b[31m\r\ngrub> \x1b[0m\xff"),
    ),
    _disk("a silent, halted machine", "^BootHung: ", mark=b"Booting from", image=boot_sector(""), limit_s=90),
)

SSH = (
    _ssh("the SSH server speaks garbage", "garbage"),
    _ssh("the SSH server accepts and says nothing", "silent-server"),
    _ssh("the SSH server greets without end", "endless-banner"),
    _ssh("the SSH server stalls after its greeting", "stalls-after-banner"),
    Fault(
        name="the SSH server has another host key after a restart",
        error="^none: reject; .*host key changed",
        exit_status=REJECT,
        mark=b"micro: up",
        suite="restart",
        limit_s=120,
    ),
    Fault(
        name="the SSH server lets nobody in",
        error="^AuthRefused: ",
        exit_status=CANNOT_JUDGE,
        mark=b"micro: up",
        append="micro.nokey=1",
        options=("--settle-timeout", "1"),
        limit_s=60,
    ),
)

GUEST = (
    _micro("kernel panic, told by console and pvpanic", "panic", "^KernelPanic: "),
    _micro("kernel panic with restart at once (panic=-1)", "panic", "^(KernelPanic|RebootLoop): ", more="panic=-1"),
    _micro("shutdown by itself", "off", "^GuestStopped: "),
    _micro("reboot loop", "reset", "^RebootLoop: ", limit_s=120),
    _micro("an init that reboots at once", "reboot", "^RebootLoop: ", limit_s=120),
    _micro(
        "the watchdog expires",
        "watchdog",
        r"^RebootLoop: .*findings: .*\bwatchdog\b",
        options=("--machine", str(MICRO / "watchdog.toml")),
        limit_s=120,
    ),
    _micro(
        "this host's disk is full while the guest writes",
        "write-disk",
        "^HostError: this host has no space left for what the guest writes",
        CANNOT_JUDGE,
        more="micro.mib=24",
        image=large_disk,
        out_space_kib=8192,
        limit_s=120,
    ),
    _micro("spins without an SSH server", "spin", "^BootTimeout: ", options=("--boot-timeout", "8"), limit_s=70),
    _micro(
        "QEMU is killed while the guest boots",
        "halt",
        "^QemuExited: .*signal 9",
        CANNOT_JUDGE,
        hit=_killed("qemu-system"),
    ),
    _suite(
        "QEMU is killed during a suite",
        "never-ends",
        "^QemuExited: .*signal 9",
        CANNOT_JUDGE,
        hit=_killed("qemu-system"),
    ),
    Fault(
        name="the image changes under the run",
        error="^SeatrialError: the image changed during the run",
        exit_status=CANNOT_JUDGE,
        mark=b"micro: up",
        image=_NONE,
        hit=_rewritten,
        until_exit=True,
        limit_s=90,
    ),
    _suite("kernel panic during a suite", "panic", "^KernelPanic: "),
    _suite("shutdown during a suite", "off", "^GuestStopped: "),
    _suite("restart during a suite", "reset", "^GuestStopped: .*restarted"),
    _suite("the SSH session dies during a suite", "kills-its-session", "^SessionLost: ", CANNOT_JUDGE, limit_s=20),
    _suite(
        "a command that never ends",
        "never-ends",
        "^none: reject; .*did not end within 8 s",
        REJECT,
        options=("--command-timeout", "1"),
        limit_s=40,
    ),
    _suite(
        "a command that prints without end",
        "prints-without-end",
        "^none: reject; .*wrote more than",
        REJECT,
        limit_s=60,
    ),
)

RUNNER = (
    _disk("SIGKILL of the runner", r"^none: reject \(incomplete\)", -9, hit=_signalled(signal.SIGKILL)),
    _disk(
        "SIGTERM of the runner",
        "^SeatrialError: the run was interrupted",
        CANNOT_JUDGE,
        hit=_signalled(signal.SIGTERM),
        until_exit=True,
        limit_s=20,
    ),
    _disk(
        "Ctrl-C",
        "^SeatrialError: the run was interrupted",
        CANNOT_JUDGE,
        hit=Running.interrupt,
        until_exit=True,
        limit_s=20,
    ),
    _disk(
        "Ctrl-C twice",
        "^(SeatrialError: the run was interrupted|none: reject)",
        CANNOT_JUDGE,
        hit=_interrupted_twice,
        until_exit=True,
        limit_s=20,
    ),
    _disk("QEMU is killed", "^QemuExited: .*signal 9", CANNOT_JUDGE, hit=_killed("qemu-system")),
    _disk("the TPM's emulator is killed", "^TpmLost: ", CANNOT_JUDGE, hit=_killed("swtpm"), options=("--tpm", "on")),
    _disk(
        "the folder for results cannot be made",
        "^ConfigError: the folder for results .* cannot be used",
        USAGE,
        mark=b"",
        out="input/loader.raw/out",
        limit_s=20,
    ),
    _disk(
        "the disk for results is full from the start",
        "^HostError: .*No space left",
        CANNOT_JUDGE,
        mark=b"",
        out_space_kib=4,
        limit_s=20,
    ),
    _disk(
        "the disk for results is full while the guest boots",
        "^BootTimeout: ",
        REJECT,
        image=boot_sector("starts here\r\n" + "x" * 300, is_endless=True),
        options=_SOON,
        out_space_kib=400,
        limit_s=60,
    ),
)

FILES = (
    _file("no such file", missing, "does not exist"),
    _file("an empty file", empty, "empty"),
    _file("a directory", directory, "is a directory"),
    _file("a FIFO without a writer", fifo, "no regular file"),
    _file("a text file", filled("notes.raw", b"just text\n" * 1000), "not a disk image"),
    _file("a truncated qcow2", cut("qcow2", 70_000), "cut off"),
    _file("a qcow2 with a backing file of the host", backed_qcow2, "backing file"),
    _file("a qcow2 with an external data file", external_data, "external data file"),
    _file("a VMDK whose extent is a file of the host", extents_elsewhere, "VMDK descriptor"),
    _file("a differencing VHD", differencing_vhd, "differencing VHD"),
    _file("a truncated VHDX", cut("vhdx", 300_000), "cut off"),
    _file("a damaged gzip", packed_garbage("disk.raw.gz"), "is damaged"),
    _file("a damaged zstd", packed_garbage("disk.raw.zst"), "is damaged"),
)

FAULTS = (*FILES, *CONSOLE, *RUNNER, *GUEST, *SSH)
