"""What the watch says of a boot that goes wrong: console, events, counters and QEMU's end, without a QEMU."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from seatrial.clock import Deadline
from seatrial.errors import (
    AcceleratorError,
    BootError,
    BootHung,
    BootTimeout,
    EmergencyShell,
    GuestSilent,
    GuestStopped,
    HostError,
    KernelPanic,
    QemuExited,
    RebootLoop,
    SeatrialError,
    SessionLost,
    TimerLost,
)
from seatrial.evidence.signs import Phase
from seatrial.machine import console as console_module
from seatrial.machine import watch as watch_module
from seatrial.machine.console import Console, console_reader
from seatrial.machine.events import error_of_event, sign_of_event
from seatrial.machine.qmp import Monitor
from seatrial.machine.stillness import HangLimits
from seatrial.machine.watch import Watch
from seatrial.process import Child


class FakeMonitor(Monitor):
    """Answers what it was told to; events come by :meth:`note`, as from the real one."""

    def __init__(self) -> None:
        super().__init__(None, None)  # type: ignore[arg-type]  # nothing is sent anywhere
        self.state = "running"
        self.operations = 0
        self.screen = b""
        self.given = -1

    def execute(self, command: str, **arguments: object) -> Any:
        if command == "query-status":
            return {"status": self.state}
        if command == "query-blockstats":
            return [{"stats": {"rd_operations": self.operations, "wr_operations": 0}}]
        if command == "screendump" and self.screen:
            return os.write(self.given, self.screen)
        if command == "remove-fd":
            return {}
        raise HostError(f"QEMU refused {command!r}")

    def hand_over(self, descriptor: int, command: str, **arguments: object) -> Any:
        self.given = descriptor
        return {"fdset-id": 9}


class FakeChild(Child):
    """A process that ends when the test says so."""

    def __init__(self) -> None:
        self.ended: int | None = None

    @property
    def pid(self) -> int:
        return 0

    @property
    def status(self) -> int | None:
        return self.ended

    def ends_within(self, seconds: float) -> bool:
        return self.ended is not None


class Machine:
    """A watch on fakes, and the guest's end of its console."""

    def __init__(self, console: Console, guest: socket.socket, folder: Path) -> None:
        self.console, self.guest = console, guest
        self.monitor, self.process = FakeMonitor(), FakeChild()
        self.watch = Watch(
            console=console,
            monitor=self.monitor,
            process=self.process,
            accelerator="tcg",
            qemu_log=folder / "qemu.log",
        )

    def say(self, text: str) -> None:
        """Write to the console and wait until it was read."""
        expected = self.console.byte_count + len(text.encode())
        self.guest.sendall(text.encode())
        deadline = Deadline(5)
        while self.console.byte_count < expected and not deadline.is_over:
            deadline.pause(0.001)


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Machine]:
    monkeypatch.setattr(watch_module, "_QUIET_S", 0.0)
    monkeypatch.setattr(watch_module, "_SAMPLE_EVERY_S", 0.0)
    with made(tmp_path) as fake:
        yield fake


@contextlib.contextmanager
def made(folder: Path, phase: Phase = Phase.FIRMWARE) -> Iterator[Machine]:
    ours, theirs = socket.socketpair()
    with theirs, console_reader(ours, folder / "console.log", phase=phase) as console:
        yield Machine(console, theirs, folder)


def trouble(machine: Machine) -> SeatrialError:
    with pytest.raises(SeatrialError) as caught:
        machine.watch.guard()
    return caught.value


def test_a_healthy_boot_raises_nothing(machine: Machine) -> None:
    machine.say("[    0.0] Linux version 6.12\n")
    machine.monitor.note("RTC_CHANGE", {})
    machine.monitor.note("RESUME", {})
    machine.watch.guard()
    assert machine.watch.phase is Phase.KERNEL
    assert machine.watch.findings == ()


