"""Control groups: which hierarchy there is, and which controllers reach whom."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from seatrial.errors import ObservationError

__all__ = ["CGROUPS", "Cgroups", "parse_cgroups"]

CGROUPS: Final = (
    'cd /sys/fs/cgroup && echo "type $(stat -fc %T .)" && echo "offered $(cat cgroup.controllers 2>/dev/null)" && '
    "for g in . system.slice user.slice; do if [ -e $g/cgroup.subtree_control ]; then "
    'echo "$g $(cat $g/cgroup.subtree_control)"; fi; done'
)


@dataclass(frozen=True, slots=True)
class Cgroups:
    """The file system at /sys/fs/cgroup, the controllers that the root offers, and those that each group hands down."""

    filesystem: str
    offered: frozenset[str]
    handed_down: Mapping[str, frozenset[str]]


def parse_cgroups(text: str) -> Cgroups:
    """Return what :data:`CGROUPS` found.

    :raises ObservationError: a line is none, or the first two are missing.
    """
    lines = text.rstrip("\n").split("\n")
    kind = re.fullmatch(r"type ([a-z0-9]+|UNKNOWN \(0x[0-9a-f]+\))", lines[0])
    if kind is None or len(lines) < 2 or not lines[1].startswith("offered"):
        raise ObservationError(f"/sys/fs/cgroup gave {text[:200]!r}, expected its type and the controllers it offers")
    found: dict[str, frozenset[str]] = {}
    for line in lines[1:]:
        name, *controllers = line.split(" ")
        words = frozenset(filter(None, controllers))
        if name not in {"offered", ".", "system.slice", "user.slice"} or not all(w.isidentifier() for w in words):
            raise ObservationError(f"/sys/fs/cgroup gave {line[:200]!r}, which are no controllers of a group")
        found[name] = words
    return Cgroups(kind[1], found.pop("offered"), found)
