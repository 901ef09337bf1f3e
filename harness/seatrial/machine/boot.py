"""One run of a machine with an image: QEMU and all that it needs, owned by nested blocks that end it."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from seatrial.clock import Deadline, monotonic_s
from seatrial.errors import AcceleratorError, GuestStopped, HostError, SessionError
from seatrial.evidence.console import Finding, Phase
from seatrial.machine.accelerator import Choice
from seatrial.machine.arguments import Attached, Memory, devices_in, kernel_arguments, qemu_arguments
from seatrial.machine.confinement import confinement
from seatrial.machine.console import Console, console_reader
from seatrial.machine.counted import Counted, disk_in_memory, in_memory, keep_in_step, patient_wire
from seatrial.machine.definition import Machine
from seatrial.machine.disk import Image, nameless_copy, nameless_overlay
from seatrial.machine.features import Features, require_devices
from seatrial.machine.firmware import Firmware
from seatrial.machine.kernel import DirectKernel
from seatrial.machine.lifeline import Lifeline
from seatrial.machine.provision import Provision
from seatrial.machine.qmp import Monitor, attached
from seatrial.machine.tpm import Tpm, tpm_running
from seatrial.machine.watch import Watch, last_words
from seatrial.process import Child, Confinement, running

__all__ = [
    "Boot",
    "BootFacts",
    "Launch",
    "Storage",
    "guest_memory",
    "paused",
    "powered_on",
]

_GREETING_S = 30.0
_QUIT_S = 10.0
_KVM = Path("/dev/kvm")


@dataclass(frozen=True, slots=True, kw_only=True)
class BootFacts:
    """What a run knows of its boot from outside: seconds since the CPUs started, console as plain text, findings.

    ``firmware`` and ``tpm`` are what the machine was given, in the words of its definition.
    """

    accelerator: str
    firmware: str
    tpm: str
    banner_s: float
    login_s: float
    ready_s: float
    state: str
    console: str
    findings: tuple[Finding, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """All that a boot needs, decided before anything starts.

    ``disk`` is a descriptor of the disk to write to, owned by the caller; None means a fresh overlay for this boot.
    With ``counted`` it lies in memory, and the guest's time is counted in instructions. A machine that
    ``has_spare_port`` can be given a second disk while it runs.
    """

    machine: Machine
    features: Features
    image: Image
    choice: Choice
    firmware: Firmware | None
    provision: Provision
    folder: Path
    is_cloneable: bool = False
    has_spare_port: bool = False
    disk: int | None = None
    kernel: DirectKernel | None = None
    counted: Counted | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Storage:
    """What a machine keeps its state in: descriptors of nameless files; whoever made them closes them.

    ``memory`` is None for a machine that is never frozen; ``frozen_fd`` is the read-only overlay below a clone's own.
    """

    overlay_fd: int
    variables_fd: int | None
    memory: Memory | None = None
    frozen_fd: int | None = None


@dataclass(slots=True, kw_only=True)
class Boot:
    """A powered-on machine: its console, monitor and the time at which its CPUs started (time zero)."""

    launch: Launch
    storage: Storage
    console: Console
    monitor: Monitor
    process: Child
    lifeline: Lifeline | None
    port: int
    started_s: float
    watch: Watch
    tpm: Tpm | None = None

    @property
    def overlays(self) -> tuple[int, ...]:
        """Return descriptors of what the guest writes its disk to, the topmost first; their owner closes them."""
        frozen = self.storage.frozen_fd
        return (self.storage.overlay_fd, *(() if frozen is None else (frozen,)))

    @property
    def elapsed_s(self) -> float:
        """Return the seconds since the CPUs started."""
        return monotonic_s() - self.started_s

    def guard(self) -> None:
        """Raise when there is nothing left to wait for; see :meth:`seatrial.machine.watch.Watch.guard`.

        :raises SeatrialError: what the watch saw.
        """
        self.watch.guard()


@contextlib.contextmanager
def powered_on(launch: Launch) -> Iterator[Boot]:
    """Start QEMU paused, attach console and monitor, let it go, and yield the boot; end everything at the end.

    :raises HostError: QEMU cannot be started.
    :raises AcceleratorError: QEMU ends at once because of KVM.
    """
    with contextlib.ExitStack() as stack:
        storage = Storage(
            overlay_fd=_disk(launch, stack),
            variables_fd=_variables(launch, stack),
            memory=Memory(stack.enter_context(guest_memory(launch.machine))) if launch.is_cloneable else None,
        )
        boot = stack.enter_context(paused(launch, storage))
        if launch.counted:
            keep_in_step(boot.monitor, boot.process.pid)
        boot.started_s = boot.console.started_s = monotonic_s()
        boot.monitor.execute("cont")
        yield boot


def _disk(launch: Launch, stack: contextlib.ExitStack) -> int:
    if launch.disk is not None:
        return launch.disk
    if launch.counted:
        return stack.enter_context(disk_in_memory(launch.image))
    return stack.enter_context(nameless_overlay(launch.image.disk_bytes, launch.folder))


def _variables(launch: Launch, stack: contextlib.ExitStack) -> int | None:
    if launch.firmware is None or launch.firmware.variables is None:
        return None
    content = launch.firmware.variables.read_bytes()
    in_file = nameless_copy(content, launch.folder, writable=True)
    return stack.enter_context(in_memory(content, writable=True) if launch.counted else in_file)


@contextlib.contextmanager
def guest_memory(machine: Machine) -> Iterator[int]:
    """Yield a descriptor of a nameless file in memory, as large as the guest's memory, with no page in use yet."""
    descriptor = os.memfd_create("seatrial-guest", os.MFD_CLOEXEC)
    try:
        os.ftruncate(descriptor, machine.memory_mib << 20)
        yield descriptor
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def paused(launch: Launch, storage: Storage, *, is_incoming: bool = False) -> Iterator[Boot]:
    """Start QEMU with its CPUs stopped and yield the boot with console and monitor attached; end all at the end.

    :param is_incoming: QEMU waits for the state of another one (QMP ``migrate-incoming``).
    :raises HostError: QEMU cannot be started.
    :raises AcceleratorError: QEMU ends at once because of KVM.
    """
    log = launch.folder / "qemu.log"
    with contextlib.ExitStack() as stack:
        wires = [_socket_pair(stack) for _wire in range(4 if storage.memory else 2)]
        ours, theirs = zip(*wires, strict=True)
        ends = [sock.fileno() for sock in theirs]
        if launch.counted:
            ends[1] = stack.enter_context(patient_wire(theirs[1]))
        confined, folder = _confined(launch), launch.folder
        tpm = stack.enter_context(tpm_running(folder, confined=confined)) if launch.machine.tpm != "none" else None
        handed = replace(
            _handed(stack, launch, storage, ends),
            tpm_fd=tpm.control_fd if tpm else None,
            is_incoming=is_incoming,
        )
        arguments = _arguments(launch, handed)
        process = stack.enter_context(running(arguments, log=log, pass_fds=handed.inherited, confined=confined))
        for end in theirs:
            end.close()
        # A clone goes on where the suites are: nothing may restart there unannounced.
        phase = Phase.FIRMWARE if storage.frozen_fd is None else Phase.SUITE
        console = stack.enter_context(console_reader(ours[1], folder / "console.log", phase=phase))
        monitor = stack.enter_context(_monitor(ours[0], process, launch, log))
        kind = launch.choice.accelerator
        boot = Boot(
            launch=launch,
            storage=storage,
            console=console,
            monitor=monitor,
            process=process,
            lifeline=Lifeline(ours[2], ours[3]) if storage.memory else None,
            port=monitor.forwarded_port(22),
            started_s=monotonic_s(),
            watch=Watch(console=console, monitor=monitor, process=process, accelerator=kind, qemu_log=log, tpm=tpm),
            tpm=tpm,
        )
        stack.callback(_quit, boot)
        if boot.lifeline is not None:
            stack.enter_context(boot.lifeline)
        yield boot