def test_a_panic_says_what_when_and_what_the_console_said_last(machine: Machine) -> None:
    machine.say("".join(f"[    1.{n}] line {n}\n" for n in range(40)))
    machine.say("[    2.0] \x1b[31mKernel panic - not syncing: \x1b[0mNo working init found\n[    2.1] end\n")
    error = trouble(machine)
    assert isinstance(error, KernelPanic)
    assert "the kernel panicked: the console said '[    2.0] Kernel panic - not syncing: No working init" in str(error)
    assert error.scene is not None
    assert len(error.scene.tail) == 20
    assert error.scene.tail[-1] == "[    2.1] end"
    assert error.scene.screenshot is None
    assert "s after power-on, phase firmware" in str(error)


def test_the_same_error_is_raised_again_without_another_look(machine: Machine) -> None:
    machine.say("You are in emergency mode. After\n")
    assert isinstance(trouble(machine), EmergencyShell)
    assert trouble(machine) is trouble(machine)


LOST_TIMER = "[   {}.8] rcu: \tPossible timer handling issue on cpu=1 timer-softirq=4\n"


def test_a_timer_that_the_emulator_lost_ends_the_boot_at_the_second_look(machine: Machine) -> None:
    machine.say(LOST_TIMER.format(22))
    machine.watch.guard()
    machine.say(LOST_TIMER.format(43))
    error = trouble(machine)
    assert isinstance(error, TimerLost)
    assert (error.exit_status, error.evidence) == (2, machine.console.path)
    assert "lost the timer of a processor in phase firmware: the kernel's RCU found it dead 2 times" in error.message


def test_a_timer_that_was_lost_before_anything_ran_is_forgiven_once_for_a_reset(machine: Machine) -> None:
    machine.say("[    0.0] Linux version 6.12\n" + LOST_TIMER.format(22) + LOST_TIMER.format(43))
    assert isinstance(trouble(machine), TimerLost)
    assert machine.watch.forgive_lost_timer()
    machine.watch.guard()
    machine.say(LOST_TIMER.format(23) + LOST_TIMER.format(44))
    assert "found it dead 2 times" in trouble(machine).message


def test_a_timer_that_was_lost_while_the_system_ran_is_not_forgiven(machine: Machine) -> None:
    machine.say("Welcome to Debian GNU/Linux 13 (trixie)!\n")
    machine.say(LOST_TIMER.format(22) + LOST_TIMER.format(43))
    error = trouble(machine)
    assert isinstance(error, TimerLost)
    assert not machine.watch.forgive_lost_timer()
    assert trouble(machine) is error


def test_only_a_lost_timer_is_forgiven(machine: Machine) -> None:
    assert not machine.watch.forgive_lost_timer()
    machine.say("[    2.0] Kernel panic - not syncing: x\n[    2.1] end\n")
    assert isinstance(trouble(machine), KernelPanic)
    assert not machine.watch.forgive_lost_timer()
    assert isinstance(trouble(machine), KernelPanic)


def test_a_timer_that_stops_under_kvm_is_a_finding(machine: Machine) -> None:
    machine.watch.accelerator = "kvm"
    machine.say(LOST_TIMER.format(22) + LOST_TIMER.format(43) + LOST_TIMER.format(64))
    machine.watch.guard()
    assert [(found.sign, found.count) for found in machine.watch.findings] == [("lost-timer", 3)]


def test_a_screenshot_is_taken_when_there_is_a_display(machine: Machine) -> None:
    machine.monitor.screen = b"\x89PNG"
    machine.say("No bootable device.\n")
    error = trouble(machine)
    assert isinstance(error, BootError)
    assert error.scene is not None
    assert error.scene.screenshot is not None
    assert error.scene.screenshot.read_bytes() == b"\x89PNG"


