"""Answers with partition tables of which a part was changed, and that are valid all the same."""

from __future__ import annotations

import struct
import zlib

__all__ = ["HEADER_GUID", "entry_guid", "entry_label", "entry_type", "rewritten"]

HEADER_GUID = 512 + 56


def entry_type(number: int) -> int:
    """Return where the type GUID of partition ``number`` lies."""
    return 1024 + 128 * (number - 1)


def entry_guid(number: int) -> int:
    """Return where the partition's own GUID lies."""
    return entry_type(number) + 16


def entry_label(number: int) -> int:
    """Return where its label lies."""
    return entry_type(number) + 56


def rewritten(text: str, at: int, new: bytes) -> str:
    """Return the answer ``text`` for one disk with ``new`` at byte ``at``, and with the checksums that go with it."""
    first, _, lines = text.partition("\n")
    data = bytearray.fromhex(lines)
    data[at : at + len(new)] = new
    struct.pack_into("<I", data, 512 + 88, zlib.crc32(data[1024 : 1024 + 128 * 128]))
    struct.pack_into("<I", data, 512 + 16, 0)
    struct.pack_into("<I", data, 512 + 16, zlib.crc32(data[512 : 512 + 92]))
    rows = (data[start : start + 16].hex(" ") for start in range(0, len(data), 16))
    return first + "\n" + "".join(f" {row}\n" for row in rows)
