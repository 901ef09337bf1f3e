"""Ready, or a typed error that says how far the guest came: no port, no greeting, no login, no rights."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from typing import cast

import paramiko
import pytest
from seatrial.clock import Deadline
from seatrial.errors import AuthRefused, BootFatal, BootTimeout, RightsRefused
from seatrial.guest.ready import Guest, Patience, ready_guest, wait_until_settled
from seatrial.guest.shell import Shell
from seatrial.guest.ssh import Address, RunKey
from seatrial.progress import Silent
from ssh_server import Served, hostile_server

PATIENCE = Patience(boot_s=1.2, settle_s=1, command_s=5, refused_s=0.5)


def ready(
    port: int,
    key: RunKey,
    user: str = "root",
    *,
    patience: Patience = PATIENCE,
    guard: Callable[[], None] = lambda: None,
) -> contextlib.AbstractContextManager[Guest]:
    return ready_guest(Address(port), user, key, guard=guard, patience=patience, progress=Silent())


def serve_nothing(sock: socket.socket) -> None:
    while sock.recv(4096):
        pass


def serve_a_page(sock: socket.socket) -> None:
    sock.sendall(b"HTTP/1.1 200 OK\r\n\r\n")


def greet_only(sock: socket.socket) -> None:
    sock.sendall(b"SSH-2.0-Stuck\r\n")
    serve_nothing(sock)


def test_a_guest_without_a_port_is_told_from_one_that_does_not_greet(run_key: RunKey) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        closed = listener.getsockname()[1]
    with pytest.raises(BootTimeout, match="the last look: connection refused"), ready(closed, run_key):
        pass
    with (
        hostile_server(serve_nothing) as silent,
        pytest.raises(BootTimeout, match="the last look: the port is open, and nothing greets there"),
        ready(silent, run_key),
    ):
        pass
    with (
        hostile_server(serve_a_page) as page,
        pytest.raises(BootTimeout, match=r"the last look: it said 'HTTP/1\.1 200 OK\\r', which is no SSH version"),
        ready(page, run_key),
    ):
        pass


def test_a_server_that_greets_and_lets_no_login_end_is_named(run_key: RunKey) -> None:
    with (
        hostile_server(greet_only) as port,
        pytest.raises(BootTimeout, match=r"greets, but no login came to its end within \d s; the last try: .*shaking"),
        ready(port, run_key),
    ):
        pass


def test_a_key_that_is_refused_is_no_timeout_and_carries_advice(server: Served) -> None:
    with (
        pytest.raises(AuthRefused, match=r"refused our key while logging in as 'root'.*; tried for \d s") as caught,
        ready(server.port, RunKey("other"), patience=Patience(boot_s=60, settle_s=60, command_s=5, refused_s=0.01)),
    ):
        pass
    assert "--access" in caught.value.hint


def test_a_key_that_comes_late_is_waited_for(server: Served, run_key: RunKey) -> None:
    line, server.allowed = server.allowed, ""
    tries: list[int] = []

    def let_in_later() -> None:
        tries.append(1)
        if len(tries) == 2:
            server.allowed = line

    server.on_login = let_in_later
    late = Patience(boot_s=20, settle_s=20, command_s=5, refused_s=20)
    with ready(server.port, run_key, patience=late) as guest:
        assert guest.shell.run("echo in")[1] == b"in\n"
    assert len(tries) == 2


def test_a_user_without_rights_is_not_ready(server: Served, run_key: RunKey) -> None:
    def refuse(channel: paramiko.Channel) -> None:
        channel.recv(1)
        channel.close()

    server.instead = refuse
    with (
        pytest.raises(RightsRefused, match="user 'ada' logged in, but cannot become root"),
        ready(server.port, run_key, "ada", patience=Patience(boot_s=20, settle_s=20, command_s=5)),
    ):
        pass


def test_a_panic_ends_even_a_handshake_that_stalls(run_key: RunKey) -> None:
    panicked = threading.Event()
    waited = Deadline(60)

    def greet_and_panic(sock: socket.socket) -> None:
        sock.sendall(b"SSH-2.0-Stuck\r\n")
        panicked.set()
        serve_nothing(sock)

    def guard() -> None:
        if panicked.is_set() and waited.elapsed_s > 0.2:
            raise BootFatal("the kernel panicked")

    patience = Patience(boot_s=60, settle_s=60, command_s=5)
    with (
        hostile_server(greet_and_panic) as port,
        pytest.raises(BootFatal),
        ready(port, run_key, patience=patience, guard=guard),
    ):
        pass
    assert waited.elapsed_s < 10


class Starting:
    """The shell of a guest whose start-up never ends, and whose processors say ``times`` one after the other."""

    def __init__(self, times: Iterator[str]) -> None:
        self._times = times

    def run(self, command: str) -> tuple[int, bytes, bytes]:
        """Answer what is asked while a guest settles."""
        if "/proc/stat" in command:
            return 0, next(self._times).encode(), b""
        return (0, b"", b"") if command.startswith("command -v") else (1, b"starting\n", b"")


def times(*, busy: int, idle: int) -> Iterator[str]:
    """Give what two processors count, ``busy`` and ``idle`` ticks more each time, in the form of proc(5)."""
    for look in range(1000):
        yield f"cpu  {busy * look} 0 7 {idle * look} 0 0 0 0 0 0\ncpu0 1 0 3 1 0 0 0 0 0 0\ncpu1 1 0 4 1 0 0 0 0 0 0\n"


@pytest.mark.parametrize(
    ("said", "gives_up_early"),
    [
        (times(busy=10, idle=90), True),
        (times(busy=50, idle=50), False),
        (times(busy=0, idle=0), False),
        (iter([""] * 1000), False),
        (iter(["cpu rubbish\n"] * 1000), False),
    ],
)
def test_a_guest_that_does_nothing_is_not_waited_for_as_long_as_a_slow_one(
    said: Iterator[str], gives_up_early: bool
) -> None:
    deadline = Deadline(2.5)
    assert wait_until_settled(cast("Shell", Starting(said)), deadline, idle_s=0.8) == "starting"
    assert deadline.is_over is not gives_up_early