@pytest.mark.parametrize(
    ("name", "data", "family"),
    [
        ("GUEST_PANICKED", {"action": "pause"}, KernelPanic),
        ("GUEST_CRASHLOADED", {"action": "run"}, KernelPanic),
        ("SHUTDOWN", {"guest": True, "reason": "guest-shutdown"}, GuestStopped),
        ("SHUTDOWN", {"guest": True, "reason": "guest-panic"}, KernelPanic),
        ("SHUTDOWN", {"guest": False, "reason": "host-signal"}, QemuExited),
        ("SHUTDOWN", {}, GuestStopped),
        ("BLOCK_IO_ERROR", {"nospace": True, "action": "stop"}, HostError),
    ],
)
def test_an_event_that_ends_the_boot_has_its_error(
    machine: Machine, name: str, data: dict[str, object], family: type[SeatrialError]
) -> None:
    machine.monitor.note(name, data)
    error = trouble(machine)
    assert type(error) is family
    assert error.evidence is not None


@pytest.mark.parametrize("name", ["WATCHDOG", "MEMORY_FAILURE", "BLOCK_IO_ERROR"])
def test_an_event_that_ends_nothing_is_a_finding(machine: Machine, name: str) -> None:
    machine.monitor.note(name, {"action": "report"})
    machine.watch.guard()
    (found,) = machine.watch.findings
    assert found.line.startswith(name)


@given(st.text(), st.dictionaries(st.text(), st.one_of(st.none(), st.booleans(), st.integers(), st.text())))
def test_any_event_can_be_judged(name: str, data: dict[str, Any]) -> None:
    for said in (name, "SHUTDOWN", "BLOCK_IO_ERROR"):
        assert error_of_event(said, data) is None or sign_of_event(said, data) is None


def test_a_stop_is_an_error_only_when_the_accelerator_failed(machine: Machine) -> None:
    machine.monitor.note("STOP", {})
    machine.watch.guard()
    machine.monitor.state = "internal-error"
    machine.monitor.note("STOP", {})
    assert isinstance(trouble(machine), AcceleratorError)


def test_one_restart_during_the_boot_is_a_finding(machine: Machine) -> None:
    machine.say("Welcome to Debian!\n")
    machine.monitor.note("RESET", {"guest": True, "reason": "guest-reset"})
    machine.watch.guard()
    assert [found.sign for found in machine.watch.findings] == ["restarted"]
    assert machine.watch.phase is Phase.FIRMWARE


def test_a_second_restart_that_never_left_the_kernel_is_a_loop(machine: Machine) -> None:
    for _ in range(2):
        machine.say("[    0.0] Linux version 6.12\n")
        machine.monitor.note("RESET", {"guest": True, "reason": "guest-reset"})
    error = trouble(machine)
    assert isinstance(error, RebootLoop)
    assert "2 times, last in phase" in error.message


def test_restarts_that_reached_user_space_loop_at_the_third(machine: Machine) -> None:
    for number in range(3):
        machine.say("Welcome to Debian!\n")
        machine.monitor.note("RESET", {"reason": "guest-reset"})
        if number < 2:
            machine.watch.guard()
    assert isinstance(trouble(machine), RebootLoop)


def test_a_restart_during_the_suites_ends_the_run(machine: Machine) -> None:
    machine.watch.ready()
    machine.monitor.note("RESET", {"reason": "guest-reset"})
    error = trouble(machine)
    assert isinstance(error, GuestStopped)
    assert "restarted by itself while the suites ran" in error.message


def test_a_restart_is_the_same_whether_console_or_qemu_tell_first(machine: Machine) -> None:
    for _ in range(2):
        machine.say("[    0.0] Linux version 6.12\nWelcome to Debian!\n")
    machine.monitor.note("RESET", {"reason": "guest-reset"})
    machine.watch.guard()
    assert machine.watch.phase is Phase.USERSPACE
    (found,) = machine.watch.findings
    assert found.line == "RESET (guest-reset) in phase userspace"


def test_a_restart_during_the_suites_that_the_console_told_first_is_one(machine: Machine) -> None:
    machine.watch.ready()
    machine.say('BdsDxe: loading Boot0001 "x" from y\n')
    machine.monitor.note("RESET", {"reason": "guest-reset"})
    error = trouble(machine)
    assert "restarted by itself while the suites ran: QEMU reported RESET" in error.message


