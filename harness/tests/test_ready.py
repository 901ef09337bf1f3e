"""Ready, or a typed error that says how far the guest came: no port, no greeting, no login, no rights."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable

import paramiko
import pytest
from seatrial.clock import Deadline
from seatrial.errors import AuthRefused, BootFatal, BootTimeout, RightsRefused
from seatrial.guest.ready import Guest, Patience, ready_guest
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
