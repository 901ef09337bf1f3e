"""Freezing and cloning without a guest: the way that QEMU takes, sparse copies, lifelines, memory."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from seatrial.clock import Deadline
from seatrial.errors import GuestStopped, HostError, ObservationError, SessionLost
from seatrial.guest import lifeline as lifeline_module
from seatrial.guest.lifeline import held_open
from seatrial.guest.shell import Shell
from seatrial.machine import lifeline as machine_lifeline
from seatrial.machine.arguments import Memory
from seatrial.machine.boot import Storage
from seatrial.machine.lifeline import Lifeline
from seatrial.machine.memory import Reservations, available_bytes, private_bytes
from seatrial.machine.snapshot import NoSnapshot, copy_sparse, frozen
from seatrial.restore import set_clock


class FakeMonitor:
    """A QEMU that can or cannot migrate, and keeps what it was told."""

    def __init__(self, version: tuple[int, int] = (10, 0), refuses: tuple[str, ...] = ()) -> None:
        self.version = version
        self.refuses = refuses
        self.told: list[str] = []
        self.capabilities: set[str] = set()
        self.uris: list[str] = []

    def hand_over(self, descriptor: int, command: str, **_arguments: object) -> dict[str, int]:
        assert os.fstat(descriptor)
        self.told.append(command)
        return {"fdset-id": 7}

    def execute(self, command: str, **arguments: Any) -> Any:
        self.told.append(command)
        if command == "migrate-set-capabilities":
            self.capabilities = {row["capability"] for row in arguments["capabilities"] if row["state"]}
        if command == "migrate":
            self.uris.append(arguments["uri"])
            if "all" in self.refuses:
                raise HostError("QEMU refused 'migrate': State blocked by non-migratable device 'nvme'")
        if command == "query-migrate":
            failed = bool(self.capabilities & set(self.refuses))
            return {"status": "failed", "error-desc": "no such thing"} if failed else {"status": "completed"}
        return {}


@contextlib.contextmanager
def fake_boot(folder: Path, monitor: FakeMonitor, *, has_memory: bool = True) -> Iterator[Any]:
    with contextlib.ExitStack() as stack:
        files = []
        for content in (b"overlay", b"variables", b"\0" * 8192 + b"memory"):
            descriptor = os.open(folder, os.O_TMPFILE | os.O_RDWR, 0o600)
            stack.callback(os.close, descriptor)
            os.write(descriptor, content)
            files.append(descriptor)
        overlay, variables, memory = files
        storage = Storage(overlay_fd=overlay, variables_fd=variables, memory=Memory(memory) if has_memory else None)
        launch = SimpleNamespace(
            folder=folder, machine=SimpleNamespace(memory_mib=1), image=SimpleNamespace(disk_bytes=1 << 20)
        )
        yield SimpleNamespace(launch=launch, storage=storage, monitor=monitor)


def read(descriptor: int) -> bytes:
    return os.pread(descriptor, 1 << 20, 0)


def test_the_best_way_keeps_memory_as_a_file_and_the_guest_goes_on(tmp_path: Path) -> None:
    monitor = FakeMonitor()
    with fake_boot(tmp_path, monitor) as boot, frozen(boot) as template:
        assert (template.way.name, template.refused, template.variables) == ("template", "", b"variables")
        assert read(template.overlay_fd) == b"overlay"
        assert read(template.memory_fd or -1).strip(b"\0") == b"memory"
        assert (monitor.told[0], monitor.told[-1]) == ("stop", "cont")
        assert monitor.capabilities == {"x-ignore-shared"}
        assert monitor.uris == ["file:/dev/fdset/7"]


def test_what_is_frozen_does_not_change_when_the_guest_goes_on(tmp_path: Path) -> None:
    with fake_boot(tmp_path, FakeMonitor()) as boot, frozen(boot) as template:
        os.pwrite(boot.storage.overlay_fd, b"CHANGED", 0)
        os.pwrite(boot.storage.memory.fd, b"CHANGED", 0)
        assert read(template.overlay_fd) == b"overlay"
        assert read(template.memory_fd or -1).strip(b"\0") == b"memory"


@pytest.mark.parametrize(
    ("version", "refuses", "has_memory", "way", "because"),
    [
        ((10, 0), ("x-ignore-shared",), True, "mapped-ram", "template: QEMU could not migrate: no such thing"),
        ((10, 0), (), False, "mapped-ram", "template: this QEMU or this boot has no such thing"),
        ((10, 0), ("x-ignore-shared", "mapped-ram"), True, "stream", "mapped-ram: QEMU could not migrate"),
        ((7, 2), ("x-ignore-shared",), True, "stream", "mapped-ram: this QEMU or this boot has no such thing"),
    ],
)
def test_the_next_best_way_is_taken_and_the_reason_kept(
    tmp_path: Path, version: tuple[int, int], refuses: tuple[str, ...], has_memory: bool, way: str, because: str
) -> None:
    with fake_boot(tmp_path, FakeMonitor(version, refuses), has_memory=has_memory) as boot, frozen(boot) as template:
        assert template.way.name == way
        assert because in template.refused
        assert template.memory_fd is None


def test_an_old_qemu_gets_its_descriptor_by_name(tmp_path: Path) -> None:
    monitor = FakeMonitor((7, 2))
    with fake_boot(tmp_path, monitor) as boot, frozen(boot) as template:
        assert template.way.name == "template"
        assert monitor.uris == ["fd:state"]
        assert "getfd" in monitor.told


def test_a_machine_that_cannot_be_frozen_goes_on_and_says_what_stands_in_the_way(tmp_path: Path) -> None:
    monitor = FakeMonitor(refuses=("all",))
    with (
        fake_boot(tmp_path, monitor) as boot,
        pytest.raises(NoSnapshot, match="non-migratable device 'nvme'"),
        frozen(boot),
    ):
        pass
    assert monitor.told[-1] == "cont"


@given(st.lists(st.tuples(st.integers(0, 40), st.binary(min_size=1, max_size=5000)), max_size=5))
def test_a_sparse_copy_is_equal_and_stays_sparse(pieces: list[tuple[int, bytes]]) -> None:
    source, target = os.memfd_create("source"), os.memfd_create("target")
    try:
        os.ftruncate(source, 50 << 16)
        for place, content in pieces:
            os.pwrite(source, content, place << 16)
        copied = copy_sparse(source, target)
        assert os.pread(target, 50 << 16, 0) == os.pread(source, 50 << 16, 0)
        assert copied <= len(pieces) * 8192
        assert os.fstat(target).st_blocks <= os.fstat(source).st_blocks
    finally:
        os.close(source)
        os.close(target)


class Line:
    """A lifeline with its far end in this process: what QEMU would forward."""

    def __init__(self) -> None:
        (ours_out, self.out), (ours_err, self.err) = socket.socketpair(), socket.socketpair()
        self.lifeline = Lifeline(ours_out, ours_err)


@pytest.fixture
def line() -> Iterator[Line]:
    made = Line()
    with made.lifeline, made.out, made.err:
        yield made


def test_a_root_shell_on_a_lifeline_gives_exact_answers(line: Line) -> None:
    with subprocess.Popen(
        ["sh"], stdin=line.out.fileno(), stdout=line.out.fileno(), stderr=line.err.fileno()
    ) as process:
        opener: Any = SimpleNamespace(user="root")
        shell = Shell(opener, guard=lambda: None, timeout_s=20, channel=line.lifeline)
        assert shell.run("printf out; printf err >&2; exit 7") == (7, b"out", b"err")
        assert shell.run("head -c 3000000 /dev/zero")[1] == b"\0" * 3_000_000
        shell.close()
        line.out.close()
        process.kill()


def test_a_guest_that_floods_an_idle_lifeline_never_makes_qemu_wait(
    line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine_lifeline, "MOST_HELD", 1 << 20)
    with pytest.raises(OSError, match="Broken pipe"):
        line.err.sendall(b"x" * (64 << 20))
    line.lifeline.receive(deadline=Deadline(5), guard=lambda: None)
    assert line.lifeline.receive(deadline=Deadline(5), guard=lambda: None) is None


def test_a_silent_lifeline_ends_at_the_deadline_or_when_the_guard_raises(line: Line) -> None:
    assert line.lifeline.receive(deadline=Deadline(0), guard=lambda: None) == (b"", b"")

    def gone() -> None:
        raise GuestStopped("QEMU ended")

    with pytest.raises(GuestStopped):
        line.lifeline.receive(deadline=Deadline(30), guard=gone)


def test_a_lifeline_whose_qemu_is_gone_takes_no_command(line: Line) -> None:
    line.out.close()
    with pytest.raises(SessionLost, match="the guest's own line is gone"):
        line.lifeline.send(b"x" * (8 << 20), deadline=Deadline(5))


def test_a_guest_that_takes_no_command_is_lost_at_the_deadline(line: Line) -> None:
    with pytest.raises(SessionLost, match="took no command within 0 s"):
        line.lifeline.send(b"x" * (64 << 20), deadline=Deadline(0.2))


class Answering:
    """A guest's shell that gives one answer, and does something beside it."""

    def __init__(self, status: int = 0, beside: Any = None) -> None:
        self.status = status
        self.beside = beside
        self.commands: list[str] = []

    def run(self, command: str, *, timeout_s: float | None = None) -> tuple[int, bytes, bytes]:
        self.commands.append(command)
        if self.beside:
            threading.Thread(target=self.beside).start()
        return self.status, b"", b"no such program"


