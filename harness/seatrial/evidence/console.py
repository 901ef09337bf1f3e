"""What lines on the serial console mean: escape sequences removed, states from which no boot recovers."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

__all__ = ["FATAL", "FatalState", "fatal_state", "plain"]


@dataclass(frozen=True, slots=True)
class FatalState:
    """A line on the console after which waiting is pointless."""

    title: str
    pattern: re.Pattern[str]
    hint: str


def _state(title: str, pattern: str, hint: str) -> FatalState:
    return FatalState(title, re.compile(pattern), hint)


FATAL: Final = (
    _state(
        "the kernel panicked",
        r"Kernel panic - not syncing",
        "the lines above the panic name the driver or file system that failed",
    ),
    _state(
        "the system fell into emergency mode",
        r"You are in emergency mode|Entering emergency mode|Cannot open access to console, the root account is locked",
        "a mount or a unit that local-fs.target needs failed; look for 'Failed to mount' and 'Dependency failed' above",
    ),
    _state("the system fell into rescue mode", r"You are in rescue mode", "look for the failed unit above"),
    _state(
        "the initrd gave up and opened a shell",
        r"^\(initramfs\)|Dropping to debug shell|^dracut:/#|Entering emergency shell",
        "the root device was not found: compare root= on the command line with the partitions",
    ),
    _state(
        "a question waits for a key on the console",
        r"Press any key to proceed|Give root password for maintenance|Please enter passphrase for disk",
        "an image that asks cannot boot unattended: set locale, timezone and hostname, or systemd.firstboot=off",
    ),
    _state(
        "the boot loader found no system",
        r"^grub rescue>|^grub>|error: no such partition|No bootable device|No bootable option or device was found"
        r"|^Shell> ",
        "check the EFI system partition, and that the flavour's machine has the firmware that the image needs",
    ),
    _state(
        "dm-verity found corrupted data",
        r"device-mapper: verity: .* is corrupted",
        "the image's data does not match its hash tree: rebuild the image; do not ship it",
    ),
)
_ESCAPES: Final = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)|\x1b[@-Z\\-_c]|[\x00-\x08\x0b-\x1f\x7f]"
)


def plain(raw: bytes) -> str:
    """Return console bytes as text without escape sequences and control characters (tabs and line feeds stay)."""
    return _ESCAPES.sub("", raw.decode("utf-8", "backslashreplace"))


def fatal_state(line: str) -> FatalState | None:
    """Return the state that ``line`` stands for, or None when there is still hope."""
    return next((state for state in FATAL if state.pattern.search(line)), None)
