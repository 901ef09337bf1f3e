"""QEMU's command line, put together from groups. Pure: descriptors and paths in, argument list out."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from seatrial.machine.definition import Accelerator, Machine
from seatrial.machine.disk import Image
from seatrial.machine.firmware import Firmware
from seatrial.policy.differences import Difference, Kind

__all__ = ["Attached", "differences", "qemu_arguments"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Attached:
    """Descriptors that QEMU inherits: everything that has no name in the file system."""

    qmp_fd: int
    console_fd: int
    overlay_fd: int
    variables_fd: int | None
    seed_fd: int | None


def qemu_arguments(
    machine: Machine,
    image: Image,
    *,
    accelerator: Accelerator,
    firmware: Firmware | None,
    attached: Attached,
    smbios: tuple[str, ...],
) -> list[str]:
    """Return the argument list that boots ``image`` on ``machine``, paused (``-S``), without default devices."""
    return [
        machine.qemu,
        *("-name", "seatrial,debug-threads=on", "-S", "-nodefaults", "-no-user-config", "-display", "none"),
        # Denies QEMU what a guest that broke out would want; compatible with migration to a file.
        *("-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"),
        *_board(machine, accelerator, firmware, attached),
        *_channels(attached),
        *_disk(machine, image, attached),
        *_seed(attached),
        *_network(),
        *("-object", "rng-random,id=rng,filename=/dev/urandom", "-device", "virtio-rng-pci,rng=rng"),
        *(word for value in smbios for word in ("-smbios", f"type=11,value={value.replace(',', ',,')}")),
    ]


def differences(machine: Machine, accelerator: Accelerator) -> tuple[Difference, ...]:
    """Return how the virtual hardware differs from a machine that the image ships on."""
    cpu = machine.cpu.kvm if accelerator == "kvm" else machine.cpu.tcg
    told = {
        Kind.CPU: f"{machine.cpus} CPUs of model {cpu!r}",
        Kind.DEVICE: f"virtual hardware {machine.name!r}: {machine.memory_mib} MiB, disk on {machine.disk}",
        Kind.NETWORK: "QEMU user networking, cut off from everything but the forwarded SSH port",
        Kind.ACCELERATOR: accelerator,
    }
    return tuple(Difference(kind=kind, text=text) for kind, text in told.items())


def _board(machine: Machine, accelerator: Accelerator, firmware: Firmware | None, attached: Attached) -> list[str]:
    board = f"{machine.board},accel={accelerator}"
    pflash: list[str] = []
    if firmware is not None and attached.variables_fd is not None:
        board += ",pflash0=code,pflash1=variables"
        pflash = [
            *_blockdev(driver="file", filename=str(firmware.code), **{"node-name": "code", "read-only": True}),
            *_fd_set(attached.variables_fd, 1),
            *_blockdev(driver="file", filename="/dev/fdset/1", **{"node-name": "variables"}),
        ]
    cpu = machine.cpu.kvm if accelerator == "kvm" else machine.cpu.tcg
    return [*pflash, "-machine", board, "-cpu", cpu, "-smp", str(machine.cpus), "-m", f"{machine.memory_mib}M"]


def _channels(attached: Attached) -> list[str]:
    return [
        *("-chardev", f"socket,id=qmp,fd={attached.qmp_fd}", "-mon", "chardev=qmp,mode=control"),
        *("-chardev", f"socket,id=console,fd={attached.console_fd}", "-serial", "chardev:console"),
    ]


def _disk(machine: Machine, image: Image, attached: Attached) -> list[str]:
    bus = {"virtio-blk": [], "virtio-scsi": ["-device", "virtio-scsi-pci,id=scsi"]}[machine.disk]
    device = {"virtio-blk": "virtio-blk-pci", "virtio-scsi": "scsi-hd,bus=scsi.0"}[machine.disk]
    # A candidate's own header must not make QEMU open other files: backing is cut off here as well as refused before.
    alone = {"backing": None} if image.format == "qcow2" else {}
    base_file = {
        "driver": "file",
        "filename": str(Path(image.path).absolute()),
        "node-name": "base-file",
        "read-only": True,
    }
    return [
        *_blockdev(**base_file),
        *_blockdev(driver=image.format, file="base-file", **{"node-name": "base", "read-only": True, **alone}),
        *_fd_set(attached.overlay_fd, 2),
        *_blockdev(
            driver="file", filename="/dev/fdset/2", **{"node-name": "overlay-file", "cache": {"no-flush": True}}
        ),
        *_blockdev(driver="qcow2", file="overlay-file", backing="base", **{"node-name": "disk", "discard": "unmap"}),
        *bus,
        *("-device", f"{device},drive=disk,bootindex=0"),
    ]


def _seed(attached: Attached) -> list[str]:
    if attached.seed_fd is None:
        return []
    return [
        *_fd_set(attached.seed_fd, 3),
        *_blockdev(driver="file", filename="/dev/fdset/3", **{"node-name": "seed-file", "read-only": True}),
        *_blockdev(driver="raw", file="seed-file", **{"node-name": "seed", "read-only": True}),
        *("-device", "virtio-blk-pci,drive=seed"),
    ]


def _network() -> list[str]:
    return [
        # The guest reaches nothing; QEMU chooses the port itself, so two runs cannot collide.
        *("-netdev", "user,id=net,restrict=on,hostfwd=tcp:127.0.0.1:0-:22"),
        *("-device", "virtio-net-pci,netdev=net,romfile="),
    ]


def _fd_set(descriptor: int, number: int) -> list[str]:
    return ["-add-fd", f"fd={descriptor},set={number}"]


def _blockdev(**options: object) -> list[str]:
    return ["-blockdev", json.dumps(options)]
