"""QEMU's command line, put together from groups. Pure: descriptors and definitions in, argument list out.

Files reach QEMU as descriptors that it inherits (``-add-fd``), so that it may run as a user who can open none of them.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from dataclasses import dataclass

from seatrial.machine.counted import Counted
from seatrial.machine.definition import Accelerator, Machine
from seatrial.machine.disk import Image
from seatrial.machine.firmware import Firmware
from seatrial.policy.differences import Difference, Kind, Touched

__all__ = [
    "LIFELINE",
    "SPARE_PORT",
    "Attached",
    "Memory",
    "devices_in",
    "differences",
    "kernel_arguments",
    "qemu_arguments",
]

_VARIABLES, _OVERLAY, _SEED, _FROZEN, _BASE, _CODE, _KVM = range(1, 8)
# Where a guest finds the two streams of a lifeline: QEMU's own network, so it works without any route outwards.
LIFELINE = ("10.0.2.100", (2201, 2202))

# Where a device can be plugged in while the guest runs.
SPARE_PORT = "spare"

# Linux AIO on a file in memory is done when it has been submitted.
_AT_ONCE = {"direct": True, "no-flush": True}
# What QEMU cannot do at once (firmware reads the disk into memory that O_DIRECT does not take) a worker thread does.
# The one that QEMU starts with stays, and can be given its place before the guest runs.
_ONE_WORKER = ("-object", "main-loop,id=main-loop,thread-pool-min=1,thread-pool-max=1")
_ENTROPY = ("-object", "rng-random,id=rng,filename=/dev/urandom", "-device", "virtio-rng-pci,rng=rng")


@dataclass(frozen=True, slots=True)
class Memory:
    """The guest's memory as a file: shared, so that it can become a template, or private, a copy-on-write clone."""

    fd: int
    is_private: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Attached:
    """Descriptors that QEMU inherits: everything that it reads or writes of this host.

    A machine with ``memory`` or ``is_incoming`` can be frozen and is a clone; ``frozen_fd`` is the overlay below a
    clone's own, only ever read; ``lifeline_fds`` carry a shell that lives through a freeze. On a ``counted`` clock
    disk and seed lie in memory.
    """

    qmp_fd: int
    console_fd: int
    overlay_fd: int
    base_fd: int
    kernel_fd: int | None = None
    initrd_fd: int | None = None
    code_fd: int | None = None
    variables_fd: int | None = None
    seed_fd: int | None = None
    tpm_fd: int | None = None
    kvm_fd: int | None = None
    memory: Memory | None = None
    frozen_fd: int | None = None
    lifeline_fds: tuple[int, int] | None = None
    is_incoming: bool = False
    has_spare_port: bool = False
    counted: Counted | None = None
    fw_cfg: tuple[tuple[str, int], ...] = ()

    @property
    def inherited(self) -> tuple[int, ...]:
        """Return every descriptor that QEMU must inherit."""
        named = (getattr(self, field.name) for field in dataclasses.fields(self) if field.name.endswith("_fd"))
        entries = [fd for _name, fd in self.fw_cfg]
        memory = self.memory.fd if self.memory else None
        return tuple(fd for fd in (*named, memory, *(self.lifeline_fds or ()), *entries) if fd is not None)


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
        *_board(machine, accelerator, attached, smm=firmware is not None and firmware.smm),
        *_firmware(firmware, attached),
        *_channels(attached),
        *(_memory_disk(machine, attached) if counted else _disk(machine, image, attached)),
        *_seed(attached),
        *_network(machine, attached),
        *_snapshot(machine, attached),
        *_tpm(machine, attached),
        *_devices(machine, attached),
        *(("-device", f"pcie-root-port,id={SPARE_PORT},chassis=1") if attached.has_spare_port else ()),
        *((*counted.arguments(), *_ONE_WORKER) if counted else _ENTROPY),
        # QEMU reads the whole file at its start, by a name of its own descriptor.
        *(word for name, fd in attached.fw_cfg for word in ("-fw_cfg", f"name={name},file=/proc/self/fd/{fd}")),
        *(word for value in smbios for word in ("-smbios", f"type=11,value={value.replace(',', ',,')}")),
    ]