def test_a_restart_by_kexec_during_the_suites_ends_the_run(machine: Machine) -> None:
    machine.watch.ready()
    machine.say("[    0.0] Linux version 6.12\n")
    assert isinstance(trouble(machine), GuestStopped)


def test_an_announced_reboot_is_none_of_this(machine: Machine) -> None:
    machine.watch.ready()
    with machine.watch.reboot_expected():
        machine.monitor.note("SHUTDOWN", {"reason": "guest-reset"})
        machine.monitor.note("RESET", {"reason": "guest-reset"})
        machine.say("[    0.0] Linux version 6.12\nWelcome to Debian!\n")
        machine.watch.guard()
    machine.watch.guard()
    assert machine.watch.phase is Phase.SUITE
    assert [found.sign for found in machine.watch.findings] == ["console-silent"]
    machine.monitor.note("RESET", {"reason": "guest-reset"})
    assert isinstance(trouble(machine), GuestStopped)


def test_an_announced_reboot_may_be_still_on_its_way_down_but_not_on_its_way_up(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch_module, "cpu_seconds", lambda _pid: 1.0)
    monkeypatch.setattr(watch_module, "_SAMPLE_EVERY_S", 0.0)
    limits = HangLimits(silent_s=0.02)
    machine.watch.ready()
    with machine.watch.reboot_expected(limits):
        machine.watch.find_reason(patience_s=0.3)
        machine.monitor.note("RESET", {"reason": "host-qmp-system-reset"})
        machine.watch.guard()
        machine.watch.let_in()
        machine.watch.find_reason(patience_s=0.3)
        machine.monitor.note("RESET", {"reason": "host-qmp-system-reset"})
        with pytest.raises(BootHung, match="hangs in phase firmware"):
            machine.watch.find_reason(patience_s=5)
        machine.watch._failure = None
        machine.watch.let_in()


def test_a_guest_that_restarts_over_and_over_after_an_announced_reboot_is_a_loop(machine: Machine) -> None:
    machine.watch.ready()
    with contextlib.suppress(RebootLoop), machine.watch.reboot_expected():
        for _ in range(3):
            machine.monitor.note("RESET", {"reason": "guest-reset"})
            machine.watch.guard()
        machine.monitor.note("RESET", {"reason": "guest-reset"})
        with pytest.raises(RebootLoop, match="again and again: 3 times"):
            machine.watch.guard()


def test_a_panic_in_an_announced_reboot_is_a_panic(machine: Machine) -> None:
    machine.watch.ready()
    with pytest.raises(KernelPanic), machine.watch.reboot_expected():
        machine.say("Kernel panic - not syncing: x\n")


def test_a_watch_of_a_clone_starts_in_the_suites(tmp_path: Path) -> None:
    with made(tmp_path, Phase.SUITE) as clone:
        clone.watch.guard()
        clone.monitor.note("RESET", {})
        assert isinstance(trouble(clone), GuestStopped)


def test_a_killed_qemu_is_told_from_one_that_failed(machine: Machine, tmp_path: Path) -> None:
    (tmp_path / "qemu.log").write_text("qemu-system-x86_64: error: no such thing\n")
    machine.process.ended = -9
    error = trouble(machine)
    assert isinstance(error, QemuExited)
    assert error.exit_status == 2
    assert "QEMU was killed by signal 9: no such thing" in error.message
    assert "short of memory" in error.hint


def test_a_silent_console_is_a_finding_of_a_boot_that_succeeds(machine: Machine) -> None:
    machine.watch.ready()
    assert [(found.sign, found.phase) for found in machine.watch.findings] == [("console-silent", "suite")]


def test_a_timeout_says_that_the_console_never_spoke(machine: Machine) -> None:
    with pytest.raises(GuestSilent, match="no SSH; the console never said a word") as caught, machine.watch.explained():
        raise BootTimeout("no SSH", hint="h")
    assert "console=ttyS0" in caught.value.hint


