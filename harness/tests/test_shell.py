"""The root shell, against a real SSH server on loopback: every fault of testinfra's own backends has its test here."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import ssh_server as ssh_server_module
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from seatrial.clock import Deadline
from seatrial.errors import AuthRefused, BootFatal, CommandTimeout, OutputTooLarge, SessionError, SessionLost
from seatrial.guest import shell as shell_module
from seatrial.guest import ssh as ssh_module
from seatrial.guest.backend import new_host
from seatrial.guest.facts import Facts
from seatrial.guest.shell import Shell, root_shell
from seatrial.guest.ssh import Address, Connection, RunKey, connect, read_banner
from ssh_server import Served, ssh_server


def test_streams_stay_apart_and_the_status_is_exact(shell: Shell) -> None:
    assert shell.run("printf out; printf err >&2; exit 77") == (77, b"out", b"err")


def test_output_is_binary_safe_and_keeps_every_newline(shell: Shell) -> None:
    assert shell.run(r"printf '\000\377\n\n'") == (0, b"\0\xff\n\n", b"")


def test_output_without_a_final_newline_is_exact(shell: Shell) -> None:
    assert shell.run("printf x")[1] == b"x"


def test_three_megabytes_on_stderr_do_not_hang(shell: Shell) -> None:
    status, out, err = shell.run("head -c 3000000 /dev/zero >&2; head -c 3000000 /dev/zero")
    assert (status, len(out), len(err)) == (0, 3_000_000, 3_000_000)


def test_a_command_that_never_ends_is_killed_in_time_and_the_shell_stays_usable(shell: Shell, tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    with pytest.raises(CommandTimeout, match=r"'sleep 600 & echo \$! > .* did not end within 1 s; it was killed"):
        shell.run(f"sleep 600 & echo $! > {pid_file}; wait", timeout_s=1)
    assert shell.run("echo usable") == (0, b"usable\n", b"")
    # A zombie that nobody has reaped yet counts as ended.
    status, _out, _err = shell.run(f"grep -q '^State:.[^ZX]' /proc/{pid_file.read_text().strip()}/status")
    assert status != 0, "the child of the killed command is still running"


def test_a_command_cannot_eat_the_next_one_from_stdin(shell: Shell) -> None:
    assert shell.run("cat") == (0, b"", b"")
    assert shell.run("echo next") == (0, b"next\n", b"")


def test_a_background_process_that_keeps_stdout_open_hangs_nothing(shell: Shell) -> None:
    assert shell.run("sleep 3 & echo started") == (0, b"started\n", b"")


def test_exit_and_exec_in_a_command_do_not_end_the_shell(shell: Shell) -> None:
    assert shell.run("exec false")[0] == 1
    assert shell.run("exit 3")[0] == 3
    assert shell.run("kill -s KILL $$")[0] == 137
    assert shell.run("echo alive")[1] == b"alive\n"


def test_a_syntax_error_stays_inside_its_command(shell: Shell) -> None:
    status, _out, err = shell.run("if then (")
    assert status != 0
    assert b"yntax error" in err
    assert shell.run("echo fine")[1] == b"fine\n"


def test_nothing_leaks_from_one_command_to_the_next(shell: Shell) -> None:
    shell.run("cd /; X=1; export X; umask 0")
    assert shell.run('echo "$X"')[1] == b"\n"


def test_a_lost_connection_is_an_error_and_the_command_is_not_repeated(
    shell: Shell, server: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ssh_module, "_REASON_S", 0.0)
    ran = tmp_path / "ran"
    shell.run("true")

    def cut_after_start() -> None:
        if ran.exists():
            server.cut()

    guarded = Shell(shell._connection, guard=cut_after_start, timeout_s=20)
    with pytest.raises(SessionLost):
        guarded.run(f"echo once >> {ran}; sleep 5")
    with pytest.raises(SessionLost):
        guarded.run("true")
    assert ran.read_text() == "once\n"


def test_too_much_output_ends_the_command(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shell_module, "MOST_OUTPUT", 1 << 20)
    with pytest.raises(OutputTooLarge, match="wrote more than 1 MiB; it was killed"):
        shell.run("cat /dev/zero")
    assert shell.run("echo usable")[1] == b"usable\n"


def test_waiting_ends_at_once_when_the_guard_raises(connection: Connection) -> None:
    def guard() -> None:
        raise BootFatal("the kernel panicked")

    with pytest.raises(BootFatal), root_shell(connection, guard=guard, timeout_s=60) as shell:
        shell.run("sleep 600")


def test_a_lost_connection_waits_a_little_for_the_reason(shell: Shell, server: Served) -> None:
    looks = []

    def late_reason() -> None:
        server.cut()
        looks.append(1)
        if len(looks) > 3:
            raise BootFatal("the kernel panicked")

    with pytest.raises(BootFatal):
        Shell(shell._connection, guard=late_reason, timeout_s=20).run("sleep 600")


@contextlib.contextmanager
def port_that_says(said: bytes, *, again_every_s: float = 0.0) -> Iterator[int]:
    """Accept one connection and say something on it, once or for ever; then stay silent."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        over = threading.Event()

        def serve() -> None:
            with contextlib.suppress(OSError), listener.accept()[0] as sock:
                sock.sendall(said)
                while again_every_s and not over.wait(again_every_s):
                    sock.sendall(said)
                over.wait()

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            over.set()
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


