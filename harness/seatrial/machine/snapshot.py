"""A guest frozen at one moment, and any number of clones that go on from there.

The best way (QEMU's VM templating, docs/system/vm-templating): the guest's memory is a file, the device state of some
megabytes is migrated without it (``x-ignore-shared``), and each clone maps the file privately, so that all clones share
the pages that they do not write. Where QEMU refuses that, the whole memory is migrated to a nameless file. All files
are nameless and all descriptors inherited: whatever ends us, nothing is left.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from seatrial.clock import Deadline, monotonic_s, pause
from seatrial.errors import HostError
from seatrial.machine.arguments import Memory
from seatrial.machine.boot import Boot, Launch, Storage, guest_memory, paused
from seatrial.machine.disk import blank_overlay, nameless_copy
from seatrial.machine.qmp import Monitor

__all__ = ["WAYS", "NoSnapshot", "Template", "Way", "cloned", "frozen"]

_MIGRATE_S: Final = 120.0
_LOOK_S: Final = 0.003
_FASTEST: Final = 1 << 40  # QEMU's default of 128 MiB/s is meant for networks


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """A way to freeze: QEMU's migration capability for it, and the first version that has it."""

    name: str
    capabilities: tuple[str, ...]
    since: tuple[int, int]
    shares_memory: bool


WAYS: Final = (
    Way(name="template", capabilities=("x-ignore-shared",), since=(4, 0), shares_memory=True),
    Way(name="mapped-ram", capabilities=("mapped-ram",), since=(9, 0), shares_memory=False),
    Way(name="stream", capabilities=(), since=(1, 0), shares_memory=False),
)


class NoSnapshot(HostError):
    """QEMU cannot freeze this machine; only a cold boot gives its state again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Template:
    """A guest's state at one moment. ``refused`` says why no better way was taken, empty for the best."""

    launch: Launch
    way: Way
    refused: str
    state_fd: int
    memory_fd: int | None
    overlay_fd: int
    variables: bytes
    blank: bytes
    freeze_s: float


@contextlib.contextmanager
def frozen(boot: Boot) -> Iterator[Template]:
    """Stop the guest for a moment, keep its state, let it go on, and yield the state.

    :raises NoSnapshot: QEMU cannot save the state of this machine; the guest goes on.
    :raises GuestStopped: QEMU ended.
    """
    folder = boot.launch.folder
    with contextlib.ExitStack() as stack:
        state = stack.enter_context(_nameless(folder))
        overlay = stack.enter_context(_nameless(folder))
        blank = blank_overlay(boot.launch.image.disk_bytes, folder)
        began = monotonic_s()
        boot.monitor.execute("stop")
        try:
            way, refused = _save(boot, state)
            copy_sparse(boot.storage.overlay_fd, overlay)
            variables = _content(boot.storage.variables_fd)
            memory: int | None = None
            if way.shares_memory and boot.storage.memory is not None:
                memory = stack.enter_context(guest_memory(boot.launch.machine))
                copy_sparse(boot.storage.memory.fd, memory)
        finally:
            boot.monitor.execute("cont")
        yield Template(
            launch=boot.launch,
            way=way,
            refused=refused,
            state_fd=state,
            memory_fd=memory,
            overlay_fd=overlay,
            variables=variables,
            blank=blank,
            freeze_s=monotonic_s() - began,
        )


@contextlib.contextmanager
def cloned(template: Template, folder: Path) -> Iterator[Boot]:
    """Start a machine that goes on from ``template``, and yield it running; the end of the block ends it.

    :param folder: where its console and QEMU logs go.
    :raises HostError: QEMU did not start or did not take the state.
    """
    launch = replace(template.launch, folder=folder)
    with contextlib.ExitStack() as stack:
        storage = _clone_storage(stack, template, folder)
        boot = stack.enter_context(paused(launch, storage, is_incoming=True))
        source = stack.enter_context(_reopened(template.state_fd, os.O_RDONLY))
        _prepare(boot.monitor, template.way)
        _migrate(boot.monitor, source, "migrate-incoming")
        boot.monitor.execute("cont")
        yield boot


