"""QEMU's command line, put together from groups. Pure: descriptors and paths in, argument list out."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from seatrial.machine.counted import Counted
from seatrial.machine.definition import Accelerator, Machine
from seatrial.machine.disk import Image
from seatrial.machine.firmware import Firmware
from seatrial.policy.differences import Difference, Kind

__all__ = ["LIFELINE", "Attached", "Memory", "differences", "qemu_arguments"]

# Where a guest finds the two streams of a lifeline: QEMU's own network, so it works without any route outwards.
LIFELINE = ("10.0.2.100", (2201, 2202))

# Linux AIO on a file in memory is done when it has been submitted.
_AT_ONCE = {"direct": True, "no-flush": True}
_ENTROPY = ("-object", "rng-random,id=rng,filename=/dev/urandom", "-device", "virtio-rng-pci,rng=rng")


@dataclass(frozen=True, slots=True)
class Memory:
    """The guest's memory as a file: shared, so that it can become a template, or private, a copy-on-write clone."""

    fd: int
    is_private: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Attached:
    """Descriptors that QEMU inherits: everything that has no name in the file system.

    A machine with ``memory`` or ``is_incoming`` can be frozen and is a clone; ``frozen_fd`` is the overlay below a
    clone's own, only ever read; ``lifeline_fds`` carry a shell that lives through a freeze. On a ``counted`` clock
    disk and seed lie in memory.
    """

    qmp_fd: int
    console_fd: int
    overlay_fd: int
    variables_fd: int | None
    seed_fd: int | None
    memory: Memory | None = None
    frozen_fd: int | None = None
    lifeline_fds: tuple[int, int] | None = None
    is_incoming: bool = False
    counted: Counted | None = None
    fw_cfg: tuple[tuple[str, int], ...] = ()

    @property
    def inherited(self) -> tuple[int, ...]:
        """Return every descriptor that QEMU must inherit."""
        entries = [fd for _name, fd in self.fw_cfg]
        memory = self.memory.fd if self.memory else None
        single = (self.qmp_fd, self.console_fd, self.overlay_fd, self.variables_fd, self.seed_fd, memory)
        return tuple(fd for fd in (*single, self.frozen_fd, *(self.lifeline_fds or ()), *entries) if fd is not None)


