"""What a guest wrote to its disk, read from outside: from the overlays that QEMU wrote, whatever the guest says."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from seatrial.clock import Deadline
from seatrial.errors import HostError, ObservationError
from seatrial.evidence.disk.partitions import regions
from seatrial.evidence.disk.reading import Fault, Read
from seatrial.evidence.disk.writes import Change, changes, layers
from seatrial.machine.disk import Image
from seatrial.process import require_program, run

__all__ = ["disk_reader", "written_to"]

_READ_S: Final = 60.0
_PIECE: Final = 16 << 20


def written_to(image: Image, overlays: Sequence[int]) -> tuple[Change, ...]:
    """Return what became of each part of the disk of ``image``: partitions, their table, the rest.

    :param overlays: descriptors of the overlays on the image, the topmost first. QEMU has ended, or is paused and has
        flushed: what it holds back in memory is not seen.
    :raises ObservationError: an overlay or the partition table cannot be read.
    :raises HostError: the image cannot be read by qemu-img.
    """
    if image.parts:
        return ()  # a kernel without a disk
    with disk_reader(image) as base:
        try:
            return changes(layers([_reader(overlay) for overlay in overlays]), base, regions(base, image.disk_bytes))
        except Fault as exc:
            raise ObservationError(f"what the guest wrote to the disk cannot be told: it {exc.message}") from exc


def _reader(descriptor: int) -> Read:
    return lambda offset, length: os.pread(descriptor, length, offset)


@contextlib.contextmanager
def disk_reader(image: Image) -> Iterator[Read]:
    """Yield what reads the disk of ``image`` as the guest saw it at first; where there is no disk, it gives nothing.

    A disk in another format than raw is read through qemu-img, in pieces of 16 MiB of which the last is kept: what is
    read in order costs one start of qemu-img a piece.

    :raises HostError: qemu-img is missing or cannot read the image.
    """
    if image.format in ("raw", "vhd-fixed"):
        with image.disk.open("rb") as file:
            yield lambda offset, length: os.pread(file.fileno(), max(0, min(length, image.disk_bytes - offset)), offset)
        return
    qemu_img = require_program("qemu-img", why="read an image that is not raw")
    piece = os.memfd_create("seatrial-piece", os.MFD_CLOEXEC)
    kept = -1

    def read(offset: int, length: int) -> bytes:
        nonlocal kept
        found = b""
        end = min(offset + length, image.disk_bytes)
        while offset < end:
            number, inside = divmod(offset, _PIECE)
            if number != kept:
                kept = -1
                _copy_piece(qemu_img, image, number * _PIECE, min(_PIECE, image.disk_bytes - number * _PIECE), piece)
                kept = number
            part = os.pread(piece, min(end - offset, _PIECE - inside), inside)
            found, offset = found + part, offset + len(part)
        return found

    try:
        yield read
    finally:
        os.close(piece)


def _copy_piece(qemu_img: Path, image: Image, offset: int, length: int, target: int) -> None:
    os.ftruncate(target, 0)
    os.ftruncate(target, length)
    disk = {**image.driver, "file": {"driver": "file", "filename": str(image.disk.absolute())}}
    window = {"driver": "raw", "offset": offset, "size": length, "file": disk}
    # The image may be open in a QEMU that is paused: it is only ever read, so its lock is of no concern (-U).
    words: list[str | Path] = [
        qemu_img,
        "convert",
        "-U",
        "-n",
        "-O",
        "raw",
        f"json:{json.dumps(window)}",
        f"/proc/{os.getpid()}/fd/{target}",
    ]
    done = run(words, deadline=Deadline(_READ_S))
    if done.status != 0:
        raise HostError(f"qemu-img cannot read image {str(image.path)!r}: {done.complaint}")
