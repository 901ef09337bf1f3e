"""Which accelerator a boot uses. KVM counts only when a guest has run on it: the device alone proves nothing."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from seatrial.errors import ConfigError
from seatrial.machine.definition import Accelerator

__all__ = ["Choice", "choices", "remember_kvm", "remembered_kvm"]

_DEVICE = Path("/dev/kvm")
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True, slots=True)
class Choice:
    """An accelerator and why it was chosen."""

    accelerator: Accelerator
    reason: str


def choices(wanted: Literal["auto", "kvm", "tcg"], cache: Path, *, device: Path = _DEVICE) -> tuple[Choice, ...]:
    """Return the accelerators to try, in order; the second is used when no guest runs on the first.

    :raises ConfigError: KVM was demanded and cannot be opened.
    """
    if wanted == "tcg":
        return (Choice("tcg", "asked for"),)
    obstacle = _obstacle(device)
    if wanted == "kvm":
        if obstacle:
            raise ConfigError(f"--accel kvm: {obstacle}", hint="use --accel auto, or mend the access to the device")
        return (Choice("kvm", "asked for"),)
    if obstacle:
        return (Choice("tcg", obstacle),)
    known = remembered_kvm(cache)
    if known is not None and known.accelerator == "tcg":
        return (known,)
    return (Choice("kvm", f"{device} can be opened"), Choice("tcg", "KVM ran no guest on this host"))


def _obstacle(device: Path) -> str:
    if not device.exists():
        return f"{device} does not exist on this host"
    if not os.access(device, os.R_OK | os.W_OK):
        return f"{device} may not be opened by this user (is the user in group 'kvm'?)"
    return ""


def remember_kvm(cache: Path, *, works: bool, reason: str, boot_id: Path = _BOOT_ID) -> None:
    """Remember for this boot of the host whether a guest ran on KVM."""
    note = {"boot_id": boot_id.read_text().strip(), "works": works, "reason": reason}
    temporary = cache / f".kvm.{os.getpid()}"
    temporary.write_text(json.dumps(note), encoding="utf-8")
    temporary.replace(cache / "kvm.json")


def remembered_kvm(cache: Path, *, boot_id: Path = _BOOT_ID) -> Choice | None:
    """Return what an earlier run learnt since the host was booted, or None."""
    try:
        note = json.loads((cache / "kvm.json").read_text(encoding="utf-8"))
        if note["boot_id"] != boot_id.read_text().strip():
            return None
        return Choice("kvm" if note["works"] else "tcg", str(note["reason"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None  # no memory, or an unreadable one: find out again