def qemu_arguments(
    machine: Machine,
    image: Image,
    *,
    accelerator: Accelerator,
    firmware: Firmware | None,
    attached: Attached,
    smbios: tuple[str, ...],
) -> list[str]:
    """Return the argument list that boots ``image`` on ``machine``, paused (``-S``), without default devices.

    On a counted clock every device does its work inside the guest's own instruction stream (no ``ioeventfd``, disks in
    memory), and there is no source of chance but the seeded processor.
    """
    counted = attached.counted
    return [
        machine.qemu,
        *("-name", "seatrial,debug-threads=on", "-S", "-nodefaults", "-no-user-config", "-display", "none"),
        *("-action", "panic=pause"),  # a guest that panicked stays for the screenshot
        # Denies QEMU what a guest that broke out would want; compatible with migration to a file.
        *("-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"),
        *_board(machine, accelerator, firmware, attached),
        *_channels(attached),
        *(_memory_disk(machine, attached) if counted else _disk(machine, image, attached)),
        *_seed(attached),
        *_network(attached),
        *_snapshot(machine, attached),
        *(counted.arguments() if counted else _ENTROPY),
        # QEMU reads the whole file at its start, by a name of its own descriptor.
        *(word for name, fd in attached.fw_cfg for word in ("-fw_cfg", f"name={name},file=/proc/self/fd/{fd}")),
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
    at_once: dict[str, object] = {"cache": _AT_ONCE, "aio": "native"} if attached.counted else {}
    if firmware is not None and attached.variables_fd is not None:
        board += ",pflash0=code,pflash1=variables"
        pflash = [
            *_blockdev(driver="file", filename=str(firmware.code), **{"node-name": "code", "read-only": True}),
            *_fd_set(attached.variables_fd, 1),
            *_blockdev(driver="file", filename="/dev/fdset/1", **{"node-name": "variables"}, **at_once),
        ]
    cpu = machine.cpu.kvm if accelerator == "kvm" else machine.cpu.tcg
    if attached.memory is not None:
        board += ",memory-backend=ram"
    return [*pflash, "-machine", board, "-cpu", cpu, "-smp", str(machine.cpus), "-m", f"{machine.memory_mib}M"]


def _channels(attached: Attached) -> list[str]:
    console = ["-chardev", f"socket,id=console,fd={attached.console_fd}"]
    if attached.counted:
        console = [*_fd_set(attached.console_fd, 9), "-chardev", "file,id=console,path=/dev/fdset/9,append=on"]
    return [
        *("-chardev", f"socket,id=qmp,fd={attached.qmp_fd}", "-mon", "chardev=qmp,mode=control"),
        *(*console, "-serial", "chardev:console"),
    ]


def _snapshot(machine: Machine, attached: Attached) -> list[str]:
    memory: list[str] = []
    if attached.memory is not None:
        options = {
            "qom-type": "memory-backend-file",
            "id": "ram",
            "size": machine.memory_mib << 20,
            "mem-path": f"/proc/self/fd/{attached.memory.fd}",
            "share": not attached.memory.is_private,
        }
        # A clone's generation id is another one: the kernel then takes fresh randomness at once (vmgenid, Linux 5.18).
        memory = ["-object", json.dumps(options), "-device", "vmgenid,guid=auto"]
    return [*memory, *(["-incoming", "defer"] if attached.is_incoming else [])]


def _disk(machine: Machine, image: Image, attached: Attached) -> list[str]:
    bus = {"virtio-blk": [], "virtio-scsi": ["-device", "virtio-scsi-pci,id=scsi"]}[machine.disk]
    device = {"virtio-blk": "virtio-blk-pci", "virtio-scsi": "scsi-hd,bus=scsi.0"}[machine.disk]
    return [
        *_base(image, str(Path(image.disk).absolute())),
        *_frozen(attached),
        *_fd_set(attached.overlay_fd, 2),
        *_blockdev(
            driver="file", filename="/dev/fdset/2", **{"node-name": "overlay-file", "cache": {"no-flush": True}}
        ),
        *_blockdev(
            driver="qcow2",
            file="overlay-file",
            backing="base" if attached.frozen_fd is None else "frozen",
            **{"node-name": "disk", "discard": "unmap"},
        ),
        *bus,
        *("-device", f"{device},drive=disk,bootindex=0"),
    ]


def _base(image: Image, filename: str) -> list[str]:
    """Return the read-only node ``base`` on the file ``filename``, by the driver that ``image`` says and no other."""
    named = {"node-name": "base", "read-only": True}
    file = {"driver": "file", "filename": filename, "read-only": True}
    if "force_size_calc" in image.driver:
        # -blockdev does not know this option of the vpc driver (it is not in QAPI); -drive does.
        words = json.dumps({**image.driver, **named, "file": file}).replace(",", ",,")
        return ["-drive", f"if=none,id=base-drive,readonly=on,file=json:{words}"]
    return [*_blockdev(**file, **{"node-name": "base-file"}), *_blockdev(**image.driver, file="base-file", **named)]


def _frozen(attached: Attached) -> list[str]:
    if attached.frozen_fd is None:
        return []
    return [
        *_fd_set(attached.frozen_fd, 4),
        *_blockdev(driver="file", filename="/dev/fdset/4", **{"node-name": "frozen-file", "read-only": True}),
        *_blockdev(driver="qcow2", file="frozen-file", backing="base", **{"node-name": "frozen", "read-only": True}),
    ]


def _memory_disk(machine: Machine, attached: Attached) -> list[str]:
    disk = "discard=off,write-zeroes=off"  # QEMU would do these in a thread, whenever the host finds time
    device = {
        "virtio-blk": ["-device", f"virtio-blk-pci,drive=disk,bootindex=0,ioeventfd=off,{disk}"],
        "virtio-scsi": [
            *("-device", "virtio-scsi-pci,id=scsi,ioeventfd=off"),
            *("-device", "scsi-hd,bus=scsi.0,drive=disk,bootindex=0"),
        ],
    }[machine.disk]
    options = {"node-name": "disk-file", "cache": _AT_ONCE, "aio": "native", "discard": "ignore"}
    return [
        *_fd_set(attached.overlay_fd, 2),
        *_blockdev(driver="file", filename="/dev/fdset/2", **options),
        *_blockdev(driver="raw", file="disk-file", **{"node-name": "disk"}),
        *device,
    ]


def _seed(attached: Attached) -> list[str]:
    if attached.seed_fd is None:
        return []
    options: dict[str, object] = {"node-name": "seed-file", "read-only": True}
    if attached.counted:
        options |= {"cache": _AT_ONCE, "aio": "native"}
    return [
        *_fd_set(attached.seed_fd, 3),
        *_blockdev(driver="file", filename="/dev/fdset/3", **options),
        *_blockdev(driver="raw", file="seed-file", **{"node-name": "seed", "read-only": True}),
        *("-device", "virtio-blk-pci,drive=seed" + (",ioeventfd=off" if attached.counted else "")),
    ]


def _network(attached: Attached) -> list[str]:
    lifeline: list[str] = []
    forwarded = ""
    address, ports = LIFELINE
    for port, descriptor in zip(ports, attached.lifeline_fds or (), strict=False):
        lifeline += ["-chardev", f"socket,id=lifeline{port},fd={descriptor}"]
        forwarded += f",guestfwd=tcp:{address}:{port}-chardev:lifeline{port}"
    return [
        *lifeline,
        # The guest reaches nothing else; QEMU chooses the port itself, so two runs cannot collide.
        *("-netdev", f"user,id=net,restrict=on,hostfwd=tcp:127.0.0.1:0-:22{forwarded}"),
        *("-device", "virtio-net-pci,netdev=net,romfile=" + (",ioeventfd=off,tx=timer" if attached.counted else "")),
    ]


def _fd_set(descriptor: int, number: int) -> list[str]:
    return ["-add-fd", f"fd={descriptor},set={number}"]


def _blockdev(**options: object) -> list[str]:
    return ["-blockdev", json.dumps(options)]
