"""Reading the device mapper's words on verity."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from seatrial.errors import ObservationError
from seatrial.evidence.verity import device_command, parse_device, root_hashes
from suite_bench import recorded

HASH = "0c5d7e47c06dc4d693581812ece7c052ff7c989eddff59bcbb2e718faa670f9e"
RECORDED = recorded("immutability/device")


def test_recorded_device_is_read() -> None:
    device = parse_device(RECORDED)
    assert device.is_verity
    assert (device.name, device.status, device.algorithm, device.root_hash) == ("usr", "V", "sha256", HASH)
    assert (device.sectors, device.mapped_sectors, device.read_only) == (386936, 386936, True)
    assert device.data_device == "253:3"
    assert device.options == ()
    assert (device.block_bytes, device.blocks) == (512, 386936)


def test_options_come_after_their_count() -> None:
    text = (
        RECORDED.replace("table 0", "table 0")
        .rstrip("\n")
        .replace("504e6d3", "504e6d3 2 panic_on_corruption ignore_zero_blocks")
    )
    assert parse_device(text).options == ("panic_on_corruption", "ignore_zero_blocks")


def test_name_in_front_of_a_target_is_no_matter() -> None:
    assert parse_device(RECORDED.replace("table 0", "table usr: 0")).is_verity


def test_plain_partition_is_no_verity() -> None:
    device = parse_device("name \nsectors 1048576\nro 0\n")
    assert not device.is_verity
    assert (device.name, device.root_hash, device.mapped_sectors) == ("", "", 0)


def test_verity_beside_another_target_is_no_verity() -> None:
    device = parse_device(RECORDED + "table 386936 8 linear 253:9 0\n")
    assert not device.is_verity
    assert device.targets == ("verity", "linear")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "name usr\nsectors x\nro 1\n",
        "name usr\nsectors 8\nro 1\ntable 0 8\n",
        "name usr\nsectors 8\nro 1\ntable 0 8 verity 1 253:3\n",
        RECORDED.replace(HASH, "zz"),
        RECORDED.replace("253:2 512 512", "253:2 many 512"),
        "surprise\n",
    ],
)
def test_unreadable_device_is_an_error(text: str) -> None:
    with pytest.raises(ObservationError):
        parse_device(text)


def test_hash_of_the_command_line_is_compared_in_lower_case() -> None:
    assert root_hashes([HASH.upper()]) == (HASH,)
    with pytest.raises(ObservationError, match="'abc' is no root hash"):
        root_hashes(["abc"])


@pytest.mark.parametrize("device", ["", "254", "254:0; reboot", "../x"])
def test_number_from_the_guest_cannot_become_a_command(device: str) -> None:
    with pytest.raises(ObservationError, match="no device number"):
        device_command(device)


@given(st.text())
def test_any_text_is_read_or_refused(text: str) -> None:
    for whole in (text, f"{RECORDED}{text}", f"name a\nsectors 1\nro 1\ntable {text}\n"):
        with contextlib.suppress(ObservationError):
            assert parse_device(whole).sectors >= 0
