"""Disks that boot the micro guest by UEFI: one unified kernel image in an EFI system partition, signed or not.

The pieces come from packages that apt on this computer fetches; the key is the test key of the ovmf package, whose
private half is public, so nothing real trusts it.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import struct
import tempfile
from pathlib import Path

from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key
from micro import Micro, micro_guest
from seatrial.clock import Deadline
from seatrial.layout import cache_dir
from seatrial.process import run

__all__ = ["SNAKEOIL_FIRMWARE", "uki_disk"]

SNAKEOIL_FIRMWARE = "/usr/share/OVMF/OVMF_CODE_4M.snakeoil.fd:/usr/share/OVMF/OVMF_VARS_4M.snakeoil.fd"
_KEY, _CERTIFICATE = Path("/usr/share/ovmf/PkKek-1-snakeoil.key"), Path("/usr/share/ovmf/PkKek-1-snakeoil.pem")
_PASSWORD = b"snakeoil"
_PACKAGES = ("systemd-boot-efi", "sbsigntool", "mtools")
_FETCH_S = 600.0
_SECTOR = 512
_MIB = 2**20
_FIRST = 2048  # sectors before the partition
_BUILDER = "1"  # goes up when this module would build another disk from the same guest
_ESP = bytes.fromhex("28732ac11ff8d211ba4b00a0c93ec93b")  # C12A7328-F81F-11D2-BA4B-00A0C93EC93B as GPT stores it
_READ_ONLY_DATA = 0x40000040  # IMAGE_SCN_CNT_INITIALIZED_DATA | IMAGE_SCN_MEM_READ


def uki_disk(command_line: str, *, signed: bool) -> Path:
    """Return a raw disk image that boots the micro guest with ``command_line``, built once and kept in the cache."""
    guest, place = micro_guest(), cache_dir("micro-uki")
    with (place / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        said = f"{_BUILDER} {guest.kernel.name} {guest.initrd.name} {command_line} {signed}"
        made = place / f"{hashlib.sha256(said.encode()).hexdigest()[:16]}.raw"
        if not made.is_file():
            with tempfile.TemporaryDirectory(dir=place) as folder:
                _build(guest, command_line, Path(folder), signed=signed).replace(made)
        return made


def _build(guest: Micro, command_line: str, place: Path, *, signed: bool) -> Path:
    tools = place / "tools"
    _run(["apt-get", "download", "-q", "-o", "APT::Sandbox::User=root", *_PACKAGES], cwd=place)
    for package in place.glob("*.deb"):
        _run(["dpkg-deb", "-x", str(package), str(tools)])
    stub = tools / "usr/lib/systemd/boot/efi/linuxx64.efi.stub"
    image = place / "uki.efi"
    sections = {".cmdline": command_line.encode() + b"\0", ".linux": guest.kernel.read_bytes()}
    image.write_bytes(with_sections(stub.read_bytes(), {**sections, ".initrd": guest.initrd.read_bytes()}))
    if signed:
        image = _signed(image, tools, place)
    return _disk(image, tools, place)


def _signed(image: Path, tools: Path, place: Path) -> Path:
    key = load_pem_private_key(_KEY.read_bytes(), _PASSWORD)
    plain = place / "key.pem"
    plain.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    signed = place / "signed.efi"
    words = ["--key", str(plain), "--cert", str(_CERTIFICATE), "--output", str(signed), str(image)]
    _run([str(tools / "usr/bin/sbsign"), *words])
    return signed


def with_sections(image: bytes, sections: dict[str, bytes]) -> bytes:
    """Return the PE file ``image`` with ``sections`` added (Microsoft's PE format, 64 bit)."""
    out = bytearray(image)
    header = struct.unpack_from("<I", out, 0x3C)[0]
    count, optional = struct.unpack_from("<H", out, header + 6)[0], struct.unpack_from("<H", out, header + 20)[0]
    table, first = header + 24 + optional, header + 24
    align, file_align = struct.unpack_from("<II", out, first + 32)
    room = struct.unpack_from("<I", out, first + 60)[0] - table
    assert (count + len(sections)) * 40 <= room, "the stub's header has no room for more sections"
    end = struct.unpack_from("<I", out, first + 56)[0]
    for name, content in sections.items():
        address = -(-end // align) * align
        out += bytes(-len(out) % file_align)
        entry = struct.pack(
            "<8sIIII12xI",
            name.encode(),
            len(content),
            address,
            _up(len(content), file_align),
            len(out),
            _READ_ONLY_DATA,
        )
        out[table + count * 40 : table + (count + 1) * 40] = entry
        out += content
        end, count = address + len(content), count + 1
    out += bytes(-len(out) % file_align)
    struct.pack_into("<H", out, header + 6, count)
    struct.pack_into("<I", out, first + 56, _up(end, align))
    return bytes(out)


def _disk(image: Path, tools: Path, place: Path) -> Path:
    """Return a disk with a GUID partition table and one EFI system partition that holds ``image``."""
    sectors = _up(image.stat().st_size + 4 * _MIB, _MIB) // _SECTOR
    partition = place / "esp"
    partition.touch()
    os.truncate(partition, sectors * _SECTOR)
    binaries = tools / "usr/bin"
    _run([str(binaries / "mformat"), "-i", str(partition), "-T", str(sectors), "-h", "255", "-s", "63", "::"])
    _run([str(binaries / "mmd"), "-i", str(partition), "::/EFI", "::/EFI/BOOT"])
    _run([str(binaries / "mcopy"), "-i", str(partition), str(image), "::/EFI/BOOT/BOOTX64.EFI"])
    disk = place / "disk.raw"
    total = _FIRST + sectors + _FIRST
    with disk.open("wb") as file:
        file.truncate(total * _SECTOR)
        file.write(_protective_mbr(total))
        file.seek(_FIRST * _SECTOR)
        file.write(partition.read_bytes())
        _write_table(file.fileno(), total, (_FIRST, _FIRST + sectors - 1))
    return disk


def _protective_mbr(total: int) -> bytes:
    return (
        bytes(446)
        + struct.pack("<B3sB3sII", 0, b"\0\2\0", 0xEE, b"\xff\xff\xff", 1, total - 1)
        + bytes(48)
        + b"\x55\xaa"
    )


def _write_table(descriptor: int, total: int, ends: tuple[int, int]) -> None:
    import zlib

    name = "EFI".encode("utf-16-le").ljust(72, b"\0")
    entries = struct.pack("<16s16sQQQ72s", _ESP, b"seatrial-test-1!", *ends, 0, name).ljust(128 * 128, b"\0")
    for here, other, place in ((1, total - 1, 2), (total - 1, 1, total - 33)):

        def header(checksum: int, here: int = here, other: int = other, place: int = place) -> bytes:
            return struct.pack(
                "<8sIIIIQQQQ16sQIII", b"EFI PART", 0x10000, 92, checksum, 0, here, other, 34, total - 34,
                b"seatrial-test-0!", place, 128, 128, zlib.crc32(entries),
            )  # fmt: skip

        os.pwrite(descriptor, header(zlib.crc32(header(0))), here * _SECTOR)
        os.pwrite(descriptor, entries, place * _SECTOR)


def _up(number: int, step: int) -> int:
    return -(-number // step) * step


def _run(argv: list[str], cwd: Path | None = None) -> None:
    done = run(argv, deadline=Deadline(_FETCH_S), cwd=cwd)
    assert done.status == 0, f"{' '.join(argv)}: {done.complaint}"
