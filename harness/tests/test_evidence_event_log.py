"""The event log of measured boot: the recorded one of a real guest, written ones, and hostile ones."""

from __future__ import annotations

import contextlib
import hashlib
import struct
from collections.abc import Mapping
from dataclasses import replace

import pytest
from event_logs import SHA1, SIZES, entry, measured, written
from hypothesis import given
from hypothesis import strategies as st
from seatrial.errors import ObservationError
from seatrial.evidence.event_log import SHA256, Event, EventKind, EventLog, parse_event_log, replayed
from seatrial.evidence.tpm import parse_log_bytes, parse_registers
from suite_bench import recorded

RECORDED = parse_log_bytes(recorded("kernel/event-log"))
SEPARATOR = bytes(4)


def log_of(*events: Event) -> EventLog:
    return EventLog(algorithms={SHA1: 20, SHA256: 32}, events=events)


def locality(value: int, register: int = 0) -> Event:
    return measured(register, b"StartupLocality\0" + bytes([value]), EventKind.NO_ACTION)


def extended(start: bytes, *pieces: bytes) -> bytes:
    for piece in pieces:
        start = hashlib.sha256(start + hashlib.sha256(piece).digest()).digest()
    return start


def test_recorded_log_replays_to_the_recorded_registers() -> None:
    log = parse_event_log(RECORDED)
    assert replayed(log)[:8] == parse_registers(recorded("kernel/pcrs"))
    assert log.startup_locality == 0
    assert log.holds(4, EventKind.EFI_BOOT_SERVICES_APPLICATION)
    assert all(log.holds(register, EventKind.SEPARATOR) for register in range(8))
    assert not log.holds(8, EventKind.SEPARATOR)


def test_recorded_log_is_written_as_it_was_read() -> None:
    assert written(parse_event_log(RECORDED)) == RECORDED


def test_replay_extends_each_register_in_order() -> None:
    log = log_of(measured(4, b"loader"), measured(7, b"keys"), measured(4, b"kernel"))
    registers = replayed(parse_event_log(written(log)))
    assert registers[4] == extended(bytes(32), b"loader", b"kernel")
    assert registers[7] == extended(bytes(32), b"keys")
    assert registers[0] == bytes(32)


def test_what_is_only_noted_is_not_replayed() -> None:
    noted = measured(4, b"a note", EventKind.NO_ACTION)
    assert replayed(log_of(noted, replace(noted, register=0xFFFFFFFF))) == (bytes(32),) * 16


@pytest.mark.parametrize("value", [0, 3, 4])
def test_register_0_begins_with_the_startup_locality(value: int) -> None:
    log = parse_event_log(written(log_of(locality(value), measured(0, b"firmware"))))
    assert log.startup_locality == value
    assert replayed(log)[0] == extended(bytes([*bytes(31), value]), b"firmware")


@pytest.mark.parametrize(
    "events",
    [
        (locality(9),),
        (locality(3, register=1),),
        (locality(3), locality(3)),
        (measured(0, b"firmware"), locality(3)),
        (measured(0, b"StartupLocality\0", EventKind.NO_ACTION),),
    ],
    ids=["unknown", "of another PCR", "twice", "too late", "without a value"],
)
def test_startup_locality_out_of_place_is_an_error(events: tuple[Event, ...]) -> None:
    with pytest.raises(ObservationError, match="startup locality"):
        parse_event_log(written(log_of(*events)))


def test_note_of_another_register_may_come_before_the_locality() -> None:
    assert parse_event_log(written(log_of(measured(7, b"keys"), locality(3)))).startup_locality == 3


def test_bank_without_a_digest_is_not_extended() -> None:
    only_sha1 = Event(register=4, kind=1, digests={SHA1: bytes(20)}, data=b"")
    assert replayed(parse_event_log(written(log_of(only_sha1))))[4] == bytes(32)


def test_log_without_sha256_cannot_be_compared() -> None:
    log = EventLog(algorithms={SHA1: 20}, events=())
    with pytest.raises(ObservationError, match="SHA-256"):
        replayed(parse_event_log(written(log)))


