"""The only door to paramiko: one connection a boot, its host key pinned, every wait with a deadline.

The server is the guest's and may be hostile: what it sends is bounded below paramiko, which trusts the lengths that a
server announces, and every wait of paramiko that has no end of its own is ended by closing the connection.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import io
import logging
import select
import socket
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping
from typing import Final

import paramiko

from seatrial.clock import Deadline
from seatrial.errors import AuthRefused, HostKeyChanged, SeatrialError, SessionLost
from seatrial.guest.greeting import Address, read_banner
from seatrial.guest.keys import LoginKey, RunKey

__all__ = [
    "Address",
    "Channel",
    "Connection",
    "Guard",
    "LoginKey",
    "OnDemand",
    "RunKey",
    "await_reason",
    "connect",
    "read_banner",
]

# paramiko's thread logs every broken connection with a traceback; our errors say it once.
logging.getLogger("paramiko").addHandler(logging.NullHandler())
logging.getLogger("paramiko").propagate = False

_HANDSHAKE_S: Final = 60.0
_WINDOW: Final = 1024 * 1024
_SLICE_S: Final = 0.5
_REASON_S: Final = 3.0
# OpenSSH sends and takes no larger packet (PACKET_MAX_SIZE).
_MOST_PACKET: Final = 256 * 1024
# A handshake takes some kilobytes.
_MOST_BEFORE_LOGIN: Final = 256 * 1024
# An honest server keeps to the window of each channel, and at most a few are open.
_MOST_HELD: Final = 8 * _WINDOW
_SHOWN: Final = 200
# What to prefer of what both sides know, by the name in paramiko's security options; the rest keeps its order.
PREFERRED: Final[Mapping[str, tuple[str, ...]]] = {}
Guard = Callable[[], None]


class _TooMuch(OSError):
    """The server sends more than an honest one would."""

    def __init__(self, text: str) -> None:
        super().__init__(errno.EMSGSIZE, text)  # paramiko's thread wants a number and a text


class _Wire(socket.socket):
    """The socket below SSH; it takes no more from the server than an honest one would send."""

    def __init__(self, sock: socket.socket) -> None:
        super().__init__(fileno=sock.detach())
        self.before_login: int | None = 0
        self.refused = ""
        self._channels: weakref.WeakSet[paramiko.Channel] = weakref.WeakSet()
        self._lock = threading.Lock()

    def watch(self, channel: paramiko.Channel) -> None:
        """Count what is held for ``channel``, as long as anybody holds the channel."""
        with self._lock:
            self._channels.add(channel)

    def recv(self, size: int, flags: int = 0, /) -> bytes:
        """Return what came.

        :raises OSError: it is more than an honest server sends.
        """
        if size > _MOST_PACKET:
            self.refused = f"it announced a packet of {size} bytes"
        elif self.before_login is None and self._held() > _MOST_HELD:
            self.refused = "it sent more than its window allows"
        elif self.before_login is not None and self.before_login > _MOST_BEFORE_LOGIN:
            self.refused = f"it sent more than {_MOST_BEFORE_LOGIN >> 10} KiB before the login"
        if self.refused:
            raise _TooMuch(self.refused)
        data = super().recv(size, flags)
        if self.before_login is not None:
            self.before_login += len(data)
        return data

    def _held(self) -> int:
        with self._lock:
            return sum(len(one.in_buffer) + len(one.in_stderr_buffer) for one in self._channels)


@contextlib.contextmanager
def _translated(doing: str) -> Iterator[None]:
    """Turn whatever paramiko raises into our errors; the server's own words are shown short and in ASCII."""
    try:
        yield
    except SeatrialError:
        raise
    except paramiko.BadAuthenticationType as exc:
        raise AuthRefused(
            f"the guest's SSH server takes no keys while {doing}, only {_shown(', '.join(exc.allowed_types))}",
            hint="does the image's sshd have PubkeyAuthentication yes?",
        ) from exc
    except paramiko.AuthenticationException as exc:
        # paramiko gives the same type to a server that says no, one that says nothing, and one that hangs up.
        if "timeout" in str(exc) or "transport shut down" in str(exc):
            raise SessionLost(f"the SSH connection broke while {doing}: {_shown(str(exc))}") from exc
        raise AuthRefused(
            f"the guest's SSH server refused our key while {doing}: {_shown(str(exc))}",
            hint="was the key brought in by a way that this image supports (--access), for this user (--ssh-user)?",
        ) from exc
    except Exception as exc:  # a hostile packet makes paramiko's parsers raise anything
        raise SessionLost(
            f"the SSH connection broke while {doing}: {type(exc).__name__.lstrip('_')}: {_shown(str(exc))}",
            hint="did the guest's SSH server end, or does it speak something else than SSH? See the console log",
        ) from exc


