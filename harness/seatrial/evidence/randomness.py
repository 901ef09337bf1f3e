"""Where the kernel puts the parts of a program, from many starts of one: how much of the addresses is random."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from seatrial.errors import ObservationError

__all__ = ["MAPS", "STARTS", "parse_maps", "varying_bits"]

STARTS: Final = 20
# sed prints its own map: each start is a new program. Of several places of one region the first, the lowest, counts.
MAPS: Final = (
    f"i=0; while [ $i -lt {STARTS} ]; do echo start; i=$((i+1)); "
    r"sed -n 's,^\([0-9a-f]*\)-.* \(/.*/sed\|/.*/busybox\|/.*/coreutils\)$,text \1,p; "
    r"s,^\([0-9a-f]*\)-.*/ld-[^/]*$,mmap \1,p; "
    r"s,^\([0-9a-f]*\)-.*\[\(heap\|stack\|vdso\)\]$,\2 \1,p' /proc/self/maps; done"
)
_REGIONS: Final = ("text", "heap", "mmap", "stack", "vdso")


def parse_maps(text: str) -> Mapping[str, tuple[int, ...]]:
    """Return region to the addresses at which it began, one a start.

    :raises ObservationError: a line is none, or a start lacks a region.
    """
    starts: list[dict[str, int]] = []
    for line in filter(None, text.split("\n")):
        if line == "start":
            starts.append({})
            continue
        match = re.fullmatch(rf"({'|'.join(_REGIONS)}) ([0-9a-f]{{4,16}})", line)
        if not match or not starts:
            raise ObservationError(f"the map of a program holds {line[:200]!r}, which is no region and its address")
        starts[-1].setdefault(match[1], int(match[2], 16))
    lacking = sorted({name for one in starts for name in _REGIONS if name not in one})
    if len(starts) != STARTS or lacking:
        raise ObservationError(f"{len(starts)} of {STARTS} starts were seen; not in every one: {', '.join(lacking)}")
    return {name: tuple(one[name] for one in starts) for name in _REGIONS}


def varying_bits(addresses: tuple[int, ...]) -> int:
    """Return how many bits of an address are not the same in all of ``addresses``."""
    changed = 0
    for address in addresses:
        changed |= address ^ addresses[0]
    return changed.bit_count()
