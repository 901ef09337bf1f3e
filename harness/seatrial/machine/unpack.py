"""Compressed candidates, unpacked once: into a cache whose files are named by digest, appear whole, and are bounded."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from seatrial.clock import Deadline, utc_now
from seatrial.errors import ConfigError, HostError
from seatrial.evidence.disk.formats import Packing
from seatrial.machine.digest import sha256
from seatrial.machine.streams import plain_pieces
from seatrial.progress import Progress

__all__ = ["MOST_KEPT", "unpacked"]

# So many unpacked images are kept, those used last; "used within the last hour" counts as in use.
MOST_KEPT: Final = 4
_IN_USE_S: Final = 3600.0
# A file system that is full breaks more than this run.
_SPARE_BYTES: Final = 512 << 20
_MOST_BYTES: Final = 256 << 30
_WAIT_S: Final = 3600.0
_HOLE: Final = 64 << 10
_LOOK_EVERY: Final = 64 << 20


def unpacked(path: Path, packing: Packing, digest: str, cache: Path, progress: Progress) -> Path:
    """Return the read-only file that holds what ``path`` does, decompressed; made now, or by an earlier run.

    :param digest: SHA-256 of ``path``, by which the cache knows it.
    :param cache: the folder to keep it in.
    :raises ConfigError: ``path`` is damaged, cut off, expands without end, or changes while it is read.
    :raises HostError: there is no space, or another run holds the cache for an hour.
    """
    with _held(cache, progress):
        kept = _kept(cache, digest, progress)
        if kept is None:
            _make_room(cache)
            progress.phase(f"unpacking {path.name} ({packing}) into {cache}")
            try:
                kept = _unpack(path, packing, digest, cache, progress)
            except ConfigError as exc:
                raise ConfigError(f"image {str(path)!r} {exc.message}", hint=exc.hint) from exc
        os.utime(kept)
        return kept


@contextlib.contextmanager
def _held(cache: Path, progress: Progress) -> Iterator[None]:
    deadline = Deadline(_WAIT_S)
    with (cache / "lock").open("wb") as lock:
        told = False
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if deadline.is_over:
                    raise HostError(f"another run has been unpacking into {str(cache)!r} for an hour") from None
                if not told:
                    progress.phase("another run unpacks an image: waiting for it")
                    told = True
                deadline.pause(0.2)
        yield


def _kept(cache: Path, digest: str, progress: Progress) -> Path | None:
    """Return what an earlier run made, if it still is what that run made."""
    for path in cache.glob(f"{digest}-*.disk"):
        progress.phase(f"checking the unpacked copy in {cache}")
        if sha256(path, progress=lambda share: progress.detail(f"{share:.0%}")) == path.stem.partition("-")[2]:
            return path
        progress.note(f"the unpacked copy {path} was changed by somebody: it is made anew")
        path.unlink()
    return None


def _make_room(cache: Path) -> None:
    """Remove what a killed run left, and the oldest files beyond what is kept, but none that may be in use."""
    for left in cache.glob(".unpacking-*"):
        left.unlink()
    files = sorted(cache.glob("*.disk"), key=lambda path: path.stat().st_mtime, reverse=True)
    now = utc_now().timestamp()
    for path in files[MOST_KEPT - 1 :]:
        if now - path.stat().st_mtime > _IN_USE_S:
            path.unlink()


def _unpack(path: Path, packing: Packing, digest: str, cache: Path, progress: Progress) -> Path:
    packed, plain = hashlib.sha256(), hashlib.sha256()
    with path.open("rb") as source, _new_file(cache) as (target, name):
        size = max(1, os.fstat(source.fileno()).st_size)
        written = looked = 0
        for piece in plain_pieces(source, packing, packed.update):
            plain.update(piece)
            _write_sparse(target, piece, written)
            written += len(piece)
            if written - looked >= _LOOK_EVERY:
                looked = written
                progress.detail(f"{source.tell() / size:.0%}, {written >> 20} MiB unpacked")
                _check_bounds(written, cache)
        if written == 0:
            raise ConfigError("is empty when unpacked", hint="did the build end early?")
        os.ftruncate(target, written)
        if packed.hexdigest() != digest:
            raise ConfigError("changed while it was unpacked", hint="judge a copy that nobody writes to")
        os.fchmod(target, 0o444)
        os.fsync(target)
        result = cache / f"{digest}-{plain.hexdigest()}.disk"
        # A directory descriptor makes Python call linkat, which can follow the link below /proc.
        os.link(name, result, src_dir_fd=target)
    return result


def _check_bounds(written: int, cache: Path) -> None:
    if written > _MOST_BYTES:
        raise ConfigError(
            f"expands to more than {_MOST_BYTES >> 30} GiB, the most that is unpacked",
            hint="unpack it yourself and give the disk, if that is its real size",
        )
    free = shutil.disk_usage(cache).free
    if free < _SPARE_BYTES:
        raise HostError(
            f"no space to unpack the image: {free >> 20} MiB are left in {str(cache)!r} after {written >> 20} MiB",
            hint="free some space, or set SEATRIAL_CACHE to a folder that has it",
        )


def _write_sparse(target: int, piece: bytes, offset: int) -> None:
    """Write ``piece`` at ``offset`` but for its zeroes, which stay holes."""
    view = memoryview(piece)
    try:
        for start in range(0, len(piece), _HOLE):
            block = view[start : start + _HOLE]
            if bytes(block).count(0) != len(block):
                _write_all(target, block, offset + start)
    except OSError as exc:
        raise HostError(
            f"the image cannot be unpacked: {exc.strerror} after {offset >> 20} MiB",
            hint="free some space, or set SEATRIAL_CACHE to a folder that has it",
        ) from exc


def _write_all(target: int, block: memoryview, offset: int) -> None:
    while block:
        done = os.pwrite(target, block, offset)
        block, offset = block[done:], offset + done


@contextlib.contextmanager
def _new_file(cache: Path) -> Iterator[tuple[int, str]]:
    """Yield a descriptor of a new file and the name to link it by; without a link, nothing is left at the end."""
    try:
        descriptor = os.open(cache, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
        name = None
    except OSError:  # not every file system has files without a name
        descriptor, name = tempfile.mkstemp(dir=cache, prefix=".unpacking-")
    try:
        yield descriptor, name or f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)
        if name is not None:
            Path(name).unlink()