def _shown(text: str) -> str:
    return ascii(text)[1:-1][:_SHOWN] or "no reason given"


@contextlib.contextmanager
def _ended_by(
    deadline: Deadline, transport: paramiko.Transport, doing: str, guard: Guard = lambda: None
) -> Iterator[None]:
    """End whatever paramiko waits for in the block by closing the connection when the deadline is over.

    Waits for the answer to a channel request, and for the server to take what we write, have no other end.

    :param guard: called now and then, in another thread; when it raises, the block ends with that.
    """
    over, left = threading.Event(), threading.Event()
    reasons: list[SeatrialError] = []

    def end_in_time() -> None:
        while not left.wait(min(_SLICE_S, deadline.remaining_s)):
            try:
                guard()
            except SeatrialError as exc:
                reasons.append(exc)
            if reasons or deadline.is_over:
                over.set()
                transport.close()
                return

    threading.Thread(target=end_in_time, name="seatrial-ssh-limit", daemon=True).start()
    try:
        with _translated(doing):
            yield
    except SessionLost as exc:
        _explain(transport, exc)
        if reasons:
            raise reasons[0] from exc
        if over.is_set():
            raise SessionLost(
                f"the guest's SSH server did not answer within {deadline.total_s:.0f} s while {doing}",
                hint="the guest may be stuck or overloaded; the console log shows what it does",
            ) from exc
        raise
    finally:
        left.set()


def _explain(transport: paramiko.Transport, cause: Exception | None = None) -> None:
    """Raise when the connection was ended by us, because of what the server did."""
    if why := getattr(transport.sock, "refused", ""):
        raise SessionLost(
            f"the guest's SSH server was cut off: {why}",
            hint="that is no behaviour of an honest SSH server; the guest may be hostile or broken",
        ) from cause


class Channel:
    """One command on the guest, its three streams as bytes. stdout and stderr are always drained together."""

    def __init__(self, raw: paramiko.Channel, transport: paramiko.Transport) -> None:
        self._raw = raw
        self._transport = transport

    def send(self, data: bytes, *, deadline: Deadline) -> None:
        """Write all of ``data`` to the command's stdin.

        :raises SessionLost: the connection broke, or the guest did not take it in time.
        """
        with _ended_by(deadline, self._transport, "sending a command"):
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
                    _explain(self._transport)
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
        # Even the word that it is closed waits for ever, when the server takes nothing.
        with contextlib.suppress(SessionLost), _ended_by(Deadline(_HANDSHAKE_S), self._transport, "closing a channel"):
            self._raw.close()


class Connection:
    """An authenticated SSH connection."""

    def __init__(self, transport: paramiko.Transport, wire: _Wire, user: str, *, guard: Guard = lambda: None) -> None:
        self._transport = transport
        self._guard = guard
        self._wire = wire
        self.user = user

    def open(self, command: str, *, deadline: Deadline) -> Channel:
        """Start ``command`` on a channel of its own.

        :raises SessionLost: the connection is gone or the guest opens no channel.
        """
        with _ended_by(deadline, self._transport, f"starting {command[:60]!r}", self._guard):
            raw = self._session(deadline)
            raw.exec_command(command)
            return Channel(raw, self._transport)

    def open_terminal(self, term: str, columns: int, rows: int, *, command: str, deadline: Deadline) -> Channel:
        """Start ``command`` on a pseudo-terminal, for a person."""
        with _ended_by(deadline, self._transport, "opening a terminal"):
            raw = self._session(deadline)
            raw.get_pty(term, columns, rows)
            raw.exec_command(command)
            return Channel(raw, self._transport)

    def _session(self, deadline: Deadline) -> paramiko.Channel:
        raw = self._transport.open_session(window_size=_WINDOW, timeout=deadline.remaining_s)
        self._wire.watch(raw)
        raw.settimeout(deadline.remaining_s)
        return raw

    @property
    def is_alive(self) -> bool:
        """Return whether the transport is still up."""
        return self._transport.is_active()

    @property
    def is_connected(self) -> bool:
        """Return whether a command can be started without a new login."""
        return self.is_alive

    def close(self) -> None:
        """End the connection."""
        self._transport.close()