def test_a_timeout_shows_what_the_console_said_last(machine: Machine) -> None:
    machine.say("EFI stub: ERROR: x\nlast words\n")
    with pytest.raises(BootTimeout, match="no SSH") as caught, machine.watch.explained():
        raise BootTimeout("no SSH", hint="h")
    assert type(caught.value) is BootTimeout
    assert "the boot loader reported an error" in caught.value.hint
    assert "    | last words" in str(caught.value)


def test_a_lost_connection_is_explained_by_the_panic_behind_it(machine: Machine) -> None:
    machine.say("Kernel panic - not syncing: x\n")
    with pytest.raises(KernelPanic), machine.watch.explained():
        raise SessionLost("the connection broke")


def test_a_hung_boot_is_told_before_the_timeout(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch_module, "cpu_seconds", lambda _pid: 1.0)
    machine.watch.limits = HangLimits(silent_s=0.02)
    machine.watch.guard()
    with pytest.raises(BootHung, match="hangs in phase firmware: console, disk and CPU have been still"):
        machine.watch.find_reason(patience_s=5)


def test_nothing_is_called_hung_after_the_first_login(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch_module, "cpu_seconds", lambda _pid: 1.0)
    machine.watch.limits = HangLimits(silent_s=0.0)
    machine.watch.let_in()
    machine.watch.guard()
    machine.watch.guard()


def test_events_are_kept_in_order_and_bounded() -> None:
    monitor = FakeMonitor()
    for number in range(3000):
        monitor.note("RTC_CHANGE", {"offset": number})
    kept = monitor.events_after(2990)
    assert [event.number for event in kept] == list(range(2991, 3001))
    assert len(monitor.events_after(0)) == 1000


def test_the_console_is_kept_and_shown(tmp_path: Path) -> None:
    heard: list[bytes] = []
    with made(tmp_path) as machine:
        machine.console.listen(heard.append)
        machine.say("first \x1b[1mline\x1b[0m\r\nKernel pan")
        machine.say("ic - not syncing: x\r\nprompt# ")
        assert machine.console.tail(5) == ["first line", "Kernel panic - not syncing: x", "prompt# "]
        assert machine.console.last_line == "prompt#"
        for unfinished in ("\x1b", "[", "0;"):
            machine.say(unfinished)
            assert machine.console.last_line == "prompt#"
        machine.say("32m")
        assert machine.console.last_line == "prompt#"
        for begun in ("\r\n[", "  OK  ", "]"):
            machine.say(begun)
            assert machine.console.last_line == "prompt#"
        machine.say(" Started x.\r\n")
        assert machine.console.last_line == "[  OK  ] Started x."
        assert machine.console.scanner.fatal is not None
        machine.console.type(b"typed")
        assert machine.guest.recv(10) == b"typed"
    assert (tmp_path / "console.log").read_bytes() == b"".join(heard)


def test_a_prompt_is_seen_once_the_console_is_quiet(tmp_path: Path) -> None:
    with made(tmp_path) as machine:
        machine.say("grub rescue> ")
        deadline = Deadline(5)
        while machine.console.scanner.fatal is None and not deadline.is_over:
            deadline.pause(0.01)
        assert machine.console.scanner.fatal is not None


def test_of_a_flood_the_file_keeps_head_and_tail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console_module, "MOST_HEAD", 1000)
    monkeypatch.setattr(console_module, "MOST_TAIL", 500)
    with made(tmp_path) as machine:
        machine.say("head\n" * 200)
        machine.say("middle\n" * 2000)
        machine.say("tail\n" * 200)
    text = (tmp_path / "console.log").read_text()
    assert text.startswith("head\n" * 200)
    assert text.endswith("tail\n" * 100)
    assert f"[seatrial: {14000 + 500} bytes of the console are left out here]" in text


def test_a_full_disk_does_not_stop_the_reading(tmp_path: Path) -> None:
    ours, theirs = socket.socketpair()
    with theirs, console_reader(ours, Path("/dev/full")) as console:
        machine = Machine(console, theirs, tmp_path)
        machine.say("Kernel panic - not syncing: x\n")
        assert console.scanner.fatal is not None
