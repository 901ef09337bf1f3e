"""Partition tables: GPT as the UEFI specification (chapter 5) describes it, and MBR with its logical partitions."""

from __future__ import annotations

import struct
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from seatrial.evidence.disk.reading import SECTOR, Fault, Read, crc32, exact

__all__ = ["TABLE", "UNUSED", "Region", "disk_guid", "regions"]

TABLE: Final = "partition-table"
UNUSED: Final = "unpartitioned"
_SIGNATURE: Final = b"EFI PART"
_MOST_ENTRIES: Final = 1024
_MOST_LOGICAL: Final = 128
_EXTENDED: Final = frozenset({0x05, 0x0F, 0x85})


@dataclass(frozen=True, slots=True, kw_only=True)
class Region:
    """A part of a disk, from byte ``start`` to before byte ``end``.

    ``number`` is the partition's; 0 is the table itself (``label`` is :data:`TABLE`) or what is in no partition
    (:data:`UNUSED`). ``kind`` is the type GUID in lower case, or the type byte of an MBR such as ``0x83``; ``guid`` is
    the partition's own, in a GPT only.
    """

    number: int
    label: str
    kind: str
    start: int
    end: int
    guid: str = ""


def disk_guid(read: Read) -> str:
    """Return the GUID of a disk with a GPT, in lower case.

    :raises Fault: the first copy of the header is none, or not valid.
    """
    header = _header(read, SECTOR)
    if header is None:
        raise Fault("has no valid GPT header in its second sector")
    return header.guid


def regions(read: Read, disk_bytes: int) -> tuple[Region, ...]:
    """Return the parts of a disk that cover it whole, in order of their start: partitions, their table and the rest.

    :raises Fault: there is no table that can be read.
    """
    first = exact(read, 0, SECTOR, "the first sector")
    found = list(_gpt(read, disk_bytes) if _has_gpt(read, first, disk_bytes) else _mbr(read, first, disk_bytes))
    return tuple(sorted([*found, *_gaps(found, disk_bytes)], key=lambda region: (region.start, region.number)))


def _has_gpt(read: Read, first: bytes, disk_bytes: int) -> bool:
    protective = first[510:512] == b"\x55\xaa" and 0xEE in {first[450 + 16 * n] for n in range(4)}
    return protective or read(SECTOR, 8) == _SIGNATURE or read(disk_bytes - SECTOR, 8) == _SIGNATURE


def _gpt(read: Read, disk_bytes: int) -> Iterator[Region]:
    header = _header(read, SECTOR) or _header(read, disk_bytes // SECTOR * SECTOR - SECTOR)
    if header is None:
        raise Fault("has a damaged GPT: neither the first nor the last copy of its header is valid")
    first_usable, last_usable = header.first_usable, header.last_usable
    if (last_usable + 1) * SECTOR > disk_bytes:
        raise Fault(f"has a GPT for a larger disk: its last sector for use is {last_usable}")
    yield Region(number=0, label=TABLE, kind="", start=0, end=min(first_usable * SECTOR, disk_bytes))
    yield Region(number=0, label=TABLE, kind="", start=(last_usable + 1) * SECTOR, end=disk_bytes)
    for number, entry in enumerate(header.entries, start=1):
        kind, own, first, last, _flags = struct.unpack_from("<16s16sQQQ", entry)
        if not any(kind):
            continue
        if not first_usable <= first <= last <= last_usable:
            raise Fault(f"has a damaged GPT: partition {number} lies at sectors {first} to {last}")
        yield Region(
            number=number,
            label=entry[56:128].decode("utf-16-le", "replace").partition("\0")[0],
            kind=str(uuid.UUID(bytes_le=kind)),
            start=first * SECTOR,
            end=(last + 1) * SECTOR,
            guid=str(uuid.UUID(bytes_le=own)),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Header:
    guid: str
    entries: tuple[bytes, ...]
    first_usable: int
    last_usable: int


def _header(read: Read, place: int) -> _Header | None:
    """Return what a GPT header says, with its entries; None when this copy is not valid."""
    block = read(place, SECTOR)
    if len(block) < SECTOR or not block.startswith(_SIGNATURE):
        return None
    size, told = struct.unpack_from("<II", block, 12)
    if not 92 <= size <= SECTOR or crc32(block[:16] + b"\0" * 4 + block[20:size]) != told:
        return None
    first, last = struct.unpack_from("<QQ", block, 40)
    start, count, each, told = struct.unpack_from("<QIII", block, 72)
    if not 1 <= count <= _MOST_ENTRIES or not 128 <= each <= 4096 or last < first or last >= 1 << 40:
        return None
    table = read(start * SECTOR, count * each) if start < 1 << 40 else b""
    if len(table) != count * each or crc32(table) != told:
        return None
    return _Header(
        guid=str(uuid.UUID(bytes_le=block[56:72])),
        entries=tuple(table[n * each : (n + 1) * each] for n in range(count)),
        first_usable=first,
        last_usable=last,
    )


def _mbr(read: Read, first: bytes, disk_bytes: int) -> Iterator[Region]:
    if first[510:512] != b"\x55\xaa":
        raise Fault("has no partition table that can be read")
    yield Region(number=0, label=TABLE, kind="", start=0, end=SECTOR)
    for number, (kind, start, count) in _entries(first).items():
        if kind in _EXTENDED:
            yield from _logical(read, start, disk_bytes)
        else:
            yield _mbr_region(number, kind, start, count, disk_bytes)


def _logical(read: Read, base: int, disk_bytes: int) -> Iterator[Region]:
    at, number = base, 5
    for _step in range(_MOST_LOGICAL):
        block = read(at * SECTOR, SECTOR)
        if len(block) < SECTOR or block[510:512] != b"\x55\xaa":
            raise Fault(f"has a damaged extended partition: no table at sector {at}")
        yield Region(number=0, label=TABLE, kind="", start=at * SECTOR, end=(at + 1) * SECTOR)
        rows = _entries(block)
        following = [start for kind, start, _count in rows.values() if kind in _EXTENDED]
        for kind, start, count in rows.values():
            if kind not in _EXTENDED:
                yield _mbr_region(number, kind, at + start, count, disk_bytes)
                number += 1
        if not following:
            return
        at = base + following[0]
    raise Fault(f"has an extended partition with more than {_MOST_LOGICAL} tables")


def _entries(block: bytes) -> Mapping[int, tuple[int, int, int]]:
    rows = {n + 1: struct.unpack_from("<4xB3xII", block, 446 + 16 * n) for n in range(4)}
    return {number: row for number, row in rows.items() if row[0] and row[2]}


def _mbr_region(number: int, kind: int, start: int, count: int, disk_bytes: int) -> Region:
    if (start + count) * SECTOR > disk_bytes:
        raise Fault(f"has a damaged MBR: partition {number} ends at sector {start + count}, behind the disk's end")
    return Region(number=number, label="", kind=f"{kind:#04x}", start=start * SECTOR, end=(start + count) * SECTOR)


def _gaps(found: list[Region], disk_bytes: int) -> Iterator[Region]:
    at = 0
    for region in sorted(found, key=lambda region: region.start):
        if region.start > at:
            yield Region(number=0, label=UNUSED, kind="", start=at, end=region.start)
        at = max(at, region.end)
    if at < disk_bytes:
        yield Region(number=0, label=UNUSED, kind="", start=at, end=disk_bytes)
