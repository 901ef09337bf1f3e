"""The log of what firmware and loader measured into the TPM before the kernel ran.

Its form is the crypto-agile one of the TCG's PC Client Platform Firmware Profile: ``Spec ID Event03`` in a
``TCG_PCR_EVENT``, then events as ``TCG_PCR_EVENT2``. Numbers are little-endian.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from seatrial.errors import ObservationError

__all__ = ["MOST_BYTES", "SHA256", "Event", "EventKind", "EventLog", "parse_event_log", "replayed"]

SHA256: Final = 0x000B  # TPM_ALG_SHA256
MOST_BYTES: Final = 256 * 1024

_STATIC: Final = 16  # PCRs that only a restart of the machine resets
_SIGNATURE: Final = b"Spec ID Event03\0"
_LOCALITY: Final = b"StartupLocality\0"
_LOCALITIES: Final = (0, 3, 4)
_MOST_ALGORITHMS: Final = 16
_MOST_REGISTER: Final = 23
_NO_REGISTER: Final = 0xFFFFFFFF  # of an event that is only noted, by newer editions of the profile
_SHA1_SIZE: Final = 20
# TPM 2.0 Library, part 2, TPM_ALG_ID: SHA-1, SHA-256, SHA-384, SHA-512, SM3, SHA-3.
_SIZES: Final = {0x4: 20, 0xB: 32, 0xC: 48, 0xD: 64, 0x12: 32, 0x27: 32, 0x28: 48, 0x29: 64}


class EventKind(IntEnum):
    """The kinds of event that are told apart; every other number is some measurement."""

    NO_ACTION = 0x00000003
    SEPARATOR = 0x00000004
    INITIAL_PROGRAM_LOAD = 0x0000000D
    EFI_BOOT_SERVICES_APPLICATION = 0x80000003


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One entry: the PCR, the kind, the digest by number of its algorithm, and what is said of what was measured."""

    register: int
    kind: int
    digests: Mapping[int, bytes]
    data: bytes

    @property
    def is_extended(self) -> bool:
        """Return whether the PCR was extended; the others are only noted."""
        return self.kind != EventKind.NO_ACTION


@dataclass(frozen=True, slots=True, kw_only=True)
class EventLog:
    """The sizes of digests by number of their algorithm, and all events in order."""

    algorithms: Mapping[int, int]
    events: tuple[Event, ...]

    @property
    def startup_locality(self) -> int:
        """Return from where the TPM was started, which PCR 0 begins with (0, unless the log says otherwise)."""
        said = [event.data[-1] for event in self.events if _is_locality(event)]
        return said[0] if said else 0

    def holds(self, register: int, *kinds: int) -> bool:
        """Return whether an event of one of ``kinds`` was measured into ``register``."""
        return any(event.register == register and event.kind in kinds for event in self.events)


