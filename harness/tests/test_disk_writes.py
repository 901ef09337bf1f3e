"""What a guest wrote is read from its overlays, by partition and content; a changed immutable partition fails."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from seatrial.clock import Deadline
from seatrial.errors import ObservationError
from seatrial.evidence.disk.partitions import TABLE, UNUSED, Region, regions
from seatrial.evidence.disk.qcow2 import clusters
from seatrial.evidence.disk.reading import Fault, Read
from seatrial.evidence.disk.writes import Change, changes, layers, named, unmatched
from seatrial.machine import audit
from seatrial.machine.audit import written_to
from seatrial.machine.disk import Image, nameless_overlay, open_image
from seatrial.plan import Plan, without_live_checks
from seatrial.policy.controls import parse_controls
from seatrial.policy.judge import Outcome
from seatrial.policy.writes import judge_writes
from seatrial.process import run
from seatrial.suites import Suite, read_flavour
from seatrial.writes import disk_watch, facts_of

MIB = 1 << 20
SIZE = 8 * MIB
USR = "8484680c-9521-48c6-9c11-b0720656f69e"
# The border of the first two partitions lies inside of a cluster (64 KiB) of the overlay.
SCRIPT = f"""label: gpt
first-lba: 2048
start=2048, size=2064, type=C12A7328-F81F-11D2-BA4B-00A0C93EC93B, name=esp
start=4112, size=4096, type={USR.upper()}, name=usr_1.0
start=9216, size=2048, type=4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709, name=root
"""
ESP, USR_START, USR_END = 2048 * 512, 4112 * 512, 8208 * 512
ROOT = 9216 * 512


def disk(folder: Path, script: str = SCRIPT) -> Path:
    path = folder / "disk.raw"
    with path.open("wb") as file:
        file.truncate(SIZE)
    done = run(["sfdisk", "--quiet", path], deadline=Deadline(30), stdin=script.encode())
    assert done.status == 0, done.complaint
    with path.open("r+b") as file:
        file.seek(USR_START)
        file.write(os.urandom(64) * 8192)
    return path


def converted(path: Path, driver: str, options: str = "") -> Path:
    target = path.with_suffix(f".{driver}")
    words = ["qemu-img", "convert", "-O", driver, *(["-o", options] if options else [])]
    done = run([*words, path, target], deadline=Deadline(60))
    assert done.status == 0, done.complaint
    return target


@contextmanager
def overlay(image: Image, folder: Path, commands: Sequence[str], below: int | None = None) -> Iterator[int]:
    """Yield an overlay in which ``commands`` of qemu-io were done, on the image or on the overlay ``below``."""
    with nameless_overlay(image.disk_bytes, folder) as descriptor:
        base: dict[str, Any] = {**image.driver, "file": {"driver": "file", "filename": str(image.disk)}}
        if below is not None:
            path = f"/proc/{os.getpid()}/fd/{below}"
            base = {"driver": "qcow2", "file": {"driver": "file", "filename": path}, "backing": base}
        top = {"driver": "qcow2", "file": {"driver": "file", "filename": f"/proc/{os.getpid()}/fd/{descriptor}"}}
        words = ["qemu-io", *(word for command in commands for word in ("-c", command))]
        done = run([*words, f"json:{json.dumps({**top, 'backing': base})}"], deadline=Deadline(60))
        assert done.status == 0, done.complaint + done.text
        yield descriptor


def found(path: Path, folder: Path, *commands: str) -> dict[str, Change]:
    image = open_image(path)
    with overlay(image, folder, commands) as descriptor:
        return by_name(written_to(image, [descriptor]))


def by_name(changed: Sequence[Change]) -> dict[str, Change]:
    return {f"{c.region.number} {c.region.label}": c for c in changed if c.written_bytes or c.region.number}


def changed(seen: dict[str, Change]) -> dict[str, int]:
    return {name: change.changed_bytes for name, change in seen.items() if change.changed_bytes}


def test_an_overlay_that_was_never_written_to_shows_no_change(tmp_path: Path) -> None:
    seen = found(disk(tmp_path), tmp_path, "read 0 512")
    assert changed(seen) == {}
    assert {change.written_bytes for change in seen.values()} == {0}


def test_a_write_counts_for_its_partition_in_sectors(tmp_path: Path) -> None:
    seen = found(disk(tmp_path), tmp_path, f"write -P 7 {ROOT + 4096} 1536")
    assert changed(seen) == {"3 root": 1536}
    assert seen["3 root"].written_bytes == 65536
    assert seen["3 root"].runs == ((ROOT + 4096, ROOT + 5632),)


def test_a_cluster_across_a_border_counts_only_where_its_content_differs(tmp_path: Path) -> None:
    seen = found(disk(tmp_path), tmp_path, f"write -P 7 {USR_START - 512} 512")
    assert changed(seen) == {"1 esp": 512}
    assert seen["2 usr_1.0"].written_bytes > 0
    assert changed(found(disk(tmp_path), tmp_path, f"write -P 7 {USR_START - 512} 1024")) == {
        "1 esp": 512,
        "2 usr_1.0": 512,
    }


def test_a_write_of_what_was_there_is_no_change(tmp_path: Path) -> None:
    seen = found(disk(tmp_path), tmp_path, f"write -P 0 {ROOT} 128k")
    assert changed(seen) == {}
    assert seen["3 root"].written_bytes == 131072


def test_discarded_content_is_a_change_to_zeroes(tmp_path: Path) -> None:
    seen = found(disk(tmp_path), tmp_path, f"write -z -u {USR_START + 49152} 64k")
    assert changed(seen) == {"2 usr_1.0": 65536}


@pytest.mark.parametrize(
    ("place", "label"),
    [(512, TABLE), (SIZE - 512, TABLE), (USR_END, UNUSED)],
    ids=["first GPT header", "last GPT header", "between partitions"],
)
def test_the_table_and_what_is_in_no_partition_are_seen(place: int, label: str, tmp_path: Path) -> None:
    assert changed(found(disk(tmp_path), tmp_path, f"write -P 9 {place} 512")) == {f"0 {label}": 512}


@pytest.mark.parametrize(
    ("driver", "options"),
    [("qcow2", ""), ("vpc", "subformat=dynamic,force_size=on"), ("vhdx", ""), ("vmdk", "subformat=streamOptimized")],
)
def test_other_formats_are_compared_as_well(driver: str, options: str, tmp_path: Path) -> None:
    path = converted(disk(tmp_path), driver, options)
    seen = found(path, tmp_path, f"write -P 7 {USR_START + 4096} 512", f"write -P 0 {ROOT} 64k")
    assert changed(seen) == {"2 usr_1.0": 512}


def test_a_disk_that_is_not_raw_is_read_exactly_across_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit, "_PIECE", MIB)
    raw = disk(tmp_path)
    content = raw.read_bytes()
    with audit.disk_reader(open_image(converted(raw, "qcow2"))) as read:
        for offset, length in ((0, 512), (MIB - 512, 1024), (MIB // 2, 3 * MIB), (SIZE - 512, 4096), (SIZE + 5, 1)):
            assert read(offset, length) == content[offset : offset + length]


def test_a_chain_of_overlays_is_seen_from_its_top(tmp_path: Path) -> None:
    image = open_image(disk(tmp_path))
    with ExitStack() as stack:
        lower = stack.enter_context(overlay(image, tmp_path, [f"write -P 7 {ROOT} 64k", f"write -P 7 {ESP} 512"]))
        upper = stack.enter_context(overlay(image, tmp_path, [f"write -P 0 {ROOT} 64k"], below=lower))
        assert changed(by_name(written_to(image, [lower]))) == {"3 root": 65536, "1 esp": 512}
        assert changed(by_name(written_to(image, [upper, lower]))) == {"1 esp": 512}


def test_an_overlay_that_is_cut_off_cannot_be_told(tmp_path: Path) -> None:
    image = open_image(disk(tmp_path))
    with overlay(image, tmp_path, [f"write -P 7 {ROOT} 64k"]) as descriptor:
        os.ftruncate(descriptor, os.fstat(descriptor).st_size - 65536)
        with pytest.raises(ObservationError, match="what the guest wrote to the disk cannot be told: it is cut off"):
            written_to(image, [descriptor])


def test_an_overlay_that_was_not_closed_cannot_be_told(tmp_path: Path) -> None:
    image = open_image(disk(tmp_path))
    with nameless_overlay(SIZE, tmp_path) as descriptor:
        os.pwrite(descriptor, struct.pack(">Q", 1), 72)
        with pytest.raises(ObservationError, match="was not closed in order"):
            written_to(image, [descriptor])


def test_a_disk_without_a_table_cannot_be_told(tmp_path: Path) -> None:
    path = disk(tmp_path)
    with path.open("r+b") as file:
        file.seek(600)
        file.write(b"x")
        file.seek(SIZE - 500)
        file.write(b"x")
    with pytest.raises(ObservationError, match="damaged GPT"):
        found(path, tmp_path)


def test_the_last_header_serves_where_the_first_is_damaged(tmp_path: Path) -> None:
    path = disk(tmp_path)
    with path.open("r+b") as file:
        file.seek(600)
        file.write(b"x")
    assert changed(found(path, tmp_path, f"write -P 7 {ROOT} 512")) == {"3 root": 512}


def test_mbr_partitions_logical_ones_included_are_known(tmp_path: Path) -> None:
    script = (
        "label: dos\nstart=2048, size=2048, type=83\nstart=4096, size=8192, type=5\nstart=6144, size=2048, type=82\n"
    )
    path = disk(tmp_path, script)
    with path.open("rb") as file:
        parts = regions(lambda offset, length: os.pread(file.fileno(), length, offset), SIZE)
    real = [(part.number, part.kind, part.start // 512) for part in parts if part.number]
    assert real == [(1, "0x83", 2048), (5, "0x82", 6144)]
    assert covers(parts, SIZE)


def covers(parts: Sequence[Region], size: int) -> bool:
    at = 0
    for part in parts:
        if part.start > at:
            return False
        at = max(at, part.end)
    return at == size


def test_gpt_regions_cover_the_disk(tmp_path: Path) -> None:
    content = disk(tmp_path).read_bytes()
    parts = regions(lambda offset, length: content[offset : offset + length], SIZE)
    assert covers(parts, SIZE)
    assert [(p.number, p.label, p.kind) for p in parts if p.number == 2] == [(2, "usr_1.0", USR)]


def test_partitions_are_named_by_label_type_or_table() -> None:
    parts = [
        Region(number=1, label="usr_1.0", kind=USR, start=0, end=1),
        Region(number=0, label=TABLE, kind="", start=1, end=2),
        Region(number=0, label=UNUSED, kind="", start=2, end=3),
    ]
    assert [part.start for part in named(parts, ["usr_*"])] == [0]
    assert [part.start for part in named(parts, [USR.upper()])] == [0]
    assert [part.start for part in named(parts, [TABLE, "*"])] == [0, 1]
    assert unmatched(parts, ["usr_*", "verity_*"]) == ("verity_*",)


CONTROL = parse_controls(
    """
