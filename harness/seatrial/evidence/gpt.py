"""The GUID partition tables of the guest's disks, read from their first sectors as its kernel gives them."""

from __future__ import annotations

import re
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Final

from seatrial.errors import ConfigError, ObservationError
from seatrial.evidence.disk.partitions import Region, disk_guid, regions
from seatrial.evidence.disk.reading import MOST_DISK_BYTES, SECTOR, Fault

__all__ = ["TABLES", "Disk", "Promise", "is_placeholder", "parse_promise", "parse_tables", "strangers", "unkept"]

# The MBR, the header and 128 entries of 128 bytes (UEFI specification, 5.3.1: at least so much is reserved).
_BYTES: Final = 34 * SECTOR
# Without loop devices and the like, which show the tables of system extensions.
TABLES: Final = (
    'for d in /sys/block/*; do [ -e "$d/device" ] || continue; '
    'for p in "$d"/*/partition; do [ -e "$p" ] || continue 2; break; done; '
    f'n=${{d##*/}}; echo "disk $n $(cat "$d/size")"; od -An -v -tx1 -N {_BYTES} "/dev/$n" || exit 1; done'
)
# A random GUID has 122 random bits (RFC 9562, 5.4): so many zero bytes among its sixteen are no chance.
_FEWEST_ZEROS: Final = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Disk:
    """A disk of the guest with a GPT: its GUID, and its partitions."""

    name: str
    guid: str
    partitions: tuple[Region, ...]


@dataclass(frozen=True, slots=True)
class Promise:
    """What a partition is to be: a glob for its label, its type GUID (``*``: any), and its own GUID (empty: any).

    ``is_optional``: some releases have it, others do not.
    """

    label: str
    kind: str
    guid: str
    is_optional: bool

    def fits(self, partition: Region) -> bool:
        """Return whether ``partition`` is the one that was promised."""
        return (
            fnmatchcase(partition.label, self.label)
            and self.kind in {"*", partition.kind}
            and self.guid in {"", partition.guid}
        )

    def __str__(self) -> str:
        return f"{self.label} of type {self.kind}{self.guid and f', GUID {self.guid}'}"


def parse_promise(row: str) -> Promise:
    """Return what a row ``[?] LABEL TYPE [GUID]`` of a flavour says; the question mark makes it optional.

    :raises ConfigError: it is no such row.
    """
    words = row.split()
    is_optional = words[:1] == ["?"]
    match words[is_optional:]:
        case [label, kind, *own] if len(own) < 2 and (kind == "*" or _is_guid(kind)) and all(map(_is_guid, own)):
            return Promise(label, kind.lower(), "".join(own).lower(), is_optional)
    raise ConfigError(f"a partition of a flavour is '[?] LABEL TYPE-GUID [GUID]', not {row!r}")


def parse_tables(text: str) -> tuple[Disk, ...]:
    """Return the disks with a GPT.

    :raises ObservationError: a line is none of a disk, or a table cannot be read.
    """
    blocks: list[tuple[str, int, list[str]]] = []
    for line in filter(None, text.split("\n")):
        if match := re.fullmatch(r"disk ([!-~]{1,64}) ([0-9]{1,12})", line):
            blocks.append((match[1], int(match[2]) * SECTOR, []))
        elif blocks and re.fullmatch(r"( *[0-9a-f]{2})+ *", line):
            blocks[-1][2].append(line)
        else:
            raise ObservationError(f"the disks' first sectors hold {line[:200]!r}, which is none")
    disks = (_disk(name, size, bytes.fromhex("".join(lines))) for name, size, lines in blocks)
    return tuple(disk for disk in disks if disk is not None)


def _disk(name: str, size: int, head: bytes) -> Disk | None:
    def read(offset: int, length: int) -> bytes:
        return head[offset : offset + length]

    if read(SECTOR, 8) != b"EFI PART":
        return None
    if size > MOST_DISK_BYTES:
        raise ObservationError(f"the disk {name!r} claims {size} bytes: too many")
    try:
        found = tuple(region for region in regions(read, size) if region.number)
        return Disk(name=name, guid=disk_guid(read), partitions=found)
    except Fault as exc:
        raise ObservationError(f"the disk {name!r} {exc.message}") from exc


def unkept(promises: Sequence[Promise], partitions: Sequence[Region]) -> list[str]:
    """Return those promises that no partition fits, but for optional ones."""
    return [str(one) for one in promises if not one.is_optional and not any(map(one.fits, partitions))]


def strangers(promises: Sequence[Promise], partitions: Sequence[Region]) -> list[str]:
    """Return those partitions that nobody promised."""
    return [
        f"partition {one.number} {one.label!r} of type {one.kind}, GUID {one.guid}"
        for one in partitions
        if not any(promise.fits(one) for promise in promises)
    ]


def is_placeholder(guid: str) -> bool:
    """Return whether somebody wrote ``guid`` by hand: hardly a byte of it is not zero."""
    return uuid.UUID(guid).bytes.count(0) >= _FEWEST_ZEROS


def _is_guid(text: str) -> bool:
    return re.fullmatch(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}", text) is not None