def devices_in(arguments: list[str]) -> tuple[str, ...]:
    """Return the names of the device models in an argument list."""
    return tuple(
        arguments[n + 1].partition(",")[0]
        for n, word in enumerate(arguments)
        if word == "-device" and not arguments[n + 1].startswith("{")
    )


def differences(machine: Machine, accelerator: Accelerator) -> tuple[Difference, ...]:
    """Return how the virtual hardware differs from a machine that the image ships on."""
    closed = "cut off from everything but the forwarded SSH port"
    reach = "open to whatever this host reaches" if machine.open_network else closed
    device = (
        f"virtual hardware {machine.name!r}: {machine.memory_mib} MiB, disk on {machine.disk}, "
        f"network card {machine.network}"
    )
    return (
        Difference(kind=Kind.CPU, text=f"{machine.cpus} CPUs of model {machine.cpu_model(accelerator)!r}"),
        Difference(kind=Kind.DEVICE, text=device),
        *(Difference(kind=Kind.DEVICE, text=f"changed by an option: {change}") for change in machine.overrides),
        *_added_devices(machine),
        Difference(kind=Kind.FIRMWARE, text=_FIRMWARE_TEXTS[machine.firmware]),
        Difference(kind=Kind.NETWORK, text=f"QEMU user networking, {reach}"),
        Difference(kind=Kind.ACCELERATOR, text=accelerator),
    )


_FIRMWARE_TEXTS = {
    "uefi": "UEFI of this host's, without Secure Boot",
    "uefi-secure": "UEFI of this host's, with Secure Boot and the keys that it enrols",
    "bios": "BIOS of this host's",
}


def _added_devices(machine: Machine) -> Iterator[Difference]:
    if machine.tpm != "none":
        text = f"TPM 2.0 ({machine.tpm}) without a history, emulated by swtpm"
        yield Difference(kind=Kind.DEVICE, text=text, touches=(Touched.TPM,))
    known = {
        "pvpanic device, which tells QEMU when the kernel panics": machine.pvpanic,
        "watchdog i6300esb": machine.watchdog,
        "VM generation id": machine.vmgenid,
        "display adapter": machine.display != "none",
    }
    yield from (Difference(kind=Kind.DEVICE, text=text) for text, is_there in known.items() if is_there)


def _board(machine: Machine, accelerator: Accelerator, attached: Attached, *, smm: bool) -> list[str]:
    board, accel = str(machine.board), str(accelerator)
    kvm: list[str] = []
    if smm:
        board += ",smm=on"
    if machine.firmware == "bios" and machine.display == "none":
        board += ",graphics=off"  # tells SeaBIOS to speak on the serial console, boot loaders that use it included
    if attached.code_fd is not None and attached.variables_fd is not None:
        board += ",pflash0=code,pflash1=variables"
    if attached.memory is not None:
        board += ",memory-backend=ram"
    if accelerator == "kvm" and attached.kvm_fd is not None:
        kvm = _fd_set(attached.kvm_fd, _KVM)
        accel = f"kvm,device=/dev/fdset/{_KVM}"
    return [
        *kvm,
        *("-machine", board, "-accel", accel, "-cpu", machine.cpu_model(accelerator)),
        *("-smp", str(machine.cpus), "-m", f"{machine.memory_mib}M"),
    ]


