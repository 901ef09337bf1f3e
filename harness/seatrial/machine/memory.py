"""How much memory this host has left for one more guest; clones start only while there is enough."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from seatrial.clock import Deadline
from seatrial.errors import HostError

__all__ = ["Reservations", "available_bytes", "private_bytes"]

_MARGIN: Final = 256 << 20
_LOOK_S: Final = 0.2
_MIB: Final = 1 << 20


def available_bytes(proc: Path = Path("/proc"), cgroups: Path = Path("/sys/fs/cgroup")) -> int:
    """Return the bytes that can still be used without swapping: of the host, or of our control group when it has less.

    Read from ``MemAvailable`` (proc_meminfo(5)) and from every group above us (cgroups(7): ``memory.max`` and
    ``memory.current`` of version 2; ``memory.limit_in_bytes`` and ``memory.usage_in_bytes`` of version 1), where the
    page cache counts as free.
    """
    meminfo = dict(line.split(":", 1) for line in _text(proc / "meminfo").splitlines() if ":" in line)
    free = [int(meminfo["MemAvailable"].split()[0]) << 10] if "MemAvailable" in meminfo else []
    for line in _text(proc / "self/cgroup").splitlines():
        _number, controllers, own = (*line.split(":", 2), "", "")[:3]
        root = cgroups if not controllers else cgroups / "memory" if controllers == "memory" else None
        if root is not None:
            free += _left_in_groups(root, own)
    return min(free, default=0)


def _left_in_groups(root: Path, own: str) -> Iterator[int]:
    group = root / own.lstrip("/")
    while True:
        for most, used in (("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes")):
            limit, usage = _number(group / most), _number(group / used)
            if limit is not None and usage is not None:
                yield max(0, limit - usage + _page_cache(group))
        if group == root or root not in group.parents:
            return
        group = group.parent


def _page_cache(group: Path) -> int:
    """Return the bytes of file pages that the kernel would give back (``inactive_file`` and ``active_file``)."""
    rows = (line.split() for line in _text(group / "memory.stat").splitlines())
    found = {row[0]: int(row[1]) for row in rows if len(row) == 2 and row[1].isdigit()}
    return found.get("inactive_file", 0) + found.get("active_file", 0)


def private_bytes(pid: int, proc: Path = Path("/proc")) -> int:
    """Return the anonymous memory of process ``pid``; pages that a clone has written count, shared ones do not."""
    for line in _text(proc / str(pid) / "status").splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) << 10
    return 0


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""


def _number(path: Path) -> int | None:
    text = _text(path).strip()
    return int(text) if text.isdigit() else None


class Reservations:
    """Memory promised to guests that may not have used it yet. For any number of threads of one run."""

    def __init__(self, available: Callable[[], int] = available_bytes) -> None:
        self._available = available
        self._lock = threading.Lock()
        self._promised: dict[object, tuple[int, Callable[[], int]]] = {}

    @contextlib.contextmanager
    def reserved(self, needed: int, *, deadline: Deadline) -> Iterator[Callable[[Callable[[], int]], None]]:
        """Wait until ``needed`` bytes are free and hold them for the block.

        Yields a function that takes another one: how many of the bytes are in use by now.

        :raises HostError: they were not free in time.
        """
        token = object()
        while not self._take(token, needed):
            if deadline.is_over:
                raise HostError(
                    f"not enough memory for one more guest: it needs {(needed + _MARGIN) // _MIB} MiB, "
                    f"{max(0, self._free()) // _MIB} MiB are free after {deadline.total_s:.0f} s of waiting",
                    hint="end other programs, run fewer guests at a time, or give the machine less memory",
                )
            deadline.pause(_LOOK_S)
        try:
            yield lambda used: self._count(token, needed, used)
        finally:
            with self._lock:
                del self._promised[token]

    def _take(self, token: object, needed: int) -> bool:
        with self._lock:
            if self._free() < needed + _MARGIN:
                return False
            self._promised[token] = (needed, lambda: 0)
            return True

    def _count(self, token: object, needed: int, used: Callable[[], int]) -> None:
        with self._lock:
            self._promised[token] = (needed, used)

    def _free(self) -> int:
        outstanding = sum(max(0, needed - used()) for needed, used in list(self._promised.values()))
        return self._available() - outstanding
