"""From the bytes of ``lynis-report.dat`` to records, lossless; and the flaws that the file has."""

from __future__ import annotations

import re
from typing import Final

from seatrial.errors import ObservationError
from seatrial.evidence.lynis.flaws import flaws_of, is_header
from seatrial.evidence.lynis.records import Loose, LynisReport, Record
from seatrial.evidence.lynis.text import decode, encode

__all__ = ["MAX_BYTES", "MAX_FINDINGS", "MAX_LINES", "MAX_LINE_BYTES", "MAX_LIST_ITEMS", "parse_report", "to_bytes"]

# A usual report has 400 lines and 45 kB; the package array of a large host is one line of some hundred kB.
MAX_BYTES: Final = 32 * 1024 * 1024
MAX_LINES: Final = 100_000
MAX_LINE_BYTES: Final = 1024 * 1024
MAX_LIST_ITEMS: Final = 100_000
MAX_FINDINGS: Final = 2_000

_RECORD: Final = re.compile(r"(?s)([A-Za-z0-9_-]{1,64})(\[\])?=(.*)")
_HINT: Final = "give the file that 'lynis audit system --report-file FILE' wrote"


def parse_report(data: bytes) -> LynisReport:
    """Return every line of a lynis report, as record or as loose text, and the flaws of the whole.

    :raises ObservationError: this is no lynis report, or it is larger than any real one.
    """
    if len(data) > MAX_BYTES:
        raise ObservationError(
            f"the lynis report has {len(data)} bytes, more than the {MAX_BYTES} that we read", hint=_HINT
        )
    if not data.strip():
        raise ObservationError("the lynis report is empty", hint=_HINT)
    pieces = data.split(b"\n", MAX_LINES + 1)
    ends_in_lf = pieces[-1] == b""
    if ends_in_lf:
        pieces.pop()
    if len(pieces) > MAX_LINES:
        raise ObservationError(f"the lynis report has more than {MAX_LINES} lines", hint=_HINT)
    lines = tuple(_line(number, raw) for number, raw in enumerate(pieces, start=1))
    if not any(is_header(line) or _names_version(line) for line in lines):
        raise ObservationError(
            "this is no lynis report: it has neither the line '# Lynis Report' nor 'report_version_major='", hint=_HINT
        )
    _check_lists(lines)
    return LynisReport(lines=lines, ends_in_lf=ends_in_lf, size=len(data), flaws=flaws_of(lines, ends_in_lf=ends_in_lf))


def to_bytes(report: LynisReport) -> bytes:
    """Return the bytes that ``report`` was parsed from."""
    raw = b"\n".join(encode(_text_of(line)) + (b"\r" if line.ends_in_cr else b"") for line in report.lines)
    return raw + (b"\n" if report.ends_in_lf else b"")


def _text_of(line: Record | Loose) -> str:
    return line.text if isinstance(line, Loose) else f"{line.key}{'[]' if line.is_list else ''}={line.value}"


def _line(number: int, raw: bytes) -> Record | Loose:
    if len(raw) > MAX_LINE_BYTES:
        raise ObservationError(f"line {number} of the lynis report has {len(raw)} bytes, more than {MAX_LINE_BYTES}")
    ends_in_cr = raw.endswith(b"\r")
    text = decode(raw[:-1] if ends_in_cr else raw)
    match = _RECORD.fullmatch(text)
    if match is None:
        return Loose(number, text, ends_in_cr)
    key, brackets, value = match.groups()
    return Record(number, key, value, brackets is not None, ends_in_cr)


def _names_version(line: Record | Loose) -> bool:
    return isinstance(line, Record) and line.key == "report_version_major"


def _check_lists(lines: tuple[Record | Loose, ...]) -> None:
    records = [line for line in lines if isinstance(line, Record)]
    found = sum(1 for r in records if r.is_list and r.key in ("warning", "suggestion"))
    if found > MAX_FINDINGS:
        raise ObservationError(f"the lynis report has {found} findings, more than {MAX_FINDINGS}")
    for key in ("tests_executed", "tests_skipped", "installed_packages_array"):
        items = sum(r.value.count("|") for r in records if r.key == key)
        if items > MAX_LIST_ITEMS:
            raise ObservationError(f"{key!r} of the lynis report has {items} items, more than {MAX_LIST_ITEMS}")
