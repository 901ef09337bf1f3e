"""An SSH server that wants to harm the run: every way out is a typed error, in time, and with bounded memory."""

from __future__ import annotations

import contextlib
import re
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import paramiko
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from seatrial.clock import Deadline
from seatrial.errors import (
    AuthRefused,
    CommandTimeout,
    OutputTooLarge,
    RightsRefused,
    SeatrialError,
    SessionError,
    SessionLost,
)
from seatrial.guest import shell as shell_module
from seatrial.guest.rights import as_root, require_root
from seatrial.guest.shell import Shell, _Frame
from seatrial.guest.ssh import Address, Connection, RunKey, _translated, connect, read_banner
from ssh_server import Served, hostile_server

SHORT_S = 0.4
MARK = re.compile(rb"</([0-9a-f]{32})>")


def repeat(piece: bytes, first: bytes = b"") -> Callable[[socket.socket], None]:
    def serve(sock: socket.socket) -> None:
        sock.sendall(first)
        while True:
            sock.sendall(piece)

    return serve


def once(words: bytes) -> Callable[[socket.socket], None]:
    def serve(sock: socket.socket) -> None:
        sock.sendall(words)
        while sock.recv(65536):
            pass

    return serve


GREETING = b"SSH-2.0-Hostile\r\n"
HUGE_PACKET = struct.pack(">IB", 0xFFFFFFF4, 4) + b"\x14" * 4096
SERVERS = {
    "says nothing": (once(b""), "did not answer within"),
    "greets for ever": (repeat(b"welcome\r\n"), "Indecipherable protocol version"),
    "greets in one line for ever": (repeat(b"x" * 65536), "sent more than 256 KiB before the login"),
    "is a web server": (once(b"HTTP/1.1 400 Bad Request\r\n\r\n"), "did not answer within|Error reading"),
    "is no text": (once(b"\xff\xfe\x00\x1b[2J\n" * 200), "Error reading SSH protocol banner"),
    "speaks SSH 1": (once(b"SSH-1.5-old\r\n"), "Incompatible version"),
    "hangs up": (lambda sock: sock.close(), "Error reading SSH protocol banner|reset"),
    "stalls in the key exchange": (once(GREETING), "did not answer within 0 s while shaking hands"),
    "announces a packet of 4 GiB": (once(GREETING + HUGE_PACKET), "announced a packet of 4294967"),
    "speaks garbage after the greeting": (
        repeat(b"\x00\x00\x01\x0c\x04garbage", GREETING),
        "broke while shaking hands",
    ),
    "sends packets that mean nothing": (
        repeat(struct.pack(">IB", 12, 4) + b"\x02" + b"\0" * 10, GREETING),
        "did not answer within|before the login|broke while",
    ),
}


@pytest.mark.parametrize("name", SERVERS)
def test_a_server_that_does_not_shake_hands_is_given_up_in_time_with_a_reason(name: str) -> None:
    serve, reason = SERVERS[name]
    waited = Deadline(5 if reason[-16:] == "before the login" else SHORT_S)
    with (
        hostile_server(serve) as port,
        pytest.raises(SessionLost, match=reason) as caught,
        connect(Address(port), "root", RunKey("x"), deadline=waited),
    ):
        pass
    assert waited.elapsed_s < 15
    assert caught.value.hint
    assert caught.value.message.isascii()
    assert caught.value.message.isprintable()
    assert len(caught.value.message) < 400


@pytest.mark.parametrize(
    ("serve", "trouble"),
    [
        (once(b""), "the port is open, and nothing greets there"),
        (lambda sock: sock.close(), "the connection was closed without a greeting|connection reset"),
        (once(b"HTTP/1.1 400\r\n"), r"it said 'HTTP/1.1 400\\r', which is no SSH version, then said no more"),
        (once(b"SSH-1.5-old\r\n"), "it speaks 'SSH-1.5-old.*, and SSH 2.0 is needed"),
        (repeat(b"\x1b[2Jwelcome\r\n"), "lines without end and never its SSH version; the first: "),
        (repeat(b"x" * 4096), "lines without end"),
    ],
)
def test_why_nobody_greets_is_known(serve: Callable[[socket.socket], None], trouble: str) -> None:
    with hostile_server(serve) as port:
        address = Address(port)
        assert read_banner(address, timeout_s=SHORT_S) is None
    assert re.search(trouble, address.trouble), address.trouble
    assert address.trouble.isprintable()


