"""What a file is, from its content alone: a disk in one of the formats that are booted, or something packed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal

from seatrial.evidence.disk import qcow2, vhd, vhdx, vmdk
from seatrial.evidence.disk.reading import SECTOR, Fault, Read, sane_size

__all__ = ["Disk", "Format", "Packed", "Packing", "recognise"]

Format = Literal["raw", "qcow2", "vhd-fixed", "vhd", "vhdx", "vmdk"]
Packing = Literal["gzip", "xz", "bzip2", "zstd"]

_PACKED: Final[tuple[tuple[bytes, Packing], ...]] = (
    (b"\x1f\x8b", "gzip"),
    (b"\xfd7zXZ\x00", "xz"),
    (b"BZh", "bzip2"),
    (b"\x28\xb5\x2f\xfd", "zstd"),
)
# (offset, magic, what it is): other things that people hand in.
_OTHERS: Final = (
    (64, b"\x7f\x10\xda\xbe", "a VirtualBox disk (VDI)"),
    (0, b"QED\0", "a QED disk"),
    (0, b"COWD", "a VMDK of the old ESX kind (COWD)"),
    (0, b"\xbe\xba\xfe\xca\0\0\0\0", "a VMDK of the SESparse kind"),
    (0, b"LUKS\xba\xbe", "a LUKS container"),
    (0, b"hsqs", "a squashfs file system, no disk"),
    (1024, b"\xe2\xe1\xf5\xe0", "an erofs file system, no disk"),
    (0, b"\x7fELF", "a program (ELF)"),
    (0, b"PK\x03\x04", "a zip archive"),
    (257, b"ustar", "a tar archive (such as an OVA)"),
    (0, b"!<arch>", "an ar archive"),
    (0, b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
    (0, b"070701", "a cpio archive"),
)


@dataclass(frozen=True, slots=True)
class Disk:
    """A disk image: its format and the size in bytes of the disk that a guest sees.

    ``force_size``: QEMU would cut the disk to its rounded geometry, and has to be told to believe the size.
    """

    format: Format
    disk_bytes: int
    force_size: bool = False


@dataclass(frozen=True, slots=True)
class Packed:
    """Something compressed, by the named method."""

    packing: Packing


def recognise(read: Read, file_bytes: int) -> Disk | Packed:
    """Return what a file of ``file_bytes`` bytes is, whatever its name says.

    :raises Fault: it is none of them, damaged, or would make QEMU open further files.
    """
    head = read(0, 4096)
    for magic, name in _PACKED:
        if head.startswith(magic):
            return Packed(name)
    # pzstd begins with a frame to be skipped (RFC 8878, section 3.1.2).
    if head[1:4] == b"\x2a\x4d\x18" and head[:1] in {bytes([n]) for n in range(0x50, 0x60)}:
        return Packed("zstd")
    for magic, parse in _PARSERS:
        if head.startswith(magic):
            return parse(read, file_bytes)
    if file_bytes >= SECTOR and read(file_bytes - SECTOR, len(vhd.COOKIE)) == vhd.COOKIE:
        return _vhd(read, file_bytes)
    return _raw(head, read, file_bytes)


def _raw(head: bytes, read: Read, file_bytes: int) -> Disk:
    if head.startswith(vmdk.DESCRIPTOR):
        raise Fault(
            "is a VMDK descriptor: a text that names the files in which the disk lies",
            hint="make one file of the disk: qemu-img convert -O qcow2 IMAGE IMAGE.qcow2",
        )
    for offset, magic, name in _OTHERS:
        if head[offset : offset + len(magic)] == magic:
            raise Fault(f"is not a disk image that can be booted: it is {name}", hint=_hint(name))
    if head[510:512] != b"\x55\xaa" and head[512:520] != b"EFI PART":
        if read(32769, 5) == b"CD001":
            raise Fault(
                "is not a disk image: it is a CD or DVD (ISO 9660)", hint="install it to a disk, and judge that"
            )
        raise Fault(
            "is not a disk image: neither a qcow2 header nor a partition table was found",
            hint=f"it begins with {head[:16].hex(' ')}; give a whole disk, no partition or archive",
        )
    return Disk("raw", sane_size(-(-file_bytes // SECTOR) * SECTOR, "raw disk"))


def _hint(name: str) -> str:
    if "archive" in name:
        return "unpack it first, and give the disk image inside"
    if "VDI" in name or "QED" in name or "VMDK" in name:
        return "convert a copy: qemu-img convert -O qcow2 IMAGE IMAGE.qcow2"
    return "give a whole disk with a partition table"


def _qcow2(read: Read, file_bytes: int) -> Disk:
    return Disk("qcow2", qcow2.standing_alone(read, file_bytes).disk_bytes)


def _vhd(read: Read, file_bytes: int) -> Disk:
    found = vhd.parse_vhd(read, file_bytes)
    return Disk("vhd-fixed" if found.is_fixed else "vhd", found.disk_bytes, found.force_size)


def _vhdx(read: Read, file_bytes: int) -> Disk:
    return Disk("vhdx", vhdx.parse_vhdx(read, file_bytes))


def _vmdk(read: Read, file_bytes: int) -> Disk:
    return Disk("vmdk", vmdk.parse_vmdk(read, file_bytes))


_PARSERS: Final[tuple[tuple[bytes, Callable[[Read, int], Disk]], ...]] = (
    (qcow2.MAGIC, _qcow2),
    (vhd.COOKIE, _vhd),
    (vhdx.MAGIC, _vhdx),
    (vmdk.MAGIC, _vmdk),
)
