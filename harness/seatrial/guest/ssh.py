"""The only door to paramiko: one connection a boot, its host key pinned, every wait with a deadline."""

from __future__ import annotations

import contextlib
import functools
import io
import logging
import select
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import paramiko
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from seatrial.clock import Deadline
from seatrial.errors import AuthRefused, SessionError, SessionLost

__all__ = ["Address", "Channel", "Connection", "OnDemand", "RunKey", "connect", "read_banner"]

# paramiko's thread logs every broken connection with a traceback; our errors say it once.
logging.getLogger("paramiko").addHandler(logging.NullHandler())
logging.getLogger("paramiko").propagate = False

_HANDSHAKE_S = 60.0
_WINDOW = 4 * 1024 * 1024
_SLICE_S = 0.5
Guard = Callable[[], None]


class RunKey:
    """The run's own ed25519 key: made fresh, held in memory, never written to a file."""

    def __init__(self, comment: str) -> None:
        private = Ed25519PrivateKey.generate()
        pem = private.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
        )
        self.paramiko = paramiko.Ed25519Key(file_obj=io.StringIO(pem.decode()))
        self.public_line = f"ssh-ed25519 {self.paramiko.get_base64()} {comment}"


@dataclass(slots=True)
class Address:
    """Where the guest's SSH server is, and the host key it showed first: another one later is refused."""

    port: int
    host_key: tuple[str, bytes] | None = None
    host: str = "127.0.0.1"


def read_banner(address: Address, *, timeout_s: float) -> str | None:
    """Return the identification line of the SSH server, or None while there is none.

    An open port proves nothing: QEMU accepts connections for a guest that is still in its firmware.
    """
    try:
        with socket.create_connection((address.host, address.port), timeout=timeout_s) as sock:
            sock.settimeout(timeout_s)
            line = b""
            while not line.endswith(b"\n") and len(line) < 255:  # RFC 4253, section 4.2: at most 255 characters
                byte = sock.recv(1)
                if not byte:
                    return None
                line += byte
    except OSError:
        return None
    text = line.decode("ascii", "backslashreplace").strip()
    return text if text.startswith("SSH-2.0-") else None


@contextlib.contextmanager
def _translated(doing: str) -> Iterator[None]:
    try:
        yield
    except paramiko.AuthenticationException as exc:
        raise AuthRefused(f"the guest's SSH server refused our key while {doing}: {exc}") from exc
    except (paramiko.SSHException, EOFError, OSError) as exc:
        raise SessionLost(f"the SSH connection broke while {doing}: {type(exc).__name__}: {exc}") from exc


class Channel:
    """One command on the guest, its three streams as bytes. stdout and stderr are always drained together."""

    def __init__(self, raw: paramiko.Channel) -> None:
        self._raw = raw

    def send(self, data: bytes, *, deadline: Deadline) -> None:
        """Write all of ``data`` to the command's stdin.

        :raises SessionLost: the connection broke, or the guest did not take it in time.
        """
        with _translated("sending a command"):
            self._raw.settimeout(max(0.001, deadline.remaining_s))
            self._raw.sendall(data)

    def end_of_input(self) -> None:
        """Say that stdin ends."""
        with _translated("ending a command's input"):
            self._raw.shutdown_write()

    def receive(self, *, deadline: Deadline, guard: Guard) -> tuple[bytes, bytes] | None:
        """Return what came on stdout and stderr, or None at the end of both; empty bytes when the deadline is over.

        ``guard`` is called now and then, to raise when waiting has become pointless.

        :raises SessionLost: the connection broke.
        """
        with _translated("waiting for an answer"):
            while True:
                out = self._raw.recv(_WINDOW) if self._raw.recv_ready() else b""
                err = self._raw.recv_stderr(_WINDOW) if self._raw.recv_stderr_ready() else b""
                if out or err:
                    return out, err
                if self._raw.eof_received or self._raw.closed:
                    # Data may have come between the two looks.
                    if self._raw.recv_ready() or self._raw.recv_stderr_ready():
                        continue
                    return None
                if deadline.is_over:
                    return b"", b""
                guard()
                select.select([self._raw], [], [], min(_SLICE_S, deadline.remaining_s))

    def exit_status(self, *, deadline: Deadline) -> int:
        """Return the exit status of a command that has closed its streams; -1 when none came in time."""
        return self._raw.recv_exit_status() if self._raw.status_event.wait(deadline.remaining_s) else -1

    def resize(self, columns: int, rows: int) -> None:
        """Tell a terminal's new size."""
        with _translated("resizing the terminal"):
            self._raw.resize_pty(columns, rows)

    def close(self) -> None:
        """Close the channel; the guest's side of its pipes closes too."""
        with contextlib.suppress(paramiko.SSHException, EOFError, OSError):
            self._raw.close()


