"""The candidate's disk: recognised by content, hashed, and only ever read; writes go to an overlay without a name."""

from __future__ import annotations

import contextlib
import os
import shlex
import stat
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from seatrial.clock import Deadline
from seatrial.errors import ConfigError, HostError
from seatrial.evidence.disk.formats import Disk, Format, Packed, Packing, recognise
from seatrial.evidence.disk.reading import Fault
from seatrial.machine.digest import sha256
from seatrial.machine.unpack import unpacked
from seatrial.process import require_program, run
from seatrial.progress import Progress

__all__ = [
    "Image",
    "blank_overlay",
    "nameless_copy",
    "nameless_duplicate",
    "nameless_overlay",
    "open_image",
    "ready",
    "sha256",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """A candidate: its file, format, and the size in bytes of the disk that the guest sees.

    ``path`` is the file that was handed in, whose digest counts. ``unpacked`` is the plain copy of a compressed one,
    and ``digest`` the SHA-256 of ``path`` that was taken when it was unpacked. ``parts`` are the files of a candidate
    that has no disk: a kernel and its initrd.
    """

    path: Path
    format: Format
    file_bytes: int
    disk_bytes: int
    force_size: bool = False
    packing: Packing | None = None
    unpacked: Path | None = None
    digest: str | None = None
    parts: tuple[Path, ...] = ()

    @property
    def disk(self) -> Path:
        """Return the file that QEMU reads."""
        return self.unpacked or self.path

    @property
    def title(self) -> str:
        """Return the format in words, such as ``qcow2 in zstd``."""
        if self.parts:
            return "kernel"
        return f"{self.format} in {self.packing}" if self.packing else self.format

    @property
    def driver(self) -> Mapping[str, object]:
        """Return the options of QEMU's block driver; the format is never left to QEMU to find out.

        A candidate's own header must not make QEMU open other files: backing is cut off here as well as refused before.
        """
        if self.format == "vhd-fixed":
            # QEMU's driver would take the rounded geometry for the size; the file is the disk and a footer behind it.
            return {"driver": "raw", "offset": 0, "size": self.disk_bytes}
        if self.format == "vhd":
            return {"driver": "vpc", **({"force_size_calc": "current_size"} if self.force_size else {})}
        if self.format in ("qcow2", "vmdk"):
            return {"driver": self.format, "backing": None}
        return {"driver": self.format}


def open_image(path: Path) -> Image:
    """Return what ``path`` is, from its content alone. A compressed image still has to be unpacked: see :func:`ready`.

    :raises ConfigError: it is missing, unreadable, no regular file, empty, no disk image, damaged, or one that would
        make QEMU open further files of the host.
    """
    with _opened(path) as file:
        size = os.fstat(file).st_size
        found = _recognised(path, file, size)
    if isinstance(found, Packed):
        # What it holds is known when it has been unpacked.
        return Image(path=path, format="raw", file_bytes=size, disk_bytes=0, packing=found.packing)
    return Image(
        path=path, format=found.format, file_bytes=size, disk_bytes=found.disk_bytes, force_size=found.force_size
    )


def ready(image: Image, cache: Path, progress: Progress) -> Image:
    """Return ``image`` as QEMU can read it: a compressed one is unpacked into the folder ``cache``, once.

    :raises ConfigError: it is damaged, or what is in it is no disk image.
    :raises HostError: there is no space for it.
    """
    if image.packing is None:
        return image
    progress.phase(f"taking the digest of {image.path.name}")
    digest = sha256(image.path, progress=lambda share: progress.detail(f"{share:.0%}"))
    plain = unpacked(image.path, image.packing, digest, cache, progress)
    with _opened(plain) as file:
        size = os.fstat(file).st_size
        found = _recognised(image.path, file, size)
    if isinstance(found, Packed):
        raise ConfigError(
            f"image {str(image.path)!r} is compressed twice: {found.packing} in {image.packing}",
            hint="unpack the outer one first",
        )
    return replace(
        image,
        format=found.format,
        disk_bytes=found.disk_bytes,
        force_size=found.force_size,
        unpacked=plain,
        digest=digest,
    )


def _recognised(path: Path, file: int, size: int) -> Disk | Packed:
    try:
        return recognise(lambda offset, length: os.pread(file, length, offset), size)
    except Fault as exc:
        raise ConfigError(
            f"image {str(path)!r} {exc.message}", hint=exc.hint.replace("IMAGE", shlex.quote(str(path)))
        ) from exc


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[int]:
    """Yield a descriptor of the regular, not empty file ``path``, opened to be read."""
    try:
        # O_NONBLOCK: opening a FIFO must not wait for a writer.
        file = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise ConfigError(
            f"image {str(path)!r} does not exist", hint="check the path; 'seatrial image list' shows the demo images"
        ) from None
    except OSError as exc:
        raise ConfigError(
            f"image {str(path)!r} cannot be read: {exc.strerror}", hint="check its owner and mode"
        ) from exc
    try:
        found = os.fstat(file)
        if not stat.S_ISREG(found.st_mode):
            kind = "a directory" if stat.S_ISDIR(found.st_mode) else "no regular file"
            raise ConfigError(f"image {str(path)!r} is {kind}", hint="give the path of a disk image file")
        if found.st_size == 0:
            raise ConfigError(
                f"image {str(path)!r} is empty (0 bytes)", hint="did the build end early, or the disk run full?"
            )
        yield file
    finally:
        os.close(file)


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
def nameless_duplicate(overlay: int, folder: Path) -> Iterator[int]:
    """Copy an overlay that :func:`nameless_overlay` made, as it is now; yield a descriptor of the copy."""
    with tempfile.TemporaryFile(dir=folder) as file:
        offset = 0
        while block := os.pread(overlay, 8 * 1024 * 1024, offset):
            file.write(block)
            offset += len(block)
        file.flush()
        descriptor = os.open(f"/proc/self/fd/{file.fileno()}", os.O_RDWR | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


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
