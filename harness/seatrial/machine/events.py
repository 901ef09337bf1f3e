"""What QEMU's events mean for a boot: which end it, with which error, and which are only noted. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from seatrial.errors import GuestStopped, HostError, KernelPanic, QemuExited, SeatrialError
from seatrial.evidence.signs import Gravity, Kind, Phase, Sign

__all__ = ["CONSOLE_SILENT", "RESTARTED", "error_of_event", "sign_of_event"]


def _sign(key: str, title: str, hint: str) -> Sign:
    return Sign(
        id=key,
        title=title,
        needles=(),
        pattern=re.compile(""),
        severity=Gravity.SUSPICIOUS,
        kind=Kind.MACHINE,
        phases=frozenset(Phase),
        hint=hint,
        source="QEMU qapi/run-state.json, qapi/block-core.json",
    )


RESTARTED: Final = _sign(
    "restarted",
    "the guest restarted itself during the boot",
    "once is normal where firmware, SELinux or a first-boot set-up needs it; else look at the lines before",
)
CONSOLE_SILENT: Final = _sign(
    "console-silent",
    "the console never said a word",
    "put console=ttyS0 (aarch64: ttyAMA0) on the kernel's command line: without it a failed boot leaves no evidence",
)
_WATCHDOG: Final = _sign(
    "watchdog", "the guest's watchdog expired", "the system that fed the watchdog hung: read the lines before"
)
_MEMORY: Final = _sign("memory-failure", "the host's memory failed under the guest", "check the host's RAM")
_DISK: Final = _sign(
    "block-io-error",
    "QEMU could not read or write the disk",
    "a read beyond the end of the image, or the host's storage; qemu.log of the run says more",
)
_NOTED: Final[Mapping[str, Sign]] = {"WATCHDOG": _WATCHDOG, "MEMORY_FAILURE": _MEMORY, "BLOCK_IO_ERROR": _DISK}
_READ_CONSOLE: Final = "the console shows why, if the kernel speaks on it"
# Whoever sends QEMU a signal or runs out of something is on this host; the image has no part in it.
_HOST_REASONS: Final = ("host-signal", "host-error", "host-ui")


def sign_of_event(name: str, data: Mapping[str, Any]) -> Sign | None:
    """Return the finding that event ``name`` makes; None when it makes none, or ends the boot."""
    return None if error_of_event(name, data) else _NOTED.get(name)


def error_of_event(name: str, data: Mapping[str, Any]) -> SeatrialError | None:
    """Return why event ``name`` ends the boot; None when it does not."""
    if name == "GUEST_PANICKED":
        return KernelPanic("the kernel panicked: it told the pvpanic device", hint=_READ_CONSOLE)
    if name == "GUEST_CRASHLOADED":
        return KernelPanic("the kernel panicked and loads its crash kernel", hint=_READ_CONSOLE)
    if name == "BLOCK_IO_ERROR" and data.get("nospace") is True:
        return HostError(
            "this host has no space left for what the guest writes", hint="make room where TMPDIR and --out point"
        )
    return _error_of_shutdown(str(data.get("reason", "no reason"))) if name == "SHUTDOWN" else None


def _error_of_shutdown(reason: str) -> SeatrialError:
    if reason in _HOST_REASONS:
        return QemuExited(f"QEMU was told to end ({reason}) by something else on this host")
    if reason == "guest-panic":
        return KernelPanic("the kernel panicked, and QEMU ended the machine", hint=_READ_CONSOLE)
    return GuestStopped(
        f"the guest stopped by itself: QEMU reported SHUTDOWN ({reason})",
        hint="something in the image powers it off; the last lines of the console tell which unit",
    )
