"""What the guest's programs are built with, read from the few bytes of each that say so: the one door to pyelftools."""

from __future__ import annotations

import functools
import re
import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from typing import Any, Final, TypeVar

from elftools.common.exceptions import ELFError
from elftools.construct import ConstructError
from elftools.elf.dynamic import DynamicSegment
from elftools.elf.elffile import ELFFile
from elftools.elf.notes import iter_notes
from elftools.elf.segments import Segment

from seatrial.errors import ObservationError

__all__ = [
    "LOADED",
    "Piece",
    "Program",
    "heads_command",
    "parse_heads",
    "parse_loaded",
    "parse_pieces",
    "pieces_command",
    "read_programs",
]

# Whatever runs, and whatever is mapped as code into it; kernel threads have neither.
LOADED: Final = (
    "{ ls -l /proc/[0-9]*/exe 2>/dev/null | sed -n 's,^.*/exe -> ,program ,p'; "
    "sed -n 's,^[^ ]* r-xp [^/]*/,library /,p' /proc/[0-9]*/maps 2>/dev/null; } | sort -u"
)

Piece = tuple[str, int, int]  # path, offset, length
Thing = TypeVar("Thing")
AskAll = Callable[[Sequence[str]], Sequence[str]]
_Pieces = tuple[tuple[int, bytes], ...]  # offset and bytes
_Places = tuple[tuple[int, int], ...]  # offset and length