def _arguments(launch: Launch, handed: Attached) -> list[str]:
    arguments = qemu_arguments(
        launch.machine,
        launch.image,
        accelerator=launch.choice.accelerator,
        firmware=launch.firmware,
        attached=handed,
        smbios=launch.provision.smbios,
    )
    if launch.kernel is not None:
        arguments += kernel_arguments(launch.kernel.append, handed)
    require_devices(launch.features, devices_in(arguments))
    return arguments


def _confined(launch: Launch) -> Confinement:
    return confinement(
        disk_bytes=launch.image.disk_bytes,
        memory_bytes=launch.machine.memory_mib * 2**20,
        folder=launch.folder,
        opens_kvm=launch.choice.accelerator == "kvm" and not launch.features.kvm_by_descriptor,
    )


def _handed(stack: contextlib.ExitStack, launch: Launch, storage: Storage, wires: list[int]) -> Attached:
    """Open all that QEMU is given: it may run as a user who can open none of it."""
    firmware, seed, kernel = launch.firmware, launch.provision.seed, launch.kernel
    by_descriptor = launch.choice.accelerator == "kvm" and launch.features.kvm_by_descriptor
    in_file = in_memory(seed) if launch.counted else nameless_copy(seed, launch.folder, writable=False)
    return Attached(
        qmp_fd=wires[0],
        console_fd=wires[1],
        lifeline_fds=(wires[2], wires[3]) if storage.memory else None,
        overlay_fd=storage.overlay_fd,
        base_fd=_opened(stack, launch.image.disk, os.O_RDONLY),
        kernel_fd=_in_memory(stack, kernel.kernel.read_bytes()) if kernel else None,
        initrd_fd=_in_memory(stack, kernel.initrd.read_bytes()) if kernel and kernel.initrd else None,
        code_fd=_in_memory(stack, firmware.code.read_bytes()) if firmware else None,
        variables_fd=storage.variables_fd,
        seed_fd=stack.enter_context(in_file) if seed else None,
        counted=launch.counted,
        kvm_fd=_opened(stack, _KVM, os.O_RDWR) if by_descriptor else None,
        memory=storage.memory,
        has_spare_port=launch.has_spare_port,
        frozen_fd=storage.frozen_fd,
        # QEMU opens these by name: memory is a file that every user may open.
        fw_cfg=tuple((name, _in_memory(stack, content)) for name, content in launch.provision.fw_cfg),
    )


