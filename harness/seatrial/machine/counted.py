"""The counted clock: a guest whose time is the number of instructions it ran, and a host that cannot show through.

What each part is for was found by experiment; see ``suites/boot/README.md``.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import shutil
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from seatrial.clock import Deadline
from seatrial.errors import GuestStopped, HostError
from seatrial.machine.disk import Image
from seatrial.machine.qmp import Monitor
from seatrial.process import require_program, run

__all__ = [
    "MEMORY",
    "Counted",
    "copied_in_memory",
    "disk_in_memory",
    "in_memory",
    "is_prompt",
    "keep_in_step",
    "patient_wire",
    "virtual_s",
]

# A file system in memory that takes O_DIRECT: requests to it are done when they have been submitted.
MEMORY: Final = Path("/dev/shm")  # noqa: S108 -- the files there are nameless
_BASE: Final = "2026-01-01T00:00:00"
_BLOCK: Final = 4 * 1024 * 1024
_WIRE_BYTES: Final = 1024 * 1024
_DIRECT: Final = getattr(os, "O_DIRECT", 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Counted:
    """A counted clock: an instruction takes ``2 ** shift`` nanoseconds; ``seed`` gives the guest its random numbers."""

    shift: int = 1
    seed: int = 1

    def arguments(self) -> list[str]:
        """Return what makes QEMU count, and takes every other clock and all chance from the guest."""
        return [
            *("-icount", f"shift={self.shift},sleep=off"),
            *("-seed", str(self.seed)),
            *("-rtc", f"base={_BASE},clock=vm"),
        ]


def virtual_s(monitor: Monitor) -> float:
    """Return the guest's seconds since power-on, to the second, from its hardware clock.

    :raises GuestStopped: QEMU is gone.
    """
    told = monitor.execute("qom-get", path="/machine", property="rtc-time")
    clock = datetime(
        told["tm_year"] + 1900,
        told["tm_mon"] + 1,
        told["tm_mday"],
        told["tm_hour"],
        told["tm_min"],
        told["tm_sec"],
        tzinfo=UTC,
    )
    return (clock - datetime.fromisoformat(f"{_BASE}+00:00")).total_seconds()


def keep_in_step(monitor: Monitor, pid: int) -> str:
    """Put all threads of QEMU on one CPU, the virtual CPU's last in line; return in words what was done.

    A finished disk request reaches the guest through QEMU's main thread. Beside the virtual CPU it would come in
    whenever the host finds time, after more or fewer instructions; on the same CPU and before it, at once.

    :raises GuestStopped: QEMU ended.
    :raises HostError: this process has no CPU to give.
    """
    (virtual,) = (int(cpu["thread-id"]) for cpu in monitor.execute("query-cpus-fast"))
    cpu = max(os.sched_getaffinity(0))
    try:
        threads = [int(name) for name in os.listdir(f"/proc/{pid}/task")]  # noqa: PTH208 -- numbers, not paths
        for thread in threads:
            os.sched_setaffinity(thread, {cpu})
    except OSError as exc:
        raise GuestStopped(f"QEMU's threads cannot be put on CPU {cpu}: {exc.strerror}") from exc
    try:
        for thread in threads:
            if thread != virtual:
                os.sched_setscheduler(thread, os.SCHED_FIFO, os.sched_param(1))
    except OSError as exc:
        return f"on CPU {cpu}; real-time priority for QEMU's main thread was refused ({exc.strerror})"
    return f"on CPU {cpu}, QEMU's main thread first"


@contextlib.contextmanager
def disk_in_memory(image: Image) -> Iterator[int]:
    """Copy the image's disk into a nameless file in memory, sparse; yield a descriptor for QEMU.

    :raises HostError: there is no room for it in memory, or it cannot be copied.
    """
    with _nameless() as copy:
        os.ftruncate(copy, image.disk_bytes)
        if image.format == "raw":
            with image.disk.open("rb") as source:
                _copy_data(source.fileno(), copy, image.path)
        else:
            _convert(image, copy)
        with _for_qemu(copy, os.O_RDWR) as descriptor:
            yield descriptor


@contextlib.contextmanager
def copied_in_memory(disk: int) -> Iterator[int]:
    """Copy a disk that :func:`disk_in_memory` made, as it is now; yield a descriptor for QEMU.

    :raises HostError: there is no room for it in memory.
    """
    with _nameless() as copy, _reopened(disk, os.O_RDONLY) as source:
        os.ftruncate(copy, os.fstat(source).st_size)
        _copy_data(source, copy, Path("the disk of the boot before"))
        with _for_qemu(copy, os.O_RDWR) as descriptor:
            yield descriptor


@contextlib.contextmanager
def in_memory(content: bytes, *, writable: bool = False) -> Iterator[int]:
    """Yield a descriptor for QEMU of a nameless file in memory that holds ``content`` (a seed, firmware variables).

    :raises HostError: there is no room for it.
    """
    with _nameless() as copy:
        os.pwrite(copy, content.ljust(-(-len(content) // 4096) * 4096, b"\0"), 0)
        with _for_qemu(copy, os.O_RDWR if writable else os.O_RDONLY) as descriptor:
            yield descriptor


@contextlib.contextmanager
def patient_wire(sock: socket.socket) -> Iterator[int]:
    """Yield a descriptor for QEMU whose bytes go to ``sock``, and that never makes it wait.

    QEMU writes a serial port byte by byte. A socket is full after some 250 of them when its reader is late; the guest
    then polls its port, at the host's pace, and counts every poll. A pipe takes a million.
    """
    reading, writing = os.pipe()
    with contextlib.suppress(OSError):  # above the user's limit: the default holds 65,536 bytes
        fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, _WIRE_BYTES)
    ours = sock.dup()

    def carry() -> None:
        with contextlib.suppress(OSError):
            while data := os.read(reading, 65536):
                ours.sendall(data)

    thread = threading.Thread(target=carry, name="seatrial-wire", daemon=True)
    thread.start()
    try:
        yield writing
    finally:
        os.close(writing)  # QEMU is gone: the thread reads the end
        with contextlib.suppress(OSError):
            ours.shutdown(socket.SHUT_RDWR)
        thread.join()
        os.close(reading)
        ours.close()


@contextlib.contextmanager
def _nameless() -> Iterator[int]:
    try:
        descriptor = os.open(MEMORY, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
    except OSError as exc:
        raise HostError(
            f"the counted clock keeps its disk in {str(MEMORY)!r}, which cannot be written: {exc.strerror}",
            hint="it needs a tmpfs there, with room for the image's content",
        ) from exc
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _for_qemu(file: int, mode: int) -> Iterator[int]:
    # QEMU takes from a descriptor set only what was opened in just the mode that it wants, O_DIRECT included.
    try:
        with _reopened(file, mode | _DIRECT) as descriptor:
            yield descriptor
    except OSError as exc:
        raise HostError(
            f"{str(MEMORY)!r} does not take O_DIRECT: {exc.strerror}", hint="the counted clock needs Linux 6.6 or newer"
        ) from exc


@contextlib.contextmanager
def _reopened(file: int, mode: int) -> Iterator[int]:
    descriptor = os.open(f"/proc/self/fd/{file}", mode | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _copy_data(source: int, target: int, name: Path) -> None:
    """Copy what ``source`` holds, leaving its holes out."""
    size, position = os.fstat(source).st_size, 0
    room = shutil.disk_usage(MEMORY).free
    while position < size:
        try:
            start = os.lseek(source, position, os.SEEK_DATA)
        except OSError:  # ENXIO: nothing but a hole is left
            return
        end = os.lseek(source, start, os.SEEK_HOLE)
        for offset in range(start, end, _BLOCK):
            block = os.pread(source, min(_BLOCK, end - offset), offset)
            room -= len(block)
            if room < 0:
                raise HostError(
                    f"the content of {str(name)!r} does not fit into {str(MEMORY)!r}, where the counted clock needs it",
                    hint=f"make room there (df -h {MEMORY}), or enlarge it: mount -o remount,size=... {MEMORY}",
                )
            if block.strip(b"\0"):
                os.pwrite(target, block, offset)
        position = end


def _convert(image: Image, target: int) -> None:
    qemu_img = require_program("qemu-img", why="unpack the image into memory")
    path = f"/proc/{os.getpid()}/fd/{target}"
    source = json.dumps({**image.driver, "file": {"driver": "file", "filename": str(image.disk.absolute())}})
    done = run(
        [qemu_img, "convert", "-n", "--target-is-zero", "-O", "raw", f"json:{source}", path],
        deadline=Deadline(1800),
    )
    if done.status != 0:
        raise HostError(f"qemu-img cannot unpack {str(image.path)!r} into {str(MEMORY)!r}: {done.complaint}")


def is_prompt(line: str) -> bool:
    """Return whether a console line is getty's: the boot has come as far as a person can see."""
    return re.search(r"\blogin:\s*$", line) is not None
