"""An SSH server on loopback that runs what it is told with the local ``sh``: a guest without a virtual machine."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import paramiko


@dataclass
class Served:
    """What the server was asked, and how to misbehave."""

    port: int = 0
    allowed: str = ""
    commands: list[str] = field(default_factory=list)
    # Folder of programs that commands find first.
    programs: str = ""
    # Channels that a connection may open, in all.
    most_channels: int = 1000
    # Called in the server's thread before it lets a key in, opens a channel, or starts a command.
    on_login: Callable[[], None] = lambda: None
    on_open: Callable[[], None] = lambda: None
    on_command: Callable[[], None] = lambda: None
    # Takes the place of the local sh: it gets the channel.
    instead: Callable[[paramiko.Channel], None] | None = None
    transports: list[paramiko.Transport] = field(default_factory=list)

    def cut(self) -> None:
        """Break every connection, as a guest that dies does."""
        for transport in self.transports:
            transport.close()


class _Server(paramiko.ServerInterface):
    def __init__(self, served: Served) -> None:
        self.served = served

    def check_auth_publickey(self, username: str, key: paramiko.PKey) -> int:
        self.served.on_login()
        known = key.get_base64() in self.served.allowed
        return paramiko.common.AUTH_SUCCESSFUL if known else paramiko.common.AUTH_FAILED

    def get_allowed_auths(self, username: str) -> str:
        return "publickey"

    def check_channel_request(self, kind: str, chanid: int) -> int:
        self.served.on_open()
        return (
            paramiko.common.OPEN_SUCCEEDED
            if kind == "session" and chanid < self.served.most_channels
            else paramiko.common.OPEN_FAILED_ADMINISTRATIVELY_PROHIBITED
        )

    def check_channel_exec_request(self, channel: paramiko.Channel, command: bytes) -> bool:
        self.served.on_command()
        self.served.commands.append(command.decode())
        instead = self.served.instead
        if instead is not None:
            threading.Thread(target=_until_broken, args=(instead, channel), daemon=True).start()
        else:
            arguments = (channel, command, self.served.programs)
            threading.Thread(target=_serve_command, args=arguments, daemon=True).start()
        return True


def _until_broken(serve: Callable[[paramiko.Channel], None], channel: paramiko.Channel) -> None:
    with contextlib.suppress(OSError, EOFError, paramiko.SSHException):
        serve(channel)


def _serve_command(channel: paramiko.Channel, command: bytes, programs: str) -> None:
    path = f"{programs}:{os.environ['PATH']}" if programs else os.environ["PATH"]
    with subprocess.Popen(
        ["sh", "-c", command.decode()],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
        env={**os.environ, "PATH": path},
    ) as process:
        assert process.stdin
        assert process.stdout
        assert process.stderr
        pumps = [
            threading.Thread(target=_pump, args=(process.stdout, channel.sendall)),
            threading.Thread(target=_pump, args=(process.stderr, channel.sendall_stderr)),
        ]
        for pump in pumps:
            pump.start()
        threading.Thread(target=_end_of_output, args=(pumps, channel), daemon=True).start()
        with contextlib.suppress(OSError):
            while data := channel.recv(65536):
                process.stdin.write(data)
                process.stdin.flush()
        with contextlib.suppress(OSError):
            process.stdin.close()
        for pump in pumps:
            pump.join()
        with contextlib.suppress(OSError, EOFError, paramiko.SSHException):
            channel.send_exit_status(process.wait())
            channel.close()


def _end_of_output(pumps: list[threading.Thread], channel: paramiko.Channel) -> None:
    """Say the end as sshd does: when the command has closed its streams, whether or not input is still open."""
    for pump in pumps:
        pump.join()
    with contextlib.suppress(OSError, EOFError, paramiko.SSHException):
        channel.shutdown_write()


def _pump(source: object, sink: object) -> None:
    with contextlib.suppress(OSError, EOFError):
        while data := source.read1(65536):  # type: ignore[attr-defined]  # a BufferedReader
            sink(data)  # type: ignore[operator]  # one of the channel's two senders


@contextlib.contextmanager
def ssh_server(allowed: str) -> Iterator[Served]:
    """Serve until the block ends; ``allowed`` is the authorized_keys text."""
    host_key = paramiko.ECDSAKey.generate()
    served = Served(allowed=allowed)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        served.port = listener.getsockname()[1]

        def accept() -> None:
            while True:
                try:
                    sock, _address = listener.accept()
                except OSError:
                    return
                # As OpenSSH does.
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                transport = paramiko.Transport(sock)
                transport.add_server_key(host_key)
                served.transports.append(transport)
                with contextlib.suppress(paramiko.SSHException, EOFError, OSError):
                    transport.start_server(event=threading.Event(), server=_Server(served))

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        try:
            yield served
        finally:
            served.cut()
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


@contextlib.contextmanager
def hostile_server(serve: Callable[[socket.socket], None]) -> Iterator[int]:
    """Give the port of a server that does with each connection what ``serve`` does, until the block ends."""
    open_ones: list[socket.socket] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def one(sock: socket.socket) -> None:
            with contextlib.suppress(OSError), sock:
                serve(sock)

        def accept() -> None:
            while True:
                try:
                    sock, _address = listener.accept()
                except OSError:
                    return
                open_ones.append(sock)
                threading.Thread(target=one, args=(sock,), daemon=True).start()

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()
            for sock in open_ones:
                with contextlib.suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)
