"""A boot of the image from a disk that was changed before, in a copy of the ready guest that has it as a second one."""

from __future__ import annotations

import contextlib
import functools
import shlex
from collections.abc import Callable, Iterator
from typing import Final

from seatrial.errors import ObservationError, SeatrialError
from seatrial.guest.shell import Shell
from seatrial.machine.disk import nameless_duplicate, nameless_overlay
from seatrial.restore import Origin, Session
from seatrial.workshop import PLACE, mounted

__all__ = ["booted_from", "changed_disk"]

_CHANGE_S: Final = 300.0
_SHOWN: Final = 400


@contextlib.contextmanager
def changed_disk(ready: Session, change: Callable[[Shell, str], object], *, first: int | None = None) -> Iterator[int]:
    """Give a descriptor of an overlay over the image that ``change`` has changed, for the life of the block.

    :param change: called with the root shell of a copy of ``ready`` that has the disk mounted at
        :data:`seatrial.workshop.PLACE`, and with the name of the disk.
    :param first: an overlay to begin with, which stays as it is; None for the image itself.
    :raises ObservationError: the disk could not be changed; that says nothing about the image.
    """
    launch = ready.boot.launch
    empty = nameless_overlay(launch.image.disk_bytes, launch.folder)
    with empty if first is None else nameless_duplicate(first, launch.folder) as disk:
        try:
            with mounted(ready, disk) as (workshop, device):
                change(workshop.shell, device)
        except SeatrialError as exc:
            raise ObservationError(
                f"the disk could not be changed before it boots: {exc.message}", hint=exc.hint, evidence=exc.evidence
            ) from exc
        yield disk


@contextlib.contextmanager
def booted_from(session: Session, change: str) -> Iterator[Session]:
    """Boot the image of ``session`` from a disk that the shell command ``change`` has changed before; give that guest.

    :param change: run as root; ``$R`` is the root of the disk, ``$DISK`` the disk.
    :raises ObservationError: the disk could not be changed; that says nothing about the image.
    :raises SeatrialError: the image did not come up from it.
    """
    origin = session.origin or Origin(ready=session, disk=None, boot=lambda disk: session.cold_boot(disk=disk))
    with (
        changed_disk(origin.ready, functools.partial(_change, change), first=origin.disk) as disk,
        origin.boot(disk) as booted,
    ):
        yield booted


def _change(change: str, shell: Shell, device: str) -> None:
    script = f"export R={PLACE} DISK={device}; cd / && sh -c {shlex.quote(change)}"
    status, out, err = shell.run(script, timeout_s=_CHANGE_S)
    if status != 0:
        said = (err or out).decode("utf-8", "backslashreplace").strip()[-_SHOWN:]
        raise ObservationError(f"exit status {status}, {said or 'nothing was said'}")