[[control]]
id = "no-writes"
title = "t"
severity = "critical"
rationale = "r"
remedy = "r"
refs = []
applies-to = ["general-purpose", "immutable-host"]
probe = { written-from-outside = "immutable-partitions" }
""",
    where="test",
)[0]


def verdict(seen: Sequence[Change], patterns: tuple[str, ...], kind: str = "immutable-host") -> Any:
    flavour = read_flavour("debian-immutable")
    told = flavour.model_copy(update={"expect": {**flavour.expect, "immutable-partitions": patterns}, "kind": kind})
    return judge_writes(CONTROL, "immutability", told, seen)


@pytest.mark.parametrize(
    ("command", "patterns", "kind", "outcome", "text"),
    [
        (
            f"write -P 7 {ROOT} 512",
            (USR, TABLE),
            "immutable-host",
            Outcome.PASS,
            "no byte changed in the partition-table",
        ),
        (f"write -P 7 {USR_START} 512", ("usr_*",), "immutable-host", Outcome.FAIL, f"at bytes {USR_START}-"),
        (f"write -P 7 {USR_START} 512", ("partition 2",), "immutable-host", Outcome.FAIL, f"at bytes {USR_START}-"),
        (f"write -P 7 {USR_START} 512", ("partition 1",), "immutable-host", Outcome.PASS, "partition 1"),
        (f"write -P 7 {USR_START} 512", (f"none_*|{USR}",), "immutable-host", Outcome.FAIL, f"at bytes {USR_START}-"),
        ("read 0 512", ("usr_*", "? none_*"), "immutable-host", Outcome.PASS, "no byte changed"),
        (f"write -P 7 {USR_START} 512", ("? usr_*",), "immutable-host", Outcome.FAIL, f"at bytes {USR_START}-"),
        ("read 0 512", ("none_*|partition 9",), "immutable-host", Outcome.ERROR, "names with 'none_*|partition 9'"),
        ("write -P 7 1024 512", (TABLE,), "immutable-host", Outcome.FAIL, "the partition-table: 512 bytes changed"),
        (
            f"write -P 7 {USR_START} 512",
            ("usr_*", "none_*"),
            "immutable-host",
            Outcome.FAIL,
            "names with 'none_*'",
        ),
        (
            "read 0 512",
            ("usr_*", "none_*"),
            "immutable-host",
            Outcome.ERROR,
            "names with 'none_*'; it has 'esp', 'root'",
        ),
        ("read 0 512", (), "immutable-host", Outcome.NOT_CHECKED, "names no partition in expect.immutable-partitions"),
        ("read 0 512", (), "general-purpose", Outcome.NOT_APPLICABLE, "names no partition"),
    ],
)
def test_verdict_follows_from_what_changed(
    command: str, patterns: tuple[str, ...], kind: str, outcome: Outcome, text: str, tmp_path: Path
) -> None:
    image = open_image(disk(tmp_path))
    with overlay(image, tmp_path, [command]) as descriptor:
        told = verdict(written_to(image, [descriptor]), patterns, kind)
    assert told.outcome is outcome
    assert text in told.because


def test_a_qemu_that_was_killed_leaves_the_question_open(tmp_path: Path) -> None:
    image = open_image(disk(tmp_path))
    with nameless_overlay(SIZE, tmp_path) as descriptor:
        boot: Any = SimpleNamespace(overlays=(descriptor,), process=SimpleNamespace(status=-9))
        with (
            disk_watch(boot) as watch,
            pytest.raises(ObservationError, match=r"did not end in order \(exit status -9\)"),
        ):
            watch.written(image)


def test_the_overlay_is_read_after_its_owner_closed_it(tmp_path: Path) -> None:
    image = open_image(disk(tmp_path))
    with ExitStack() as kept:
        with overlay(image, tmp_path, [f"write -P 7 {ROOT} 512"]) as descriptor:
            boot: Any = SimpleNamespace(overlays=(descriptor,), process=SimpleNamespace(status=0))
            watch = kept.enter_context(disk_watch(boot))
        rows = facts_of(watch.written(image), read_flavour("debian-immutable"))
    assert [(row.label, row.changed_bytes, row.immutable) for row in rows if row.number] == [
        ("esp", 0, False),
        ("usr_1.0", 0, True),
        ("root", 512, False),
    ]


def test_facts_of_an_earlier_run_cannot_answer_for_the_disk(tmp_path: Path) -> None:
    suite = Suite(name="mine", folder=tmp_path, controls=(CONTROL,))
    plan = without_live_checks(Plan(suites=(suite,), control_of={}, unchecked={}, not_applicable=frozenset()), nodes=())
    assert (plan.left_out, plan.suites) == (("no-writes",), ())


def reader(content: bytes) -> Read:
    return lambda offset, length: content[max(0, offset) : max(0, offset) + length]


def told_of(content: bytes, parse: Any) -> str:
    try:
        return repr(parse(reader(content)))
    except Fault as exc:
        return exc.message


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("samples")
    image = open_image(disk(folder))
    with overlay(image, folder, [f"write -P 7 {ROOT} 64k", f"write -z {ESP} 64k"]) as descriptor:
        written = os.pread(descriptor, 1 << 20, 0)
    return {"overlay": written, "disk": image.disk.read_bytes()}


edits = st.lists(st.tuples(st.integers(0, 1 << 19), st.binary(min_size=1, max_size=8)), min_size=1, max_size=4)


@settings(max_examples=40, deadline=None)
@given(edits=edits, near=st.lists(st.tuples(st.integers(0, 1600), st.binary(min_size=1, max_size=8)), max_size=3))
def test_hostile_overlays_and_tables_give_an_answer_or_a_fault(
    samples: dict[str, bytes], edits: list[tuple[int, bytes]], near: list[tuple[int, bytes]]
) -> None:
    for name, parse in (
        ("overlay", clusters),
        ("disk", lambda read: regions(read, SIZE)),
        ("overlay", lambda read: changes(layers([read]), lambda _o, _l: b"", [])),
    ):
        content = bytearray(samples[name])
        for place, value in [*edits, *near]:
            content[place : place + len(value)] = value
        assert told_of(bytes(content), parse)