class _Reader:
    """Takes bytes from the front; what is not there is an error."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.offset = 0

    @property
    def is_at_end(self) -> bool:
        return self.offset == len(self._data)

    def octets(self, count: int, what: str) -> bytes:
        end = self.offset + count
        if end > len(self._data):
            raise ObservationError(
                f"the event log ends within {what} at byte {self.offset}: "
                f"{len(self._data) - self.offset} of {count} bytes are there"
            )
        taken = self._data[self.offset : end]
        self.offset = end
        return taken

    def number(self, size: int, what: str) -> int:
        return int.from_bytes(self.octets(size, what), "little")


def parse_event_log(data: bytes) -> EventLog:
    """Return the log that ``data`` is, the whole of it.

    :raises ObservationError: it is none, is cut off, contradicts itself, or has more than 256 KiB.
    """
    if len(data) > MOST_BYTES:
        raise ObservationError(f"the event log has more than {MOST_BYTES >> 10} KiB: it is not read")
    reader = _Reader(data)
    algorithms = _header(reader)
    events = []
    while not reader.is_at_end:
        events.append(_event(reader, algorithms))
    log = EventLog(algorithms=algorithms, events=tuple(events))
    _check_locality(log)
    return log


def replayed(log: EventLog) -> tuple[bytes, ...]:
    """Return what the SHA-256 PCRs 0 to 15 hold when nothing but ``log`` was measured.

    :raises ObservationError: the log has no SHA-256.
    """
    if SHA256 not in log.algorithms:
        raise ObservationError("the event log holds no digests of SHA-256, by which the PCRs are compared")
    registers = [bytes(32)] * _STATIC
    registers[0] = bytes([*bytes(31), log.startup_locality])
    for event in log.events:
        if event.is_extended and event.register < _STATIC and SHA256 in event.digests:
            extended = registers[event.register] + event.digests[SHA256]
            registers[event.register] = hashlib.sha256(extended).digest()
    return tuple(registers)


def _header(reader: _Reader) -> Mapping[int, int]:
    """Read the first entry, which is in the old form, and return the algorithms that it announces."""
    register, kind = (reader.number(4, "the header") for _field in range(2))
    digest = reader.octets(_SHA1_SIZE, "the header")
    inner = _Reader(reader.octets(reader.number(4, "the header"), "the header"))
    signature = inner.octets(len(_SIGNATURE), "the header")
    if (register, kind, digest, signature) != (0, EventKind.NO_ACTION, bytes(_SHA1_SIZE), _SIGNATURE):
        raise ObservationError(
            f"the event log begins with {signature!r} in PCR {register}, kind {kind:#x}; "
            f"expected {_SIGNATURE!r} in PCR 0, kind {EventKind.NO_ACTION:#x}, without a digest"
        )
    inner.octets(8, "the header")  # class of the platform, version of the profile, size of a pointer
    algorithms = _algorithms(inner)
    inner.octets(inner.number(1, "the header"), "the vendor's part of the header")
    if not inner.is_at_end:
        raise ObservationError("the header of the event log goes on after its end")
    return algorithms


def _algorithms(inner: _Reader) -> Mapping[int, int]:
    count = inner.number(4, "the header")
    if not 0 < count <= _MOST_ALGORITHMS:
        raise ObservationError(f"the event log announces {count} algorithms, expected 1 to {_MOST_ALGORITHMS}")
    algorithms: dict[int, int] = {}
    for _each in range(count):
        algorithm, size = struct.unpack("<HH", inner.octets(4, "the list of algorithms"))
        if algorithm in algorithms or size != _SIZES.get(algorithm, size) or size not in _SIZES.values():
            raise ObservationError(f"the event log announces algorithm {algorithm:#x} with digests of {size} bytes")
        algorithms[algorithm] = size
    return algorithms


def _event(reader: _Reader, algorithms: Mapping[int, int]) -> Event:
    start = reader.offset
    register, kind, count = (reader.number(4, "an event") for _field in range(3))
    is_noted = register == _NO_REGISTER and kind == EventKind.NO_ACTION
    if register > _MOST_REGISTER and not is_noted:
        raise ObservationError(f"the event at byte {start} of the event log is of PCR {register}, which no TPM has")
    if not 0 < count <= len(algorithms):
        raise ObservationError(f"the event at byte {start} of the event log has {count} digests")
    digests: dict[int, bytes] = {}
    for _each in range(count):
        algorithm = reader.number(2, "a digest")
        if algorithm in digests or algorithm not in algorithms:
            raise ObservationError(
                f"the event at byte {start} of the event log has a digest of {algorithm:#x}, not announced or twice"
            )
        digests[algorithm] = reader.octets(algorithms[algorithm], "a digest")
    data = reader.octets(reader.number(4, "an event"), "the data of an event")
    return Event(register=register, kind=kind, digests=digests, data=data)


def _is_locality(event: Event) -> bool:
    return event.kind == EventKind.NO_ACTION and event.data.startswith(_LOCALITY)


def _check_locality(log: EventLog) -> None:
    """Refuse a locality that no profile knows, or that is said twice or too late to be what PCR 0 began with."""
    said = [event for event in log.events if _is_locality(event)]
    if len(said) > 1:
        raise ObservationError(f"the event log names the startup locality {len(said)} times")
    for event in said:
        first = next((one for one in log.events if one is event or (one.register == 0 and one.is_extended)), event)
        known = len(event.data) == len(_LOCALITY) + 1 and event.data[-1] in _LOCALITIES
        if first is not event or event.register != 0 or not known:
            raise ObservationError(
                f"the event log names the startup locality as {event.data[:20]!r} of PCR {event.register}; "
                f"expected one of {', '.join(map(str, _LOCALITIES))}, of PCR 0, before anything was measured into it"
            )
