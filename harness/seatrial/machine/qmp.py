"""The only door to qemu.qmp: one monitor a QEMU, on a socket that nobody else can reach."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import logging
import os
import re
import socket
import threading
from collections import deque
from collections.abc import Coroutine, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qemu.qmp import ConnectError, ExecuteError, QMPClient, QMPError

from seatrial.clock import Deadline, monotonic_s
from seatrial.errors import GuestStopped, HostError

__all__ = ["Event", "Monitor", "attached"]

# The library reports the end of the connection, which every QEMU's end brings, as a fault.
logging.getLogger("qemu.qmp").addHandler(logging.NullHandler())
logging.getLogger("qemu.qmp").propagate = False

_ANSWER_S = 30.0
_MOST_EVENTS = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """An event of QEMU: the how many-eth it is, when it came (on our monotonic clock), its name and its data."""

    number: int
    clock_s: float
    name: str
    data: Mapping[str, Any]


class Monitor:
    """QMP commands and events of one QEMU. Calls come from any thread; the protocol runs in a thread of its own."""

    def __init__(self, client: QMPClient, loop: asyncio.AbstractEventLoop) -> None:
        self._client = client
        self._loop = loop
        self._events: deque[Event] = deque(maxlen=_MOST_EVENTS)

    def execute(self, command: str, **arguments: object) -> Any:
        """Return what QEMU answers to ``command``.

        :raises GuestStopped: QEMU is gone or does not answer.
        :raises HostError: QEMU refused the command.
        """
        return self._waited(self._client.execute(command, dict(arguments)), command)

    def hand_over(self, descriptor: int, command: str, **arguments: object) -> Any:
        """Send a descriptor (SCM_RIGHTS) with the command that takes it, ``getfd`` or ``add-fd``; return the answer.

        :raises GuestStopped: QEMU is gone or does not answer.
        :raises HostError: QEMU refused it.
        """

        async def send() -> Any:
            self._client.send_fd_scm(descriptor)
            return await self._client.execute(command, dict(arguments))

        return self._waited(send(), command)

    @property
    def version(self) -> tuple[int, int]:
        """Return QEMU's version, major and minor."""
        told = self.execute("query-version")["qemu"]
        return int(told["major"]), int(told["minor"])

    def _waited(self, command_sent: Coroutine[Any, Any, Any], command: str) -> Any:
        future = asyncio.run_coroutine_threadsafe(command_sent, self._loop)
        try:
            return future.result(timeout=_ANSWER_S)
        except ExecuteError as exc:
            raise HostError(f"QEMU refused {command!r}: {exc}") from exc
        except (QMPError, EOFError, OSError) as exc:
            raise GuestStopped(f"QEMU ended before it answered {command!r}") from exc
        except TimeoutError as exc:
            future.cancel()
            raise GuestStopped(f"QEMU did not answer {command!r} within {_ANSWER_S:.0f} s") from exc

    def forwarded_port(self, guest_port: int) -> int:
        """Return the TCP port on 127.0.0.1 that QEMU took for ``guest_port``.

        QEMU chooses it itself (``hostfwd=tcp:127.0.0.1:0-:22``), so no other program can take it first.

        :raises HostError: QEMU forwards no such port.
        """
        table = str(self.execute("human-monitor-command", **{"command-line": "info usernet"}))
        for line in table.splitlines():
            match = re.match(r"\s*TCP\[HOST_FORWARD\]\s+\d+\s+127\.0\.0\.1\s+(\d+)\s+\S+\s+(\d+)\s", line)
            if match and int(match[2]) == guest_port:
                return int(match[1])
        raise HostError(f"QEMU forwards no port to port {guest_port} of the guest; its table was {table!r}")

    def events_after(self, number: int) -> list[Event]:
        """Return the events that came after event ``number``, oldest first; of a flood, the last thousand."""
        return [event for event in self._events.copy() if event.number > number]

    def note(self, name: str, data: Mapping[str, Any]) -> None:
        """Keep an event that QEMU told."""
        last = self._events[-1].number if self._events else 0
        self._events.append(Event(number=last + 1, clock_s=monotonic_s(), name=name, data=data))

    def disk_operations(self) -> int:
        """Return how many reads, writes and flushes the guest's disks have done since power-on."""
        counters = ("rd_operations", "wr_operations", "flush_operations", "unmap_operations")
        return sum(int(disk["stats"].get(name, 0)) for disk in self.execute("query-blockstats") for name in counters)

    def screenshot(self, path: Path) -> bool:
        """Write what the display shows to ``path`` as PNG (QEMU 7.1 and newer); False when there is no display."""
        # QEMU may be a user who can create no file: it gets one that is open.
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
        try:
            number = self.hand_over(descriptor, "add-fd")["fdset-id"]
            self.execute("screendump", filename=f"/dev/fdset/{number}", format="png")
            self.execute("remove-fd", **{"fdset-id": number})
        except (HostError, GuestStopped):
            path.unlink(missing_ok=True)
            return False
        finally:
            os.close(descriptor)
        return path.is_file() and path.stat().st_size > 0

    def status(self) -> str:
        """Return QEMU's run state: ``running``, ``paused``, ``internal-error``, ``guest-panicked``, ..."""
        return str(self.execute("query-status")["status"])


@contextlib.contextmanager
def attached(sock: socket.socket, *, deadline: Deadline) -> Iterator[Monitor]:
    """Speak QMP on ``sock``; events are kept from the first one.

    :raises HostError: QEMU does not greet in time.
    """
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="seatrial-qmp", daemon=True)
    thread.start()
    client = QMPClient("seatrial")
    monitor = Monitor(client, loop)
    pump: concurrent.futures.Future[None] | None = None
    try:
        try:
            asyncio.run_coroutine_threadsafe(client.connect(sock), loop).result(timeout=deadline.remaining_s)
        except (ConnectError, TimeoutError, OSError) as exc:
            raise HostError(f"QEMU gave no QMP greeting: {type(exc).__name__}: {exc}") from exc
        pump = asyncio.run_coroutine_threadsafe(_keep_events(client, monitor), loop)
        yield monitor
    finally:
        if pump is not None:
            pump.cancel()
        _disconnect(client, loop)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


async def _keep_events(client: QMPClient, monitor: Monitor) -> None:
    while True:
        event = await client.events.get()
        data = event.get("data")
        monitor.note(str(event["event"]), data if isinstance(data, dict) else {})


def _disconnect(client: QMPClient, loop: asyncio.AbstractEventLoop) -> None:
    async def leave() -> None:
        # EOFError and friends are normal here: QEMU may have ended first.
        with contextlib.suppress(Exception):
            await client.disconnect()
        for task in asyncio.all_tasks(loop) - {asyncio.current_task(loop)}:
            task.cancel()
        await asyncio.sleep(0)

    # The end must not fail because the way out is slow or already closed; QEMU itself is ended by its owner.
    with contextlib.suppress(Exception):
        asyncio.run_coroutine_threadsafe(leave(), loop).result(timeout=_ANSWER_S)