def test_a_closed_port_is_told_from_a_silent_one() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = Address(listener.getsockname()[1])
    assert read_banner(address, timeout_s=SHORT_S) is None
    assert address.trouble == "connection refused"


def test_lines_before_the_version_are_allowed() -> None:
    with hostile_server(once(b"Welcome to the machine\r\nSSH-2.0-Other\r\n")) as port:
        assert read_banner(Address(port), timeout_s=5) == "SSH-2.0-Other"


def test_a_byte_at_a_time_does_not_stretch_the_wait() -> None:
    def drip(sock: socket.socket) -> None:
        while True:
            sock.sendall(b".")
            threading.Event().wait(0.02)

    waited = Deadline(SHORT_S)
    with hostile_server(drip) as port:
        assert read_banner(Address(port), timeout_s=SHORT_S) is None
    assert waited.elapsed_s < 5


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=600))
def test_whatever_is_said_first_is_a_banner_or_a_reason(words: bytes) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(words)
        theirs.close()
        from seatrial.guest.greeting import _identification

        found, trouble = _identification(ours, Deadline(2))
    assert (found is None) == bool(trouble)
    assert found is None or found.startswith("SSH-2.0-")
    assert trouble.isascii()


@pytest.fixture
def stall(server: Served) -> Iterator[threading.Event]:
    """Lets go, at the end of the test, of whatever a server's thread waits for."""
    event = threading.Event()
    yield event
    event.set()


def test_a_server_that_stalls_in_the_login_is_no_refusal(
    server: Served, run_key: RunKey, stall: threading.Event
) -> None:
    server.on_login = lambda: (stall.wait(30), None)[1]
    with (
        pytest.raises(SessionLost, match="while logging in as 'root'"),
        connect(Address(server.port), "root", run_key, deadline=Deadline(2)),
    ):
        pass


def test_a_server_that_hangs_up_in_the_login_is_no_refusal(server: Served, run_key: RunKey) -> None:
    server.on_login = server.cut
    with (
        pytest.raises(SessionLost, match="while logging in as 'root'"),
        connect(Address(server.port), "root", run_key, deadline=Deadline(20)),
    ):
        pass


@pytest.mark.parametrize("place", ["on_open", "on_command"])
def test_a_server_that_stalls_at_a_channel_is_given_up_in_time(
    server: Served, connection: Connection, stall: threading.Event, place: str
) -> None:
    setattr(server, place, lambda: (stall.wait(30), None)[1])
    waited = Deadline(1)
    with pytest.raises(SessionLost, match=r"did not answer within 1 s while starting 'true'|Timeout opening channel"):
        connection.open("true", deadline=Deadline(1))
    assert waited.elapsed_s < 10


def test_a_server_that_takes_nothing_cannot_hold_a_file_for_ever(server: Served, connection: Connection) -> None:
    server.instead = lambda _channel: None
    channel = connection.open("cat", deadline=Deadline(10))
    waited = Deadline(1)
    with pytest.raises(SessionLost, match="did not answer within 1 s while sending a command"):
        channel.send(bytes(16 << 20), deadline=Deadline(1))
    assert waited.elapsed_s < 10


def flood(channel: paramiko.Channel) -> None:
    channel.out_window_size = 1 << 40  # an honest server would wait for its window
    while True:
        channel.sendall(b"x" * 32768)


def test_a_server_that_ignores_its_window_fills_no_memory(server: Served, connection: Connection) -> None:
    server.instead = flood
    channel = connection.open("flood", deadline=Deadline(10))
    waited = Deadline(20)
    while connection.is_alive and not waited.is_over:
        channel._raw.status_event.wait(0.05)
    assert not connection.is_alive
    held = len(channel._raw.in_buffer) + len(channel._raw.in_stderr_buffer)
    assert held < 9 << 20
    with pytest.raises(SessionLost, match="sent more than its window allows"):
        connection.open("true", deadline=Deadline(5))


def test_a_command_that_prints_without_end_is_ended_on_either_stream(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shell_module, "MOST_OUTPUT", 1 << 20)
    for redirect in ("", ">&2"):
        with pytest.raises(OutputTooLarge):
            shell.run(f"yes {redirect}", timeout_s=60)
    assert shell.run("echo fine")[1] == b"fine\n"


