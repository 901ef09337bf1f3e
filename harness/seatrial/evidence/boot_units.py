"""When each unit of a boot started and became active, and the chain of units that the end of the boot waited for."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from seatrial.errors import ObservationError
from seatrial.evidence.systemd import parse_show

__all__ = ["DEFAULT_TARGET", "SSH_UNITS", "UNITS", "UnitTime", "Units", "critical_chain", "parse_unit_times"]

_STAMPS: Final = ("InactiveExit", "ActiveEnter", "InactiveEnter")
UNITS: Final = "systemctl show --no-pager -p Id -p After " + " ".join(
    [*(f"-p {name}TimestampMonotonic" for name in _STAMPS), "'*'"]
)
DEFAULT_TARGET: Final = "systemctl get-default"
SSH_UNITS: Final = ("ssh.service", "sshd.service", "ssh.socket", "sshd.socket", "dropbear.service", "dropbear.socket")
_MOST_UNITS: Final = 5000
_MOST_AFTER: Final = 2000


@dataclass(frozen=True, slots=True, kw_only=True)
class UnitTime:
    """A unit that was started: seconds since the kernel started, and what it is ordered after.

    ``done_s`` is when it became active, or ended when it never stays active (a oneshot service); None while it starts.
    """

    name: str
    started_s: float
    done_s: float | None
    after: tuple[str, ...] = ()

    @property
    def took_s(self) -> float | None:
        """Return the seconds of its start, None while it lasts."""
        return None if self.done_s is None else self.done_s - self.started_s


Units = Mapping[str, UnitTime]


def parse_unit_times(text: str) -> Units:
    """Return the units that were started in this boot, from blocks of ``systemctl show`` (see :data:`UNITS`).

    A unit that never left "inactive" is not in the result; a unit without time stamps is an error.

    :raises ObservationError: a block is unreadable, a name comes twice, or nothing was ever started.
    """
    found: dict[str, UnitTime] = {}
    for block in filter(str.strip, text.split("\n\n")):
        unit = _unit(parse_show(block))
        if unit is None:
            continue
        if unit.name in found and found[unit.name] != unit:
            raise ObservationError(f"systemctl show gave unit {unit.name[:200]!r} twice, with different times")
        found[unit.name] = unit
        if len(found) > _MOST_UNITS:
            raise ObservationError(f"systemctl shows more than {_MOST_UNITS} units; no boot has so many")
    if not found:
        raise ObservationError("systemctl show gave no unit that was ever started")
    return found


def _unit(block: Mapping[str, str]) -> UnitTime | None:
    name = block.get("Id", "")
    if not re.fullmatch(r"[^\s/]{1,256}\.[a-z]{4,9}", name):
        raise ObservationError(f"systemctl show gave {dict(block)!r}"[:300] + ", which is no unit with its name")
    started, active, ended = (_microseconds(name, block, stamp) for stamp in _STAMPS)
    if started == 0:
        return None
    # As systemd-analyze does it: active, or ended when it never stays active (oneshot).
    done = active if active >= started else ended if ended >= started else None
    return UnitTime(
        name=name,
        started_s=started / 1e6,
        done_s=None if done is None else done / 1e6,
        after=tuple(block.get("After", "").split())[:_MOST_AFTER],
    )


def _microseconds(name: str, block: Mapping[str, str], stamp: str) -> int:
    value = block.get(f"{stamp}TimestampMonotonic")
    if value is None or not re.fullmatch(r"[0-9]{1,18}", value):
        raise ObservationError(f"unit {name!r} gave {value!r} as {stamp}TimestampMonotonic, expected microseconds")
    return int(value)


def critical_chain(units: Units, end: str, *, since_s: float = 0.0) -> tuple[str, ...]:
    """Return the units that ``end`` waited for, latest first, beginning with itself; empty when it was never started.

    Each step goes to that unit of ``After=`` which was done last before its successor started; it ends at what was
    done before ``since_s`` (the start of the system's own process 1), or waited for nothing.
    """
    chain: list[str] = []
    current = units.get(end)
    while current is not None and current.name not in chain:
        chain.append(current.name)
        current = _last_done(units, current.after, before=current.started_s, since=since_s)
    return tuple(chain)


def _last_done(units: Units, names: Iterable[str], *, before: float, since: float) -> UnitTime | None:
    waited_for = [
        unit
        for name in names
        if (unit := units.get(name)) and unit.done_s is not None and since <= unit.done_s <= before
    ]
    return max(waited_for, key=lambda unit: (unit.done_s or 0.0, unit.took_s or 0.0, unit.name), default=None)