def _in_memory(stack: contextlib.ExitStack, content: bytes) -> int:
    # A BIOS or a kernel is opened by QEMU itself, by /proc/self/fd: memory is a file that every user may open.
    with os.fdopen(os.memfd_create("seatrial-file"), "wb") as file:
        file.write(content)
        file.flush()
        return _opened(stack, Path(f"/proc/self/fd/{file.fileno()}"), os.O_RDONLY)


def _opened(stack: contextlib.ExitStack, path: Path, mode: int) -> int:
    try:
        descriptor = os.open(path, mode | os.O_CLOEXEC)
    except OSError as exc:
        family = AcceleratorError if path == _KVM else HostError
        raise family(f"{str(path)!r} cannot be opened: {exc.strerror}") from exc
    stack.callback(os.close, descriptor)
    return descriptor


def _socket_pair(stack: contextlib.ExitStack) -> tuple[socket.socket, socket.socket]:
    ours, theirs = socket.socketpair()
    stack.callback(ours.close)
    stack.callback(theirs.close)
    return ours, theirs


@contextlib.contextmanager
def _monitor(sock: socket.socket, process: Child, launch: Launch, log: Path) -> Iterator[Monitor]:
    with contextlib.ExitStack() as stack:
        try:
            monitor = stack.enter_context(attached(sock, deadline=Deadline(_GREETING_S)))
        except HostError as exc:
            process.ends_within(_QUIT_S)
            text = f"QEMU did not start: {last_words(log) or exc.message}"
            # Whatever else is wrong shows itself again without KVM, where it is the host's.
            family = AcceleratorError if launch.choice.accelerator == "kvm" else HostError
            raise family(text, evidence=log) from exc
        yield monitor


def _quit(boot: Boot) -> None:
    """Ask QEMU to end; ``running`` terminates and kills what does not."""
    with contextlib.suppress(HostError, GuestStopped, SessionError):
        boot.monitor.execute("quit")
    boot.process.ends_within(_QUIT_S)