@contextlib.contextmanager
def connect(
    address: Address, user: str, key: LoginKey, *, deadline: Deadline, guard: Guard = lambda: None
) -> Iterator[Connection]:
    """Log in as ``user``; the host key of the first login is pinned in ``address``.

    ``guard`` is called now and then, to raise when waiting has become pointless.

    :raises AuthRefused: the server does not take our key (yet).
    :raises SessionLost: no connection, or it broke.
    :raises HostKeyChanged: another host key than before.
    """
    patience = Deadline(max(0.1, min(_HANDSHAKE_S, deadline.remaining_s)))
    with contextlib.ExitStack() as stack:
        with _translated("connecting"):
            sock = socket.create_connection((address.host, address.port), timeout=patience.remaining_s)
            # paramiko never sets this: small packets would wait for acknowledgements, tens of milliseconds a command.
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            wire = stack.enter_context(_Wire(sock))
            transport = paramiko.Transport(wire, default_window_size=_WINDOW)
            stack.callback(transport.close)
            _prefer(transport)
        transport.banner_timeout = transport.handshake_timeout = transport.auth_timeout = patience.total_s
        with _ended_by(patience, transport, "shaking hands"):
            done = threading.Event()
            transport.start_client(event=done)
            _wait(done, transport, guard)
            shown = transport.get_remote_server_key()
        seen = (shown.get_name(), shown.asbytes())
        _check_pin(address, seen)
        with _ended_by(patience, transport, f"logging in as {user!r}"):
            done = threading.Event()
            transport.auth_publickey(user, _paramiko_key(key), event=done)
            _wait(done, transport, guard)
            if not transport.is_authenticated():
                raise transport.get_exception() or paramiko.AuthenticationException("no reason given")
        # Until somebody is let in, a first boot may still make its host keys.
        address.host_key = seen
        wire.before_login = None
        yield Connection(transport, wire, user, guard=guard)


class OnDemand:
    """A connection that is made when it is first needed; used like :class:`Connection`, by any thread."""

    def __init__(self, address: Address, user: str, key: LoginKey, *, patience_s: float) -> None:
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

    @property
    def is_connected(self) -> bool:
        """Return whether there is a connection, and it is up."""
        return self._made is not None and self._made.is_alive

    def close(self) -> None:
        """End the connection, if there is one."""
        self._stack.close()


def _wait(done: threading.Event, transport: paramiko.Transport, guard: Guard) -> None:
    """Wait until paramiko's thread is done; it is, at the latest, when the connection is closed."""
    while not done.wait(_SLICE_S):
        guard()
        if not transport.is_active():
            break
    if not transport.is_active():
        raise transport.get_exception() or paramiko.SSHException("the connection was closed")


def _prefer(transport: paramiko.Transport) -> None:
    options = transport.get_security_options()
    for name, wanted in PREFERRED.items():
        known = tuple(getattr(options, name))
        first = tuple(one for one in wanted if one in known)
        setattr(options, name, (*first, *(one for one in known if one not in first)))


def _paramiko_key(key: LoginKey) -> paramiko.PKey:
    kind = key.public_line.split(" ", 1)[0]
    text = io.StringIO(key.pem)
    if kind == "ssh-ed25519":
        return paramiko.Ed25519Key(file_obj=text)
    return paramiko.RSAKey(file_obj=text) if kind == "ssh-rsa" else paramiko.ECDSAKey(file_obj=text)


def await_reason(guard: Guard) -> None:
    """Give ``guard`` a few seconds to raise: console and QEMU may say a little later why a connection broke."""
    deadline = Deadline(_REASON_S)
    while not deadline.is_over:
        guard()
        deadline.pause(_SLICE_S / 4)


def _check_pin(address: Address, seen: tuple[str, bytes]) -> None:
    if address.host_key not in (None, seen):
        assert address.host_key is not None
        raise HostKeyChanged(
            f"the guest's SSH host key changed from {address.host_key[0]} to {_shown(seen[0])} (other bytes) within "
            "one boot",
            hint="something regenerates host keys after the SSH server has started, or another server answers",
        )
