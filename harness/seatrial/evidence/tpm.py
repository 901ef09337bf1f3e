"""What the kernel shows of a TPM 2.0: whether it is there, its PCRs, and the log of what was measured into them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from seatrial.errors import ObservationError
from seatrial.evidence.elf import parse_pieces, pieces_command
from seatrial.evidence.event_log import MOST_BYTES

__all__ = ["EVENT_LOG", "REGISTERS", "TPM", "Tpm", "parse_log_bytes", "parse_registers", "parse_tpm"]

_CLASS: Final = "/sys/class/tpm/tpm0"
_DEVICE: Final = "/dev/tpmrm0"
_LOG: Final = "/sys/kernel/security/tpm0/binary_bios_measurements"
_BANK: Final = f"{_CLASS}/pcr-"
_REGISTERS: Final = range(8)

TPM: Final = f"ls -d {_CLASS} {_DEVICE} {_LOG} {_BANK}* 2>/dev/null; true"
# By sysfs since Linux 5.12: no program of the image needs to know TPMs.
REGISTERS: Final = f'for n in {" ".join(map(str, _REGISTERS))}; do echo "$n $(cat {_BANK}sha256/$n)"; done'
# One byte more than is read, so that a longer log is seen to be one.
EVENT_LOG: Final = pieces_command([(_LOG, 0, MOST_BYTES + 1)])


@dataclass(frozen=True, slots=True, kw_only=True)
class Tpm:
    """What of a TPM the kernel shows; ``banks`` are the digests of its PCRs, such as ``sha256``."""

    has_class: bool
    has_device: bool
    has_log: bool
    banks: tuple[str, ...]

    @property
    def is_seen(self) -> bool:
        """Return whether programs can use the TPM, and its state can be read."""
        return self.has_class and self.has_device


def parse_tpm(text: str) -> Tpm:
    """Return what the answer to :data:`TPM` names; nothing at all means that the kernel sees no TPM.

    :raises ObservationError: it names something else.
    """
    paths = [line for line in text.split("\n") if line]
    banks = [path.removeprefix(_BANK) for path in paths if path.startswith(_BANK)]
    foreign = [path for path in paths if path not in {_CLASS, _DEVICE, _LOG} and not path.startswith(_BANK)]
    foreign += [bank for bank in banks if not re.fullmatch(r"[a-z0-9_]{1,16}", bank)]
    if foreign:
        raise ObservationError(f"the guest names {foreign[0][:200]!r} as a part of its TPM, which is none")
    return Tpm(
        has_class=_CLASS in paths,
        has_device=_DEVICE in paths,
        has_log=_LOG in paths,
        banks=tuple(banks),
    )


def parse_registers(text: str) -> tuple[bytes, ...]:
    """Return the SHA-256 PCRs 0 to 7 from the answer to :data:`REGISTERS`.

    :raises ObservationError: a line is no PCR, or one is lacking.
    """
    found = []
    for number, line in enumerate(filter(None, text.split("\n"))):
        match = re.fullmatch(r"([0-9]) ([0-9A-Fa-f]{64})", line)
        if match is None or int(match[1]) != number:
            raise ObservationError(f"the guest gives {line[:200]!r} as PCR {number}, expected 32 bytes in hexadecimal")
        found.append(bytes.fromhex(match[2]))
    if len(found) != len(_REGISTERS):
        raise ObservationError(f"the guest gives {len(found)} PCRs, expected {len(_REGISTERS)}")
    return tuple(found)


def parse_log_bytes(text: str) -> bytes:
    """Return the bytes of the event log from the answer to :data:`EVENT_LOG`; none when the file is empty.

    :raises ObservationError: the answer is something else.
    """
    files = parse_pieces(text)
    if files.keys() != {_LOG} or files[_LOG].keys() != {0}:
        raise ObservationError(f"the guest was asked for {_LOG} and gives {', '.join(files)[:200] or 'nothing'}")
    return files[_LOG][0]
