"""The counted clock: arguments that leave nothing to the host, and disks in memory that are what they copy."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from seatrial.errors import HostError
from seatrial.layout import data_dir
from seatrial.machine.arguments import Attached, qemu_arguments
from seatrial.machine.counted import (
    Counted,
    copied_in_memory,
    disk_in_memory,
    in_memory,
    is_prompt,
    virtual_s,
)
from seatrial.machine.definition import Machine, load_machine
from seatrial.machine.disk import Image

MEMORY_TAKES_DIRECT = os.access("/dev/shm", os.W_OK)


def machine(disk: str = "virtio-blk") -> Machine:
    return load_machine("q35-uefi", data_dir("qemu") / "machines").model_copy(update={"disk": disk, "cpus": 1})


def arguments(clock: Counted | None, disk: str = "virtio-blk", seed: int | None = None) -> list[str]:
    image = Image(path=Path("/i.raw"), format="raw", file_bytes=1, disk_bytes=512)
    attached = Attached(qmp_fd=3, console_fd=4, overlay_fd=5, base_fd=9, variables_fd=None, seed_fd=seed, counted=clock)
    return qemu_arguments(machine(disk), image, accelerator="tcg", firmware=None, attached=attached, smbios=())


def test_clock_and_chance_come_from_instructions_and_seed() -> None:
    words = " ".join(arguments(Counted(shift=2, seed=7)))
    assert "-icount shift=2,sleep=off -seed 7 -rtc base=2026-01-01T00:00:00,clock=vm" in words
    assert "urandom" not in words


@pytest.mark.parametrize("disk", ["virtio-blk", "virtio-scsi"])
def test_no_device_works_beside_the_processor(disk: str) -> None:
    devices = [word for word in arguments(Counted(), disk, seed=9) if word.startswith("virtio-")]
    assert devices
    assert all("ioeventfd=off" in device for device in devices)


def test_disk_and_seed_are_read_from_memory_at_once() -> None:
    files = [json.loads(word) for word in arguments(Counted(), seed=9) if word.startswith('{"driver": "file"')]
    assert [(f["aio"], f["cache"]["direct"]) for f in files] == [("native", True), ("native", True)]


def test_what_cannot_be_done_at_once_is_done_by_the_worker_that_is_there_at_the_start() -> None:
    words = " ".join(arguments(Counted()))
    assert "-object main-loop,id=main-loop,thread-pool-min=1,thread-pool-max=1" in words
    assert "write-cache=off" in words


def test_plain_boot_is_as_it_was() -> None:
    words = " ".join(arguments(None))
    assert "-icount" not in words
    assert "ioeventfd" not in words
    assert "thread-pool" not in words
    assert "write-cache" not in words
    assert "urandom" in words


class FakeMonitor:
    """Answers with a hardware clock."""

    def execute(self, command: str, **arguments: object) -> dict[str, int]:
        assert (command, arguments["property"]) == ("qom-get", "rtc-time")
        return {"tm_year": 126, "tm_mon": 0, "tm_mday": 2, "tm_hour": 1, "tm_min": 2, "tm_sec": 3}


def test_virtual_time_is_counted_from_power_on() -> None:
    monitor: Any = FakeMonitor()
    assert virtual_s(monitor) == 86_400 + 3_723


@pytest.mark.parametrize(("line", "prompt"), [("seatrial login: ", True), ("Last login: Tue", False), ("login", False)])
def test_only_a_prompt_is_a_prompt(line: str, prompt: bool) -> None:
    assert is_prompt(line) is prompt


@pytest.mark.skipif(not MEMORY_TAKES_DIRECT, reason="no /dev/shm here")
def test_disk_in_memory_is_the_image_and_its_copy_what_became_of_it(tmp_path: Path) -> None:
    path = tmp_path / "disk.raw"
    with path.open("wb") as file:
        file.truncate(8 << 20)
        file.seek(5 << 20)
        file.write(b"data" * 1024)
    image = Image(path=path, format="raw", file_bytes=8 << 20, disk_bytes=8 << 20)
    with disk_in_memory(image) as disk:
        assert path.read_bytes() == content(disk)
        assert os.fstat(disk).st_blocks * 512 < 1 << 20
        with copied_in_memory(disk) as copy:
            assert content(copy) == path.read_bytes()


def test_seed_in_memory_ends_on_a_whole_block() -> None:
    with in_memory(b"seed") as descriptor:
        assert content(descriptor) == b"seed".ljust(4096, b"\0")


def test_image_that_does_not_fit_is_refused_with_the_way_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "disk.raw"
    path.write_bytes(b"x" * 8192)
    usage = replace_free(0)
    monkeypatch.setattr("shutil.disk_usage", usage)
    image = Image(path=path, format="raw", file_bytes=8192, disk_bytes=8192)
    with pytest.raises(HostError, match="does not fit"), disk_in_memory(image):
        pass


def replace_free(free: int) -> Any:
    """Return a ``shutil.disk_usage`` that finds ``free`` bytes."""

    class Usage:
        def __init__(self) -> None:
            self.free = free

    return lambda _path: Usage()


def content(descriptor: int) -> bytes:
    # The descriptor is open with O_DIRECT; a plain one reads without alignment.
    with open(f"/proc/self/fd/{descriptor}", "rb") as file:
        return file.read()


def test_clock_is_a_value() -> None:
    assert replace(Counted(), seed=2) == Counted(seed=2)
