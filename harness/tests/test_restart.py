"""A guest that is restarted counts as back only when it says that it is another run; against a real SSH server."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import seatrial.guest.restart
import seatrial.restore
from seatrial.errors import BootFatal, BootTimeout, CommandTimeout, HostKeyChanged, ObservationError, SessionLost
from seatrial.guest.ready import Patience
from seatrial.guest.restart import WayIn, came_back, order, told
from seatrial.guest.shell import Shell
from seatrial.guest.ssh import Address, RunKey
from seatrial.machine.stillness import HangLimits
from seatrial.restore import new_session, reseed, set_clock
from ssh_server import Served


@pytest.fixture
def way(run_key: RunKey) -> WayIn:
    return WayIn(user="root", key=run_key, patience=Patience(boot_s=20, settle_s=20, command_s=20))


@pytest.fixture
def run_id(tmp_path: Path) -> Path:
    path = tmp_path / "run-id"
    path.write_text("old\n")
    return path


def test_it_is_back_when_it_says_another_run(server: Served, way: WayIn, run_id: Path) -> None:
    looks = []

    def guard() -> None:
        looks.append(1)
        if len(looks) == 2:
            run_id.write_text("new\n")

    with came_back(Address(server.port), way, f"cat {run_id}", "old", guard=guard) as guest:
        assert told(guest.shell, f"cat {run_id}") == "new"


def test_a_guest_that_stays_the_same_run_never_came_back(server: Served, run_key: RunKey, run_id: Path) -> None:
    way = WayIn(user="root", key=run_key, patience=Patience(boot_s=0, settle_s=1, command_s=20))
    with (
        pytest.raises(BootTimeout, match=r"did not come back within 0 s .* still says 'old'"),
        came_back(Address(server.port), way, f"cat {run_id}", "old", guard=lambda: None),
    ):
        pass


def test_a_guest_that_comes_back_with_another_host_key_is_refused(server: Served, way: WayIn, run_id: Path) -> None:
    address = Address(server.port, host_key=("ssh-ed25519", b"another"))
    with pytest.raises(HostKeyChanged), came_back(address, way, f"cat {run_id}", "before", guard=lambda: None):
        pass


def test_where_the_host_key_may_change_the_one_of_the_next_boot_is_taken(
    server: Served, way: WayIn, run_id: Path
) -> None:
    address = Address(server.port, host_key=("ssh-ed25519", b"another"))
    back = came_back(address, way, f"cat {run_id}", "before", guard=lambda: None, key_may_change=True)
    with back as guest:
        assert guest.address.host_key not in (None, address.host_key)
    assert address.host_key == ("ssh-ed25519", b"another")


def test_a_guest_that_panics_on_its_way_is_not_waited_for(server: Served, way: WayIn, run_id: Path) -> None:
    def panicked() -> None:
        raise BootFatal("the kernel panicked")

    with pytest.raises(BootFatal), came_back(Address(server.port), way, f"cat {run_id}", "old", guard=panicked):
        pass


@pytest.mark.parametrize("error", [SessionLost("the shell ended"), CommandTimeout("no answer")])
def test_an_order_that_takes_the_shell_along_is_obeyed(error: Exception) -> None:
    class Gone:
        def run(self, _command: str, *, timeout_s: float | None = None) -> tuple[int, bytes, bytes]:
            raise error

    order(Gone(), "systemctl reboot")


def test_an_order_that_is_refused_says_why(shell: Shell) -> None:
    with pytest.raises(ObservationError, match="refused 'echo no >&2; exit 4': exit status 4, 'no'"):
        order(shell, "echo no >&2; exit 4")


@pytest.mark.parametrize("question", ["true", "echo gone >&2; exit 1"])
def test_silence_is_no_run(shell: Shell, question: str) -> None:
    with pytest.raises(ObservationError, match="could not answer"):
        told(shell, question)


class Slow:
    """A guest whose first answers come late, by the clock that restore reads."""

    def __init__(self, late_s: list[float], status: int = 0) -> None:
        self.late_s = late_s
        self.status = status
        self.now = 1_000_000.0
        self.commands: list[str] = []

    def run(self, command: str, *, timeout_s: float | None = None) -> tuple[int, bytes, bytes]:
        self.commands.append(command)
        self.now += self.late_s.pop(0) if self.late_s else 0.0
        return self.status, b"", b""

    def utc_now(self) -> Any:
        class Moment:
            @staticmethod
            def timestamp() -> float:
                return self.now

        return Moment


@pytest.mark.parametrize(("late_s", "tries"), [([0.2], 1), ([6.0, 0.3], 2), ([9.0, 9.0, 9.0, 9.0, 9.0], 4)])
def test_the_time_is_sent_again_until_it_was_fresh(
    monkeypatch: pytest.MonkeyPatch, late_s: list[float], tries: int
) -> None:
    guest = Slow(late_s)
    monkeypatch.setattr(seatrial.restore, "utc_now", guest.utc_now)
    set_clock(guest)
    assert len(guest.commands) == tries


def test_every_copy_gets_other_randomness_and_says_whether_it_used_it() -> None:
    guest, deaf = Slow([]), Slow([], status=1)
    assert (reseed(guest), reseed(guest), reseed(deaf)) == (True, True, False)
    assert guest.commands[0] != guest.commands[1]


class Announced:
    """A watch that knows whether a restart was announced when it happened."""

    def __init__(self) -> None:
        self.is_announced = False
        self.limits: HangLimits | None = None

    def let_in(self) -> None:
        self.limits = None

    @contextlib.contextmanager
    def reboot_expected(self, limits: HangLimits | None) -> Iterator[None]:
        self.is_announced, self.limits = True, limits
        yield
        self.is_announced = False


@pytest.mark.parametrize("restart", ["reboot", "power_cut", "soft_reboot"])
def test_a_restart_is_announced_to_the_watch_and_gives_a_new_host(
    server: Served, way: WayIn, shell: Shell, monkeypatch: pytest.MonkeyPatch, restart: str
) -> None:
    watch, answers, limits = Announced(), iter(["old", "new"]), HangLimits(silent_s=9.0)
    looked: list[HangLimits | None] = []
    ordered: list[bool] = []
    monkeypatch.setattr(seatrial.restore, "told", lambda *_args: next(answers))
    monkeypatch.setattr(seatrial.guest.restart, "told", lambda *_args: next(answers))
    monkeypatch.setattr(seatrial.restore, "order", lambda *_args: ordered.append(watch.is_announced))
    monitor = SimpleNamespace(execute=lambda _command: ordered.append(watch.is_announced))
    launch = SimpleNamespace(image=SimpleNamespace(path=Path("disk.raw")), machine=SimpleNamespace(cpus=1))
    boot: Any = SimpleNamespace(watch=watch, monitor=monitor, launch=launch, guard=lambda: looked.append(watch.limits))
    guest: Any = SimpleNamespace(shell=shell, address=Address(server.port))
    session = new_session(guest, boot, way=replace(way, hang=limits), is_restored=True)
    before = session.host
    with session.held:
        getattr(session, restart)()
        assert session.host.run("echo here").stdout == "here\n"
    assert (ordered, watch.is_announced, session.restarts) == ([True], False, 1)
    assert session.host is not before
    # How long it may stand still is held against it until it is back.
    assert looked[0] is limits
    assert watch.limits is looked[-1] is None
