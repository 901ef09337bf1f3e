"""What is mounted, by ``/proc/self/mountinfo``; and swap."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from seatrial.errors import ObservationError

__all__ = [
    "BOOT_PLACES",
    "MOUNTINFO",
    "SWAPS",
    "Mount",
    "beneath_extensions",
    "block_number",
    "mount_at",
    "parse_mountinfo",
    "parse_swaps",
]

# Looking into them mounts what waits for somebody to look: what is mounted must not depend on who looked first.
BOOT_PLACES: Final = ("/boot", "/boot/efi", "/efi")
MOUNTINFO: Final = f"for p in {' '.join(BOOT_PLACES)}; do ls $p/. >/dev/null 2>&1; done; cat /proc/self/mountinfo"
SWAPS: Final = "cat /proc/swaps"
_EXTENSION: Final = re.compile(r"/run/systemd/(?:sysext|confext)/(?:meta|extensions/([^/]+))/(?:usr|opt|etc)")
_OCTAL: Final = re.compile(r"\\([0-7]{3})")


@dataclass(frozen=True, slots=True, kw_only=True)
class Mount:
    """One mount. A path is writable only when neither the mount nor its file system is read-only."""

    device: str
    root: str
    target: str
    options: frozenset[str]
    kind: str
    source: str
    super_options: frozenset[str]

    @property
    def is_writable(self) -> bool:
        """Return whether files on it can be changed."""
        return "ro" not in self.options and "ro" not in self.super_options

    @property
    def is_on_disk(self) -> bool:
        """Return whether a block device holds it. btrfs has an anonymous device number, and names its disk."""
        return not self.device.startswith("0:") or self.source.startswith("/dev/")

    @property
    def extensions(self) -> frozenset[str]:
        """Return the system extensions that this mount lays over its target; none when it is no mount of theirs.

        systemd-sysext(8) merges by a read-only overlay of their trees and the target itself; such a mount has no upper
        layer, and no lower one from elsewhere.
        """
        layers = [o.partition("=")[2] for o in self.super_options if o.startswith(("lowerdir=", "lowerdir+="))]
        folders = {folder for layer in layers for folder in layer.split(":")}
        found = [_EXTENSION.fullmatch(folder) for folder in folders - {self.target}]
        takes_writes = any(option.startswith("upperdir") for option in self.super_options)
        if self.kind != "overlay" or takes_writes or self.target not in folders or not all(found):
            return frozenset()
        return frozenset(match[1] for match in found if match is not None and match[1])


def parse_mountinfo(text: str) -> tuple[Mount, ...]:
    """Return the mounts in the order in which they were made.

    :raises ObservationError: a line is none, or there is none.
    """
    mounts = tuple(_mount(line) for line in text.split("\n") if line)
    if not mounts:
        raise ObservationError("/proc/self/mountinfo is empty: no system is without mounts")
    return mounts


def _mount(line: str) -> Mount:
    before, dash, after = line.partition(" - ")
    left, right = before.split(" "), after.split(" ")
    if not dash or len(left) < 6 or len(right) < 3 or not re.fullmatch(r"\d+:\d+", left[2]) or left[4][:1] != "/":
        raise ObservationError(f"/proc/self/mountinfo holds {line[:200]!r}, which is no mount")
    return Mount(
        device=left[2],
        root=_plain(left[3]),
        target=_plain(left[4]),
        options=frozenset(left[5].split(",")),
        kind=right[0],
        source=_plain(right[1]),
        super_options=frozenset(" ".join(right[2:]).split(",")),
    )


def _plain(text: str) -> str:
    # The kernel writes blank, tab, line feed and backslash as octal numbers.
    return _OCTAL.sub(lambda match: chr(int(match[1], 8) & 0xFF), text)


def mount_at(mounts: Sequence[Mount], target: str) -> Mount | None:
    """Return what is seen at ``target``: the last of several mounts hides the others; None when nothing is mounted."""
    return next((mount for mount in reversed(mounts) if mount.target == target), None)


def block_number(mount: Mount, ask: Callable[[str], str]) -> str:
    """Return the number of the block device that holds ``mount`` (``254:0``), asking for it where btrfs hides it.

    :param ask: takes a question and returns what it wrote to stdout.
    :raises ObservationError: the number is none, or no block device holds it (see :attr:`Mount.is_on_disk`).
    """
    if not mount.device.startswith("0:"):
        return mount.device
    number = ask(f'f=$(readlink -f {shlex.quote(mount.source)}) && cat "/sys/class/block/${{f##*/}}/dev"').strip()
    if not re.fullmatch(r"[0-9]{1,9}:[0-9]{1,9}", number):
        raise ObservationError(
            f"{mount.source[:200]!r} at {mount.target} gave {number[:200]!r}, which is no device number"
        )
    return number


def beneath_extensions(mounts: Sequence[Mount], target: str) -> Mount | None:
    """Return what is mounted at ``target``, under the system extensions that lie over it."""
    at_target = [mount for mount in mounts if mount.target == target]
    while len(at_target) > 1 and at_target[-1].extensions:
        at_target.pop()
    return at_target[-1] if at_target else None


def parse_swaps(text: str) -> tuple[str, ...]:
    """Return the devices and files in use as swap.

    :raises ObservationError: the table has no header, or a line is none.
    """
    lines = [line for line in text.split("\n") if line.strip()]
    if not lines or lines[0].split()[:2] != ["Filename", "Type"]:
        raise ObservationError(f"/proc/swaps begins with {text[:200]!r}, expected its header")
    for line in lines[1:]:
        if len(line.split()) < 5:
            raise ObservationError(f"/proc/swaps holds {line[:200]!r}, which is no swap")
    return tuple(line.split()[0] for line in lines[1:])
