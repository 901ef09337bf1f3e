"""Bad input ends with a clear error before anything boots; a candidate is only ever read."""

from __future__ import annotations

import hashlib
import os
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from seatrial.clock import Deadline
from seatrial.errors import ConfigError
from seatrial.machine.disk import nameless_copy, nameless_overlay, open_image, sha256
from seatrial.process import run

GPT = b"\0" * 510 + b"\x55\xaa" + b"EFI PART" + b"\0" * 5000


def qcow2(*, version: int = 3, backing: int = 0, incompatible: int = 0, size: int = 1 << 20) -> bytes:
    head = struct.pack(">4sIQIIQ", b"QFI\xfb", version, backing, 0, 16, size)
    tables = struct.pack(">IIQ", 0, 1, 65536)
    return (head + tables).ljust(72, b"\0") + struct.pack(">QQQII", incompatible, 0, 0, 4, 104) + b"\0" * 70000


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def test_a_raw_disk_is_recognised_by_its_partition_table(tmp_path: Path) -> None:
    image = open_image(write(tmp_path / "any.name", GPT))
    assert (image.format, image.file_bytes, image.disk_bytes % 512) == ("raw", len(GPT), 0)
    assert image.disk_bytes >= len(GPT)


def test_a_qcow2_is_recognised_by_content_and_not_by_name(tmp_path: Path) -> None:
    image = open_image(write(tmp_path / "disk.raw", qcow2(size=123 << 20)))
    assert (image.format, image.disk_bytes) == ("qcow2", 123 << 20)


def bad_inputs() -> list[tuple[str, bytes, str]]:
    return [
        ("empty", b"", r"is empty \(0 bytes\)"),
        ("text", b"no disk at all\n" * 100, "is not a disk image: neither a qcow2 header nor a partition table"),
        ("vhdx", b"vhdxfile" + GPT, "is a damaged VHDX: neither copy of its header is valid"),
        ("fixed vhd", GPT + b"conectix".ljust(512, b"\0"), "is a damaged VHD: the checksum of its footer"),
        ("backing file", qcow2(backing=104), "refers to a backing file; a candidate must stand alone"),
        ("data file", qcow2(incompatible=4), "refers to an external data file"),
        ("cut qcow2", qcow2()[:60], r"cut off inside its header \(60 bytes\)"),
        ("qcow2 of the future", qcow2(version=9), "claims qcow2 version 9; versions 2 and 3 exist"),
        ("unknown feature", qcow2(incompatible=1 << 40), "features that are unknown here"),
        ("corrupt qcow2", qcow2(incompatible=2), "QEMU has marked as corrupt\n  hint: repair a copy"),
        ("absurd size", qcow2(size=1 << 60), "claims a disk of 1152921504606846976 bytes"),
        ("no size", qcow2(size=0), "is a qcow2 file of a disk of 0 bytes"),
        ("qcow2 without tables", qcow2(size=1 << 40), "its table of 1 entries does not fit"),
        ("cut before its table", qcow2()[:150], "is a qcow2 file cut off at byte 150"),
        ("vmdk descriptor", b"# Disk DescriptorFile\nversion=1\n" * 40, "is a VMDK descriptor"),
        ("tar", b"\0" * 257 + b"ustar" + b"\0" * 999, "it is a tar archive .*\n  hint: unpack it first"),
        ("vdi", b"\0" * 64 + b"\x7f\x10\xda\xbe" + GPT, "it is a VirtualBox disk .*\n  hint: convert a copy: qemu-img"),
        ("iso", b"\0" * 32769 + b"CD001" + b"\0" * 99, "it is a CD or DVD"),
    ]


@pytest.mark.parametrize(("content", "text"), [pytest.param(c, t, id=n) for n, c, t in bad_inputs()])
def test_bad_content_is_refused_with_its_reason(tmp_path: Path, content: bytes, text: str) -> None:
    path = write(tmp_path / "bad.img", content)
    with pytest.raises(ConfigError) as caught:
        open_image(path)
    assert caught.match(text)
    assert str(path) in str(caught.value)


def test_a_missing_image_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"missing.raw' does not exist"):
        open_image(tmp_path / "missing.raw")


def test_a_directory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is a directory\n  hint: give the path of a disk image file"):
        open_image(tmp_path)


def test_a_fifo_is_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(ConfigError, match="is no regular file"):
        open_image(tmp_path / "fifo")


def test_an_unreadable_image_is_refused(tmp_path: Path) -> None:
    # Root reads everything, so the error is brought about by a name that is too long.
    with pytest.raises(ConfigError, match="cannot be read: File name too long"):
        open_image(tmp_path / ("x" * 300))


@given(st.binary(max_size=2000))
def test_any_content_gives_an_image_or_a_config_error(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = write(tmp_path_factory.mktemp("any") / "image", content)
    try:
        found = str(open_image(path).format)
    except ConfigError as exc:
        found = str(exc)
    assert found in {"raw", "qcow2"} or str(path) in found


def test_the_digest_is_that_of_the_whole_file(tmp_path: Path) -> None:
    content = os.urandom(9 << 20)
    shares: list[float] = []
    assert sha256(write(tmp_path / "f", content), progress=shares.append) == hashlib.sha256(content).hexdigest()
    assert shares[-1] == 1.0


def test_an_overlay_has_no_name_while_it_is_open(tmp_path: Path) -> None:
    with nameless_overlay(10 << 20, tmp_path) as descriptor:
        assert list(tmp_path.iterdir()) == []
        told = run(["qemu-img", "info", "--output=json", f"/proc/{os.getpid()}/fd/{descriptor}"], deadline=Deadline(20))
        assert b'"virtual-size": 10485760' in told.stdout
        assert b"backing" not in told.stdout


def test_a_read_only_copy_cannot_be_written_through_its_descriptor(tmp_path: Path) -> None:
    with nameless_copy(b"seed", tmp_path, writable=False) as descriptor:
        assert os.pread(descriptor, 10, 0) == b"seed"
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.write(descriptor, b"x")
