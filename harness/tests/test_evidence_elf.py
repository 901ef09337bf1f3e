"""Reading programs of the guest by a few of their bytes, against this computer's own and against hostile ones."""

from __future__ import annotations

import contextlib
import shutil
import struct
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from seatrial.errors import ObservationError
from seatrial.evidence.elf import (
    heads_command,
    parse_heads,
    parse_loaded,
    parse_pieces,
    pieces_command,
    read_programs,
)


def shell(command: str) -> str:
    return subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=False).stdout


def ask(commands: Sequence[str]) -> list[str]:
    return [shell(command) for command in commands]


SHELL = str(Path("/bin/sh").resolve())


def test_a_real_program_is_read_as_it_is() -> None:
    (program,) = read_programs(ask, [SHELL], named=[SHELL])
    assert program.path == SHELL
    assert program.is_dynamic
    assert program.stack == "rw"
    assert {"libc.so.6", "exit", "strlen"} & program.names


@pytest.mark.skipif(shutil.which("readelf") is None, reason="compares with readelf, which is not needed otherwise")
def test_it_agrees_with_readelf() -> None:
    (program,) = read_programs(ask, [sys.executable], named=[sys.executable])
    seen = shell(f"readelf -Wld {sys.executable}")
    assert program.has_relro == ("GNU_RELRO" in seen)
    assert program.binds_now == ("BIND_NOW" in seen or "Flags: NOW" in seen)
    assert program.is_position_independent == ("type is DYN" in seen)
    assert bool(program.search_paths) == ("RUNPATH" in seen or "RPATH" in seen)


def test_more_files_than_questions_are_all_read(tmp_path: Path) -> None:
    asked: list[Sequence[str]] = []

    def noting(commands: Sequence[str]) -> list[str]:
        asked.append(commands)
        return ask(commands)

    names = [str(tmp_path / f"program{number}") for number in range(9)]
    for name in names:
        shutil.copy(SHELL, name)
    found = read_programs(noting, names, named=names[:1])
    assert [one.path for one in found] == names
    assert ["strlen" in one.names for one in found] == [True] + [False] * 8
    assert [len(commands) for commands in asked] == [4, 4, 1]


def test_a_script_is_no_program(tmp_path: Path) -> None:
    (tmp_path / "script").write_text("#!/bin/sh\n")
    assert read_programs(ask, [str(tmp_path / "script")]) == ()


def test_what_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ObservationError, match="first bytes could not be read"):
        read_programs(ask, [str(tmp_path / "missing")])


@pytest.mark.parametrize("length", [40, 200, 1024, 2000])
def test_a_file_that_is_cut_off_is_an_error(tmp_path: Path, length: int) -> None:
    (tmp_path / "cut").write_bytes(Path(SHELL).read_bytes()[:length])
    with pytest.raises(ObservationError):
        read_programs(ask, [str(tmp_path / "cut")])


def test_programs_and_libraries_are_told_apart() -> None:
    loaded = parse_loaded("library /usr/lib/libc.so.6\nlibrary /usr/bin/su\nprogram /usr/bin/su\n")
    assert loaded == {"program": ("/usr/bin/su",), "library": ("/usr/lib/libc.so.6",)}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "library /usr/lib/libc.so.6\n",
        "rubbish\n",
        "program relative\n",
        "program /usr/bin/x (deleted)\n",
        "program /memfd:evil (deleted)\n",
    ],
)
def test_what_runs_unseen_is_an_error(text: str) -> None:
    with pytest.raises(ObservationError):
        parse_loaded(text)


@pytest.mark.parametrize("text", [" 7f 45\n", "@0 /x\nrubbish\n", "@x /x\n 7f\n"])
def test_bytes_of_no_file_are_an_error(text: str) -> None:
    with pytest.raises(ObservationError):
        parse_pieces(text)


def test_names_of_files_are_quoted(tmp_path: Path) -> None:
    odd = tmp_path / "it's $(odd)"
    odd.write_bytes(b"abc")
    assert parse_pieces(shell(pieces_command([(str(odd), 1, 2)]))) == {str(odd): {1: b"bc"}}
    assert parse_heads(shell(heads_command([str(odd)])), (str(odd),)) == {str(odd): b"abc"}


