"""What the guest wrote to its disk, as a part of a run: read when QEMU has ended, kept as evidence, and judged."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from seatrial.errors import ObservationError
from seatrial.evidence.disk.writes import Change, named
from seatrial.machine.audit import written_to
from seatrial.machine.boot import Boot
from seatrial.machine.disk import Image
from seatrial.policy.flavours import Flavour
from seatrial.policy.writes import immutable_partitions
from seatrial.report.record import DiskWrites

__all__ = ["EVIDENCE", "DiskWatch", "disk_watch", "facts_of", "keep"]

EVIDENCE: Final = "disk-writes.json"


class DiskWatch:
    """Holds what a boot writes its disk to, beyond the end of the boot."""

    def __init__(self, boot: Boot, overlays: Sequence[int]) -> None:
        self._boot = boot
        self._overlays = overlays

    def written(self, image: Image) -> tuple[Change, ...]:
        """Return what was written to the disk of ``image``; QEMU must have ended.

        :raises ObservationError: QEMU did not end in order, so that not all may be in the overlay; or it is damaged.
        :raises HostError: the image cannot be read.
        """
        status = self._boot.process.status
        if status != 0:
            raise ObservationError(
                f"what the guest wrote to the disk cannot be told: QEMU did not end in order (exit status {status})"
            )
        return written_to(image, self._overlays)


@contextlib.contextmanager
def disk_watch(boot: Boot) -> Iterator[DiskWatch]:
    """Keep the overlays of ``boot`` open while the block runs, and yield what reads them."""
    with contextlib.ExitStack() as stack:
        kept = []
        for descriptor in boot.overlays:
            kept.append(os.dup(descriptor))
            stack.callback(os.close, kept[-1])
        yield DiskWatch(boot, kept)


def facts_of(found: Sequence[Change], flavour: Flavour) -> tuple[DiskWrites, ...]:
    """Return ``found`` as it goes into the record."""
    watched = named([change.region for change in found], immutable_partitions(flavour))
    return tuple(
        DiskWrites(
            number=change.region.number,
            label=change.region.label,
            type=change.region.kind,
            size_bytes=change.region.end - change.region.start,
            written_bytes=change.written_bytes,
            changed_bytes=change.changed_bytes,
            immutable=change.region in watched,
        )
        for change in found
    )


def keep(found: Sequence[Change], folder: Path) -> None:
    """Write ``found`` to ``folder`` as evidence, with the byte ranges that changed."""
    rows = [
        {
            "number": change.region.number,
            "label": change.region.label,
            "type": change.region.kind,
            "first_byte": change.region.start,
            "end_byte": change.region.end,
            "written_bytes": change.written_bytes,
            "changed_bytes": change.changed_bytes,
            "changed_ranges": change.runs,
        }
        for change in found
    ]
    (folder / EVIDENCE).write_text(json.dumps(rows, indent=1), encoding="utf-8")
