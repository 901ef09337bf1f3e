"""A compressed image is unpacked once, whole or not at all, within bounds; what is wrong with it is said."""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from seatrial.errors import ConfigError, HostError
from seatrial.machine import unpack
from seatrial.machine.disk import Image, open_image, ready
from seatrial.progress import Silent

PLAIN = (
    (b"\0" * 510 + b"\x55\xaa").ljust(1 << 20, b"\0")
    + os.urandom(300_000)
    + b"\0" * (5 << 20)
    + b"end".ljust(512, b".")
)
PACK: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "xz": lzma.compress,
    "bzip2": bz2.compress,
    "zstd": zstandard.ZstdCompressor(write_checksum=True).compress,
}


class Said(Silent):
    def __init__(self) -> None:
        self.phases: list[str] = []
        self.notes: list[str] = []
        self.details: list[str] = []

    def phase(self, name: str) -> None:
        self.phases.append(name)

    def note(self, text: str) -> None:
        self.notes.append(text)

    def detail(self, text: str) -> None:
        self.details.append(text)


def put(folder: Path, content: bytes, name: str = "disk.packed") -> Path:
    path = folder / name
    path.write_bytes(content)
    return path


def cache(folder: Path) -> Path:
    place = folder / "cache"
    place.mkdir(exist_ok=True)
    return place


def made_ready(path: Path, folder: Path, said: Said | None = None) -> Image:
    return ready(open_image(path), cache(folder), said or Said())


@pytest.mark.parametrize("method", PACK)
def test_packed_disk_comes_out_whole_read_only_and_sparse(method: str, tmp_path: Path) -> None:
    path = put(tmp_path, PACK[method](PLAIN))
    image = made_ready(path, tmp_path)
    assert (image.format, image.disk_bytes, image.path) == ("raw", len(PLAIN) - len(PLAIN) % -512, path)
    assert image.disk.read_bytes() == PLAIN
    assert image.disk.stat().st_mode & 0o777 == 0o444
    assert image.disk.stat().st_blocks * 512 < 2_000_000
    assert image.title == f"raw in {method}"


@pytest.mark.parametrize("method", PACK)
def test_second_run_takes_what_the_first_unpacked(method: str, tmp_path: Path) -> None:
    path = put(tmp_path, PACK[method](PLAIN))
    first, said = made_ready(path, tmp_path), Said()
    assert made_ready(path, tmp_path, said).disk == first.disk
    assert not [phase for phase in said.phases if phase.startswith("unpacking")]


@pytest.mark.parametrize("method", PACK)
def test_several_streams_are_one_content(method: str, tmp_path: Path) -> None:
    half = len(PLAIN) // 2
    path = put(tmp_path, PACK[method](PLAIN[:half]) + PACK[method](PLAIN[half:]) + b"\0" * 8)
    assert made_ready(path, tmp_path).disk.read_bytes() == PLAIN


@pytest.mark.parametrize("method", PACK)
@pytest.mark.parametrize("kept", [0.1, 0.5, 0.999])
def test_truncated_file_is_refused_and_nothing_stays(method: str, kept: float, tmp_path: Path) -> None:
    whole = PACK[method](PLAIN)
    path = put(tmp_path, whole[: int(len(whole) * kept)])
    with pytest.raises(ConfigError, match=f"is cut off: the {method} data ends") as caught:
        made_ready(path, tmp_path)
    assert str(path) in str(caught.value)
    assert [entry.name for entry in cache(tmp_path).iterdir()] == ["lock"]