def test_vendor_part_of_the_header_is_passed_over() -> None:
    log = log_of(measured(0, b"firmware"))
    assert parse_event_log(written(log, vendor=b"some firm")) == log


EVENT = measured(4, SEPARATOR, EventKind.SEPARATOR)
HEADER = written(log_of())


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "ends within the header"),
        (HEADER.replace(b"Event03", b"Event02"), "begins with"),
        (b"\1" + HEADER[1:], "begins with .* PCR 1"),
        (HEADER[:8] + b"\1" + HEADER[9:], "without a digest"),
        (written(EventLog(algorithms={}, events=())), "announces 0 algorithms"),
        (written(EventLog(algorithms=dict.fromkeys(range(100, 117), 20), events=())), "announces 17 algorithms"),
        (written(EventLog(algorithms={SHA256: 20}, events=())), "digests of 20 bytes"),
        (written(EventLog(algorithms={0x99: 7}, events=())), "digests of 7 bytes"),
        (written(log_of(EVENT))[:-1], "ends within the data"),
        (written(log_of(EVENT)) + b"\0", "ends within an event"),
        (written(log_of(replace(EVENT, register=24))), "PCR 24"),
        (written(log_of(replace(EVENT, register=0xFFFFFFFF))), "PCR 4294967295"),
        (written(log_of(replace(EVENT, digests={}))), "has 0 digests"),
        (written(log_of(replace(EVENT, digests={0x99: bytes(20)}))), "not announced"),
        (HEADER + struct.pack("<III", 4, 4, 0xFFFFFFFF), "has 4294967295 digests"),
        (HEADER + entry(EVENT)[:-8] + struct.pack("<I", 0xFFFFFFFF), "ends within the data"),
        (written(log_of(replace(EVENT, data=bytes(256 * 1024)))), "more than 256 KiB"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_log_that_contradicts_itself_is_an_error(data: bytes, said: str) -> None:
    with pytest.raises(ObservationError, match=said):
        parse_event_log(data)


def test_digest_of_one_algorithm_twice_is_an_error() -> None:
    twice = struct.pack("<H", SHA1) + bytes(20)
    with pytest.raises(ObservationError, match="twice"):
        parse_event_log(HEADER + struct.pack("<III", 4, 4, 2) + twice + twice + bytes(4))


@given(st.binary(max_size=300))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    for whole in (data, HEADER + data, RECORDED + data):
        with contextlib.suppress(ObservationError):
            replayed(parse_event_log(whole))


@given(st.integers(0, len(RECORDED) - 1), st.integers(1, 255))
def test_log_with_a_changed_byte_is_read_or_refused(place: int, change: int) -> None:
    changed = bytearray(RECORDED)
    changed[place] ^= change
    with contextlib.suppress(ObservationError):
        replayed(parse_event_log(bytes(changed)))


def _digests(algorithms: Mapping[int, int]) -> st.SearchStrategy[Mapping[int, bytes]]:
    return st.fixed_dictionaries({a: st.binary(min_size=size, max_size=size) for a, size in algorithms.items()})


@st.composite
def logs(draw: st.DrawFn) -> EventLog:
    """Return a log that a firmware may write."""
    names = draw(st.lists(st.sampled_from(sorted(SIZES)), min_size=1, unique=True))
    algorithms = {name: SIZES[name] for name in names}
    # Too short to name a locality, which has its place at the beginning only.
    data = st.binary(max_size=15)
    events = st.builds(
        Event, register=st.integers(0, 23), kind=st.integers(0, 2**32 - 1), digests=_digests(algorithms), data=data
    )
    return EventLog(algorithms=algorithms, events=tuple(draw(st.lists(events, max_size=8))))


@given(logs(), st.binary(max_size=255))
def test_what_is_written_is_read_again(log: EventLog, vendor: bytes) -> None:
    assert parse_event_log(written(log, vendor)) == log


@given(st.integers(0, 15), st.binary(min_size=1, max_size=20))
def test_one_event_more_changes_its_register_alone(register: int, data: bytes) -> None:
    log = parse_event_log(RECORDED)
    before, after = replayed(log), replayed(replace(log, events=(*log.events, measured(register, data))))
    assert [n for n in range(16) if before[n] != after[n]] == [register]
