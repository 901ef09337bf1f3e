"""A second disk for a machine that runs: another overlay over the image, plugged in while the guest looks on."""

from __future__ import annotations

from typing import Final

from seatrial.machine.arguments import SPARE_PORT
from seatrial.machine.boot import Boot

__all__ = ["plug_in"]

_FILE: Final = "second-file"
_NODE: Final = "second"


def plug_in(boot: Boot, overlay: int) -> None:
    """Plug the disk ``overlay`` into the spare port of ``boot``; it stays there until QEMU ends.

    :param overlay: descriptor of a qcow2 such as :func:`seatrial.machine.disk.nameless_overlay` makes.
    :raises HostError: QEMU refused it; a machine that was launched without a spare port does.
    :raises GuestStopped: QEMU is gone.
    """
    monitor = boot.monitor
    number = monitor.hand_over(overlay, "add-fd")["fdset-id"]
    file = {"node-name": _FILE, "driver": "file", "filename": f"/dev/fdset/{number}", "cache": {"no-flush": True}}
    monitor.execute("blockdev-add", **file)
    monitor.execute("blockdev-add", **{"node-name": _NODE, "driver": "qcow2", "file": _FILE, "backing": "base"})
    monitor.execute("device_add", driver="virtio-blk-pci", drive=_NODE, bus=SPARE_PORT)