def answering(reply: Callable[[bytes], tuple[bytes, bytes]]) -> Callable[[paramiko.Channel], None]:
    """Return a shell that writes ``reply(mark)`` on its two streams for each command, and never runs anything."""

    def serve(channel: paramiko.Channel) -> None:
        heard = b""
        while piece := channel.recv(65536):
            heard += piece
            while (end := heard.find(b"\n")) >= 0:
                line, heard = heard[:end], heard[end + 1 :]
                if found := MARK.search(line):
                    out, err = reply(found[1])
                    channel.sendall(out)
                    channel.sendall_stderr(err)

    return serve


FORGERIES: dict[str, Callable[[bytes], tuple[bytes, bytes]]] = {
    "a status that is no number": lambda m: (b"<%b></%b>abc\n" % (m, m), b"<%b>1\n</%b>\n" % (m, m)),
    "no status": lambda m: (b"<%b></%b>\n" % (m, m), b"<%b>1\n</%b>\n" % (m, m)),
    "a status of many digits": lambda m: (b"<%b></%b>%b\n" % (m, m, b"9" * 5000), b"<%b>1\n</%b>\n" % (m, m)),
    "an end without a beginning": lambda m: (b"out</%b>0\n" % m, b"<%b>1\n</%b>\n" % (m, m)),
    "the end before the beginning": lambda m: (b"</%b>0\n<%b>" % (m, m), b"</%b>\n<%b>1\n" % (m, m)),
    "no process id": lambda m: (b"<%b></%b>0\n" % (m, m), b"<%b>x\n</%b>\n" % (m, m)),
}


@pytest.mark.parametrize("name", FORGERIES)
def test_a_forged_answer_is_no_answer(server: Served, shell: Shell, name: str) -> None:
    server.instead = answering(FORGERIES[name])
    with pytest.raises(SessionLost, match="is no frame of our shell"):
        shell.run("id", timeout_s=20)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from([b"<M>", b"</M>", b"0", b"17", b"\n", b"x", b"\xff"]), max_size=12), st.data())
def test_any_mix_of_marks_is_an_answer_or_a_typed_error(out: list[bytes], data: st.DataObject) -> None:
    err = data.draw(st.lists(st.sampled_from([b"<M>", b"</M>", b"1", b"\n", b"y"]), max_size=12))
    frame = _Frame("M", limit=1 << 20)
    for piece in (*((o, b"") for o in out), *((b"", e) for e in err)):
        frame.feed(*piece)
    if frame.is_complete:
        with contextlib.suppress(SessionLost):
            status, _out, _err = frame.answer()
            assert 0 <= status <= 999
    assert frame.pid is None or frame.pid >= 0


def test_a_connection_that_closes_in_mid_answer_is_lost(server: Served, shell: Shell) -> None:
    def serve(channel: paramiko.Channel) -> None:
        channel.recv(65536)
        channel.sendall(b"half of an ans")
        channel.close()

    server.instead = serve
    with pytest.raises(SessionLost, match="root shell ended while it ran 'id'"):
        shell.run("id", timeout_s=20)


def test_a_file_whose_status_never_comes_was_not_taken(server: Served, shell: Shell) -> None:
    server.instead = lambda channel: channel.close()
    with pytest.raises(SessionLost):
        shell.push(b"x", "/tmp/x")


def test_a_flood_after_the_end_of_an_answer_does_not_count_as_none(
    server: Served, shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shell_module, "MOST_OUTPUT", 1 << 20)
    # stdout ends its answer at once and goes on; stderr never ends.
    server.instead = answering(lambda m: (b"<%b></%b>0\n" % (m, m) + bytes(4 << 20), b""))
    with pytest.raises(OutputTooLarge):
        shell.run("id", timeout_s=30)


def test_a_guest_that_talks_on_after_the_kill_ends_the_kill_in_time(
    server: Served, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shell_module, "_KILL_S", 0.5)
    calm = Shell(connection, guard=lambda: None, timeout_s=20)
    server.instead = answering(lambda m: (b"", b"<%b>1234567\n" % m))
    calm._channel = calm._opened()

    def chatter(channel: paramiko.Channel) -> None:
        while True:
            channel.sendall(b"more and more\n")

    server.instead = chatter
    waited = Deadline(1)
    with pytest.raises(CommandTimeout):
        calm.run("sleep 600", timeout_s=0.5)
    assert waited.elapsed_s < 15


