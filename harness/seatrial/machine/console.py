"""The serial console: read from the first byte, kept in a bounded file, scanned for signs, shown to whoever looks."""

from __future__ import annotations

import contextlib
import functools
import re
import select
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from seatrial.clock import monotonic_s
from seatrial.evidence.console import Phase, Scanner, Table, plain
from seatrial.evidence.signs import parse_table
from seatrial.layout import data_dir

__all__ = ["MOST_HEAD", "MOST_TAIL", "Console", "console_reader", "console_table"]

MOST_HEAD = 48 * 1024 * 1024
MOST_TAIL = 1024 * 1024
_RECENT = 64 * 1024
_QUIET_S = 0.2
_UNFINISHED = re.compile(rb"\x1b(?:\[[0-?]{0,64})?\Z")  # an escape sequence whose end has not come yet
# A status of systemd or a time stamp of the kernel, and nothing after it yet.
_BEGUN = re.compile(r"\[[^\]]*\]?")
Listener = Callable[[bytes], None]


@functools.cache
def console_table() -> Table:
    """Return the signs and landmarks of ``qemu/console.toml``, read once.

    :raises ConfigError: the table is not valid.
    """
    return parse_table((data_dir("qemu") / "console.toml").read_text(encoding="utf-8"))


class _Kept:
    """The console's file: its head, and when more came a note and the last part; 49 MiB at most."""

    def __init__(self, sink: BinaryIO) -> None:
        self._sink = sink
        self._room = MOST_HEAD
        self._tail = bytearray()
        self._left_out = 0

    def take(self, chunk: bytes) -> None:
        head = chunk[: self._room]
        if head:
            self._sink.write(head)
            self._room -= len(head)
        self._tail += chunk[len(head) :]
        if len(self._tail) > 2 * MOST_TAIL:  # cut seldom: each cut copies
            self._left_out += len(self._tail) - MOST_TAIL
            del self._tail[:-MOST_TAIL]

    def finish(self) -> None:
        if not self._tail:
            return
        surplus = max(0, len(self._tail) - MOST_TAIL)
        left_out = self._left_out + surplus
        if left_out:
            self._sink.write(f"\n[seatrial: {left_out} bytes of the console are left out here]\n".encode())
        self._sink.write(bytes(self._tail[surplus:]))


class Console:
    """What the guest wrote on its first serial port. The reader thread owns the file; others look."""

    def __init__(self, sock: socket.socket, path: Path, *, phase: Phase = Phase.FIRMWARE) -> None:
        self._sock = sock
        self.path = path
        self.byte_count = 0
        self.started_s = monotonic_s()
        self.scanner = Scanner(console_table(), phase)
        self._recent = bytearray()
        self._listeners: list[Listener] = []

    @property
    def elapsed_s(self) -> float:
        """Return the seconds since power-on."""
        return monotonic_s() - self.started_s

    @property
    def last_line(self) -> str:
        """Return the newest line that is not blank, at most 4096 characters.

        An unfinished one (a prompt) counts, but not a mere beginning such as ``[  OK``.
        """
        newest = plain(_UNFINISHED.sub(b"", bytes(self._recent[-4096:])))
        lines = [line.strip() for line in newest.split("\n") if line.strip()]
        if len(lines) > 1 and _BEGUN.fullmatch(lines[-1]):
            lines.pop()
        return lines[-1] if lines else ""

    def tail(self, count: int = 20) -> list[str]:
        """Return the last ``count`` lines that are not blank."""
        lines = plain(bytes(self._recent)).split("\n")
        return [line for line in lines if line.strip()][-count:]

    def text(self, most: int) -> str:
        """Return the last ``most`` bytes that are in the file, as text; escape sequences stay."""
        with self.path.open("rb") as file:
            file.seek(max(0, self.path.stat().st_size - most))
            return file.read(most).decode("utf-8", "backslashreplace")

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
            kept = _Kept(sink)
            try:
                while (chunk := self._next()) is not None:
                    # A full disk must not stop the reading: the guest would block, and nobody would learn why.
                    with contextlib.suppress(OSError):
                        kept.take(chunk)
                    self._take(chunk)
            finally:
                with contextlib.suppress(OSError):
                    kept.finish()

    def _next(self) -> bytes | None:
        """Return the next bytes, or None at the end; a pause lets an unfinished line be judged as a prompt."""
        try:
            while self.scanner.partial and not select.select([self._sock], [], [], _QUIET_S)[0]:
                self.scanner.look_at_prompt(self.elapsed_s)
                select.select([self._sock], [], [])
            return self._sock.recv(65536) or None
        except (OSError, ValueError):
            return None

    def _take(self, chunk: bytes) -> None:
        self._recent += chunk
        if len(self._recent) > 2 * _RECENT:
            del self._recent[:-_RECENT]
        self.scanner.feed(chunk, self.elapsed_s)
        for listener in self._listeners:
            listener(chunk)
        # Whoever waits for the count finds all that was said.
        self.byte_count += len(chunk)


@contextlib.contextmanager
def console_reader(sock: socket.socket, path: Path, *, phase: Phase = Phase.FIRMWARE) -> Iterator[Console]:
    """Read ``sock`` into ``path`` until the block ends.

    :param phase: where the guest is: a clone of a ready guest starts in :attr:`Phase.SUITE`.
    """
    console = Console(sock, path, phase=phase)
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
