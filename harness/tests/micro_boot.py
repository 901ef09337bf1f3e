"""Boots the micro guest as a candidate: the same session as any other image, there after some seconds."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import seatrial.machine.boot
from micro import micro_guest, reachable
from seatrial.machine.arguments import qemu_arguments
from seatrial.options import resolve
from seatrial.progress import Silent
from seatrial.session import Candidate, Session, booted, examine

__all__ = ["micro_session"]

DISK_BYTES = 4 << 20


@contextlib.contextmanager
def micro_session(folder: Path, *, is_cloneable: bool = True, words: str = "", **machine: Any) -> Iterator[Session]:
    """Give a ready micro guest with an empty disk; ``words`` go to its command line, ``machine`` changes hardware."""
    guest = micro_guest()
    disk = folder / "disk.raw"
    disk.write_bytes(b"\0" * 510 + b"\x55\xaa" + b"\0" * (DISK_BYTES - 512))
    candidate = _candidate(disk, machine)
    append = f"console=ttyS0 quiet panic=-1 rdinit=/init {words}"

    def with_kernel(*args: Any, **named: Any) -> list[str]:
        direct = ["-kernel", str(kernel), "-initrd", str(initrd), "-append", append]
        return [*qemu_arguments(*args, **named), *direct]

    run = folder / "run"
    run.mkdir()
    with (
        reachable(guest.kernel, guest.initrd) as (kernel, initrd),
        patch.object(seatrial.machine.boot, "qemu_arguments", with_kernel),
        booted(candidate, run, run="micro", progress=Silent(), is_cloneable=is_cloneable) as session,
    ):
        yield session


def _candidate(disk: Path, machine: dict[str, Any]) -> Candidate:
    flags = {"seatrial_image": str(disk), "seatrial_flavour": "debian-immutable", "seatrial_accel": "tcg"}
    candidate = examine(resolve(flags.get, lambda _key: None, {}))
    hardware = {"firmware": "bios", "memory_mib": 384, "cpus": 1, **machine}
    return dataclasses.replace(candidate, firmware=None, machine=candidate.machine.model_copy(update=hardware))