def _firmware(firmware: Firmware | None, attached: Attached) -> list[str]:
    if firmware is None or attached.code_fd is None:
        return []
    if attached.variables_fd is None:
        return ["-bios", f"/proc/self/fd/{attached.code_fd}"]
    secure = ("-global", "driver=cfi.pflash01,property=secure,value=on", "-global", "ICH9-LPC.disable_s3=1")
    at_once: dict[str, object] = {"cache": _AT_ONCE, "aio": "native"} if attached.counted else {}
    return [
        *_flash("code", firmware.code_format, attached.code_fd, _CODE, read_only=True),
        *_flash("variables", firmware.variables_format, attached.variables_fd, _VARIABLES, read_only=False, **at_once),
        # Flash that only system management mode may write to, and no way around it by sleep (OvmfPkg/README, SMM).
        *(secure if firmware.smm else ()),
    ]


def _flash(name: str, form: str, descriptor: int, number: int, *, read_only: bool, **more: object) -> list[str]:
    alone = {"backing": None} if form == "qcow2" else {}
    file = {"driver": "file", "filename": f"/dev/fdset/{number}", "read-only": read_only, **more}
    return [
        *_fd_set(descriptor, number),
        *_blockdev(**file, **{"node-name": f"{name}-file"}),
        *_blockdev(driver=form, file=f"{name}-file", **{"node-name": name, "read-only": read_only, **alone}),
    ]


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
        memory = ["-object", json.dumps(options)]
    return [*memory, *(["-incoming", "defer"] if attached.is_incoming else [])]


def kernel_arguments(append: str, attached: Attached) -> list[str]:
    """Return what more it takes to start a kernel directly, with the command line ``append``."""
    if attached.kernel_fd is None:
        return []
    initrd = ["-initrd", f"/proc/self/fd/{attached.initrd_fd}"] if attached.initrd_fd is not None else []
    return ["-kernel", f"/proc/self/fd/{attached.kernel_fd}", *initrd, "-append", append]


def _disk(machine: Machine, image: Image, attached: Attached) -> list[str]:
    if image.parts:
        return []
    return [
        *_fd_set(attached.base_fd, _BASE),
        *_base(image, f"/dev/fdset/{_BASE}"),
        *_frozen(attached),
        *_fd_set(attached.overlay_fd, _OVERLAY),
        *_blockdev(
            driver="file",
            filename=f"/dev/fdset/{_OVERLAY}",
            **{"node-name": "overlay-file", "cache": {"no-flush": True}},
        ),
        *_blockdev(
            driver="qcow2",
            file="overlay-file",
            backing="base" if attached.frozen_fd is None else "frozen",
            **{"node-name": "disk", "discard": "unmap"},
        ),
        *_disk_device(machine),
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
        *_fd_set(attached.frozen_fd, _FROZEN),
        *_blockdev(driver="file", filename=f"/dev/fdset/{_FROZEN}", **{"node-name": "frozen-file", "read-only": True}),
        *_blockdev(driver="qcow2", file="frozen-file", backing="base", **{"node-name": "frozen", "read-only": True}),
    ]


def _memory_disk(machine: Machine, attached: Attached) -> list[str]:
    options = {"node-name": "disk-file", "cache": _AT_ONCE, "aio": "native", "discard": "ignore"}
    return [
        *_fd_set(attached.overlay_fd, _OVERLAY),
        *_blockdev(driver="file", filename=f"/dev/fdset/{_OVERLAY}", **options),
        *_blockdev(driver="raw", file="disk-file", **{"node-name": "disk"}),
        *_disk_device(machine, is_counted=True),
    ]


