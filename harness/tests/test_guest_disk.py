"""Real guests: formats give one verdict, and what a guest writes past its mounts is seen from outside."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest
import zstandard
from broken import demo_image
from micro import Micro, micro_guest
from seatrial.evidence.disk.partitions import TABLE
from seatrial.layout import data_dir
from seatrial.machine.audit import written_to
from seatrial.machine.disk import Image, nameless_overlay, open_image
from seatrial.policy.judge import Outcome
from seatrial.process import running
from seatrial.suites import built_in_suites
from test_disk_writes import ROOT, USR, USR_START, by_name, changed, converted, disk, verdict

pytestmark = pytest.mark.guest

_BOOT_S = 180.0
_FORMATS = {
    "qcow2.zst": ("qcow2", ""),
    "qcow2": ("qcow2", ""),
    "vhd": ("vpc", "subformat=dynamic,force_size=on"),
    "vhdx": ("vhdx", ""),
}
# One boot takes minutes without KVM: the rest is asked for with SEATRIAL_TEST_FORMATS=all (tox -e formats).
_ALL = os.environ.get("SEATRIAL_TEST_FORMATS") == "all"
_ASKED = tuple(_FORMATS) if _ALL else ("qcow2.zst",)
# The identity suite boots twice more, and asks nothing of the disk's format.
_WANTED = [name for name in built_in_suites() if name != "identity"] if _ALL else ["hardening", "kernel", "boot"]
_SUITES = [f"--suite={name}" for name in _WANTED]


def verdicts(image: Path, out: Path) -> tuple[str, str, dict[tuple[str, str], str]]:
    """Return the decision on ``image``, its format as the record has it, and the outcome of each control."""
    command = [sys.executable, "-m", "seatrial", "gate", str(image), "--flavour", "debian-general", "--out", str(out)]
    done = subprocess.run([*command, *_SUITES, "-q"], capture_output=True, text=True, check=False)
    print(done.stdout[-6000:], done.stderr[-3000:])
    (path,) = out.glob("*/record.json")
    record = json.loads(path.read_text(encoding="utf-8"))
    jsonschema.validate(record, json.loads((data_dir("reports") / "record.schema.json").read_text(encoding="utf-8")))
    outcomes = {(verdict["suite"], verdict["control"]): verdict["outcome"] for verdict in record["verdicts"]}
    return record["decision"], record["image"]["format"], outcomes


@pytest.fixture(scope="module")
def as_raw(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], str]:
    decision, form, outcomes = verdicts(demo_image("general"), tmp_path_factory.mktemp("raw") / "out")
    assert (decision, form) == ("release", "raw")
    return outcomes


@pytest.mark.parametrize("name", _ASKED)
def test_an_image_gets_the_same_verdicts_in_every_format(
    name: str, as_raw: dict[tuple[str, str], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = tmp_path / "general.raw"
    raw.symlink_to(demo_image("general"))
    candidate = converted(raw, *_FORMATS[name])
    if name.endswith(".zst"):
        monkeypatch.setenv("SEATRIAL_CACHE", str(tmp_path / "cache"))
        candidate = packed(candidate)
    decision, form, outcomes = verdicts(candidate, tmp_path / "out")
    assert (decision, form) == ("release", "qcow2 in zstd" if name.endswith(".zst") else name)
    assert outcomes == as_raw


def packed(path: Path) -> Path:
    target = path.with_name(f"{path.name}.zst")
    with path.open("rb") as source, target.open("wb") as sink:
        zstandard.ZstdCompressor(level=1).copy_stream(source, sink)
    path.unlink()
    return target


def micro_boot(micro: Micro, image: Image, overlay: int, log: Path, *, block: int) -> None:
    """Boot the micro guest on ``image``; it writes 16 KiB to block ``block`` (of 4 KiB) of its disk, and powers off."""
    base = {**image.driver, "file": {"driver": "file", "filename": str(image.disk), "read-only": True}}
    nodes = [
        {**base, "node-name": "base", "read-only": True},
        {
            "driver": "qcow2",
            "node-name": "disk",
            "backing": "base",
            "file": {"driver": "file", "filename": "/dev/fdset/1"},
        },
    ]
    words = ["qemu-system-x86_64", "-machine", "q35,accel=tcg", "-cpu", "max", "-m", "256M", "-nodefaults"]
    words += ["-display", "none", "-no-reboot", "-serial", f"file:{log}", "-add-fd", f"fd={overlay},set=1"]
    words += [word for node in nodes for word in ("-blockdev", json.dumps(node))]
    words += ["-device", "virtio-blk-pci,drive=disk", "-kernel", str(micro.kernel), "-initrd", str(micro.initrd)]
    words += ["-append", f"console=ttyS0 micro.early=write-at micro.block={block} micro.fault=off"]
    with running(words, log=log.with_suffix(".qemu"), pass_fds=(overlay,)) as qemu:
        assert qemu.ends_within(_BOOT_S), log.read_text(errors="replace")[-2000:]
    told = log.read_text(errors="replace")
    assert "micro: wrote" in told, told[-2000:] + log.with_suffix(".qemu").read_text()
    assert qemu.status == 0


@pytest.mark.parametrize(
    ("place", "driver", "broken"),
    [
        (USR_START + 16384 - USR_START % 4096, "raw", "2 usr_1.0"),
        (USR_START + 16384 - USR_START % 4096, "vhdx", "2 usr_1.0"),
        (0, "raw", "0 partition-table"),
        (ROOT, "qcow2", ""),
    ],
    ids=["usr", "usr on VHDX", "table", "root only"],
)
def test_a_guest_that_writes_past_its_mounts_is_seen_from_outside(
    place: int, driver: str, broken: str, tmp_path: Path
) -> None:
    raw = disk(tmp_path)
    image = open_image(raw if driver == "raw" else converted(raw, driver))
    with nameless_overlay(image.disk_bytes, tmp_path) as overlay:
        micro_boot(micro_guest(), image, overlay, tmp_path / "console", block=place // 4096)
        seen = written_to(image, [overlay])
    assert changed(by_name(seen)) == {broken or "3 root": 16384}
    told = verdict(seen, (USR, TABLE))
    assert told.outcome is (Outcome.FAIL if broken else Outcome.PASS), told.because
