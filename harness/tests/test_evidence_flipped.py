"""Reading what became of a block that was changed under verity."""

from __future__ import annotations

import contextlib
import subprocess
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from seatrial.errors import ObservationError
from seatrial.evidence.flipped import flip_script, parse_flipped, parse_read_back, read_back_script
from seatrial.evidence.verity import parse_device
from suite_bench import BOOT_ID, recorded

DEVICE = parse_device(recorded("immutability/device"))
OLD, NEW = "a" * 64, "b" * 64
FLIPPED = f"block 193468\nold {OLD}\nbelow {OLD}\nnew {NEW}\nwrote 0 \nkept {NEW}\n"
REFUSED = "dd: failed to open '/dev/block/253:3': Operation not permitted"
BACK = f"read 1 0 dd: error reading '/dev/block/254:0': Input/output error\ngot {OLD}\nstatus C\n"


def test_change_that_took_is_read() -> None:
    flipped = parse_flipped(FLIPPED)
    assert (flipped.block, flipped.old, flipped.new, flipped.kept) == (193468, OLD, NEW, NEW)
    assert (flipped.tries, flipped.refusals, flipped.was_refused) == (1, (), False)


def test_change_that_was_refused_both_ways_is_read() -> None:
    flipped = parse_flipped(FLIPPED.replace("wrote 0 ", f"wrote 1 {REFUSED}\nwrote 1 {REFUSED}"))
    assert flipped.was_refused
    assert flipped.refusals == (REFUSED, REFUSED)


@pytest.mark.parametrize(
    "writes",
    [
        f"wrote 1 {REFUSED}\nwrote 0 ",
        f"wrote 1 {REFUSED}\nwrote 1 dd: error writing: No space left on device",
        "wrote 1 dd: unrecognized operand",
    ],
)
def test_change_that_failed_otherwise_was_not_refused(writes: str) -> None:
    assert not parse_flipped(FLIPPED.replace("wrote 0 ", writes)).was_refused


def test_nothing_tried_is_no_refusal() -> None:
    assert not parse_flipped(FLIPPED.replace("wrote 0 \n", "")).was_refused


@pytest.mark.parametrize(
    "text",
    [
        "",
        "lacks dd\n",
        FLIPPED.replace(f"kept {NEW}\n", ""),
        FLIPPED + f"kept {NEW}\n",
        FLIPPED.replace("block 193468", "block -1"),
        FLIPPED.replace(OLD, "none"),
        FLIPPED.replace("wrote 0 ", "wrote dd"),
        FLIPPED.replace("wrote 0 ", "wrote 127 sh: dd: not found"),
        "surprise\n",
    ],
)
def test_report_that_cannot_be_read_is_an_error(text: str) -> None:
    with pytest.raises(ObservationError):
        parse_flipped(text)


def test_failed_read_is_told_from_other_failures() -> None:
    back = parse_read_back(BACK)
    assert (back.succeeded, back.is_io_error, back.status, back.size) == (False, True, "C", 0)
    assert not parse_read_back(BACK.replace("Input/output error", "No such file or directory")).is_io_error
    assert not parse_read_back(BACK.replace("read 1 0", "read 0 512")).is_io_error


@pytest.mark.parametrize("text", ["", BACK.replace("status C\n", ""), BACK.replace("read 1 0", "read 127 0"), "x 1\n"])
def test_read_that_says_nothing_is_an_error(text: str) -> None:
    with pytest.raises(ObservationError):
        parse_read_back(text)


def test_scripts_run_on_one_boot_only() -> None:
    for script in (
        flip_script(DEVICE, "254:0", boot_id=BOOT_ID),
        read_back_script(DEVICE, "254:0", 7, boot_id=BOOT_ID),
    ):
        assert script.startswith(f'if [ "$(cat /proc/sys/kernel/random/boot_id)" = {BOOT_ID} ]; then ')
        assert script.endswith("; else exit 125; fi")
        done = subprocess.run(["sh", "-c", script], capture_output=True, check=False)
        assert (done.returncode, done.stdout, done.stderr) == (125, b"", b"")
    with pytest.raises(ObservationError, match="boot id"):
        flip_script(DEVICE, "254:0", boot_id="")


def test_blocks_to_choose_from_lie_inside_of_the_data() -> None:
    script = flip_script(DEVICE, "254:0", boot_id=BOOT_ID)
    blocks = script.partition("candidates='")[2].partition("'")[0].split()
    assert blocks[0] == "193468"
    assert len(set(blocks)) == len(blocks) == 8
    assert all(0 < int(block) < DEVICE.blocks for block in blocks)


@pytest.mark.parametrize(
    "wrong",
    [{"data_device": "/dev/sda; reboot"}, {"block_bytes": 1000}, {"block_bytes": 1 << 30}, {"blocks": 0}],
)
def test_table_of_the_guest_cannot_become_a_command(wrong: dict[str, object]) -> None:
    with pytest.raises(ObservationError):
        flip_script(replace(DEVICE, **wrong), "254:0", boot_id=BOOT_ID)  # type: ignore[arg-type]  # one field


@given(st.text())
def test_any_text_is_read_or_refused(text: str) -> None:
    for whole in (text, f"{FLIPPED}{text}", f"block {text}\n", f"{BACK}{text}", f"read {text}\n"):
        with contextlib.suppress(ObservationError):
            parse_flipped(whole)
        with contextlib.suppress(ObservationError):
            parse_read_back(whole)
