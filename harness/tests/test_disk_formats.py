"""Every format is recognised by content; what needs other files or makes no sense is refused before QEMU sees it."""

from __future__ import annotations

import functools
import json
import struct
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from seatrial.clock import Deadline
from seatrial.errors import ConfigError
from seatrial.evidence.disk.formats import Disk, recognise
from seatrial.evidence.disk.reading import Fault, crc32c
from seatrial.layout import data_dir
from seatrial.machine.arguments import Attached, qemu_arguments
from seatrial.machine.definition import load_machine
from seatrial.machine.disk import Image, open_image
from seatrial.process import run

SIZE = 10_000_384  # no multiple of what VHD geometries round to
OPTIONS = {
    "raw": ("raw", ""),
    "qcow2": ("qcow2", ""),
    "vhd": ("vpc", "subformat=dynamic,force_size=on"),
    "vhd-fixed": ("vpc", "subformat=fixed,force_size=on"),
    "vhdx": ("vhdx", ""),
    "vmdk": ("vmdk", "subformat=monolithicSparse"),
    "vmdk stream": ("vmdk", "subformat=streamOptimized"),
}


def disk_content() -> bytes:
    return (b"\0" * 510 + b"\x55\xaa").ljust(700_000, b"x").ljust(SIZE, b"\0")


@functools.cache
def made(name: str) -> bytes:
    """Return an image in the named format, as qemu-img makes it."""
    driver, options = OPTIONS[name]
    with tempfile.TemporaryDirectory() as place:
        source, target = Path(place, "source.raw"), Path(place, "target")
        source.write_bytes(disk_content())
        words = ["qemu-img", "convert", "-f", "raw", "-O", driver, *(["-o", options] if options else [])]
        done = run([*words, source, target], deadline=Deadline(60))
        assert done.status == 0, done.complaint
        return target.read_bytes()


def recognised(content: bytes) -> Disk:
    found = recognise(lambda offset, length: content[offset : offset + length], len(content))
    assert isinstance(found, Disk)
    return found


@pytest.mark.parametrize("name", OPTIONS)
def test_format_and_exact_size_are_found_in_the_content(name: str) -> None:
    assert recognised(made(name)) == Disk(name.partition(" ")[0], SIZE)  # type: ignore[arg-type]  # the names are formats


def qemu_reads(image: Image) -> bytes:
    """Return the disk that QEMU's tools see through the driver options that the machine gets."""
    spec = json.dumps({**image.driver, "file": {"driver": "file", "filename": str(image.disk)}})
    with tempfile.TemporaryDirectory() as place:
        target = Path(place, "plain")
        done = run(["qemu-img", "convert", "-O", "raw", f"json:{spec}", target], deadline=Deadline(60))
        assert done.status == 0, done.complaint
        return target.read_bytes()


@pytest.mark.parametrize("name", OPTIONS)
def test_qemu_sees_the_whole_disk_and_no_footer(name: str, tmp_path: Path) -> None:
    path = tmp_path / "any.name"
    path.write_bytes(made(name))
    assert qemu_reads(open_image(path)) == disk_content()


def foreign_vhd() -> bytes:
    """Return a dynamic VHD of a maker whose size QEMU does not believe, with a geometry that is too small for it."""
    content = bytearray(made("vhd"))
    for place in (0, len(content) - 512):
        footer = content[place : place + 512]
        footer[28:32] = b"vbox"
        footer[56:60] = struct.pack(">HBB", 200, 4, 17)
        footer[64:68] = b"\0" * 4
        footer[64:68] = struct.pack(">I", ~sum(footer) & 0xFFFFFFFF)
        content[place : place + 512] = footer
    return bytes(content)


def test_vhd_with_a_rounded_geometry_keeps_its_end(tmp_path: Path) -> None:
    path = tmp_path / "foreign.vhd"
    path.write_bytes(foreign_vhd())
    image = open_image(path)
    assert (image.disk_bytes, image.force_size) == (SIZE, True)
    assert qemu_reads(image) == disk_content()


def words_for(image: Image) -> list[str]:
    return qemu_arguments(
        load_machine("q35-uefi", data_dir("qemu") / "machines"),
        image,
        accelerator="tcg",
        firmware=None,
        attached=Attached(qmp_fd=10, console_fd=11, overlay_fd=12, base_fd=9),
        smbios=(),
    )


@pytest.mark.parametrize("name", [*OPTIONS, "foreign"])
def test_qemu_starts_with_what_we_tell_it_of_the_image(name: str, tmp_path: Path) -> None:
    """QEMU itself takes the options, for every format: it is started without a machine, and told to quit."""
    path = tmp_path / "with,comma"
    path.write_bytes(foreign_vhd() if name == "foreign" else made(name))
    words = words_for(open_image(path))
    nodes = [(word, words[n + 1]) for n, word in enumerate(words) if word in ("-blockdev", "-drive")]
    base = [word for pair in nodes if '"base' in pair[1] for word in pair if '"overlay-file"' not in pair[1]]
    asked = '{"execute":"qmp_capabilities"}{"execute":"query-named-block-nodes"}{"execute":"quit"}'
    start = ["qemu-system-x86_64", "-M", "none", "-display", "none", "-nodefaults", "-qmp", "stdio"]
    # As Seatrial does, the file is handed over open: the shell gives it the number 9.
    given = [words[n + 1] for n, word in enumerate(words) if word == "-add-fd" and "fd=9," in words[n + 1]]
    shell = ["sh", "-c", 'exec 9<"$1"; shift; exec "$@"', "sh", str(path)]
    done = run([*shell, *start, "-add-fd", *given, *base], deadline=Deadline(60), stdin=asked.encode())
    answers = [json.loads(line) for line in done.text.splitlines()]
    sizes = {
        node["node-name"]: node["image"]["virtual-size"]
        for answer in answers
        if isinstance(answer.get("return"), list)
        for node in answer["return"]
    }
    assert sizes.get("base") == SIZE, (done.complaint, sizes)