def test_a_shell_is_held_open_over_the_block_and_ends_with_it(line: Line) -> None:
    def answer() -> None:
        assert line.out.recv(4096).startswith(b"echo lifeline")
        line.out.sendall(b"life")
        line.out.sendall(b"line\n")
        line.err.sendall(b"lifeline\n")

    line.err.sendall(b"noise before\n")
    shell: Any = Answering(beside=answer)
    with held_open(shell, line.lifeline, say_why=[]) as opened:
        assert opened
    assert line.out.recv(4096) == b"exit\n"


@pytest.mark.parametrize(("status", "because"), [(1, "no bash"), (0, "did not reach the lifeline")])
def test_a_guest_that_cannot_have_a_lifeline_says_why(
    line: Line, monkeypatch: pytest.MonkeyPatch, status: int, because: str
) -> None:
    monkeypatch.setattr(lifeline_module, "_OPEN_S", 0.2)
    why: list[str] = []
    shell: Any = Answering(status)
    with held_open(shell, line.lifeline, say_why=why) as opened:
        assert not opened
    assert because in why[0]


def test_a_machine_without_a_lifeline_is_asked_nothing() -> None:
    shell: Any = Answering()
    with held_open(shell, None, say_why=[]) as opened:
        assert (opened, shell.commands) == (False, [])


