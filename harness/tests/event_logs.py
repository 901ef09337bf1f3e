"""Writes event logs of measured boot as a firmware does, for tests of who reads them."""

from __future__ import annotations

import hashlib
import struct
from typing import Final

from seatrial.evidence.event_log import SHA256, Event, EventKind, EventLog

__all__ = ["SHA1", "SIZES", "entry", "measured", "written"]

SHA1: Final = 0x0004
SIZES: Final = {SHA1: 20, SHA256: 32, 0x000C: 48}


def written(log: EventLog, vendor: bytes = b"") -> bytes:
    """Write ``log`` as a firmware does."""
    algorithms = b"".join(struct.pack("<HH", *item) for item in log.algorithms.items())
    header = b"Spec ID Event03\0" + struct.pack("<IBBBBI", 0, 0, 2, 0, 2, len(log.algorithms)) + algorithms
    header += bytes([len(vendor)]) + vendor
    old_form = struct.pack("<II20sI", 0, EventKind.NO_ACTION, bytes(20), len(header)) + header
    return old_form + b"".join(entry(event) for event in log.events)


def entry(event: Event) -> bytes:
    """Write one event (TCG_PCR_EVENT2)."""
    digests = b"".join(struct.pack("<H", algorithm) + digest for algorithm, digest in event.digests.items())
    head = struct.pack("<III", event.register, event.kind, len(event.digests))
    return head + digests + struct.pack("<I", len(event.data)) + event.data


def measured(register: int, data: bytes, kind: int = 1) -> Event:
    """Return the event of measuring ``data``; what is only noted has digests of zeros."""
    sha1, sha256 = hashlib.sha1(data).digest(), hashlib.sha256(data).digest()
    if kind == EventKind.NO_ACTION:
        sha1, sha256 = bytes(20), bytes(32)
    return Event(register=register, kind=kind, digests={SHA1: sha1, SHA256: sha256}, data=data)