class Connection:
    """An authenticated SSH connection."""

    def __init__(self, transport: paramiko.Transport, user: str) -> None:
        self._transport = transport
        self.user = user

    def open(self, command: str, *, deadline: Deadline) -> Channel:
        """Start ``command`` on a channel of its own.

        :raises SessionLost: the connection is gone or the guest opens no channel.
        """
        with _translated(f"starting {command[:60]!r}"):
            raw = self._transport.open_session(window_size=_WINDOW, timeout=deadline.remaining_s)
            raw.settimeout(deadline.remaining_s)
            raw.exec_command(command)
            return Channel(raw)

    def open_terminal(self, term: str, columns: int, rows: int, *, command: str, deadline: Deadline) -> Channel:
        """Start ``command`` on a pseudo-terminal, for a person."""
        with _translated("opening a terminal"):
            raw = self._transport.open_session(window_size=_WINDOW, timeout=deadline.remaining_s)
            raw.get_pty(term, columns, rows)
            raw.exec_command(command)
            return Channel(raw)

    @property
    def is_alive(self) -> bool:
        """Return whether the transport is still up."""
        return self._transport.is_active()

    def close(self) -> None:
        """End the connection."""
        self._transport.close()


@contextlib.contextmanager
def connect(address: Address, user: str, key: RunKey, *, deadline: Deadline) -> Iterator[Connection]:
    """Log in as ``user``; the first host key seen is pinned in ``address``.

    :raises AuthRefused: the server does not take our key (yet).
    :raises SessionLost: no connection, or it broke.
    :raises SessionError: another host key than before.
    """
    with contextlib.ExitStack() as stack:
        with _translated(f"logging in as {user!r}"):
            sock = stack.enter_context(
                socket.create_connection((address.host, address.port), timeout=deadline.remaining_s)
            )
            # paramiko never sets this: small packets would wait for acknowledgements, tens of milliseconds a command.
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            transport = paramiko.Transport(sock, default_window_size=_WINDOW)
            stack.callback(transport.close)
            patience = min(_HANDSHAKE_S, deadline.remaining_s)
            transport.banner_timeout = transport.handshake_timeout = transport.auth_timeout = patience
            transport.start_client(timeout=patience)
            _pin(address, transport.get_remote_server_key())
            transport.auth_publickey(user, key.paramiko)
        yield Connection(transport, user)


class OnDemand:
    """A connection that is made when it is first needed; used like :class:`Connection`, by any thread."""

    def __init__(self, address: Address, user: str, key: RunKey, *, patience_s: float) -> None:
        self.user = user
        self._connect = functools.partial(connect, address, user, key)
        self._patience_s = patience_s
        self._lock = threading.Lock()
        self._stack = contextlib.ExitStack()
        self._made: Connection | None = None

    @property
    def connection(self) -> Connection:
        """Return the connection, made now if there is none yet.

        :raises SessionError: the guest does not let us in, or shows another host key.
        """
        with self._lock:
            if self._made is None or not self._made.is_alive:
                self._made = self._stack.enter_context(self._connect(deadline=Deadline(self._patience_s)))
            return self._made

    def open(self, command: str, *, deadline: Deadline) -> Channel:
        """Start ``command`` on a channel of its own; see :meth:`Connection.open`."""
        return self.connection.open(command, deadline=deadline)

    def open_terminal(self, term: str, columns: int, rows: int, *, command: str, deadline: Deadline) -> Channel:
        """Start ``command`` on a pseudo-terminal; see :meth:`Connection.open_terminal`."""
        return self.connection.open_terminal(term, columns, rows, command=command, deadline=deadline)

    @property
    def is_alive(self) -> bool:
        """Return whether there is no connection yet, or one that is up."""
        return self._made is None or self._made.is_alive

    def close(self) -> None:
        """End the connection, if there is one."""
        self._stack.close()


def _pin(address: Address, shown: paramiko.PKey) -> None:
    seen = (shown.get_name(), shown.asbytes())
    if address.host_key is None:
        address.host_key = seen
    elif address.host_key != seen:
        raise SessionError(
            f"the guest's SSH host key changed from {address.host_key[0]} to {seen[0]} (other bytes) within one boot",
            hint="something regenerates host keys after the SSH server has started, or another server answers",
        )
