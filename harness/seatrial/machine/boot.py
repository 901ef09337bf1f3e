"""One run of a machine with an image: QEMU and all that it needs, owned by nested blocks that end it."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from seatrial.clock import Deadline, monotonic_s
from seatrial.errors import AcceleratorError, GuestStopped, HostError, SessionError
from seatrial.machine.accelerator import Choice
from seatrial.machine.arguments import Attached, qemu_arguments
from seatrial.machine.console import Console, console_reader
from seatrial.machine.definition import Machine
from seatrial.machine.disk import Image, nameless_copy, nameless_overlay
from seatrial.machine.firmware import Firmware, find_uefi
from seatrial.machine.provision import Provision
from seatrial.machine.qmp import Monitor, attached
from seatrial.machine.watch import Watch, last_words
from seatrial.process import Child, require_program, run, running

__all__ = ["Boot", "BootFacts", "Launch", "powered_on", "qemu_version", "usable_firmware"]

_GREETING_S = 30.0
_QUIT_S = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class BootFacts:
    """What a run knows of its boot from outside: seconds since the CPUs started, and the console as plain text."""

    accelerator: str
    banner_s: float
    login_s: float
    ready_s: float
    state: str
    console: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """All that a boot needs, decided before anything starts."""

    machine: Machine
    image: Image
    choice: Choice
    firmware: Firmware | None
    provision: Provision
    folder: Path


@dataclass(slots=True, kw_only=True)
class Boot:
    """A powered-on machine: its console, monitor and the time at which its CPUs started (time zero)."""

    launch: Launch
    console: Console
    monitor: Monitor
    process: Child
    port: int
    started_s: float
    watch: Watch

    @property
    def elapsed_s(self) -> float:
        """Return the seconds since the CPUs started."""
        return monotonic_s() - self.started_s

    def guard(self) -> None:
        """Raise when there is nothing left to wait for; see :meth:`seatrial.machine.watch.Watch.guard`.

        :raises SeatrialError: what the watch saw.
        """
        self.watch.guard()


def usable_firmware(machine: Machine) -> Firmware | None:
    """Return the firmware that ``machine`` asks for; None means QEMU's built-in BIOS.

    :raises HostError: it is not installed.
    """
    return find_uefi(machine.arch, machine.board) if machine.firmware == "uefi" else None


def qemu_version(machine: Machine) -> str:
    """Return the first line of ``qemu --version``.

    :raises HostError: QEMU is not installed or does not start.
    """
    program = require_program(machine.qemu, why=f"boot images on machine {machine.name!r}")
    done = run([program, "--version"], deadline=Deadline(_GREETING_S))
    if done.status != 0:
        raise HostError(f"{machine.qemu!r} does not start: {done.complaint}", hint="run 'seatrial doctor'")
    return done.text.splitlines()[0].removeprefix("QEMU emulator version ")


@contextlib.contextmanager
def powered_on(launch: Launch) -> Iterator[Boot]:
    """Start QEMU paused, attach console and monitor, let it go, and yield the boot; end everything at the end.

    :raises HostError: QEMU cannot be started.
    :raises AcceleratorError: QEMU ends at once because of KVM.
    """
    folder = launch.folder
    log = folder / "qemu.log"
    with contextlib.ExitStack() as stack:
        ours_qmp, theirs_qmp = _socket_pair(stack)
        ours_console, theirs_console = _socket_pair(stack)
        overlay = stack.enter_context(nameless_overlay(launch.image.disk_bytes, folder))
        variables = launch.firmware.variables.read_bytes() if launch.firmware else b""
        handed = Attached(
            qmp_fd=theirs_qmp.fileno(),
            console_fd=theirs_console.fileno(),
            overlay_fd=overlay,
            variables_fd=stack.enter_context(nameless_copy(variables, folder, writable=True)) if variables else None,
            seed_fd=(
                stack.enter_context(nameless_copy(launch.provision.seed, folder, writable=False))
                if launch.provision.seed
                else None
            ),
        )
        arguments = qemu_arguments(
            launch.machine,
            launch.image,
            accelerator=launch.choice.accelerator,
            firmware=launch.firmware,
            attached=handed,
            smbios=launch.provision.smbios,
        )
        inherited = [
            fd for fd in (handed.qmp_fd, handed.console_fd, overlay, handed.variables_fd, handed.seed_fd) if fd
        ]
        process = stack.enter_context(running(arguments, log=log, pass_fds=inherited))
        theirs_qmp.close()
        theirs_console.close()
        console = stack.enter_context(console_reader(ours_console, folder / "console.log"))
        monitor = stack.enter_context(_monitor(ours_qmp, process, launch, log))
        port = monitor.forwarded_port(22)
        started = monotonic_s()
        monitor.execute("cont")
        kind = launch.choice.accelerator
        watch = Watch(console=console, monitor=monitor, process=process, accelerator=kind, qemu_log=log)
        boot = Boot(
            launch=launch, console=console, monitor=monitor, process=process, port=port, started_s=started, watch=watch
        )
        stack.callback(_quit, boot)
        yield boot


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
