"""A disk that is changed before it boots: a copy of the ready guest mounts it as a second disk, and lets it go."""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Iterator
from typing import Final

from seatrial.clock import Deadline
from seatrial.errors import ObservationError
from seatrial.guest.shell import Shell
from seatrial.machine.second_disk import plug_in
from seatrial.policy.differences import Difference, Kind
from seatrial.restore import Session

__all__ = ["PLACE", "SPARE_PORT", "mounted"]

PLACE: Final = "/run/seatrial-image"
SPARE_PORT: Final = (
    Difference(
        kind=Kind.DEVICE,
        text="an empty PCI Express port: where a copy of the guest gets a second disk, to change it before it boots",
    ),
)
_SEEN_S: Final = 60.0
_LOOK_S: Final = 0.5
_SHOWN: Final = 400
# What the guest has mounted of its own disk (an equally large one), from the same partitions of the second: a file
# system below a device mapper (verity) is mounted as it lies on the disk, and not to be written to.
_MOUNT: Final = """
ls /boot/ /boot/efi/ /efi/ >/dev/null 2>&1  # what is mounted only when somebody looks
mkdir -p "$R" || exit 1
while read -r _id _parent device root target _more; do
    [ "$root" = / ] || continue
    case "$target" in "$R"*|*\\\\*) continue ;; esac
    place=$(readlink -f "/sys/dev/block/$device") || continue
    below=$place how=
    if [ -d "$place/dm" ]; then how=ro; below=$(for s in "$place"/slaves/*; do readlink -f "$s"; done); fi
    for b in $below; do
        disk=$b number=
        [ ! -e "$b/partition" ] || { number=$(cat "$b/partition"); disk=${b%/*}; }
        [ "${disk##*/}" != "$N" ] && [ "$(cat "$disk/size")" = "$(cat "/sys/block/$N/size")" ] || continue
        part=/dev/$N
        [ -z "$number" ] || for p in "/sys/block/$N/$N"*; do
            [ "$(cat "$p/partition")" != "$number" ] || part=/dev/${p##*/}
        done
        for options in "${how:-rw}" "${how:-rw},nouuid"; do  # XFS refuses a second one of the same id
            mount -o "$options" "$part" "$R$target" 2>/dev/null && break 2
        done
    done
done < /proc/self/mountinfo
grep -q " $R " /proc/self/mountinfo
"""
_LET_GO: Final = """
sync
for t in $(awk -v r="$R" '$5 == r || index($5, r "/") == 1 { print $5 }' /proc/self/mountinfo | sort -r); do
    umount "$t" || exit 1
done
"""


@contextlib.contextmanager
def mounted(ready: Session, overlay: int) -> Iterator[tuple[Session, str]]:
    """Mount the disk ``overlay`` over the image at :data:`PLACE` in a copy of ``ready``; give the copy and its device.

    The copy ends with the block; the disk is then as the copy has left it, and can be booted. Neither the image nor
    ``ready`` is touched.

    :param overlay: descriptor of a qcow2 such as :func:`seatrial.machine.disk.nameless_overlay` makes.
    :raises HostError: the machine of ``ready`` was launched without a spare port.
    :raises ObservationError: the guest does not see the disk, or cannot mount it or let it go.
    """
    with ready.restored() as copy:
        before = _disks(copy.shell)
        plug_in(copy.boot, overlay)
        name = _new_disk(copy.shell, before)
        _do(copy.shell, f"R={PLACE} N={name}\n{_MOUNT}", "mount the image's disk a second time")
        yield copy, f"/dev/{name}"
        _do(copy.shell, f"R={PLACE}\n{_LET_GO}", "let the image's second disk go")


def _disks(shell: Shell) -> frozenset[str]:
    return frozenset(shell.run("ls /sys/block")[1].decode("utf-8", "backslashreplace").split())


def _new_disk(shell: Shell, before: frozenset[str]) -> str:
    deadline = Deadline(_SEEN_S)
    while not deadline.is_over:
        deadline.pause(_LOOK_S)  # its partitions are there a moment after it
        if new := _disks(shell) - before:
            return shlex.quote(min(new))
    raise ObservationError(
        f"the guest did not see a disk that was plugged in, within {_SEEN_S:.0f} s",
        hint="its kernel needs CONFIG_HOTPLUG_PCI_PCIE and a driver for virtio-blk",
    )


def _do(shell: Shell, script: str, what: str) -> None:
    status, _out, err = shell.run(script)
    if status != 0:
        said = err.decode("utf-8", "backslashreplace").strip()[-_SHOWN:]
        raise ObservationError(f"the guest could not {what}: exit status {status}, {said or 'nothing was said'}")
