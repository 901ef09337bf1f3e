"""Control groups: which hierarchy there is, and which controllers reach whom."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from seatrial.errors import ObservationError

__all__ = ["CGROUPS", "TRY_LIMITS", "Bitten", "Cgroups", "parse_bitten", "parse_cgroups"]

CGROUPS: Final = (
    'cd /sys/fs/cgroup && echo "type $(stat -fc %T .)" && echo "offered $(cat cgroup.controllers 2>/dev/null)" && '
    "for g in . system.slice user.slice; do if [ -e $g/cgroup.subtree_control ]; then "
    'echo "$g $(cat $g/cgroup.subtree_control)"; fi; done'
)

# Three services run into a limit of theirs: one takes memory without end, one starts 24 processes, one spins. A quota
# of a tenth is used up within 10 ms (admin-guide/cgroup-v2.rst, "CPU"); one that nothing ends is ended after 25 s.
TRY_LIMITS: Final = """\
if ! command -v systemd-run >/dev/null 2>&1 || ! [ -d /run/systemd/system ]; then echo none; exit 0; fi
u=seatrial-limit
start() { n=$1; shift; systemd-run -q --unit=$u-$n --service-type=exec -p RuntimeMaxSec=25 "$@" || echo "broken $n"; }
start memory -p MemoryMax=24M -p MemorySwapMax=0 tail /dev/zero
start tasks -p TasksMax=6 sh -c 'n=0; while [ $n -lt 24 ]; do sleep 60 & n=$((n+1)); done; wait'
start cpu -p CPUQuota=10% sh -c 'while :; do :; done'
n=0
while [ $n -lt 60 ] && [ "$(systemctl is-active $u-memory)" = active ]; do sleep 0.5; n=$((n+1)); done
of() { g=/sys/fs/cgroup$(systemctl show -p ControlGroup --value $u-$1)/$2; [ ! -e $g ] || sed -n "s/^$3 //p" $g; }
for n in memory tasks cpu; do echo "$n $(systemctl show -p Result --value $u-$n)"; done
echo "refused $(of tasks pids.events max)"
echo "throttled $(of cpu cpu.stat nr_throttled)"
systemctl stop $u-memory $u-tasks $u-cpu 2>/dev/null
systemctl reset-failed $u-memory $u-tasks $u-cpu 2>/dev/null
true"""


@dataclass(frozen=True, slots=True)
class Bitten:
    """What became of three services that ran into a limit: systemd's results, and the kernel's counts.

    ``refused`` counts forks that failed, ``throttled`` the periods in which the processor was withheld; None for a
    group that is gone, or that has no such count.
    """

    memory: str
    tasks: str
    cpu: str
    refused: int | None
    throttled: int | None


def parse_bitten(text: str) -> Bitten | None:
    """Return what :data:`TRY_LIMITS` saw; None where there is no systemd to set limits by.

    :raises ObservationError: a service could not be started, or the text is no report.
    """
    lines = text.rstrip("\n").split("\n")
    if lines == ["none"]:
        return None
    if broken := [line for line in lines if line.startswith("broken ")]:
        raise ObservationError(f"no service could be started with a limit: {', '.join(broken)[:200]}")
    shape = r"memory ([a-z-]+)\ntasks ([a-z-]+)\ncpu ([a-z-]+)\nrefused (\d{1,18})?\nthrottled (\d{1,18})?"
    found = re.fullmatch(shape, "\n".join(lines))
    if found is None:
        raise ObservationError(f"services that run into a limit gave {text[:200]!r}, expected results and counts")
    return Bitten(found[1], found[2], found[3], *(int(n) if n is not None else None for n in found.groups()[3:]))


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