def test_a_guest_that_refuses_the_time_is_no_restored_guest() -> None:
    shell: Any = Answering(1)
    with pytest.raises(ObservationError, match=r"clock of a restored guest could not be set: .*no such program"):
        set_clock(shell)


def tree(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


MEMINFO = {"proc/meminfo": "MemTotal: 9000000 kB\nMemAvailable:    4096 kB\n"}


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"proc/self/cgroup": "0::/\n"}, 4 << 20),
        (
            {
                "proc/self/cgroup": "0::/a/b\n",
                "cg/a/memory.max": "3000000\n",
                "cg/a/memory.current": "2000000\n",
                "cg/a/memory.stat": "anon 5\ninactive_file 100\nactive_file 20\n",
                "cg/a/b/memory.max": "max\n",
                "cg/a/b/memory.current": "1\n",
            },
            1_000_120,
        ),
        (
            {
                "proc/self/cgroup": "4:memory:/j\n0::/\n",
                "cg/memory/j/memory.limit_in_bytes": "500\n",
                "cg/memory/j/memory.usage_in_bytes": "700\n",
            },
            0,
        ),
        ({"proc/self/cgroup": "nonsense"}, 4 << 20),
    ],
)
def test_free_memory_is_the_least_of_host_and_groups(tmp_path: Path, files: dict[str, str], expected: int) -> None:
    tree(tmp_path, {**MEMINFO, **files})
    assert available_bytes(tmp_path / "proc", tmp_path / "cg") == expected


@given(st.text(max_size=100), st.text(max_size=100))
def test_a_strange_proc_frees_no_memory_and_breaks_nothing(
    tmp_path_factory: pytest.TempPathFactory, meminfo: str, group: str
) -> None:
    folder = tmp_path_factory.mktemp("proc")
    (folder / "meminfo").write_text(meminfo, encoding="utf-8", errors="ignore")
    (folder / "self").mkdir()
    (folder / "self/cgroup").write_text(group, encoding="utf-8", errors="ignore")
    assert available_bytes(folder, folder / "cg") == 0


def test_the_memory_of_this_process_can_be_read() -> None:
    assert private_bytes(os.getpid()) > 1 << 20


def test_guests_are_promised_memory_only_once() -> None:
    gib = 1 << 30
    reservations = Reservations(lambda: 3 * gib)
    with reservations.reserved(gib, deadline=Deadline(0)), reservations.reserved(gib, deadline=Deadline(0)) as count:
        with (
            pytest.raises(HostError, match="needs 1280 MiB, 1024 MiB are free after 0 s"),
            reservations.reserved(gib, deadline=Deadline(0)),
        ):
            pass
        count(lambda: gib)  # it is all in use, so what is free has it left out already
        with reservations.reserved(gib, deadline=Deadline(0)):
            pass
    with reservations.reserved(2 * gib, deadline=Deadline(0)):
        pass
