"""What can be wrong with a report as a whole: every pitfall of a file that is appended to, line by line, unescaped."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from seatrial.evidence.lynis.fields import detail_of, finding_of
from seatrial.evidence.lynis.records import Flaw, FlawKind, Loose, Record
from seatrial.evidence.lynis.text import escape, is_utf8, shorten

__all__ = ["flaws_of", "is_header"]

_HEADER: Final = "# Lynis Report"
_VERSION: Final = "1"
# Each is written once a run. A second one is forged (a file name with "\n" under dash's echo) or of a second run.
_NEEDED: Final = (
    "report_version_major",
    "lynis_tests_done",
    "hardening_index",
    "tests_executed",
    "tests_skipped",
    "finish",
)
_ONCE: Final = (*_NEEDED, "report_version_minor", "report_datetime_start", "report_datetime_end", "lynis_version")
# dash's echo stops at "\c" and swallows the line feed: the next record then hides in the value of this one.
_GLUED: Final = re.compile(
    r"(?:warning|suggestion|details|exception_event|manual_event)\[\]=|finish=true"
    r"|(?:report_version_major|lynis_tests_done|hardening_index|tests_executed|tests_skipped)=",
)
_CONTROL: Final = re.compile("[\x00-\x1f\x7f-\x9f]")
_LONGEST: Final = 160
_LINES = Sequence[Record | Loose]


def is_header(line: Record | Loose) -> bool:
    """Return whether ``line`` is the first line of a report."""
    return isinstance(line, Loose) and line.text == _HEADER


def flaws_of(lines: _LINES, *, ends_in_lf: bool) -> tuple[Flaw, ...]:
    """Return the flaws of a report, at most one record a kind: the first place, and how many places there are."""
    records = [line for line in lines if isinstance(line, Record)]
    found = [
        *_frame(lines, ends_in_lf=ends_in_lf),
        *_end(records),
        *_needed(records),
        *_values(records),
        *_texts(lines),
        *_structure(records),
    ]
    by_kind: dict[FlawKind, list[tuple[int, str]]] = {}
    for kind, line, text in found:
        by_kind.setdefault(kind, []).append((line, text))
    return tuple(
        Flaw(kind, places[0][0], len(places), _shown(places)) for kind in FlawKind if (places := by_kind.get(kind))
    )


_Found = tuple[FlawKind, int, str]


def _shown(places: Sequence[tuple[int, str]]) -> str:
    more = f" (and {len(places) - 1} more)" if len(places) > 1 else ""
    return places[0][1] + more


def _quoted(text: str) -> str:
    return f"'{shorten(escape(text), _LONGEST)}'"


def _frame(lines: _LINES, *, ends_in_lf: bool) -> Iterator[_Found]:
    if not is_header(lines[0]):
        yield FlawKind.NO_HEADER, 1, f"the first line is not '{_HEADER}'"
    for line in lines[1:]:
        if is_header(line):
            yield FlawKind.SECOND_HEADER, line.line, "a second report begins here: two runs wrote into one file"
    if not ends_in_lf:
        yield FlawKind.CUT_LINE, lines[-1].line, "the last line has no line feed: the file is cut off"


def _end(records: Sequence[Record]) -> Iterator[_Found]:
    at = next((i for i, r in enumerate(records) if r.key == "finish" and not r.is_list and r.value == "true"), None)
    if at is None:
        yield FlawKind.NO_END, 0, "'finish=true' is missing: the run did not come to its end, or the file is cut off"
        return
    for record in records[at + 1 :]:
        yield FlawKind.AFTER_END, record.line, f"'{record.key}' stands after 'finish=true', the last record of a run"


def _needed(records: Sequence[Record]) -> Iterator[_Found]:
    scalars: dict[str, list[Record]] = {}
    for record in records:
        if not record.is_list:
            scalars.setdefault(record.key, []).append(record)
    for key in _NEEDED:
        if key not in scalars and key != "finish":
            yield FlawKind.MISSING, 0, f"'{key}=' is missing"
    for key in _ONCE:
        for record in scalars.get(key, [])[1:]:
            yield FlawKind.REPEATED, record.line, f"'{key}=' is written a second time, here as {_quoted(record.value)}"


def _values(records: Sequence[Record]) -> Iterator[_Found]:
    last = {r.key: r for r in records if not r.is_list}
    version, index, done = (last.get(key) for key in ("report_version_major", "hardening_index", "lynis_tests_done"))
    if version is not None and version.value != _VERSION:
        yield (
            FlawKind.UNKNOWN_VERSION,
            version.line,
            f"the report has version {_quoted(version.value)}, we read {_VERSION}",
        )
    if index is not None and not re.fullmatch(r"[0-9]{1,2}|100", index.value, re.ASCII):
        yield FlawKind.BAD_VALUE, index.line, f"'hardening_index' is {_quoted(index.value)}, expected 0 to 100"
    if done is not None and not re.fullmatch(r"[0-9]{1,6}", done.value, re.ASCII):
        yield FlawKind.BAD_VALUE, done.line, f"'lynis_tests_done' is {_quoted(done.value)}, expected a number"
    elif done is not None and (executed := last.get("tests_executed")) is not None:
        count = len([test for test in executed.value.split("|") if test])
        if count != int(done.value):
            text = f"'lynis_tests_done' is {int(done.value)}, but 'tests_executed' names {count}"
            yield FlawKind.COUNTS_DIFFER, executed.line, text
    for key in ("tests_executed", "tests_skipped"):
        tests = last.get(key)
        if tests is not None and tests.value and not tests.value.endswith("|"):
            yield FlawKind.CUT_LIST, tests.line, f"'{key}' does not end in '|': the line is cut off"


def _texts(lines: _LINES) -> Iterator[_Found]:
    for line in lines:
        text = line.text if isinstance(line, Loose) else line.value
        if isinstance(line, Loose) and not is_header(line):
            yield FlawKind.LOOSE_LINE, line.line, f"no record: {_quoted(text)}"
        if isinstance(line, Record) and (match := _GLUED.search(text)):
            yield FlawKind.GLUED, line.line, f"the value of '{line.key}' holds another record: {_quoted(match.group())}"
        if not is_utf8(text):
            yield FlawKind.NOT_UTF8, line.line, f"bytes that are no UTF-8: {_quoted(text)}"
        if _CONTROL.search(text):
            yield FlawKind.CONTROL_CHARACTERS, line.line, f"control characters: {_quoted(text)}"
        if line.ends_in_cr:
            yield FlawKind.CARRIAGE_RETURN, line.line, "the line ends in a carriage return"


def _structure(records: Iterable[Record]) -> Iterator[_Found]:
    for record in records:
        if not record.is_list:
            continue
        if record.key in ("warning", "suggestion"):
            if finding_of(record, "warning").split == "unclear":
                yield FlawKind.UNCLEAR, record.line, f"the fields of '{record.key}' cannot be told apart"
        elif record.key == "details" and detail_of(record) is None:
            yield FlawKind.UNCLEAR, record.line, "the fields of 'details' cannot be told apart"
