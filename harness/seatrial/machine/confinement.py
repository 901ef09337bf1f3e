"""What QEMU and swtpm may do to this host when a guest breaks out of them: as little as can be.

Beside ``-sandbox`` (system calls) both run as an unprivileged user where we are root, without core dumps, and with a
bound on the size of a file, so that a guest cannot fill the host's disk.
"""

from __future__ import annotations

import os
import pwd
import shutil
import stat
from pathlib import Path

from seatrial.clock import Deadline
from seatrial.errors import HostError
from seatrial.process import Confinement, bound, run

__all__ = ["confinement", "largest_file"]

_KVM = Path("/dev/kvm")
_RESERVE = 2**30
_SPARE = 128 * 2**20
_PROBE_S = 20.0


def confinement(*, disk_bytes: int, memory_bytes: int, folder: Path, opens_kvm: bool) -> Confinement:
    """Return what QEMU is confined to for a disk of ``disk_bytes`` whose overlay lies in ``folder``.

    :param opens_kvm: QEMU opens ``/dev/kvm`` itself; when no other user can, it stays root.
    """
    size = largest_file(disk_bytes, memory_bytes, free=shutil.disk_usage(folder).free)
    groups: tuple[int, ...] = ()
    if opens_kvm:
        allowed = _kvm_groups()
        if allowed is None:
            return Confinement(file_bytes=size)
        groups = allowed
    return Confinement(file_bytes=size, user=_unprivileged_user(), groups=groups)


def largest_file(disk_bytes: int, memory_bytes: int, *, free: int) -> int:
    """Return how large a file QEMU may write, in bytes.

    An overlay grows to the size of the guest's disk and its tables, and no further than what leaves 1 GiB of the
    ``free`` bytes (a quarter, when they are few). A frozen guest's memory is a file as well and must fit always.
    """
    overlay = disk_bytes + disk_bytes // 32 + _SPARE
    bounded = min(overlay, free - min(_RESERVE, free // 4))
    return max(bounded, memory_bytes + memory_bytes // 16 + _SPARE)


def _unprivileged_user() -> tuple[int, int] | None:
    if os.geteuid() != 0:
        return None
    try:
        nobody = pwd.getpwnam("nobody")
    except KeyError:
        return None
    ids = (nobody.pw_uid, nobody.pw_gid)
    try:
        # In a container, ids may be missing or the privilege to change them: only trying tells.
        tried = run([*bound(Confinement(file_bytes=_SPARE, user=ids)), "true"], deadline=Deadline(_PROBE_S))
    except HostError:
        return None
    return ids if tried.status == 0 else None


def _kvm_groups() -> tuple[int, ...] | None:
    """Return the groups by which any user may open ``/dev/kvm``; None when there is no such group."""
    try:
        found = _KVM.stat()
    except OSError:
        return None
    both = stat.S_IROTH | stat.S_IWOTH
    if found.st_mode & both == both:
        return ()
    both = stat.S_IRGRP | stat.S_IWGRP
    return (found.st_gid,) if found.st_mode & both == both and found.st_gid != 0 else None
