"""How the readers of this package get bytes, and how they say that the bytes make no sense."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import Final

__all__ = ["MOST_DISK_BYTES", "SECTOR", "Fault", "Read", "crc32", "crc32c", "exact", "sane_size"]

SECTOR: Final = 512
# 16 TiB. No release image is nearly as large; a header that claims more is damaged or hostile.
MOST_DISK_BYTES: Final = 1 << 44

# Gives up to so many bytes from an offset; fewer only at the end.
Read = Callable[[int, int], bytes]


class Fault(ValueError):
    """What is wrong, as the rest of a sentence that begins with the file; IMAGE in the hint stands for its path."""

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


def exact(read: Read, offset: int, length: int, what: str) -> bytes:
    """Return just ``length`` bytes from ``offset``.

    :raises Fault: there are fewer; ``what`` names the missing part.
    """
    found = read(offset, length)
    if len(found) != length:
        raise Fault(
            f"is cut off or damaged: {what} should be at byte {offset}, and only {len(found)} of {length} bytes are",
            hint="compare the file's size and digest with what the build made; was the copy or download complete?",
        )
    return found


def sane_size(size: int, what: str) -> int:
    """Return the disk size ``size`` in bytes, which must be above zero and at most :data:`MOST_DISK_BYTES`.

    :raises Fault: it is neither.
    """
    if size <= 0:
        raise Fault(f"is a {what} of a disk of {size} bytes", hint="did the build end early?")
    if size > MOST_DISK_BYTES:
        raise Fault(
            f"is a {what} that claims a disk of {size} bytes ({size >> 40} TiB); at most {MOST_DISK_BYTES >> 40} TiB "
            "are accepted",
            hint="the header is damaged, or the build's disk size is",
        )
    return size


def crc32(data: bytes) -> int:
    """Return the CRC-32 that GPT uses."""
    return zlib.crc32(data)


def crc32c(data: bytes) -> int:
    """Return the CRC-32C (Castagnoli) that VHDX uses."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = _CASTAGNOLI[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    return crc ^ 0xFFFFFFFF


def _castagnoli(value: int) -> int:
    for _bit in range(8):
        value = (value >> 1) ^ (0x82F63B78 if value & 1 else 0)
    return value


_CASTAGNOLI: Final = tuple(_castagnoli(value) for value in range(256))