def panicked() -> None:
    raise BootFatal("the kernel panicked")


@pytest.mark.parametrize("said", [b"", b"SSH-2.0-stalls\r\n"])
def test_a_login_that_stalls_ends_at_once_when_the_guard_raises(said: bytes) -> None:
    with (
        port_that_says(said) as port,
        pytest.raises(BootFatal),
        connect(Address(port), "root", RunKey("x"), deadline=Deadline(600), guard=panicked),
    ):
        pass


def test_starting_a_command_ends_at_once_when_the_guard_raises(
    server: Served, run_key: RunKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    dead, answer = threading.Event(), threading.Event()
    monkeypatch.setattr(ssh_server_module._Server, "check_channel_exec_request", lambda *_: answer.wait(30))

    def guard() -> None:
        if dead.is_set():
            raise BootFatal("the kernel panicked")

    with connect(Address(server.port), "root", run_key, deadline=Deadline(60), guard=guard) as connection:
        dead.set()
        limit = Deadline(20)
        with pytest.raises(BootFatal):
            connection.open("true", deadline=Deadline(60))
        assert not limit.is_over
    answer.set()


def test_a_banner_that_trickles_is_given_up_in_time() -> None:
    with port_that_says(b"x", again_every_s=0.02) as port:
        deadline = Deadline(10)
        assert read_banner(Address(port), timeout_s=0.3) is None
        assert deadline.elapsed_s < 5


def test_lines_before_the_banner_are_skipped() -> None:
    with port_that_says(b"Authorised use only\r\nSSH-2.0-OpenSSH_10.0\r\n") as port:
        assert read_banner(Address(port), timeout_s=5) == "SSH-2.0-OpenSSH_10.0"


def test_a_nul_in_a_command_is_refused_before_anything_is_sent(shell: Shell, server: Served) -> None:
    with pytest.raises(ValueError, match="NUL"):
        shell.run("echo a\0b")
    assert server.commands == []


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(st.characters(exclude_characters="\0", codec="utf-8"), max_size=200))
def test_any_text_survives_quoting(shell: Shell, text: str) -> None:
    quoted = text.replace("'", "'\\''")
    assert shell.run(f"printf %s '{quoted}'") == (0, text.encode(), b"")


def test_a_pushed_file_arrives_whole_and_an_existing_one_is_refused(shell: Shell, tmp_path: Path) -> None:
    content, target = bytes(range(256)) * 5000, tmp_path / "pushed"
    shell.push(content, str(target), mode=0o640)
    assert target.read_bytes() == content
    assert target.stat().st_mode & 0o777 == 0o640
    with pytest.raises(SessionLost, match="did not take the file"):
        shell.push(b"other", str(target))
    assert target.read_bytes() == content


def test_an_unknown_key_is_refused_with_a_typed_error(server: Served) -> None:
    with pytest.raises(AuthRefused), connect(Address(server.port), "root", RunKey("x"), deadline=Deadline(20)):
        pass


def test_a_host_key_that_changes_is_refused(run_key: RunKey) -> None:
    address = Address(0)
    for attempt in range(2):
        with ssh_server(run_key.public_line) as served:
            address.port = served.port
            if attempt == 0:
                with connect(address, "root", run_key, deadline=Deadline(20)) as first:
                    assert first.is_alive
            else:
                with (
                    pytest.raises(SessionError, match="host key changed"),
                    connect(address, "root", run_key, deadline=Deadline(20)),
                ):
                    pass


def test_the_connection_sends_small_packets_at_once(connection: Connection) -> None:
    sock = connection._transport.sock
    assert isinstance(sock, socket.socket)
    assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1


def test_a_port_that_accepts_but_does_not_speak_gives_no_banner() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        assert read_banner(Address(silent.getsockname()[1]), timeout_s=0.2) is None


def test_the_banner_is_read(server: Served) -> None:
    banner = read_banner(Address(server.port), timeout_s=5)
    assert banner is not None
    assert banner.startswith("SSH-2.0-paramiko")


def test_testinfra_modules_work_unchanged(shell: Shell, tmp_path: Path) -> None:
    file = tmp_path / "it's a file"
    file.write_bytes(b"caf\xe9\n")
    host = new_host(shell, "guest")
    found = host.file(str(file))
    assert found.exists
    assert found.size == 5
    assert found.content == b"caf\xe9\n"
    assert host.run("echo %s", "a b'c").stdout == "a b'c\n"
    assert host.check_output("id -u") == host.run("id -u").stdout.strip()
    assert host.run("printf '\\377'").stdout == "\\xff"
    with host.sudo():
        assert host.run("echo root").rc == 0


def test_each_boot_gets_a_host_of_its_own(shell: Shell) -> None:
    assert new_host(shell, "a") is not new_host(shell, "a")


def test_a_fact_is_asked_once(shell: Shell, tmp_path: Path) -> None:
    facts = Facts(shell)
    command = f"echo asked >> {tmp_path}/log; cat {tmp_path}/log"
    assert facts.text(command) == facts.text(command) == "asked\n"