_HEAD: Final = 1024  # ELF header, program headers and in most files the notes
_TITLE: Final = b"==> "
_MOST_PIECE: Final = 1024 * 1024
_MOST_FILE: Final = 256 * 1024 * 1024
# A question about pieces starts a program each; a guest with several processors answers some questions at a time.
_QUESTIONS: Final = 4
# Several checks look at the same programs, each in every rehearsal and once more when it is judged.
_MOST_KEPT: Final = 1024
_FLAG_NOW, _FLAG_1_NOW = 0x8, 0x1
_MARKERS: Final = {
    ("x64", "GNU_PROPERTY_X86_FEATURE_1_AND"): ("IBT", "SHSTK"),
    ("AArch64", "GNU_PROPERTY_AARCH64_FEATURE_1_AND"): ("BTI", "PAC"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """A program or library. ``stack`` is ``rw``, ``rwx``, or ``not said``; ``names`` are those of its dynamic symbols
    and libraries (of libraries with a search path, and of programs only).
    """

    path: str
    is_position_independent: bool
    is_dynamic: bool
    has_relro: bool
    binds_now: bool
    stack: str
    search_paths: tuple[str, ...]
    names: frozenset[str]
    architecture: str
    markers: frozenset[str]


def parse_loaded(text: str) -> Mapping[str, tuple[str, ...]]:
    """Return the paths of running programs (``program``) and of the libraries mapped into them (``library``).

    :raises ObservationError: a line is none, a file is gone, or no program runs.
    """
    found: dict[str, tuple[str, ...]] = {"program": (), "library": ()}
    for line in filter(None, text.split("\n")):
        kind, _, path = line.partition(" ")
        if kind not in found or not path.startswith("/"):
            raise ObservationError(f"what is loaded is described by {line[:200]!r}, which is no kind and path")
        if path.endswith(" (deleted)") or path.startswith("/memfd:"):
            raise ObservationError(f"{path[:200]!r} runs and cannot be looked at: its file is gone")
        found[kind] = (*found[kind], path)
    if not found["program"]:
        raise ObservationError("no running program was found at all")
    programs = set(found["program"])
    return {**found, "library": tuple(path for path in found["library"] if path not in programs)}


def heads_command(paths: Sequence[str]) -> str:
    """Return the question for the first bytes of ``paths``, all by one program: with ``-v`` head(1) names each file."""
    return f"head -vc {_HEAD} {shlex.join(paths)} | od -An -v -tx1"


@functools.lru_cache(maxsize=4 * _QUESTIONS)
def parse_heads(text: str, paths: tuple[str, ...]) -> Mapping[str, bytes]:
    """Return path to first bytes of what :func:`heads_command` was asked for; a file that could not be read is absent.

    :raises ObservationError: the answer holds no bytes, or bytes that belong to no file.
    """
    try:
        whole = bytes.fromhex(text)
    except ValueError as exc:
        raise ObservationError(f"the first bytes of programs hold {text[:200]!r}, which are none") from exc
    found: dict[str, bytes] = {}
    start = 0
    for path in paths:
        title = _TITLE + path.encode("utf-8", "surrogateescape") + b" <==\n"
        if whole.startswith(title, start):
            start += len(title)
            end = _end_of_head(whole, start)
            found[path] = whole[start:end]
            start = end + 1
    if start < len(whole):
        raise ObservationError(
            f"the first bytes of programs go on with {whole[start:][:60]!r}, which names none of them"
        )
    return found


def _end_of_head(whole: bytes, start: int) -> int:
    """Return where the head ends that begins at ``start``: at its full length, or where the next file is named."""
    full, next_one = start + _HEAD, b"\n" + _TITLE
    if full == len(whole) or whole.startswith(next_one, full):
        return full
    sooner = whole.find(next_one, start, full + len(next_one))
    return sooner if sooner >= 0 else min(full, len(whole))


def pieces_command(pieces: Sequence[Piece]) -> str:
    """Return the question for ``pieces`` of files, each as ``@offset path`` and lines of hexadecimal bytes."""
    asked = "; ".join(f"p {shlex.quote(path)} {offset} {length}" for path, offset, length in pieces)
    return f'p() {{ echo "@$2 $1"; od -An -v -tx1 -j $2 -N $3 "$1"; }}; {asked}'


@functools.lru_cache(maxsize=4 * _QUESTIONS)
def parse_pieces(text: str) -> Mapping[str, Mapping[int, bytes]]:
    """Return path to offset to bytes.

    :raises ObservationError: a line is no piece and no bytes.
    """
    found: dict[str, dict[int, bytes]] = {}
    place: tuple[str, int] | None = None
    gathered: list[str] = []

    def keep() -> None:
        if place is not None:
            found.setdefault(place[0], {})[place[1]] = bytes.fromhex("".join(gathered))

    for line in filter(None, text.split("\n")):
        if match := re.fullmatch(r"@([0-9]{1,10}) (/.*)", line):
            keep()
            place, gathered = (match[2], int(match[1])), []
        elif place is None or not re.fullmatch(r"( *[0-9a-f]{2})+ *", line):
            raise ObservationError(f"the bytes of a program hold {line[:200]!r}, which are none")
        else:
            gathered.append(line)
    keep()
    return found


def read_programs(ask: AskAll, paths: Sequence[str], *, named: Sequence[str] = ()) -> tuple[Program, ...]:
    """Return what is known of the ELF files ``paths``, by asking three times; other files are left out.

    :param ask: takes some questions at once and returns the answers in their order.
    :param named: those of ``paths`` whose names of symbols are wanted as well.
    :raises ObservationError: a file could not be read, or contradicts itself.
    """
    heads = _heads(ask, paths)
    known: dict[str, dict[int, bytes]] = {}
    for path in paths:
        head = heads.get(path, b"")
        if not head:
            raise ObservationError(f"{path!r} is a program of the guest, and its first bytes could not be read")
        if head.startswith(b"\x7fELF"):
            known[path] = {0: head}
    _more(ask, known, _descriptions)
    _more(ask, known, lambda path, have: _names(path, have, wanted=path in named))
    return tuple(_program(path, tuple(pieces.items())) for path, pieces in known.items())


def _heads(ask: AskAll, paths: Sequence[str]) -> Mapping[str, bytes]:
    parts = _parts(paths)
    found: dict[str, bytes] = {}
    for text, part in zip(ask([heads_command(part) for part in parts]), parts, strict=True):
        found.update(parse_heads(text, part))
    return found


def _parts(things: Sequence[Thing]) -> list[tuple[Thing, ...]]:
    return [tuple(things[start::_QUESTIONS]) for start in range(min(_QUESTIONS, len(things)))]


def _asked(ask: AskAll, pieces: Sequence[Piece]) -> Mapping[str, Mapping[int, bytes]]:
    parts = _parts(pieces)
    found: dict[str, dict[int, bytes]] = {}
    for text in ask([pieces_command(part) for part in parts]):
        for path, given in parse_pieces(text).items():
            found.setdefault(path, {}).update(given)
    return found


def _more(
    ask: AskAll,
    known: Mapping[str, dict[int, bytes]],
    wanted: Callable[[str, _Pieces], _Places],
) -> None:
    """Add to ``known`` the pieces that ``wanted`` names of each file."""
    pieces = []
    for path, have in known.items():
        for offset, length in wanted(path, tuple(have.items())):
            if length > _MOST_PIECE or offset + length > _MOST_FILE:
                raise ObservationError(f"{path!r} has {length} bytes at {offset} that should be looked at: too many")
            if length and offset not in have:
                pieces.append((path, offset, length))
    if not pieces:
        return
    answer = _asked(ask, pieces)
    for path, offset, length in pieces:
        got = answer.get(path, {}).get(offset, b"")
        if len(got) != length:
            raise ObservationError(f"{path!r} gave {len(got)} of {length} bytes at {offset}: it is cut off, or changed")
        known[path][offset] = got


def _file(pieces: _Pieces) -> ELFFile:
    """Return the file with the pieces in their places and zeros elsewhere, and without its table of sections."""
    whole = bytearray(max(offset + len(piece) for offset, piece in pieces))
    for offset, piece in pieces:
        whole[offset : offset + len(piece)] = piece
    # Sections are for linkers and may be missing; the loader goes by segments, and so do we.
    start, length = (0x28, 8) if whole[4:5] == b"\x02" else (0x20, 4)
    whole[start : start + length] = bytes(length)
    return ELFFile(BytesIO(bytes(whole)))


def _segments(path: str, file: ELFFile) -> list[Segment]:
    if file["e_phoff"] + file["e_phnum"] * file["e_phentsize"] > _HEAD:
        raise ObservationError(f"{path!r} has {file['e_phnum']} program headers: more than were read")
    return list(file.iter_segments())


@functools.lru_cache(maxsize=_MOST_KEPT)
def _descriptions(path: str, pieces: _Pieces) -> _Places:
    """Return where the dynamic table lies, and the notes that lie beyond the head."""
    with _read(path):
        return tuple(
            (segment["p_offset"], segment["p_filesz"])
            for segment in _segments(path, _file(pieces))
            if segment["p_type"] == "PT_DYNAMIC"
            or (segment["p_type"] == "PT_GNU_PROPERTY" and segment["p_offset"] + segment["p_filesz"] > _HEAD)
        )


@functools.lru_cache(maxsize=_MOST_KEPT)
def _names(path: str, pieces: _Pieces, *, wanted: bool) -> _Places:
    """Return where the dynamic strings lie, where they are needed."""
    with _read(path):
        return tuple(_strings_of(_segments(path, _file(pieces)), wanted=wanted))


def _strings_of(segments: Iterable[Segment], *, wanted: bool) -> Iterator[tuple[int, int]]:
    for segment in segments:
        if isinstance(segment, DynamicSegment):
            tags = {tag["d_tag"]: tag["d_val"] for tag in _raw_tags(segment)}
            _address, offset = segment.get_table_offset("DT_STRTAB")
            if offset is not None and (wanted or {"DT_RPATH", "DT_RUNPATH"} & tags.keys()):
                yield offset, tags.get("DT_STRSZ", 0)


def _raw_tags(segment: DynamicSegment) -> list[Any]:
    # The public iterator looks every string up, also where the strings are not there yet.
    return list(segment._iter_tags())


@functools.lru_cache(maxsize=_MOST_KEPT)
def _program(path: str, pieces: _Pieces) -> Program:
    with _read(path):
        file = _file(pieces)
        segments = _segments(path, file)
        kinds = {segment["p_type"]: segment for segment in segments}
        dynamic = next((one for one in segments if isinstance(one, DynamicSegment)), None)
        tags = [(tag["d_tag"], tag["d_val"]) for tag in _raw_tags(dynamic)] if dynamic else []
        stack = kinds.get("PT_GNU_STACK")
        strings = _strings(dynamic, tags, dict(pieces))
        return Program(
            path=path,
            is_position_independent=file["e_type"] == "ET_DYN",
            is_dynamic=dynamic is not None,
            has_relro="PT_GNU_RELRO" in kinds,
            binds_now=_binds_now(tags),
            stack="not said" if stack is None else "rwx" if stack["p_flags"] & 1 else "rw",
            search_paths=tuple(_string(strings, value) for tag, value in tags if tag in {"DT_RPATH", "DT_RUNPATH"}),
            names=frozenset(part.decode("ascii", "backslashreplace") for part in strings.split(b"\0") if part),
            architecture=file.get_machine_arch(),
            markers=_markers(file, segments),
        )


def _binds_now(tags: Sequence[tuple[object, int]]) -> bool:
    return any(
        tag == "DT_BIND_NOW"
        or (tag == "DT_FLAGS" and value & _FLAG_NOW)
        or (tag == "DT_FLAGS_1" and value & _FLAG_1_NOW)
        for tag, value in tags
    )


def _strings(dynamic: DynamicSegment | None, tags: Sequence[tuple[object, int]], pieces: Mapping[int, bytes]) -> bytes:
    """Return the dynamic strings if they were asked for."""
    offset = dynamic.get_table_offset("DT_STRTAB")[1] if dynamic else None
    length = dict(tags).get("DT_STRSZ", 0)
    piece = pieces.get(offset, b"") if offset is not None else b""
    return piece if len(piece) == length else b""


def _string(strings: bytes, offset: int) -> str:
    if offset >= len(strings):
        raise ObservationError(f"a search path lies at {offset} of {len(strings)} bytes of strings")
    return strings[offset:].split(b"\0", 1)[0].decode("utf-8", "backslashreplace")


def _markers(file: ELFFile, segments: Sequence[Segment]) -> frozenset[str]:
    found: set[str] = set()
    places = [(one["p_offset"], one["p_filesz"]) for one in segments if one["p_type"] == "PT_GNU_PROPERTY"]
    for note in (note for offset, length in places for note in iter_notes(file, offset, length)):
        for item in note["n_desc"] if note["n_type"] == "NT_GNU_PROPERTY_TYPE_0" else ():
            names = _MARKERS.get((file.get_machine_arch(), item["pr_type"]), ())
            found.update(name for bit, name in enumerate(names) if item["pr_data"] >> bit & 1)
    return frozenset(found)


@contextmanager
def _read(path: str) -> Iterator[None]:
    """Give the errors that broken bytes cause as one of ours."""
    try:
        yield
    except (
        ELFError,
        ConstructError,
        LookupError,
        ValueError,
        TypeError,
        AttributeError,
        AssertionError,
        OSError,
    ) as exc:
        raise ObservationError(f"{path!r} is no ELF file that can be read: {exc or type(exc).__name__}") from exc
