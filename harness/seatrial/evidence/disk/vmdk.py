"""VMDK sparse extents (monolithicSparse, streamOptimized), as VMware's "Virtual Disk Format 5.0" describes them."""

from __future__ import annotations

import re
import struct
from typing import Final

from seatrial.evidence.disk.reading import SECTOR, Fault, Read, exact, sane_size

__all__ = ["DESCRIPTOR", "MAGIC", "parse_vmdk"]

MAGIC: Final = b"KDMV"
DESCRIPTOR: Final = b"# Disk DescriptorFile"
_MOST_DESCRIPTOR: Final = 1 << 20
_ALONE: Final = (b"monolithicSparse", b"streamOptimized")
_EXTENT: Final = re.compile(rb"(?mi)^[ \t]*(?:RW|RDONLY|NOACCESS)[ \t]+[0-9]+[ \t]+([A-Z0-9]+)")


def parse_vmdk(read: Read, file_bytes: int) -> int:
    """Return the size in bytes of the disk that the file holds.

    :raises Fault: it is damaged, or refers to further files.
    """
    head = exact(read, 0, SECTOR, "the VMDK header")
    version, _flags, capacity, grain, place, length, entries = struct.unpack_from("<IIQQQQI", head, 4)
    if version not in (1, 2, 3):
        raise Fault(f"claims VMDK version {version}; versions 1 to 3 exist")
    # QEMU reads an extent without a capacity as a mere descriptor, and opens the files that it names.
    if capacity == 0:
        raise Fault("is a VMDK that holds no disk itself but names other files", hint=_CONVERT)
    if grain < 1 or grain > 128 << 10 or grain & (grain - 1) or not 0 < entries <= 512:
        raise Fault(f"is a damaged VMDK: grains of {grain} sectors, {entries} in a table")
    size = sane_size(capacity * SECTOR, "VMDK")
    if place:
        if not 0 < length * SECTOR <= _MOST_DESCRIPTOR or (place + length) * SECTOR > file_bytes:
            raise Fault(f"is a damaged VMDK: its descriptor of {length} sectors lies at sector {place}")
        _check_descriptor(read(place * SECTOR, length * SECTOR).partition(b"\0")[0])
    return size


_CONVERT: Final = "make one file of a copy: qemu-img convert -O qcow2 IMAGE IMAGE.qcow2"


def _check_descriptor(text: bytes) -> None:
    kind = re.search(rb'(?mi)^[ \t]*createType[ \t]*=[ \t]*"?([A-Za-z0-9]*)', text)
    if kind is None or kind[1] not in _ALONE:
        told = kind[1].decode() if kind else "unknown"
        raise Fault(f"is a VMDK of type {told!r}; monolithicSparse and streamOptimized are supported", hint=_CONVERT)
    parent = re.search(rb"(?mi)^[ \t]*parentCID[ \t]*=[ \t]*([0-9a-f]*)", text)
    if b"parentfilenamehint" in text.lower() or (parent is not None and parent[1].lower() != b"ffffffff"):
        raise Fault(
            "is a VMDK that refers to a parent; a candidate must stand alone, or it could read files of this host",
            hint=_CONVERT,
        )
    extents = [kind.upper() for kind in _EXTENT.findall(text)]
    if len(extents) != 1 or extents[0] != b"SPARSE":
        told = ", ".join(kind.decode() for kind in extents) or "none"
        raise Fault(f"is a VMDK with other extents than its own sparse one: {told}", hint=_CONVERT)
