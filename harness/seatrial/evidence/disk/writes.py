"""What a guest wrote to a disk, by partition: the clusters of its overlays, compared with what was there before."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Final

from seatrial.evidence.disk.partitions import Region
from seatrial.evidence.disk.qcow2 import ZEROES, clusters
from seatrial.evidence.disk.reading import SECTOR, Fault, Read, exact

__all__ = ["Change", "Layers", "changes", "layers", "named", "unmatched"]

_OPTIONAL: Final = "? "
_WINDOW: Final = 4 << 20
_MOST_RUNS: Final = 1000


@dataclass(frozen=True, slots=True)
class Layers:
    """Overlays of one disk: for each cluster (by number) that any of them holds, the topmost one's place in it.

    A place is what reads the overlay and the offset of the cluster in it, or None for zeroes.
    """

    cluster_bytes: int
    disk_bytes: int
    places: Mapping[int, tuple[Read, int] | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What became of one region: bytes of it in clusters that were written, bytes that differ now, and where.

    ``runs`` are the first and the byte after the last of each stretch that differs, the first 1000 of them.
    """

    region: Region
    written_bytes: int
    changed_bytes: int
    runs: tuple[tuple[int, int], ...]


def layers(overlays: Sequence[Read]) -> Layers:
    """Return what ``overlays`` hold, the topmost given first: the one that the guest writes to.

    :raises Fault: one is damaged or was not closed, or they are not of one disk.
    """
    places: dict[int, tuple[Read, int] | None] = {}
    kinds = set()
    for read in reversed(overlays):
        header, found = clusters(read)
        kinds.add((header.cluster_bytes, header.disk_bytes))
        places.update({number: None if at == ZEROES else (read, at) for number, at in found.items()})
    if len(kinds) != 1:
        raise Fault(f"is not a chain of overlays of one disk: clusters and sizes are {sorted(kinds)}")
    cluster_bytes, disk_bytes = kinds.pop()
    return Layers(cluster_bytes, disk_bytes, places)


def changes(above: Layers, base: Read, parts: Sequence[Region]) -> tuple[Change, ...]:
    """Return what became of each of ``parts``; a cluster whose content is as it was is no change.

    :param base: reads the disk as it was; what it does not give counts as zeroes.
    :raises Fault: an overlay is damaged.
    """
    written = [0] * len(parts)
    runs: list[list[tuple[int, int]]] = [[] for _part in parts]
    for start, now in _windows(above):
        before = base(start, len(now)).ljust(len(now), b"\0")
        for index, part in enumerate(parts):
            low, high = max(start, part.start), min(start + len(now), part.end)
            if low < high:
                written[index] += high - low
                _add(runs[index], _different(before[low - start : high - start], now[low - start : high - start], low))
    return tuple(
        Change(
            region=part,
            written_bytes=written[index],
            changed_bytes=sum(high - low for low, high in runs[index]),
            runs=tuple(runs[index][:_MOST_RUNS]),
        )
        for index, part in enumerate(parts)
    )


def named(parts: Sequence[Region], patterns: Sequence[str]) -> tuple[Region, ...]:
    """Return those of ``parts`` that a pattern names.

    A pattern is a glob for a partition's label, a type GUID (upper or lower case), ``partition N`` (its number), or
    ``partition-table``; of several, with ``|`` between them, one is enough. ``? `` before it: not every image has it.
    """
    return tuple(part for part in parts if any(_matches(part, pattern) for pattern in patterns))


def unmatched(parts: Sequence[Region], patterns: Sequence[str]) -> tuple[str, ...]:
    """Return the patterns that name none of ``parts`` and should."""
    needed = (pattern for pattern in patterns if not pattern.startswith(_OPTIONAL))
    return tuple(pattern for pattern in needed if not any(_matches(part, pattern) for part in parts))


def _matches(part: Region, pattern: str) -> bool:
    pattern = pattern.removeprefix(_OPTIONAL)
    names = pattern.split("|")
    if part.number == 0:
        return part.label in names
    if part.kind in pattern.lower().split("|") or f"partition {part.number}" in names:
        return True
    return any(fnmatchcase(part.label, name) for name in names)


def _windows(above: Layers) -> Iterator[tuple[int, bytes]]:
    """Give what the overlays hold as stretches of bounded length: where each starts, and its content."""
    numbers = sorted(above.places)
    most = max(1, _WINDOW // above.cluster_bytes)
    at = 0
    while at < len(numbers):
        after = at + 1
        while after < min(at + most, len(numbers)) and numbers[after] == numbers[at] + after - at:
            after += 1
        start = numbers[at] * above.cluster_bytes
        content = b"".join(_cluster(above, number) for number in numbers[at:after])
        yield start, content[: max(0, above.disk_bytes - start)]
        at = after


def _cluster(above: Layers, number: int) -> bytes:
    place = above.places[number]
    if place is None:
        return bytes(above.cluster_bytes)
    read, at = place
    return exact(read, at, above.cluster_bytes, "a cluster of the overlay")


def _different(before: bytes, now: bytes, start: int) -> Iterator[tuple[int, int]]:
    if before == now:
        return
    for at in range(0, len(now), SECTOR):
        if before[at : at + SECTOR] != now[at : at + SECTOR]:
            yield start + at, start + min(at + SECTOR, len(now))


def _add(runs: list[tuple[int, int]], found: Iterator[tuple[int, int]]) -> None:
    for low, high in found:
        if runs and runs[-1][1] == low:
            runs[-1] = (runs[-1][0], high)
        else:
            runs.append((low, high))
