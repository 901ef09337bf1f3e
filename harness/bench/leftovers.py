"""What a run has left behind: processes, files, sockets, shared memory. Only what descends from that run counts."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

__all__ = ["Family", "stray_files", "stray_sockets"]

Identity = tuple[int, str]


class Family:
    """All processes that descend from one, also those whose parents have gone.

    Two traces lead to a process: the chain of its parents, followed at every look, and ``mark``, a folder of this run
    alone that its environment names (TMPDIR), which children inherit.
    """

    def __init__(self, pid: int, mark: Path) -> None:
        self._mark = os.fsencode(mark)
        self._seen: dict[Identity, str] = {}
        self._root = pid
        self.look()

    def look(self) -> None:
        """Note the descendants that live now."""
        known = {self._root, *(pid for pid, _start in self._seen)}
        parents = _parents()
        grows = True
        while grows:
            more = {pid for pid, parent in parents.items() if parent in known and pid not in known}
            known |= more
            grows = bool(more)
        for pid in known | {pid for pid in parents if _names(pid, self._mark)}:
            if pid != self._root and (who := _identity(pid)):
                self._seen[who] = _command(pid) or self._seen.get(who, "")

    def living(self) -> dict[int, str]:
        """Return those that still run, by process id: their command lines. A zombie has ended."""
        return {pid: command for (pid, start), command in self._seen.items() if _identity(pid) == (pid, start)}

    def find(self, word: str) -> int | None:
        """Return a living descendant whose program's name holds ``word``."""
        self.look()
        return next((pid for pid, command in self.living().items() if word in command.partition(" ")[0]), None)


def stray_files(folder: Path, allowed: set[str]) -> list[str]:
    """Return the files and folders below ``folder`` whose paths in it are not ``allowed``."""
    return sorted(
        name for path in folder.rglob("*") if (name := str(path.relative_to(folder))) not in allowed and path.exists()
    )


def stray_sockets(folder: Path) -> list[str]:
    """Return the named Unix sockets in ``folder`` that somebody still holds open (proc(5), /proc/net/unix)."""
    lines = Path("/proc/net/unix").read_text(errors="replace").splitlines()
    return [line.split()[-1] for line in lines if str(folder) in line]


def _parents() -> dict[int, int]:
    found = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            with contextlib.suppress(OSError, IndexError, ValueError):
                found[int(name)] = int(_stat(int(name))[1])
    return found


def _stat(pid: int) -> list[str]:
    """Return the fields of proc(5) stat after the name, which may hold anything: state, parent, ..."""
    return Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()


def _identity(pid: int) -> Identity | None:
    """Return what tells a process from a later one with the same id: its start time; None when it has ended."""
    with contextlib.suppress(OSError, IndexError):
        fields = _stat(pid)
        return (pid, fields[19]) if fields[0] not in "ZX" else None
    return None


def _names(pid: int, mark: bytes) -> bool:
    with contextlib.suppress(OSError):
        return mark in Path(f"/proc/{pid}/environ").read_bytes()
    return False


def _command(pid: int) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace").strip()
    return ""