@pytest.mark.parametrize(
    "error",
    [
        paramiko.SSHException("x" * 5000),
        paramiko.ssh_exception.IncompatiblePeer("\x1b[2J\u202e"),
        paramiko.ChannelException(1, "no"),
        paramiko.ssh_exception.NoValidConnectionsError({("127.0.0.1", 1): OSError("no")}),
        EOFError(),
        OSError(9, "bad"),
        UnicodeDecodeError("utf-8", b"\xff", 0, 1, "no"),
        struct.error("unpack"),
        IndexError("list"),
        ValueError("mangled"),
        AssertionError(),
    ],
)
def test_whatever_paramiko_raises_is_one_of_our_errors(error: Exception) -> None:
    with pytest.raises(SessionLost, match="broke while asking") as caught, _translated("asking"):
        raise error
    assert caught.value.message.isascii()
    assert caught.value.message.isprintable()
    assert len(caught.value.message) < 400


@pytest.mark.parametrize(
    "error",
    [
        paramiko.AuthenticationException("Authentication failed."),
        paramiko.BadAuthenticationType("no", ["password", "\x1b[2J" * 999]),
        paramiko.ssh_exception.PartialAuthentication(["password"]),
        paramiko.PasswordRequiredException("no"),
    ],
)
def test_a_refused_login_is_told_from_a_broken_one(error: Exception) -> None:
    with pytest.raises(AuthRefused) as caught, _translated("asking"):
        raise error
    assert caught.value.message.isprintable()
    assert len(caught.value.message) < 400


def test_our_own_errors_pass_untouched() -> None:
    with pytest.raises(SessionError, match="ours"), _translated("asking"):
        raise SessionError("ours")
    assert issubclass(SessionError, SeatrialError)


class As:
    """A user on the served connection: everything else is the connection's."""

    def __init__(self, connection: Connection, user: str) -> None:
        self.user = user
        self.open = connection.open


def program(folder: Path, name: str, script: str) -> None:
    (folder / name).write_text(f"#!/bin/sh\n{script}\n")
    (folder / name).chmod(0o755)


@pytest.fixture
def programs(server: Served, tmp_path: Path) -> Path:
    """A folder of programs for a user who is not root; sudo and doas refuse."""
    program(tmp_path, "id", "echo 1000")
    program(tmp_path, "sudo", "echo 'sudo: a password is required' >&2; exit 1")
    program(tmp_path, "doas", "echo 'doas: Operation not permitted' >&2; exit 1")
    server.programs = str(tmp_path)
    return tmp_path


def test_a_user_without_rights_is_an_error_that_says_what_was_tried(connection: Connection, programs: Path) -> None:
    with pytest.raises(RightsRefused) as caught:
        require_root(As(connection, "ada"), guard=lambda: None)
    assert caught.match("user 'ada' logged in, but cannot become root without a password")
    assert caught.match("sudo -n -- sudo: a password is required; doas -n -- doas: Operation not permitted")
    assert caught.match("hint: give the user a NOPASSWD rule")
    assert (programs / "id").exists()


@pytest.mark.parametrize("way", ["sudo", "doas"])
def test_a_user_becomes_root_by_whatever_is_there(connection: Connection, programs: Path, way: str) -> None:
    program(programs, way, 'PATH=/usr/bin:/bin; shift 2; [ "$1" != id ] || exec echo 0; exec "$@"')
    user = As(connection, "ada")
    require_root(user, guard=lambda: None)
    channel = connection.open(as_root("ada", "echo 'as root'; exit 7"), deadline=Deadline(20))
    channel.end_of_input()
    assert channel.receive(deadline=Deadline(20), guard=lambda: None) == (b"as root\n", b"")
    assert channel.exit_status(deadline=Deadline(20)) == 7


def test_another_name_with_uid_0_needs_nothing(connection: Connection, programs: Path) -> None:
    program(programs, "id", "echo 0")
    require_root(As(connection, "toor"), guard=lambda: None)


def test_a_shell_that_lets_nobody_in_is_quoted_safely(server: Served, connection: Connection, programs: Path) -> None:

    def refuse(channel: paramiko.Channel) -> None:
        channel.recv(1)
        channel.sendall(b"\x1b[2JThis account is not available.\n")
        channel.close()

    server.instead = refuse
    with pytest.raises(RightsRefused, match="This account is not available"):
        require_root(As(connection, "ada"), guard=lambda: None)
    assert programs.is_dir()
