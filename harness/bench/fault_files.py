"""Candidates that no run may take for an image, and disks whose firmware finds nothing to start."""

from __future__ import annotations

import gzip
import os
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path

__all__ = [
    "backed_qcow2",
    "blank_disk",
    "boot_sector",
    "cut",
    "differencing_vhd",
    "directory",
    "empty",
    "extents_elsewhere",
    "external_data",
    "fifo",
    "filled",
    "large_disk",
    "missing",
    "packed_garbage",
]

Maker = Callable[[Path], Path]
_MIB = 1 << 20


def blank_disk(folder: Path) -> Path:
    """Make a qcow2 disk that holds nothing."""
    _qemu_img("create", "-f", "qcow2", str(folder / "blank.qcow2"), "16M")
    return folder / "blank.qcow2"


def large_disk(folder: Path) -> Path:
    """Make a qcow2 disk that holds nothing and takes more than a small file system of this host."""
    _qemu_img("create", "-f", "qcow2", str(folder / "large.qcow2"), "64M")
    return folder / "large.qcow2"


def boot_sector(text: str, *, is_endless: bool = False) -> Maker:
    """Return a maker of a disk whose boot sector writes ``text`` to the first serial port, once or without end."""
    # cli; xor ax,ax; mov ds,ax; mov si,0x7c16; mov dx,0x3f8; next: lodsb; test al,al; jz end; out dx,al; jmp next
    code = bytes.fromhex("fa31c08ed8be167cbaf803ac84c07403eeebf8")
    # end: hlt; jmp end -- or: jmp to "mov si"; nop
    code += bytes.fromhex("ebf090" if is_endless else "f4ebfd")

    def make(folder: Path) -> Path:
        return _written(folder / "loader.raw", _mbr(code + text.encode("latin-1") + b"\0"), 16 * _MIB)

    return make


def filled(name: str, content: bytes) -> Maker:
    """Return a maker of a file of just ``content``."""
    return lambda folder: _written(folder / name, content, 0)


def empty(folder: Path) -> Path:
    """Make an empty file."""
    return _written(folder / "empty.raw", b"", 0)


def missing(folder: Path) -> Path:
    """Return a path where nothing is."""
    return folder / "no-such-file.raw"


def directory(folder: Path) -> Path:
    """Make a folder."""
    (folder / "folder.raw").mkdir()
    return folder / "folder.raw"


def fifo(folder: Path) -> Path:
    """Make a FIFO that nobody writes to."""
    os.mkfifo(folder / "fifo.raw")
    return folder / "fifo.raw"


def cut(form: str, keep: int) -> Maker:
    """Return a maker of an image in ``form`` of which only the first ``keep`` bytes are there."""

    def make(folder: Path) -> Path:
        path = _converted(folder, form)
        os.truncate(path, keep)
        return path

    return make


def backed_qcow2(folder: Path) -> Path:
    """Make a qcow2 that reads what it does not hold from a file of this computer."""
    path = folder / "backed.qcow2"
    _qemu_img("create", "-f", "qcow2", "-u", "-b", "/etc/hostname", "-F", "raw", str(path), "16M")
    return path


def external_data(folder: Path) -> Path:
    """Make a qcow2 whose data is in another file."""
    path = folder / "external.qcow2"
    _qemu_img("create", "-f", "qcow2", "-o", f"data_file={folder / 'data.bin'}", str(path), "16M")
    (folder / "data.bin").unlink()
    return path


def extents_elsewhere(folder: Path) -> Path:
    """Make a VMDK descriptor whose extent is a file of this computer."""
    text = """# Disk DescriptorFile
version=1
CID=fffffffe
parentCID=ffffffff
createType="monolithicFlat"
RW 32768 FLAT "/etc/hostname" 0
"""
    return _written(folder / "elsewhere.vmdk", text.encode(), 0)


def differencing_vhd(folder: Path) -> Path:
    """Make a VHD that says in footer and dynamic header that it differs from a parent."""
    path = _converted(folder, "vpc")
    content = bytearray(path.read_bytes())
    for footer in (0, len(content) - 512):
        content[footer + 60 : footer + 64] = struct.pack(">I", 4)
        content[footer + 64 : footer + 68] = bytes(4)
        total = ~sum(content[footer : footer + 512]) & 0xFFFFFFFF
        content[footer + 64 : footer + 68] = struct.pack(">I", total)
    path.write_bytes(content)
    return path


def packed_garbage(name: str) -> Maker:
    """Return a maker of a compressed disk that is damaged in its middle; ``name`` ends in gz or zst."""

    def make(folder: Path) -> Path:
        plain = os.urandom(4 * _MIB)
        if name.endswith("gz"):
            packed = bytearray(gzip.compress(plain, 1))
        else:
            done = subprocess.run(["zstd", "-q", "-c", "--no-check"], input=plain, capture_output=True, check=True)
            packed = bytearray(done.stdout)
        middle = len(packed) // 2
        packed[middle : middle + 65536] = bytes(65536)
        return _written(folder / name, bytes(packed[:-_MIB]), 0)

    return make


def _mbr(code: bytes) -> bytes:
    assert len(code) <= 446, "a boot sector has 446 bytes for its code"
    return code.ljust(510, b"\0") + b"\x55\xaa"


def _written(path: Path, content: bytes, size: int) -> Path:
    path.write_bytes(content)
    if size:
        os.truncate(path, size)
    return path


def _converted(folder: Path, form: str) -> Path:
    source = _written(folder / "source.raw", os.urandom(_MIB), 16 * _MIB)
    target = folder / f"broken.{form}"
    _qemu_img("convert", "-f", "raw", "-O", form, str(source), str(target))
    source.unlink()
    return target


def _qemu_img(*words: str) -> None:
    subprocess.run(["qemu-img", *words], check=True, stdout=subprocess.DEVNULL)
