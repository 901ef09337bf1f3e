"""qcow2 as QEMU's ``docs/interop/qcow2.txt`` describes it: a candidate's header, and the clusters of an overlay."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from seatrial.evidence.disk.reading import Fault, Read, exact, sane_size

__all__ = ["MAGIC", "ZEROES", "Header", "clusters", "parse_header", "standing_alone"]

MAGIC: Final = b"QFI\xfb"
# Where a cluster lies that holds nothing but zeroes and takes no place.
ZEROES: Final = -1

_DIRTY, _CORRUPT, _DATA_FILE, _COMPRESSION, _EXTENDED_L2 = (1 << bit for bit in range(5))
_KNOWN: Final = _DIRTY | _CORRUPT | _DATA_FILE | _COMPRESSION | _EXTENDED_L2
_MOST_L1_BYTES: Final = 32 << 20
_OFFSET: Final = 0x00FF_FFFF_FFFF_FE00
_COMPRESSED: Final = 1 << 62
_READS_ZERO: Final = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """What is needed of a header; sizes and offsets are in bytes, ``l1_entries`` counts."""

    version: int
    has_backing: bool
    cluster_bytes: int
    disk_bytes: int
    is_encrypted: bool
    l1_entries: int
    l1_offset: int
    incompatible: int


def parse_header(read: Read) -> Header:
    """Return the header.

    :raises Fault: it is cut off, of an unknown version or feature, or its numbers make no sense.
    """
    head = read(0, 104)
    if len(head) < 72 or not head.startswith(MAGIC):
        raise Fault(f"is a qcow2 file cut off inside its header ({len(head)} bytes)")
    _magic, version, backing, _length, bits, size, crypt, l1_entries, l1_offset = struct.unpack_from(
        ">4sIQIIQIIQ", head
    )
    if version not in (2, 3):
        raise Fault(f"claims qcow2 version {version}; versions 2 and 3 exist")
    if version == 3 and len(head) < 104:
        raise Fault(f"is a qcow2 file cut off inside its header ({len(head)} bytes)")
    if not 9 <= bits <= 21:
        raise Fault(f"is a qcow2 file with clusters of 2^{bits} bytes; 2^9 to 2^21 exist")
    header = Header(
        version=version,
        has_backing=backing != 0,
        cluster_bytes=1 << bits,
        disk_bytes=sane_size(size, "qcow2 file"),
        is_encrypted=crypt != 0,
        l1_entries=l1_entries,
        l1_offset=l1_offset,
        incompatible=int(struct.unpack_from(">Q", head, 72)[0]) if version == 3 else 0,
    )
    if unknown := header.incompatible & ~_KNOWN:
        raise Fault(f"is a qcow2 file with features that are unknown here (incompatible bits {unknown:#x})")
    return header


def standing_alone(read: Read, file_bytes: int) -> Header:
    """Return the header of a candidate, which may refer to no other file and must be whole.

    :raises Fault: it is not such a candidate.
    """
    header = parse_header(read)
    other = (
        "a backing file" if header.has_backing else "an external data file" if header.incompatible & _DATA_FILE else ""
    )
    if other:
        raise Fault(
            f"refers to {other}; a candidate must stand alone, or it could read files of this host",
            hint="flatten a copy: qemu-img convert -O qcow2 IMAGE IMAGE.flat.qcow2",
        )
    if header.is_encrypted:
        raise Fault("is an encrypted qcow2 file", hint="decrypt a copy with qemu-img convert")
    if header.incompatible & _CORRUPT:
        raise Fault(
            "is a qcow2 file that QEMU has marked as corrupt", hint="repair a copy: qemu-img check -r all IMAGE"
        )
    _check_l1(header, file_bytes)
    return header


def _check_l1(header: Header, file_bytes: int) -> None:
    entries_each = header.cluster_bytes // (16 if header.incompatible & _EXTENDED_L2 else 8)
    needed = -(-header.disk_bytes // (header.cluster_bytes * entries_each))
    length = header.l1_entries * 8
    if header.l1_entries < needed or length > _MOST_L1_BYTES or header.l1_offset % header.cluster_bytes:
        raise Fault(
            f"is a damaged qcow2 file: its table of {header.l1_entries} entries does not fit a disk of "
            f"{header.disk_bytes} bytes"
        )
    if header.l1_offset + length > file_bytes:
        raise Fault(
            f"is a qcow2 file cut off at byte {file_bytes}: its table ends at byte {header.l1_offset + length}",
            hint="compare the file's size and digest with what the build made; was the copy or download complete?",
        )


def clusters(read: Read) -> tuple[Header, Mapping[int, int]]:
    """Return the header of an overlay, and of each cluster that it holds: its number on the disk -> its place.

    The place is a byte offset in the file, or :data:`ZEROES`.

    :raises Fault: the file is damaged, still in use, or of a kind that no overlay of ours is.
    """
    header = parse_header(read)
    if header.incompatible:
        raise Fault(f"is an overlay that was not closed in order (incompatible bits {header.incompatible:#x})")
    if header.l1_entries * 8 > _MOST_L1_BYTES:
        raise Fault(f"is an overlay with a table of {header.l1_entries} entries")
    found: dict[int, int] = {}
    each = header.cluster_bytes // 8
    table = exact(read, header.l1_offset, header.l1_entries * 8, "the L1 table")
    last = -(-header.disk_bytes // header.cluster_bytes)
    for row, (entry,) in enumerate(struct.iter_unpack(">Q", table)):
        if place := entry & _OFFSET:
            below = exact(read, place, header.cluster_bytes, "an L2 table")
            found.update({row * each + n: at for n, at in _l2(below) if row * each + n < last})
    return header, found


def _l2(table: bytes) -> list[tuple[int, int]]:
    found = []
    for number, (entry,) in enumerate(struct.iter_unpack(">Q", table)):
        if entry == 0:
            continue
        if entry & _COMPRESSED:
            raise Fault("is an overlay with a compressed cluster, which QEMU does not write")
        if entry & _READS_ZERO:
            found.append((number, ZEROES))
        elif entry & _OFFSET:
            found.append((number, entry & _OFFSET))
    return found
