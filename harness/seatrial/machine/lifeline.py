"""Two byte streams between us and a shell in the guest that live through a freeze, unlike any SSH connection.

QEMU's user network offers the guest two addresses (``guestfwd``) that lead to our sockets, and carries such connections
into a clone. Whatever a guest writes there is taken off at once: QEMU waits for us while it writes.
"""

from __future__ import annotations

import contextlib
import select
import socket
import threading
from collections.abc import Callable
from typing import Final, Self

from seatrial.clock import Deadline
from seatrial.errors import SessionLost

__all__ = ["MOST_HELD", "Lifeline"]

MOST_HELD: Final = 96 * 1024 * 1024
_PIECE: Final = 65536
_SLICE_S: Final = 0.5
Guard = Callable[[], None]


class Lifeline:
    """The host's end, used like one channel of an SSH connection; a context manager that ends its readers."""

    def __init__(self, output: socket.socket, errors: socket.socket) -> None:
        self._sockets = (output, errors)
        self._arrived = threading.Condition()
        self._held = (bytearray(), bytearray())
        self._is_over = False
        self._readers = [threading.Thread(target=self._read, args=(n,), daemon=True) for n in range(2)]

    def __enter__(self) -> Self:
        for reader in self._readers:
            reader.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()
        for reader in self._readers:
            reader.join()
        for sock in self._sockets:
            sock.close()

    def _read(self, number: int) -> None:
        sock, held = self._sockets[number], self._held[number]
        while True:
            try:
                piece = sock.recv(_PIECE)
            except OSError:
                piece = b""
            with self._arrived:
                held += piece
                # Nobody asked for so much: a guest that floods us loses its line, and QEMU stops waiting for us.
                self._is_over |= not piece or len(held) > MOST_HELD
                self._arrived.notify_all()
                if self._is_over:
                    break
        self.close()

    def send(self, data: bytes, *, deadline: Deadline) -> None:
        """Write all of ``data`` to the shell.

        :raises SessionLost: QEMU or the shell is gone, or did not take it in time.
        """
        sock, rest = self._sockets[0], memoryview(data)
        try:
            while rest:
                if not select.select([], [sock], [], deadline.remaining_s)[1]:
                    raise SessionLost(f"the guest's own line took no command within {deadline.total_s:.0f} s")
                with contextlib.suppress(BlockingIOError):
                    rest = rest[sock.send(rest, socket.MSG_DONTWAIT) :]
        except OSError as exc:
            raise SessionLost(f"the guest's own line is gone: {exc}") from exc

    def receive(self, *, deadline: Deadline, guard: Guard) -> tuple[bytes, bytes] | None:
        """Return what came on both streams, or None at their end; empty bytes when the deadline is over.

        ``guard`` is called now and then, to raise when waiting has become pointless.
        """
        while True:
            with self._arrived:
                if not any(self._held) and not self._is_over:
                    self._arrived.wait(min(_SLICE_S, deadline.remaining_s))
                out, err = (bytes(held) for held in self._held)
                for held in self._held:
                    held.clear()
                if out or err:
                    return out, err
                if self._is_over:
                    return None
            if deadline.is_over:
                return b"", b""
            guard()

    def forget(self) -> None:
        """Throw away what has arrived: before a shell is there, whatever the guest writes means nothing."""
        with self._arrived:
            for held in self._held:
                held.clear()

    def end_of_input(self) -> None:
        """Do nothing: the shell behind the line is never told that its input ends."""

    def exit_status(self, *, deadline: Deadline) -> int:
        """Return -1: the line carries no exit status."""
        del deadline
        return -1

    def close(self) -> None:
        """Close both streams."""
        for sock in self._sockets:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