def with_sum(block: bytes, place: int, form: str, value: int) -> bytes:
    return block[:place] + struct.pack(form, value) + block[place + struct.calcsize(form) :]


def vhd_footer(**changes: tuple[int, bytes]) -> bytes:
    content = bytearray(made("vhd-fixed"))
    footer = content[-512:]
    for place, value in changes.values():
        footer[place : place + len(value)] = value
    footer[64:68] = b"\0" * 4
    footer[64:68] = struct.pack(">I", ~sum(footer) & 0xFFFFFFFF)
    return bytes(content[:-512] + footer)


def vhdx_header(place: int, value: bytes) -> bytes:
    """Return a VHDX with both headers changed and their checksums right."""
    content = bytearray(made("vhdx"))
    for start in (64 << 10, 128 << 10):
        block = content[start : start + 4096]
        block[place : place + len(value)] = value
        block[4:8] = b"\0" * 4
        block[4:8] = struct.pack("<I", crc32c(bytes(block)))
        content[start : start + 4096] = block
    return bytes(content)


def vmdk_text(old: bytes, new: bytes) -> bytes:
    content = made("vmdk")
    assert old in content
    return (
        content.replace(old, new.ljust(len(old))[: max(len(old), len(new))], 1)
        if len(new) <= len(old)
        else (content.replace(old + b"\0" * (len(new) - len(old)), new, 1))
    )


def vhdx_with_parent() -> bytes:
    content = bytearray(made("vhdx"))
    table = content.index(b"metadata", 300_000)
    region = struct.unpack_from("<I", content, table + 32 + 16)[0]
    content[table + region + 4 : table + region + 8] = struct.pack("<I", 2)
    return bytes(content)


REFUSED: dict[str, tuple[Callable[[], bytes], str]] = {
    "differencing VHD": (
        lambda: vhd_footer(kind=(60, struct.pack(">I", 4))),
        "differencing VHD, which refers to a parent",
    ),
    "VHD of an unknown type": (lambda: vhd_footer(kind=(60, struct.pack(">I", 9))), "VHD of type 9"),
    "VHD larger than its file": (
        lambda: vhd_footer(size=(48, struct.pack(">Q", 1 << 34))),
        "only 10000384 bytes precede",
    ),
    "absurd VHD": (lambda: vhd_footer(size=(48, struct.pack(">Q", 1 << 60))), "claims a disk of 1152921504606846976"),
    "VHD with a wrong sum": (
        lambda: made("vhd-fixed")[:-500] + b"x" + made("vhd-fixed")[-499:],
        "checksum of its footer",
    ),
    "dynamic VHD cut off": (lambda: made("vhd")[:1540], "is cut off|is a VHD cut off"),
    "VHDX with a log": (lambda: vhdx_header(48, b"\1" * 16), "log has to be replayed"),
    "VHDX with a parent": (vhdx_with_parent, "differencing VHDX, which refers to a parent"),
    "VHDX cut off": (lambda: made("vhdx")[: 1 << 20], "cut off"),
    "VHDX without headers": (lambda: made("vhdx")[:1000], "neither copy of its header"),
    "VMDK cut off": (lambda: made("vmdk")[:300], "the VMDK header should be"),
    "VMDK with a parent": (lambda: vmdk_text(b"parentCID=ffffffff", b"parentCID=12345678"), "refers to a parent"),
    "VMDK of flat files": (lambda: vmdk_text(b"monolithicSparse", b"monolithicFlat"), "VMDK of type 'monolithicFlat'"),
    "VMDK with another extent": (lambda: vmdk_text(b" SPARSE ", b" FLAT   "), "other extents than its own"),
    "VMDK that is a descriptor": (lambda: with_sum(made("vmdk"), 12, "<Q", 0), "holds no disk itself"),
    "absurd VMDK": (lambda: with_sum(made("vmdk"), 12, "<Q", 1 << 50), "claims a disk of"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_image_that_is_damaged_or_needs_other_files_is_refused(name: str, tmp_path: Path) -> None:
    make, text = REFUSED[name]
    path = tmp_path / "hostile"
    path.write_bytes(make())
    with pytest.raises(ConfigError, match=text) as caught:
        open_image(path)
    assert str(path) in str(caught.value)


@settings(max_examples=80, deadline=None)
@given(name=st.sampled_from([*OPTIONS]), data=st.data())
def test_hostile_headers_give_a_disk_or_a_fault(name: str, data: st.DataObject) -> None:
    """Whatever is changed in a valid image, no other error comes, and no disk of an absurd size."""
    content = bytearray(made(name))
    ends = st.one_of(
        st.integers(0, 4096), st.integers(64 << 10, (64 << 10) + 100), st.integers(len(content) - 512, len(content) - 1)
    )
    for place, value in data.draw(st.lists(st.tuples(ends, st.binary(min_size=1, max_size=9)), min_size=1, max_size=4)):
        content[place : place + len(value)] = value
    cut = data.draw(st.one_of(st.just(len(content)), st.integers(1, len(content))))
    whole = bytes(content[:cut])
    try:
        found = recognise(lambda offset, length: whole[offset : offset + length], len(whole))
    except Fault as exc:
        found = Disk("raw", len(exc.message))
    assert not isinstance(found, Disk) or 0 < found.disk_bytes <= 1 << 44


def test_checksum_is_castagnoli() -> None:
    assert crc32c(b"123456789") == 0xE3069283
