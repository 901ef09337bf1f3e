"""The verdict on what a guest wrote: partitions that are meant to be immutable hold what they held before."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from seatrial.evidence.disk.partitions import Region
from seatrial.evidence.disk.writes import Change, named, unmatched
from seatrial.policy.controls import Control, verdict_on
from seatrial.policy.flavours import Flavour
from seatrial.policy.judge import Outcome, Verdict

__all__ = ["PROBE", "immutable_partitions", "judge_writes"]

# Kind of probe of the controls that are judged by what is found outside of the guest, after it has ended.
PROBE: Final = "written-from-outside"
_LIST: Final = "immutable-partitions"
_SHOWN: Final = 4


def immutable_partitions(flavour: Flavour) -> tuple[str, ...]:
    """Return what names the partitions of ``flavour`` that are meant to be immutable.

    :raises ConfigError: the flavour does not say.
    """
    return flavour.allowed(_LIST)


def judge_writes(control: Control, suite: str, flavour: Flavour, found: Sequence[Change]) -> Verdict:
    """Return the verdict on ``control``, whose probe names what may not have changed: see :data:`PROBE`.

    :raises ConfigError: the flavour does not say which partitions are immutable.
    """
    patterns = immutable_partitions(flavour)
    if not patterns:
        if flavour.kind == "immutable-host":
            reason = f"flavour {flavour.name!r} is of an immutable host, but names no partition in expect.{_LIST}"
            return verdict_on(control, suite, Outcome.NOT_CHECKED, because=reason)
        reason = f"flavour {flavour.name!r} names no partition that is meant to be immutable"
        return verdict_on(control, suite, Outcome.NOT_APPLICABLE, because=reason)
    parts = [change.region for change in found]
    missing = unmatched(parts, patterns)
    watched = named(parts, patterns)
    broken = [change for change in found if change.region in watched and change.changed_bytes]
    if missing and not broken:  # what was written is a failure, whatever else cannot be told
        return verdict_on(control, suite, Outcome.ERROR, because=_lacking(missing, parts))
    expected = f"no byte changed in {_names([change for change in found if change.region in watched])}"
    seen = "; ".join(_told(change) for change in broken) or "none changed"
    outcome = Outcome.FAIL if broken else Outcome.PASS
    because = f"expected {expected}, saw {seen}" + (f"; and {_lacking(missing, parts)}" if missing else "")
    return verdict_on(control, suite, outcome, because=because, expected=expected, seen=seen)


def _lacking(missing: Sequence[str], parts: Sequence[Region]) -> str:
    there = ", ".join(sorted({repr(part.label or part.kind) for part in parts if part.number}))
    names = ", ".join(map(repr, missing))
    return f"no partition of the image is what expect.{_LIST} names with {names}; it has {there}"


def _names(found: Sequence[Change]) -> str:
    return ", ".join(_name(change) for change in found)


def _name(change: Change) -> str:
    region = change.region
    return f"partition {region.number} {region.label!r}" if region.number else f"the {region.label}"


def _told(change: Change) -> str:
    where = ", ".join(f"{low}-{high - 1}" for low, high in change.runs[:_SHOWN])
    more = ", …" if len(change.runs) > _SHOWN else ""
    return f"{_name(change)}: {change.changed_bytes} bytes changed, at bytes {where}{more} of the disk"