@pytest.mark.parametrize("method", PACK)
def test_damaged_file_is_refused(method: str, tmp_path: Path) -> None:
    whole = bytearray(PACK[method](PLAIN))
    whole[len(whole) // 2] ^= 0xFF
    with pytest.raises(ConfigError, match=r"is damaged|is cut off"):
        made_ready(put(tmp_path, bytes(whole)), tmp_path)
    assert [entry.name for entry in cache(tmp_path).iterdir()] == ["lock"]


@pytest.mark.parametrize("method", PACK)
def test_something_else_behind_the_data_is_refused(method: str, tmp_path: Path) -> None:
    path = put(tmp_path, PACK[method](PLAIN) + b"something else")
    with pytest.raises(ConfigError, match="is damaged, or has something else behind its first stream"):
        made_ready(path, tmp_path)


def test_disk_packed_twice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is compressed twice: xz in gzip"):
        made_ready(put(tmp_path, gzip.compress(lzma.compress(PLAIN))), tmp_path)


def test_packed_text_is_refused_by_the_name_of_the_given_file(tmp_path: Path) -> None:
    path = put(tmp_path, gzip.compress(b"no disk" * 1000))
    with pytest.raises(ConfigError, match=r"disk.packed' is not a disk image: neither"):
        made_ready(path, tmp_path)


def test_packed_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is empty when unpacked"):
        made_ready(put(tmp_path, gzip.compress(b"")), tmp_path)


def test_file_that_expands_without_end_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unpack, "_MOST_BYTES", 100 << 20)
    bomb = zstandard.ZstdCompressor().compress(bytes(300 << 20))
    with pytest.raises(ConfigError, match="expands to more than 0 GiB"):
        made_ready(put(tmp_path, bomb), tmp_path)
    assert [entry.name for entry in cache(tmp_path).iterdir()] == ["lock"]


def test_full_disk_is_the_hosts_fault_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unpack, "_SPARE_BYTES", 1 << 60)
    with pytest.raises(HostError, match=r"no space to unpack the image.*\n.*SEATRIAL_CACHE"):
        made_ready(put(tmp_path, gzip.compress(bytes(100 << 20))), tmp_path)
    assert [entry.name for entry in cache(tmp_path).iterdir()] == ["lock"]


def test_changed_copy_is_made_anew(tmp_path: Path) -> None:
    path, said = put(tmp_path, gzip.compress(PLAIN)), Said()
    kept = made_ready(path, tmp_path).disk
    kept.chmod(0o644)
    kept.write_bytes(b"tampered")
    assert made_ready(path, tmp_path, said).disk.read_bytes() == PLAIN
    assert "was changed by somebody" in said.notes[0]


def test_candidate_that_changes_meanwhile_is_refused(tmp_path: Path) -> None:
    path = put(tmp_path, gzip.compress(PLAIN))
    with pytest.raises(ConfigError, match="changed while it was unpacked"):
        unpack.unpacked(path, "gzip", "0" * 64, cache(tmp_path), Said())


def test_several_runs_at_once_make_one_copy(tmp_path: Path) -> None:
    path, found = put(tmp_path, gzip.compress(PLAIN)), []
    cache(tmp_path)
    threads = [threading.Thread(target=lambda: found.append(made_ready(path, tmp_path).disk)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    assert len(set(found)) == 1
    assert len(list(cache(tmp_path).glob("*.disk"))) == 1


def test_only_the_last_used_copies_are_kept_and_none_in_use_goes(tmp_path: Path) -> None:
    place = cache(tmp_path)
    left = put(place, b"half", ".unpacking-left")
    old = [put(place, b"x", f"{n}-x.disk") for n in range(6)]
    for number, path in enumerate(old[:5]):
        os.utime(path, (1_000_000 + number, 1_000_000 + number))
    image = made_ready(put(tmp_path, gzip.compress(PLAIN)), tmp_path)
    assert {path.name for path in place.glob("*.disk")} == {old[5].name, old[4].name, old[3].name, image.disk.name}
    assert len(list(place.glob("*.disk"))) == unpack.MOST_KEPT
    assert not left.exists()


@settings(max_examples=100, deadline=None)
@given(method=st.sampled_from([*PACK]), data=st.data())
def test_hostile_streams_end_in_content_or_a_config_error(
    method: str, data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    whole = bytearray(PACK[method](PLAIN[:5000]))
    for place, value in data.draw(st.lists(st.tuples(st.integers(6, len(whole) - 1), st.integers(0, 255)), max_size=3)):
        whole[place] = value
    folder = tmp_path_factory.mktemp("stream")
    path = put(folder, bytes(whole[: data.draw(st.integers(8, len(whole)))]))
    try:
        told = str(made_ready(path, folder).path)
    except ConfigError as exc:
        told = str(exc)
    assert str(path) in told
