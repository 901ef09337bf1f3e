"""VHD (QEMU's ``vpc``), as Microsoft's "Virtual Hard Disk Image Format Specification" of 2006 describes it."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

from seatrial.evidence.disk.reading import SECTOR, Fault, Read, exact, sane_size

__all__ = ["COOKIE", "Vhd", "parse_vhd"]

COOKIE: Final = b"conectix"
_FIXED, _DYNAMIC, _DIFFERENCING = 2, 3, 4
_CHECKSUM: Final = 64
# QEMU's block/vpc.c takes the size from the geometry, which is rounded, unless one of these made the file.
_EXACT_CREATORS: Final = (b"win ", b"qem2", b"d2v ", b"tap\0", b"CTXS", b"wa\0\0")
_MOST_SECTORS: Final = 65535 * 16 * 255


@dataclass(frozen=True, slots=True, kw_only=True)
class Vhd:
    """A VHD: fixed or dynamic, its size in bytes, and whether QEMU has to be told to believe that size."""

    is_fixed: bool
    disk_bytes: int
    force_size: bool


def parse_vhd(read: Read, file_bytes: int) -> Vhd:
    """Return what the footer says.

    :raises Fault: it is damaged, contradicts the file, or is of a disk that needs a parent.
    """
    if file_bytes < SECTOR:
        raise Fault(f"is a VHD of {file_bytes} bytes, less than its footer")
    footer = read(file_bytes - SECTOR, SECTOR)
    if not footer.startswith(COOKIE):
        footer = exact(read, 0, SECTOR, "the VHD footer's copy")
    _check_sum(footer, "footer")
    place, creator = struct.unpack_from(">Q4x4s", footer, 16)
    size, cylinders, heads, sectors, kind = struct.unpack_from(">QHBBI", footer, 48)
    if kind == _DIFFERENCING:
        raise Fault(
            "is a differencing VHD, which refers to a parent; a candidate must stand alone, or it could read files of "
            "this host",
            hint="merge it with its parent into one fixed or dynamic VHD",
        )
    sane_size(size, "VHD")
    if size % SECTOR:
        raise Fault(f"is a VHD of {size} bytes, which is no whole number of sectors")
    if kind == _FIXED:
        if size > file_bytes - SECTOR:
            raise Fault(
                f"is a fixed VHD of a disk of {size} bytes, but only {file_bytes - SECTOR} bytes precede its footer",
                hint="compare the file's size and digest with what the build made; was the copy or download complete?",
            )
        return Vhd(is_fixed=True, disk_bytes=size, force_size=False)
    if kind != _DYNAMIC:
        raise Fault(f"is a VHD of type {kind}; fixed ({_FIXED}) and dynamic ({_DYNAMIC}) are supported")
    _check_dynamic(read, place, size, file_bytes)
    geometry = cylinders * heads * sectors
    believed = creator in _EXACT_CREATORS or geometry == _MOST_SECTORS or geometry * SECTOR == size
    return Vhd(is_fixed=False, disk_bytes=size, force_size=not believed)


def _check_dynamic(read: Read, place: int, size: int, file_bytes: int) -> None:
    header = exact(read, place, 1024, "the VHD's dynamic header")
    if not header.startswith(b"cxsparse"):
        raise Fault(f"is a damaged VHD: no dynamic header at byte {place}")
    _check_sum(header, "dynamic header", at=36)
    table, _version, entries, block = struct.unpack_from(">QIII", header, 16)
    if block < SECTOR or block & (block - 1) or entries * block < size:
        raise Fault(f"is a damaged VHD: {entries} blocks of {block} bytes do not hold a disk of {size} bytes")
    if table + entries * 4 > file_bytes:
        raise Fault(
            f"is a VHD cut off at byte {file_bytes}: its table ends at byte {table + entries * 4}",
            hint="compare the file's size and digest with what the build made; was the copy or download complete?",
        )


def _check_sum(block: bytes, what: str, at: int = _CHECKSUM) -> None:
    (told,) = struct.unpack_from(">I", block, at)
    counted = ~(sum(block) - sum(block[at : at + 4])) & 0xFFFFFFFF
    if told != counted:
        raise Fault(f"is a damaged VHD: the checksum of its {what} is {told:#010x}, expected {counted:#010x}")