def _disk_device(machine: Machine, *, is_counted: bool = False) -> list[str]:
    # A Q35 board has an AHCI controller of its own, whose first port is bus "ide.0".
    ahci = [] if machine.board == "q35" else ["-device", "ahci,id=ahci"]
    port = "ide.0" if machine.board == "q35" else "ahci.0"
    # The first place in the boot order, 0, is that of a kernel that QEMU starts itself.
    # On a counted clock QEMU must not do in a thread, whenever the host finds time, what it can do at once. A flush
    # with nothing to wait for is answered by the main thread; a disk without a write cache is never asked for one.
    at_once = ",ioeventfd=off" if is_counted else ""
    blk = f"{at_once},discard=off,write-zeroes=off,write-cache=off" if is_counted else ""
    bus, device = {
        "virtio-blk": ([], f"virtio-blk-pci,drive=disk,bootindex=1{blk}"),
        "virtio-scsi": (
            ["-device", f"virtio-scsi-pci,id=scsi{at_once}"],
            "scsi-hd,bus=scsi.0,drive=disk,bootindex=1",
        ),
        "nvme": ([], "nvme,serial=seatrial,drive=disk,bootindex=1"),
        "ahci": (ahci, f"ide-hd,bus={port},drive=disk,bootindex=1"),
    }[machine.disk]
    return [*bus, "-device", device]


def _seed(attached: Attached) -> list[str]:
    if attached.seed_fd is None:
        return []
    options: dict[str, object] = {"node-name": "seed-file", "read-only": True}
    if attached.counted:
        options |= {"cache": _AT_ONCE, "aio": "native"}
    return [
        *_fd_set(attached.seed_fd, _SEED),
        *_blockdev(driver="file", filename=f"/dev/fdset/{_SEED}", **options),
        *_blockdev(driver="raw", file="seed-file", **{"node-name": "seed", "read-only": True}),
        *("-device", "virtio-blk-pci,drive=seed" + (",ioeventfd=off" if attached.counted else "")),
    ]


def _network(machine: Machine, attached: Attached) -> list[str]:
    lifeline: list[str] = []
    forwarded = ""
    address, ports = LIFELINE
    for port, descriptor in zip(ports, attached.lifeline_fds or (), strict=False):
        lifeline += ["-chardev", f"socket,id=lifeline{port},fd={descriptor}"]
        forwarded += f",guestfwd=tcp:{address}:{port}-chardev:lifeline{port}"
    restrict = "off" if machine.open_network else "on"
    card = {"virtio-net": "virtio-net-pci", "e1000e": "e1000e"}[machine.network]
    at_once = ",ioeventfd=off,tx=timer" if attached.counted and machine.network == "virtio-net" else ""
    return [
        *lifeline,
        # QEMU chooses the port itself, so two runs cannot collide.
        *("-netdev", f"user,id=net,restrict={restrict},hostfwd=tcp:127.0.0.1:0-:22{forwarded}"),
        *("-device", f"{card},netdev=net,romfile={at_once}"),
    ]


def _tpm(machine: Machine, attached: Attached) -> list[str]:
    if machine.tpm == "none" or attached.tpm_fd is None:
        return []
    device = "tpm-tis-device" if machine.board == "virt" else f"tpm-{machine.tpm}"
    return [
        *("-chardev", f"socket,id=tpm-control,fd={attached.tpm_fd}"),
        *("-tpmdev", "emulator,id=tpm,chardev=tpm-control", "-device", f"{device},tpmdev=tpm"),
    ]


def _devices(machine: Machine, attached: Attached) -> list[str]:
    # A clone's generation id is another one: the kernel then takes fresh randomness at once (vmgenid, Linux 5.18).
    wanted = machine.vmgenid or (attached.memory is not None and machine.arch == "x86_64")
    vmgenid = wanted and attached.counted is None  # an id by chance would tell two counted boots apart
    screen = "VGA" if machine.board == "q35" else "virtio-gpu-pci"
    return [
        *(("-device", "pvpanic-pci") if machine.pvpanic else ()),
        *(("-device", "i6300esb") if machine.watchdog else ()),
        *(("-device", "vmgenid,guid=auto") if vmgenid else ()),
        *(("-device", screen) if machine.display != "none" else ()),
    ]


def _fd_set(descriptor: int, number: int) -> list[str]:
    return ["-add-fd", f"fd={descriptor},set={number}"]


def _blockdev(**options: object) -> list[str]:
    return ["-blockdev", json.dumps(options)]
