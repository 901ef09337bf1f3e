"""Partition tables as a guest's kernel gives them: a recorded one, damaged ones, and those of hostile guests."""

from __future__ import annotations

import contextlib

import pytest
from gpt_tables import entry_type, rewritten
from hypothesis import given
from hypothesis import strategies as st
from seatrial.errors import ConfigError, ObservationError
from seatrial.evidence.gpt import is_placeholder, parse_promise, parse_tables, strangers, unkept
from suite_bench import recorded

TEXT = recorded("immutability/tables")


def test_table_of_the_demo_image_is_read() -> None:
    (disk,) = parse_tables(TEXT)
    assert (disk.name, disk.guid) == ("vda", "ec28e2ba-ba93-4d85-8a15-647332be310c")
    assert [(one.number, one.label, one.kind) for one in disk.partitions] == [
        (1, "esp", "c12a7328-f81f-11d2-ba4b-00a0c93ec93b"),
        (2, "seatrial-immutable_1.0.0_verity", "77ff5f63-e7b6-4633-acf4-1565b864c0e6"),
        (3, "seatrial-immutable_1.0.0", "8484680c-9521-48c6-9c11-b0720656f69e"),
        (4, "root", "4f68bce3-e8cd-4db1-96e7-fbcaf984b709"),
    ]
    assert disk.partitions[3].guid == "0e598d83-ea25-4b72-8718-798ff5aaa3c8"


def test_disk_with_another_table_is_left_out() -> None:
    first, _, rest = TEXT.partition("\n")
    assert parse_tables(f"{first}\n {'00 ' * 512}\n{first.replace('vda', 'vdb')}\n{rest}")[0].name == "vdb"
    assert parse_tables("") == ()


def test_damaged_table_is_an_error() -> None:
    sound = rewritten(TEXT, entry_type(4), b"\7")
    assert parse_tables(sound)
    with pytest.raises(ObservationError, match="the disk 'vda' has a damaged GPT"):
        parse_tables(sound.replace("65 00 73 00 70 00", "65 00 73 00 71 00", 1))


@pytest.mark.parametrize("text", ["00 01\n", "disk vda\n", "disk vda 99999999999999\n", TEXT + "rubbish\n"])
def test_lines_of_no_table_are_an_error(text: str) -> None:
    with pytest.raises(ObservationError):
        parse_tables(text)


@given(st.integers(512, 1500), st.binary(min_size=1, max_size=64))
def test_hostile_table_gives_disks_or_our_error(at: int, new: bytes) -> None:
    with contextlib.suppress(ObservationError):
        parse_tables(rewritten(TEXT, at, new))


@given(st.text())
def test_any_text_gives_disks_or_our_error(text: str) -> None:
    with contextlib.suppress(ObservationError):
        parse_tables(text)


def test_promises_are_kept_by_label_type_and_guid() -> None:
    (disk,) = parse_tables(TEXT)
    kept = [parse_promise(f"{one.label[:3]}* {one.kind.upper()} {one.guid}") for one in disk.partitions]
    assert unkept(kept, disk.partitions) == strangers(kept, disk.partitions) == []
    other = parse_promise(f"root {disk.partitions[3].kind} {disk.partitions[0].guid}")
    assert unkept([*kept[:3], other], disk.partitions) == [str(other)]
    assert [text.split(" of ")[0] for text in strangers(kept[:3], disk.partitions)] == ["partition 4 'root'"]


def test_optional_partition_may_be_there_and_any_type_will_do() -> None:
    (disk,) = parse_tables(TEXT)
    rows = ["esp *", "*_verity *", "? seatrial-*.0 8484680c-9521-48c6-9c11-b0720656f69e", "? BIOS-BOOT *", "ro* *"]
    promises = [parse_promise(row) for row in rows]
    assert unkept(promises, disk.partitions) == strangers(promises, disk.partitions) == []
    assert unkept(promises, ()) == ["esp of type *", "*_verity of type *", "ro* of type *"]


@pytest.mark.parametrize(
    "row",
    ["", "? root", "?esp", "? ? esp *", "root", "root linux", f"root {'0' * 36}", f"root {' '.join(['a' * 8] * 3)}"],
)
def test_row_that_promises_nothing_is_refused(row: str) -> None:
    with pytest.raises(ConfigError, match="LABEL TYPE-GUID"):
        parse_promise(row)


@pytest.mark.parametrize(
    ("guid", "by_hand"),
    [
        ("00000000-0000-0000-0000-000000000001", True),
        ("00000000-0000-4000-8000-000000000001", True),
        ("00000000-0000-0000-0000-000000000000", True),
        ("7130c94a-213a-4e5a-8e26-6cce9662f132", False),
        ("ec28e2ba-0000-4d85-8a15-640032be310c", False),
    ],
)
def test_placeholder_is_told_from_chance(guid: str, by_hand: bool) -> None:
    assert is_placeholder(guid) is by_hand
