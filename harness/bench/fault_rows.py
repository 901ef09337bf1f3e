"""The table of faults: what is broken, and what a run must come to."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path

from fault_files import (
    backed_qcow2,
    boot_sector,
    cut,
    differencing_vhd,
    directory,
    empty,
    extents_elsewhere,
    external_data,
    fifo,
    filled,
    missing,
    packed_garbage,
    raw_disk,
)
from fault_run import Fault, Running

__all__ = ["FAULTS"]

REJECT, CANNOT_JUDGE, USAGE = 1, 2, 4
_LOADER = b"loader: "


def _early(name: str, fault: str, error: str, *, more: str = "", **other: object) -> Fault:
    """Return a row whose micro guest breaks before it has a network."""
    return Fault(name=name, error=error, exit_status=REJECT, append=f"micro.early={fault} {more}", **other)  # type: ignore[arg-type]


def _suspicious(name: str, fault: str, sign: str) -> Fault:
    """Return a row whose guest goes on: the run decides, and reports what it saw."""
    return Fault(
        name=name,
        error=rf"^none: release; findings: .*\b{sign}\b",
        exit_status=0,
        limit_s=120,
        append=f"micro.early={fault}",
    )


def _suite(name: str, fault: str, error: str, status: int = REJECT, **other: object) -> Fault:
    """Return a row whose guest breaks under a check."""
    return Fault(name=name, error=error, exit_status=status, append=f"micro.suite={fault}", **other)  # type: ignore[arg-type]


def _loader(name: str, text: str, error: str) -> Fault:
    """Return a row whose disk has a boot sector that only says ``text``."""
    return Fault(
        name=name,
        error=error,
        exit_status=REJECT,
        mark=_LOADER,
        image=boot_sector(f"\r\nloader: starts\r\n{text}"),
        kernel=False,
    )


def _file(name: str, make: Callable[[Path], Path], error: str) -> Fault:
    """Return a row whose candidate is refused before anything starts."""
    return Fault(name=name, error=error, exit_status=USAGE, mark=b"", image=make, kernel=False, boots=False)


def _killed(program: str) -> Callable[[Running], None]:
    return lambda running: running.kill(program)


def _signalled(number: signal.Signals) -> Callable[[Running], None]:
    return lambda running: running.runner.send_signal(number)


CONSOLE = (
    _early("kernel panic, with a pvpanic device", "panic", "^KernelPanic: "),
    _early("kernel panic, no pvpanic", "panic", "^KernelPanic: ", options=("--machine", "micro-bare")),
    _early("kernel panic that restarts at once (panic=-1)", "panic", "^(KernelPanic|RebootLoop): ", more="panic=-1"),
    _early("emergency mode", "emergency", "^EmergencyShell: .*emergency"),
    _early("emergency mode, root locked", "emergency-locked", "^EmergencyShell: .*emergency"),
    _early("rescue mode", "rescue", "^EmergencyShell: .*rescue"),
    _early("dracut's prompt", "dracut-prompt", "^EmergencyShell: "),
    _early("initramfs-tools' prompt", "initramfs-prompt", "^EmergencyShell: "),
    _early("a question waits for a key", "question", "^QuestionAsked: "),
    _early("a passphrase is asked for", "passphrase-prompt", "^QuestionAsked: "),
    _early("dm-verity finds corrupted data", "verity", "^DataCorrupted: "),
    _early("systemd freezes", "froze", "^BootFatal: .*froze"),
    _early("SELinux policy cannot be loaded", "selinux", "^BootFatal: .*SELinux"),
    _early("Ignition fails", "ignition", "^BootFatal: .*Ignition"),
    _early("the image needs a newer processor", "cpu", "^BootFatal: .*processor"),
    _suspicious("kernel oops", "oops", "oops"),
    _suspicious("kernel BUG", "bug", "kernel-bug"),
    _suspicious("soft lockup", "soft-lockup", "soft-lockup"),
    _suspicious("hung task", "hung-task", "hung-task"),
    _suspicious("I/O error", "io-error", "io-error"),
    _suspicious("ext4 error", "ext4-error", "filesystem-error"),
    _suspicious("a unit's dependency failed", "dependency", "unit-dependency"),
    _suspicious("out of memory (the kernel's OOM killer)", "oom", "oom"),
    _suspicious("escape sequences, invalid UTF-8, NULs on the console", "escapes", "none"),
)

LOADERS = (
    _loader("GRUB's rescue prompt", "error: no such partition.\r\nEntering rescue mode...\r\ngrub rescue> ", "^NoBoot"),
    _loader("GRUB's prompt", "Minimal BASH-like line editing is supported.\r\ngrub> ", "^NoBootableSystem: "),
    _loader("a boot sector without a system", "Missing operating system", "^NoBootableSystem: "),
    _loader("SYSLINUX without a kernel", "Could not find kernel image: linux", "^NoBootableSystem: "),
    _loader("the UEFI shell's prompt", "Shell> ", "^NoBootableSystem: "),
    Fault(
        name="an empty disk under BIOS",
        error="^NoBootableSystem: ",
        exit_status=REJECT,
        mark=b"SeaBIOS",
        image=raw_disk,
        kernel=False,
    ),
    Fault(
        name="an empty disk under UEFI",
        error="^NoBootableSystem: ",
        exit_status=REJECT,
        limit_s=60,
        mark=b"",
        image=raw_disk,
        kernel=False,
        options=("--machine", "q35-uefi"),
    ),
)

STOPS = (
    _early("reboot loop", "reset", "^RebootLoop: ", limit_s=60),
    _early("shutdown by itself", "off", "^GuestStopped: "),
    Fault(
        name="reset by itself during a suite",
        error="^GuestStopped: .*restarted",
        exit_status=REJECT,
        append="micro.suite=reset",
    ),
    _early("hang: console, disk and CPU still", "halt", "^BootHung: ", limit_s=120),
    _early("spins without an SSH server", "spin", "^BootTimeout: ", options=("--boot-timeout", "4"), limit_s=45),
    Fault(
        name="a boot sector that never says a word and halts",
        error="^BootHung: .*",
        exit_status=REJECT,
        mark=b"Booting from",
        image=boot_sector(""),
        kernel=False,
        limit_s=120,
    ),
    Fault(
        name="QEMU is killed while the guest boots",
        error="^QemuExited: .*signal 9",
        exit_status=REJECT,
        append="micro.early=halt",
        hit=_killed("qemu-system"),
    ),
    _suite("QEMU is killed during a suite", "never-ends", "^QemuExited: .*signal 9", hit=_killed("qemu-system")),
    _suite("kernel panic during a suite", "panic", "^KernelPanic: "),
    _suite("shutdown during a suite", "off", "^GuestStopped: "),
)

SSH = (_suite("the SSH server dies during a suite", "kills-its-session", "^SessionLost: ", CANNOT_JUDGE, limit_s=20),)

FILES = (
    _file("no such file", missing, "does not exist"),
    _file("an empty file", empty, "empty"),
    _file("a directory", directory, "no regular file|is a directory"),
    _file("a FIFO without a writer", fifo, "regular file"),
    _file("a text file", filled("notes.raw", b"just text\n" * 1000), "ConfigError: "),
    _file("a truncated qcow2", cut("qcow2", 70_000), "ConfigError: "),
    _file("a qcow2 with a backing file of the host", backed_qcow2, "backing"),
    _file("a qcow2 with an external data file", external_data, "data file"),
    _file("a VMDK whose extent is a file of the host", extents_elsewhere, "ConfigError: "),
    _file("a differencing VHD", differencing_vhd, "ConfigError: .*(parent|differenc)"),
    _file("a truncated VHDX", cut("vhdx", 300_000), "ConfigError: "),
    _file("a damaged gzip", packed_garbage("disk.raw.gz"), "ConfigError: "),
    _file("a damaged zstd", packed_garbage("disk.raw.zst"), "ConfigError: "),
)

FAULTS = (*CONSOLE, *LOADERS, *STOPS, *SSH, *FILES)