LENGTHS = st.integers(0, 2000) | st.sampled_from([0, 1, 1023, 1024, 1025])


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.none() | LENGTHS, min_size=1, max_size=5))
def test_first_bytes_are_those_of_each_file(tmp_path: Path, lengths: list[int | None]) -> None:
    """Files of any length beside missing ones (None): each that is there gives its own bytes."""
    contents: dict[str, bytes] = {}
    paths = [str(tmp_path / f"{number} of {len(lengths)}") for number in range(len(lengths))]
    for number, (path, length) in enumerate(zip(paths, lengths, strict=True)):
        Path(path).unlink(missing_ok=True)
        if length is not None:
            contents[path] = bytes([number]) * length
            Path(path).write_bytes(contents[path])
    expected = {path: content[:1024] for path, content in contents.items()}
    assert parse_heads(shell(heads_command(paths)), tuple(paths)) == expected


@pytest.mark.parametrize(
    "answer",
    [
        b"rubbish",
        b"==> /other <==\nabc",
        b"==> /x <==\n" + bytes(1030),
        b"==> /x <==\nabc\n==> /other <==\nabc",
    ],
)
def test_first_bytes_of_no_file_are_an_error(answer: bytes) -> None:
    with pytest.raises(ObservationError, match="name"):
        parse_heads(answer.hex(" "), ("/x",))
    with pytest.raises(ObservationError, match="which are none"):
        parse_heads(answer.hex(" ") + "rubbish", ("/x",))


def marked(bits: int) -> bytes:
    """Return a smallest program whose only segment is a note of control-flow markers."""
    head = b"\x7fELF\x02\x01\x01" + bytes(9) + struct.pack("<HHIQQQIHHHHHH", 3, 62, 1, 0, 64, 0, 0, 64, 56, 1, 0, 0, 0)
    note = struct.pack("<III4sIII4x", 4, 16, 5, b"GNU\0", 0xC0000002, 4, bits)
    return head + struct.pack("<IIQQQQQQ", 0x6474E553, 4, 120, 0, 0, len(note), len(note), 8) + note


@pytest.mark.parametrize(("bits", "names"), [(0, set()), (1, {"IBT"}), (2, {"SHSTK"}), (3, {"IBT", "SHSTK"})])
def test_markers_are_read(tmp_path: Path, bits: int, names: set[str]) -> None:
    (tmp_path / "program").write_bytes(marked(bits))
    (program,) = read_programs(ask, [str(tmp_path / "program")])
    assert (program.architecture, program.markers) == ("x64", frozenset(names))


HEAD = Path(SHELL).read_bytes()[:1024]


@given(st.binary(max_size=64), st.integers(0, 1000), st.binary(max_size=2048))
def test_hostile_bytes_give_programs_or_our_error(change: bytes, at: int, rest: bytes) -> None:
    """Whatever lies where: nothing hangs, and no other error comes out."""
    head = HEAD[:at] + change + HEAD[at + len(change) :]

    def answer(command: str) -> str:
        """Give the pieces that were asked for out of the hostile file."""
        whole = head + rest
        if command.startswith("head"):
            return (b"==> /x <==\n" + whole[:1024]).hex(" ")
        lines = []
        for part in command.partition("}; ")[2].split("; "):
            path, offset, length = part.removeprefix("p ").rsplit(" ", 2)
            lines += [f"@{offset} {path}", whole[int(offset) :][: int(length)].hex(" ")]
        return "\n".join(lines)

    with contextlib.suppress(ObservationError):
        read_programs(lambda commands: [answer(command) for command in commands], ["/x"], named=["/x"])


@given(st.text())
def test_any_text_gives_pieces_or_our_error(text: str) -> None:
    for parse in (parse_pieces, parse_loaded, lambda given: parse_heads(given, ("/x",))):
        with contextlib.suppress(ObservationError):
            parse(text)
