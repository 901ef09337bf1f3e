"""The candidate's disk: recognised by content, hashed, and only ever read; writes go to an overlay without a name."""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
import struct
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from seatrial.clock import Deadline
from seatrial.errors import ConfigError, HostError
from seatrial.process import require_program, run

__all__ = ["Image", "blank_overlay", "nameless_copy", "nameless_overlay", "open_image", "sha256"]

_SECTOR: Final = 512
_COMPRESSED: Final = {
    b"\x1f\x8b": ("gzip", "gunzip -k"),
    b"\xfd7zXZ\x00": ("xz", "unxz -k"),
    b"BZh": ("bzip2", "bunzip2 -k"),
    b"\x28\xb5\x2f\xfd": ("zstd", "unzstd"),
}
_CONVERTIBLE: Final = {b"conectix": "vpc", b"vhdxfile": "vhdx", b"KDMV": "vmdk"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """A candidate: its file, format (a QEMU driver name) and the size in bytes of the disk that the guest sees."""

    path: Path
    format: str
    file_bytes: int
    disk_bytes: int


def open_image(path: Path) -> Image:
    """Return what ``path`` is, from its content alone.

    :raises ConfigError: it is missing, unreadable, no regular file, empty, no disk image, or one that would make
        QEMU open further files of the host.
    """
    head, tail, size = _ends(path)
    if head.startswith(b"QFI\xfb"):
        return Image(path=path, format="qcow2", file_bytes=size, disk_bytes=_qcow2_size(path, head))
    for magic, (name, command) in _COMPRESSED.items():
        if head.startswith(magic):
            raise ConfigError(
                f"image {str(path)!r} is compressed with {name}", hint=f"unpack it first: {command} {path}"
            )
    for magic, driver in _CONVERTIBLE.items():
        if head.startswith(magic) or tail.startswith(magic):
            raise ConfigError(
                f"image {str(path)!r} is in format {driver!r}, which Seatrial does not boot directly",
                hint=f"convert a copy: qemu-img convert -O qcow2 {path} {path.with_suffix('.qcow2')}",
            )
    if head[510:512] != b"\x55\xaa" and head[512:520] != b"EFI PART":
        raise ConfigError(
            f"image {str(path)!r} is not a disk image: neither a qcow2 header nor a partition table was found",
            hint=f"it begins with {head[:16].hex(' ')}; give a whole disk, no partition or archive",
        )
    return Image(path=path, format="raw", file_bytes=size, disk_bytes=-(-size // _SECTOR) * _SECTOR)


def _ends(path: Path) -> tuple[bytes, bytes, int]:
    try:
        # O_NONBLOCK: opening a FIFO must not wait for a writer.
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:  # noqa: PTH123 -- from a descriptor
            found = os.fstat(file.fileno())
            if not stat.S_ISREG(found.st_mode):
                kind = "a directory" if stat.S_ISDIR(found.st_mode) else "no regular file"
                raise ConfigError(f"image {str(path)!r} is {kind}", hint="give the path of a disk image file")
            if found.st_size == 0:
                raise ConfigError(
                    f"image {str(path)!r} is empty (0 bytes)", hint="did the build end early, or the disk run full?"
                )
            head = file.read(4096)
            file.seek(max(0, found.st_size - _SECTOR))
            return head, file.read(_SECTOR), found.st_size
    except FileNotFoundError:
        raise ConfigError(
            f"image {str(path)!r} does not exist", hint="check the path; 'seatrial image list' shows the demo images"
        ) from None
    except IsADirectoryError:
        raise ConfigError(f"image {str(path)!r} is a directory", hint="give the path of a disk image file") from None
    except OSError as exc:
        raise ConfigError(
            f"image {str(path)!r} cannot be read: {exc.strerror}", hint="check its owner and mode"
        ) from exc


def _qcow2_size(path: Path, head: bytes) -> int:
    """Return the virtual size from a qcow2 header (QEMU docs/interop/qcow2.txt), refusing references to other files."""
    if len(head) < 104:
        raise ConfigError(f"image {str(path)!r} is a qcow2 file cut off inside its header ({len(head)} bytes)")
    _magic, version, backing, _length, _bits, size = struct.unpack_from(">4sIQIIQ", head)
    if version not in (2, 3):
        raise ConfigError(f"image {str(path)!r} claims qcow2 version {version}; versions 2 and 3 exist")
    incompatible = struct.unpack_from(">Q", head, 72)[0] if version == 3 else 0
    other = "a backing file" if backing else "an external data file" if incompatible & 4 else ""
    if other:
        raise ConfigError(
            f"image {str(path)!r} refers to {other}; a candidate must stand alone, or it could read files of this host",
            hint=f"flatten a copy: qemu-img convert -O qcow2 {path} {path.with_suffix('.flat.qcow2')}",
        )
    return int(size)


def sha256(path: Path, *, progress: Callable[[float], None] = lambda _share: None) -> str:
    """Return the SHA-256 of ``path`` as hex; ``progress`` is given the share done, 0 to 1."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        size, done = max(1, os.fstat(file.fileno()).st_size), 0
        while block := file.read(8 * 1024 * 1024):
            digest.update(block)
            done += len(block)
            progress(done / size)
    return digest.hexdigest()


@contextlib.contextmanager
def nameless_overlay(disk_bytes: int, folder: Path) -> Iterator[int]:
    """Make an empty qcow2 of ``disk_bytes`` in ``folder``; yield a descriptor of it.

    The file's name is gone before QEMU starts, so no end of the run, SIGKILL included, can leave it behind.
    """
    with _made_overlay(disk_bytes, folder) as path:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def blank_overlay(disk_bytes: int, folder: Path) -> bytes:
    """Return the content of an empty qcow2 of ``disk_bytes``: many overlays need only one run of qemu-img."""
    with _made_overlay(disk_bytes, folder) as path:
        return path.read_bytes()


@contextlib.contextmanager
def _made_overlay(disk_bytes: int, folder: Path) -> Iterator[Path]:
    qemu_img = require_program("qemu-img", why="make the throw-away overlay")
    with tempfile.TemporaryDirectory(dir=folder, prefix=".overlay-") as place:
        path = Path(place, "overlay.qcow2")
        made = run([qemu_img, "create", "-q", "-f", "qcow2", path, str(disk_bytes)], deadline=Deadline(60))
        if made.status != 0:
            raise HostError(f"qemu-img cannot make an overlay in {str(folder)!r}: {made.complaint}")
        yield path


@contextlib.contextmanager
def nameless_copy(content: bytes, folder: Path, *, writable: bool) -> Iterator[int]:
    """Yield a descriptor of a nameless file that holds ``content`` (firmware variables, a seed)."""
    with tempfile.TemporaryFile(dir=folder) as file:
        file.write(content)
        file.flush()
        # QEMU takes from a descriptor set only what was opened in just the mode that it wants.
        mode = os.O_RDWR if writable else os.O_RDONLY
        descriptor = os.open(f"/proc/self/fd/{file.fileno()}", mode | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
