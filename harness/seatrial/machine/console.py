"""The serial console: read from the first byte, written to a file, watched for fatal states, shown to whoever looks."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path

from seatrial.evidence.console import FatalState, fatal_state, plain

__all__ = ["Console", "console_reader"]

_KEPT_LINES = 400
_MOST_BYTES = 64 * 1024 * 1024
_LONGEST_LINE = 4096
Listener = Callable[[bytes], None]


class Console:
    """What the guest wrote on its first serial port. The reader thread owns the file; others look."""

    def __init__(self, sock: socket.socket, path: Path) -> None:
        self._sock = sock
        self.path = path
        self.fatal: tuple[FatalState, str] | None = None
        self.byte_count = 0
        self._lines: deque[str] = deque(maxlen=_KEPT_LINES)
        self._partial = b""
        self._listeners: list[Listener] = []

    @property
    def last_line(self) -> str:
        """Return the newest line that is not blank; an unfinished one (a prompt) counts."""
        partial = plain(self._partial).strip()
        return partial or next((line for line in reversed(self._lines) if line.strip()), "")

    def tail(self, count: int = 20) -> list[str]:
        """Return the last ``count`` lines that are not blank."""
        lines = [*self._lines, plain(self._partial)]
        return [line for line in lines if line.strip()][-count:]

    def listen(self, listener: Listener) -> None:
        """Call ``listener`` with every further chunk of bytes, in the reader's thread."""
        self._listeners.append(listener)

    def type(self, data: bytes) -> None:
        """Send ``data`` to the guest as if typed."""
        with contextlib.suppress(OSError):
            self._sock.sendall(data)

    def read_all(self) -> None:
        """Read until QEMU closes its end; the reader thread's whole life."""
        with self.path.open("wb", buffering=0) as sink:
            while True:
                try:
                    chunk = self._sock.recv(65536)
                except OSError:
                    return
                if not chunk:
                    return
                if self.byte_count < _MOST_BYTES:  # a hostile guest must not fill the disk
                    sink.write(chunk[: _MOST_BYTES - self.byte_count])
                self.byte_count += len(chunk)
                self._take(chunk)
                for listener in self._listeners:
                    listener(chunk)

    def _take(self, chunk: bytes) -> None:
        *complete, self._partial = (self._partial + chunk).replace(b"\r\n", b"\n").split(b"\n")
        self._partial = self._partial[-_LONGEST_LINE:]
        for raw in complete:
            self._judge(plain(raw[:_LONGEST_LINE]), keep=True)
        self._judge(plain(self._partial), keep=False)

    def _judge(self, line: str, *, keep: bool) -> None:
        if keep:
            self._lines.append(line)
        if self.fatal is None and (state := fatal_state(line)):
            self.fatal = (state, line.strip())


@contextlib.contextmanager
def console_reader(sock: socket.socket, path: Path) -> Iterator[Console]:
    """Read ``sock`` into ``path`` until the block ends."""
    console = Console(sock, path)
    thread = threading.Thread(target=console.read_all, name="seatrial-console", daemon=True)
    thread.start()
    try:
        yield console
    finally:
        # Closed before anybody waits for QEMU's end: QEMU may block writing to it.
        with contextlib.suppress(OSError):
            sock.shutdown(socket.SHUT_RDWR)
        thread.join()
        sock.close()
