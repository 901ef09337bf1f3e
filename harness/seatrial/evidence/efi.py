"""The firmware's variables that say whether Secure Boot is on, as efivarfs shows them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from seatrial.errors import ObservationError
from seatrial.evidence.elf import parse_pieces, pieces_command

__all__ = ["EFIVARS", "SECURE_BOOT", "parse_switches"]

EFIVARS: Final = "/sys/firmware/efi/efivars"
_GLOBAL: Final = "8be4df61-93ca-11d2-aa0d-00e098032b8c"  # EFI_GLOBAL_VARIABLE
_NAMES: Final = ("SecureBoot", "SetupMode")
_ATTRIBUTES: Final = 4
_MOST: Final = 16

SECURE_BOOT: Final = pieces_command([(f"{EFIVARS}/{name}-{_GLOBAL}", 0, _MOST) for name in _NAMES])


def parse_switches(text: str) -> Mapping[str, int]:
    """Return ``SecureBoot`` and ``SetupMode``, as far as they exist, from the answer to :data:`SECURE_BOOT`.

    :raises ObservationError: one is no byte of 0 or 1 after four bytes of attributes.
    """
    files = parse_pieces(text)
    found = {}
    for name in _NAMES:
        content = files.get(f"{EFIVARS}/{name}-{_GLOBAL}", {}).get(0, b"")
        if content and (len(content) != _ATTRIBUTES + 1 or content[-1] > 1):
            raise ObservationError(
                f"the firmware's variable {name} is {content.hex(' ')}, expected four bytes and 0 or 1"
            )
        if content:
            found[name] = content[-1]
    return found