def _clone_storage(stack: contextlib.ExitStack, template: Template, folder: Path) -> Storage:
    variables = template.variables
    memory: Memory | None = None
    if template.memory_fd is not None:
        memory = Memory(template.memory_fd, is_private=True)
    elif template.launch.is_cloneable:
        memory = Memory(stack.enter_context(guest_memory(template.launch.machine)))
    return Storage(
        overlay_fd=stack.enter_context(nameless_copy(template.blank, folder, writable=True)),
        variables_fd=stack.enter_context(nameless_copy(variables, folder, writable=True)) if variables else None,
        memory=memory,
        frozen_fd=stack.enter_context(_reopened(template.overlay_fd, os.O_RDONLY)),
    )


def _save(boot: Boot, state_fd: int) -> tuple[Way, str]:
    version = boot.monitor.version
    refused: list[str] = []
    for way in WAYS:
        if version < way.since or (way.shares_memory and boot.storage.memory is None):
            refused.append(f"{way.name}: this QEMU or this boot has no such thing")
            continue
        os.ftruncate(state_fd, 0)
        try:
            with _reopened(state_fd, os.O_WRONLY) as target:
                _prepare(boot.monitor, way)
                _migrate(boot.monitor, target, "migrate")
        except HostError as exc:
            refused.append(f"{way.name}: {exc.message}")
        else:
            return way, "; ".join(refused)
    raise NoSnapshot("QEMU cannot freeze this machine: " + "; ".join(refused))


def _prepare(monitor: Monitor, way: Way) -> None:
    known = [capability for other in WAYS for capability in other.capabilities if monitor.version >= other.since]
    wanted = [{"capability": name, "state": name in way.capabilities} for name in known]
    monitor.execute("migrate-set-capabilities", capabilities=wanted)
    monitor.execute("migrate-set-parameters", **{"max-bandwidth": _FASTEST})


def _migrate(monitor: Monitor, descriptor: int, command: str) -> None:
    """Let QEMU write its state to a descriptor (``migrate``), or take it from one (``migrate-incoming``)."""
    if monitor.version >= (8, 2):
        number = monitor.hand_over(descriptor, "add-fd")["fdset-id"]
        monitor.execute(command, uri=f"file:/dev/fdset/{number}")
    else:
        monitor.hand_over(descriptor, "getfd", fdname="state")
        monitor.execute(command, uri="fd:state")
    deadline = Deadline(_MIGRATE_S)
    while True:
        told = monitor.execute("query-migrate")
        status = told.get("status")
        if status == "completed":
            return
        if status in ("failed", "cancelled"):
            raise HostError(f"QEMU could not {command}: {told.get('error-desc', status)}")
        if deadline.is_over:
            raise HostError(f"QEMU did not end to {command} within {_MIGRATE_S:.0f} s; its state was {status!r}")
        pause(_LOOK_S)


@contextlib.contextmanager
def _nameless(folder: Path) -> Iterator[int]:
    descriptor = os.open(folder, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _reopened(descriptor: int, mode: int) -> Iterator[int]:
    """Yield the same file with a position and a mode of its own: QEMU takes only the mode that it wants."""
    again = os.open(f"/proc/self/fd/{descriptor}", mode | os.O_CLOEXEC)
    try:
        yield again
    finally:
        os.close(again)


def _content(descriptor: int | None) -> bytes:
    return os.pread(descriptor, os.fstat(descriptor).st_size, 0) if descriptor is not None else b""


def copy_sparse(source: int, target: int) -> int:
    """Copy what ``source`` holds to the same places of the empty file ``target``; return the bytes copied."""
    size, at, copied = os.fstat(source).st_size, 0, 0
    os.ftruncate(target, size)
    while at < size:
        try:
            start = os.lseek(source, at, os.SEEK_DATA)
        except OSError:  # ENXIO: only a hole is left
            break
        at = os.lseek(source, start, os.SEEK_HOLE)
        os.lseek(target, start, os.SEEK_SET)
        while start < at:
            sent = os.sendfile(target, source, start, at - start)
            if sent == 0:
                break
            start += sent
            copied += sent
    return copied
