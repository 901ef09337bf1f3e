"""VHDX headers, as Microsoft's [MS-VHDX] describes them."""

from __future__ import annotations

import struct
import uuid
from collections.abc import Mapping
from typing import Final

from seatrial.evidence.disk.reading import SECTOR, Fault, Read, crc32c, exact, sane_size

__all__ = ["MAGIC", "parse_vhdx"]

MAGIC: Final = b"vhdxfile"
_HEADERS: Final = (64 << 10, 128 << 10)
_REGIONS: Final = (192 << 10, 256 << 10)
_BAT: Final = uuid.UUID("2DC27766-F623-4200-9D64-115E9BFD4A08").bytes_le
_METADATA: Final = uuid.UUID("8B7CA206-4790-4B9A-B8FE-575F050F886E").bytes_le
_PARAMETERS: Final = uuid.UUID("CAA16737-FA36-4D43-B3B6-33F0AA44E76B").bytes_le
_DISK_SIZE: Final = uuid.UUID("2FA54224-CD1B-4876-B211-5DBED83BF4B8").bytes_le
_SECTOR_SIZE: Final = uuid.UUID("8141BF1D-A96F-4709-BA47-F233A8FAAB5F").bytes_le
_PARENT: Final = uuid.UUID("A8D35F2D-B30B-454D-ABF7-D3D84834AB0C").bytes_le
_HAS_PARENT: Final = 2
_MOST_ENTRIES: Final = 2047


def parse_vhdx(read: Read, file_bytes: int) -> int:
    """Return the size in bytes of the disk that the file holds.

    :raises Fault: it is damaged, was not closed in order, or is of a disk that needs a parent.
    """
    header = _active_header(read)
    if any(header[48:64]):
        raise Fault(
            "is a VHDX whose log has to be replayed: whatever wrote it last did not close it in order",
            hint="replay the log in a copy: qemu-img check -r all IMAGE",
        )
    regions = _regions(read)
    if _METADATA not in regions or _BAT not in regions:
        raise Fault("is a damaged VHDX: its metadata or its block table is missing")
    for start, length in regions.values():
        if start + length > file_bytes:
            raise Fault(
                f"is a VHDX cut off at byte {file_bytes}: a region of it ends at byte {start + length}",
                hint="compare the file's size and digest with what the build made; was the copy or download complete?",
            )
    return _disk_bytes(_metadata(read, *regions[_METADATA]))


def _active_header(read: Read) -> bytes:
    found = []
    for place in _HEADERS:
        block = read(place, 4096)
        if len(block) == 4096 and block.startswith(b"head") and _sum_holds(block):
            found.append(block)
    if not found:
        raise Fault("is a damaged VHDX: neither copy of its header is valid")
    return max(found, key=lambda block: int(struct.unpack_from("<Q", block, 8)[0]))


def _sum_holds(block: bytes) -> bool:
    return bool(struct.unpack_from("<I", block, 4)[0] == crc32c(block[:4] + b"\0" * 4 + block[8:]))


def _regions(read: Read) -> Mapping[bytes, tuple[int, int]]:
    for place in _REGIONS:
        block = read(place, 65536)
        if len(block) == 65536 and block.startswith(b"regi") and _sum_holds(block):
            (count,) = struct.unpack_from("<I", block, 8)
            rows = (struct.unpack_from("<16sQII", block, 16 + 32 * n) for n in range(min(count, _MOST_ENTRIES)))
            return {kind: (start, length) for kind, start, length, _required in rows}
    raise Fault("is a damaged VHDX: neither copy of its region table is valid")


def _metadata(read: Read, start: int, length: int) -> Mapping[bytes, bytes]:
    table = exact(read, start, 65536, "the VHDX's metadata")
    if not table.startswith(b"metadata"):
        raise Fault("is a damaged VHDX: its metadata table has no signature")
    (count,) = struct.unpack_from("<H", table, 10)
    found = {}
    for number in range(min(count, _MOST_ENTRIES)):
        item, offset, size, _flags = struct.unpack_from("<16sIII", table, 32 + 32 * number)
        if offset + size <= length:
            found[item] = read(start + offset, min(size, 4096))
    return found


def _disk_bytes(items: Mapping[bytes, bytes]) -> int:
    for item, length in ((_PARAMETERS, 8), (_DISK_SIZE, 8), (_SECTOR_SIZE, 4)):
        if len(items.get(item, b"")) < length:
            raise Fault("is a damaged VHDX: its metadata does not say the block, disk and sector size")
    _block, flags = struct.unpack_from("<II", items[_PARAMETERS])
    if flags & _HAS_PARENT or _PARENT in items:
        raise Fault(
            "is a differencing VHDX, which refers to a parent; a candidate must stand alone, or it could read files of "
            "this host",
            hint="merge it with its parent",
        )
    (sector,) = struct.unpack_from("<I", items[_SECTOR_SIZE])
    if sector != SECTOR:
        raise Fault(f"is a VHDX with sectors of {sector} bytes; QEMU reads those with {SECTOR} only")
    (size,) = struct.unpack_from("<Q", items[_DISK_SIZE])
    return sane_size(size, "VHDX")
