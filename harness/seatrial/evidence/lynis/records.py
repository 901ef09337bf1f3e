"""The records that a lynis report consists of, the flaws that it can have, and what a run says as a whole."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from typing import Final, Literal

__all__ = [
    "Detail",
    "Finding",
    "FindingKind",
    "Flaw",
    "FlawKind",
    "Loose",
    "LynisReport",
    "LynisRun",
    "Record",
    "Split",
]

FindingKind = Literal["warning", "suggestion"]
Split = Literal["exact", "by-brackets", "unclear"]


class FlawKind(StrEnum):
    """Something about a report that a reader must know. Those of ``_DAMAGE`` make the whole run unreliable."""

    NO_HEADER = "no-header"
    SECOND_HEADER = "second-header"
    UNKNOWN_VERSION = "unknown-version"
    NO_END = "no-end"
    AFTER_END = "after-end"
    CUT_LINE = "cut-line"
    CUT_LIST = "cut-list"
    MISSING = "missing"
    BAD_VALUE = "bad-value"
    REPEATED = "repeated"
    GLUED = "glued"
    COUNTS_DIFFER = "counts-differ"
    LOOSE_LINE = "loose-line"
    NOT_UTF8 = "not-utf8"
    CONTROL_CHARACTERS = "control-characters"
    CARRIAGE_RETURN = "carriage-return"
    UNCLEAR = "unclear"

    @property
    def is_damage(self) -> bool:
        """Return whether a report with this flaw says nothing reliable about the whole run."""
        return self in _DAMAGE


_DAMAGE: Final = frozenset(
    {
        FlawKind.NO_HEADER,
        FlawKind.SECOND_HEADER,
        FlawKind.UNKNOWN_VERSION,
        FlawKind.NO_END,
        FlawKind.AFTER_END,
        FlawKind.CUT_LINE,
        FlawKind.CUT_LIST,
        FlawKind.MISSING,
        FlawKind.BAD_VALUE,
        FlawKind.REPEATED,
        FlawKind.GLUED,
        FlawKind.COUNTS_DIFFER,
    }
)


@dataclass(frozen=True, slots=True)
class Flaw:
    """One kind of flaw: what it is, where it is first seen (0: the file as a whole), how often, in words."""

    kind: FlawKind
    line: int
    count: int
    text: str


@dataclass(frozen=True, slots=True)
class Record:
    """One ``key=value`` or ``key[]=value`` line. ``value`` is decoded without loss (see ``text.decode``)."""

    line: int
    key: str
    value: str
    is_list: bool
    ends_in_cr: bool


@dataclass(frozen=True, slots=True)
class Loose:
    """One line that is no record: the header, an empty line, a sentence that a test wrote straight into the report."""

    line: int
    text: str
    ends_in_cr: bool


@dataclass(frozen=True)
class LynisReport:
    """Every line of a report in order, and the flaws. ``ends_in_lf``: the last line is whole."""

    lines: tuple[Record | Loose, ...]
    ends_in_lf: bool
    size: int
    flaws: tuple[Flaw, ...]

    @cached_property
    def records(self) -> tuple[Record, ...]:
        """Return the lines that are records."""
        return tuple(line for line in self.lines if isinstance(line, Record))

    @cached_property
    def loose(self) -> tuple[Loose, ...]:
        """Return the lines that are none."""
        return tuple(line for line in self.lines if isinstance(line, Loose))

    def scalars(self, key: str) -> tuple[Record, ...]:
        """Return the ``key=`` records: more than one when the key repeats; the last one is the value."""
        return tuple(r for r in self.records if r.key == key and not r.is_list)

    def items(self, key: str) -> tuple[Record, ...]:
        """Return the ``key[]=`` records in order, duplicates included."""
        return tuple(r for r in self.records if r.key == key and r.is_list)

    @property
    def is_complete(self) -> bool:
        """Return whether the run came to its end and the file is whole."""
        return not any(flaw.kind.is_damage for flaw in self.flaws)


@dataclass(frozen=True, slots=True, kw_only=True)
class Detail:
    """One row of a test that consists of many small ones: which field, what value, what value lynis prefers."""

    line: int
    test: str
    service: str
    desc: str | None = None
    field: str | None = None
    prefval: str | None = None
    value: str | None = None
    other: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One warning or suggestion. ``split`` says how sure the borders between its fields are."""

    line: int
    kind: FindingKind
    test: str | None
    message: str
    details: str | None = None
    solution_kind: Literal["text", "url", "plain"] | None = None
    solution: str | None = None
    split: Split = "exact"
    is_duplicate: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class LynisRun:
    """What a report says as a whole: everything that a policy can judge. All text is escaped (see ``text.escape``)."""

    is_complete: bool
    flaws: tuple[Flaw, ...] = ()
    lynis_version: str | None = None
    hardening_index: int | None = None
    executed: frozenset[str] = frozenset()
    skipped: frozenset[str] = frozenset()
    exceptions: tuple[str, ...] = ()
    findings: tuple[Finding, ...] = ()
    details: tuple[Detail, ...] = ()
