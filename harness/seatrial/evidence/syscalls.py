"""System calls that an ordinary user tries, and what the kernel answered to each.

A guest need hold neither compiler nor interpreter to make a call by its number. So the question brings a program along:
a few instructions for each call, put together here.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from seatrial.errors import ObservationError
from seatrial.evidence.attempts import ORDINARY

__all__ = [
    "FILTERED",
    "KILLED",
    "MACHINE",
    "SYSCALLS",
    "Answered",
    "Calls",
    "landlock_abi_of",
    "parse_answers",
    "parse_syscalls",
    "program",
]

# The file is mapped twice, as code and as data: nothing is both writable and executable.
_CODE: Final = 0x400000
_DATA: Final = 0x600000
_HEADERS: Final = 64 + 2 * 56
_CALL_BYTES: Final = 4 * 5 + 6 + 2 + 8
_END_BYTES: Final = 4 * 5 + 2 + 5 + 2 + 2

# What is called: its number on x86-64 and arguments; a text of bytes is handed over by its address. The program for
# bpf() is a socket filter of two instructions, "return 0": the least that a kernel accepts.
_FILTER: Final = struct.pack("<BBhi", 0xB7, 0, 0, 0) + struct.pack("<BBhi", 0x95, 0, 0, 0)
_RING: Final = bytes(120)
_NAMES: Final = ("io_uring_setup", "bpf", "userfaultfd", "landlock_create_ruleset")
# Which error a refusal is: EPERM, EACCES, and ENOSYS of a kernel that is built without the call.
_REFUSALS: Final = {1: "EPERM", 13: "EACCES", 38: "ENOSYS"}

Call = tuple[int, Sequence[int | bytes]]


def program(calls: Sequence[Call], blobs: Sequence[tuple[bytes, Sequence[tuple[int, bytes]]]] = ()) -> bytes:
    """Return an x86-64 ELF program that makes ``calls`` and writes the result of each to stdout, as eight bytes.

    :param calls: number and at most four arguments; bytes are handed over by their address.
    :param blobs: bytes among the arguments that hold addresses: where in them, and of which other bytes.
    """
    start_of_data = _HEADERS + len(calls) * _CALL_BYTES + _END_BYTES
    data = bytearray(8 * len(calls))
    places: dict[bytes, int] = {}

    def place(blob: bytes) -> int:
        if blob not in places:
            places[blob] = _DATA + start_of_data + len(data)
            data.extend(blob)
        return places[blob]

    for blob, pointers in blobs:
        at = place(blob) - _DATA - start_of_data
        for offset, target in pointers:
            address = place(target)
            data[at + offset : at + offset + 8] = struct.pack("<Q", address)
    code = bytearray()
    results = _DATA + start_of_data
    for number, (call, arguments) in enumerate(calls):
        values = [place(a) if isinstance(a, bytes) else a for a in (*arguments, 0, 0, 0, 0)][:4]
        code += _loaded(call, values) + b"\x41\xba" + struct.pack("<I", values[3])
        code += b"\x0f\x05" + b"\x48\x89\x04\x25" + struct.pack("<I", results + 8 * number)
    # write(1, results, size), then exit(0)
    code += _loaded(1, [1, results, 8 * len(calls)]) + b"\x0f\x05"
    code += b"\xb8" + struct.pack("<I", 60) + b"\x31\xff" + b"\x0f\x05"
    return _elf_header(start_of_data + len(data)) + bytes(code) + bytes(data)


def _loaded(call: int, values: Sequence[int]) -> bytes:
    """Return instructions that load the number of a call and its first three arguments: eax, edi, esi, edx."""
    words = zip(b"\xb8\xbf\xbe\xba", (call, *values[:3]), strict=True)
    return b"".join(bytes([operation]) + struct.pack("<I", value) for operation, value in words)


def _elf_header(size: int) -> bytes:
    identity = b"\x7fELF\x02\x01\x01" + bytes(9)
    rest = struct.pack("<HHIQQQIHHHHHH", 2, 62, 1, _CODE + _HEADERS, 64, 0, 0, 64, 56, 2, 0, 0, 0)
    read_execute, read_write = 5, 6
    segments = (
        struct.pack("<IIQQQQQQ", 1, flags, 0, address, address, size, size, 0x1000)
        for flags, address in ((read_execute, _CODE), (read_write, _DATA))
    )
    return identity + rest + b"".join(segments)


def _question(code: bytes, *, by: str = ORDINARY) -> str:
    octal = "".join(f"\\{byte:03o}" for byte in code)
    # Whatever works ends with the program. /run is memory; where nothing there can be started there is no answer.
    return (
        f"f=/run/seatrial-calls; said=; if [ \"$(uname -m)\" = x86_64 ] && printf '{octal}' > $f && chmod 0755 $f; "
        "then "
        f"said=$({by} $f 2>/dev/null | od -An -v -td8); fi; rm -f $f; echo answers $said"
    )


def _calls() -> bytes:
    gpl = b"GPL\0"
    load = struct.pack("<IIQQIIQII", 1, 2, 0, 0, 0, 0, 0, 0, 0)
    calls: list[Call] = [(425, (4, _RING)), (321, (5, load, len(load))), (323, (0,)), (444, (0, 0, 1))]
    return program(calls, [(load, [(8, _FILTER), (16, gpl)])])


def _filtered(action: int) -> bytes:
    """Return a program that calls getppid(), filters it by ``action``, and calls it again.

    It forbids its core to be dumped (prctl(2), PR_SET_DUMPABLE) before: the kernel dumps that of who is killed so, and
    the image would be blamed for it.
    """
    load_number, skip_unless_it, act, allow = (
        (0x20, 0, 0, 0),
        (0x15, 0, 1, 110),
        (6, 0, 0, action),
        (6, 0, 0, 0x7FFF0000),
    )
    rules = b"".join(struct.pack("<HBBI", *rule) for rule in (load_number, skip_unless_it, act, allow))
    both = struct.pack("<QQ", 4, 0)
    asked: Call = (110, ())
    return program([asked, (157, (4, 0)), (157, (38, 1)), (317, (1, 0, both)), asked], [(both, [(8, rules)])])


def _machine() -> bytes:
    """Return a program that opens /dev/kvm as 3, the first free number, and makes a machine with one processor."""
    opened: Call = (257, (0xFFFFFF9C, b"/dev/kvm\0", 2))
    return program([opened, (16, (3, 0xAE01, 0)), (16, (4, 0xAE41, 0))])


SYSCALLS: Final = f'echo "release $(uname -r)"; {_question(_calls())}'
# A call that is answered with EPERM instead of being made; one that ends the program, so that nothing is written.
FILTERED: Final = _question(_filtered(0x00050001))
KILLED: Final = _question(_filtered(0x80000000))
MACHINE: Final = _question(_machine(), by="")


@dataclass(frozen=True, slots=True)
class Answered:
    """What the kernel returned: an error number below zero, or the result."""

    result: int

    @property
    def is_refused(self) -> bool:
        """Return whether the kernel said no, rather than that the arguments were wrong."""
        return -self.result in _REFUSALS

    def __str__(self) -> str:
        return f"returned {self.result}" if self.result >= 0 else _REFUSALS.get(-self.result, f"errno {-self.result}")


@dataclass(frozen=True, slots=True)
class Calls:
    """The release of the running kernel and its answers by call; none where the program could not be started."""

    release: str
    answers: Mapping[str, Answered]


def parse_answers(text: str, *, expected: int) -> tuple[int, ...]:
    """Return what the kernel returned to each call of one program; nothing where that was not started, or was killed.

    :raises ObservationError: those are no answers, or not as many as ``expected``.
    """
    match = re.fullmatch(r"answers((?: -?[0-9]{1,10})*)\n", text)
    values = match[1].split() if match else []
    if match is None or len(values) not in (0, expected):
        raise ObservationError(f"the system calls gave {text[:200]!r}, expected {expected} answers")
    return tuple(map(int, values))


def parse_syscalls(text: str) -> Calls:
    """Return what :data:`SYSCALLS` found.

    :raises ObservationError: that is no release with the answers to all calls, or to none.
    """
    first, _, rest = text.partition("\n")
    match = re.fullmatch(r"release (\S+)", first)
    if match is None:
        raise ObservationError(f"the system calls gave {text[:200]!r}, expected the release of the kernel first")
    values = parse_answers(rest, expected=len(_NAMES))
    answers = {name: Answered(value) for name, value in zip(_NAMES, values, strict=False)}
    return Calls(match[1], answers)


def landlock_abi_of(release: str) -> int:
    """Return the Landlock ABI that came with kernel ``release`` (``6.12.3-cloud``); 0 for those before it.

    :raises ObservationError: that is no release of a kernel.
    """
    match = re.match(r"([0-9]{1,3})\.([0-9]{1,3})(?:[.+~-]|$)", release)
    if match is None:
        raise ObservationError(f"{release[:200]!r} is no release of a kernel")
    version = (int(match[1]), int(match[2]))
    since = ((5, 13), (5, 19), (6, 2), (6, 7), (6, 10), (6, 12), (6, 15))
    return sum(version >= first for first in since)
