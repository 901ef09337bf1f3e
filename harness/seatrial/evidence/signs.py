"""Signs of trouble on a console, and landmarks of a boot: the rows of ``qemu/console.toml``, checked. Pure."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from seatrial.errors import ConfigError

__all__ = ["Gravity", "Kind", "Landmark", "Phase", "Sign", "Table", "parse_table"]


class Phase(StrEnum):
    """How far a boot is, in order."""

    FIRMWARE = "firmware"
    LOADER = "loader"
    KERNEL = "kernel"
    INITRD = "initrd"
    USERSPACE = "userspace"
    SUITE = "suite"


class Gravity(StrEnum):
    """Whether a sign ends the boot or is only noted."""

    FATAL = "fatal"
    SUSPICIOUS = "suspicious"


class Kind(StrEnum):
    """What a sign is about."""

    PANIC = "panic"
    SHELL = "shell"
    LOADER = "loader"
    SECURE_BOOT = "secure-boot"
    QUESTION = "question"
    CORRUPTION = "corruption"
    STOPPED = "stopped"
    PROCESSOR = "processor"
    KERNEL = "kernel"
    STORAGE = "storage"
    UNIT = "unit"
    PROGRAM = "program"
    MEMORY = "memory"
    PROVISIONING = "provisioning"
    MACHINE = "machine"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sign:
    """A row of the table. ``source`` says who prints the text, or who else watches for it."""

    id: str
    title: str
    needles: tuple[str, ...]
    pattern: re.Pattern[str]
    severity: Gravity
    kind: Kind
    phases: frozenset[Phase]
    hint: str
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Landmark:
    """A line that tells the phase; ``is_start`` when seeing it in a later phase means that the system started again."""

    needle: str
    pattern: re.Pattern[str]
    phase: Phase
    is_start: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """All rows, and by needle (what is searched for) the rows that it may belong to, as positions."""

    signs: tuple[Sign, ...]
    landmarks: tuple[Landmark, ...]
    signs_by: Mapping[bytes, tuple[int, ...]]
    landmarks_by: Mapping[bytes, tuple[int, ...]]

    @property
    def needles(self) -> tuple[bytes, ...]:
        """Return every needle once."""
        return tuple(dict.fromkeys([*self.signs_by, *self.landmarks_by]))

    def is_fatal(self, needle: bytes) -> bool:
        """Return whether a fatal sign has ``needle``."""
        return any(self.signs[row].severity is Gravity.FATAL for row in self.signs_by.get(needle, ()))

    def sign_of(self, line: str, phase: Phase, needles: Iterable[bytes] | None = None) -> Sign | None:
        """Return what ``line`` is a sign of in ``phase``; None when of nothing.

        :param needles: those that are known to be in it, to look at their rows only.
        """
        for row in _rows(self.signs_by, self.signs_by if needles is None else needles):
            sign = self.signs[row]
            if phase in sign.phases and sign.pattern.search(line):
                return sign
        return None

    def landmark_of(self, line: str, needles: Iterable[bytes]) -> Landmark | None:
        """Return the landmark that ``line``, which holds ``needles``, is; None when it is none."""
        marks = (self.landmarks[row] for row in _rows(self.landmarks_by, needles))
        return next((mark for mark in marks if mark.pattern.search(line)), None)


def _rows(by: Mapping[bytes, tuple[int, ...]], needles: Iterable[bytes]) -> list[int]:
    return sorted({row for needle in needles for row in by.get(needle, ())})


_SIGN_KEYS: Final = {"id", "title", "severity", "kind", "needles", "hint", "source"}
_MARK_KEYS: Final = {"phase", "needle"}


def parse_table(text: str) -> Table:
    """Return the table in ``text``, which is TOML.

    :raises ConfigError: it is no TOML, a row lacks a key or has one too many, or a value is not of its kind.
    """
    try:
        tables = tomllib.loads(text)
        signs = tuple(_sign(row) for row in tables.get("sign", []))
        marks = tuple(_landmark(row) for row in tables.get("landmark", []))
    except (tomllib.TOMLDecodeError, ValueError, TypeError, re.error) as exc:
        raise ConfigError(f"the table of console signs is not valid: {exc}") from exc
    return Table(
        signs=signs,
        landmarks=marks,
        signs_by=_by_needle([sign.needles for sign in signs]),
        landmarks_by=_by_needle([(mark.needle,) for mark in marks]),
    )


def _by_needle(rows: Sequence[tuple[str, ...]]) -> Mapping[bytes, tuple[int, ...]]:
    found: dict[bytes, tuple[int, ...]] = {}
    for number, needles in enumerate(rows):
        for needle in needles:
            found[needle.encode()] = (*found.get(needle.encode(), ()), number)
    return found


def _sign(row: Mapping[str, object]) -> Sign:
    _check_keys(row, _SIGN_KEYS, {"pattern", "phases"})
    needles = _texts(row["needles"])
    phases = frozenset(Phase(name) for name in _texts(row["phases"])) if "phases" in row else frozenset(Phase)
    return Sign(
        id=str(row["id"]),
        title=str(row["title"]),
        needles=needles,
        pattern=re.compile(str(row.get("pattern") or "|".join(map(re.escape, needles)))),
        severity=Gravity(str(row["severity"])),
        kind=Kind(str(row["kind"])),
        phases=phases,
        hint=str(row["hint"]),
        source=str(row["source"]),
    )


def _landmark(row: Mapping[str, object]) -> Landmark:
    _check_keys(row, _MARK_KEYS, {"pattern", "start"})
    needle = str(row["needle"])
    return Landmark(
        needle=needle,
        pattern=re.compile(str(row.get("pattern") or re.escape(needle))),
        phase=Phase(str(row["phase"])),
        is_start=row.get("start") is True,
    )


def _check_keys(row: Mapping[str, object], needed: set[str], optional: set[str]) -> None:
    if missing := needed - row.keys():
        raise ValueError(f"row {row.get('id') or row.get('needle')!r} lacks {', '.join(sorted(missing))}")
    if unknown := row.keys() - needed - optional:
        raise ValueError(f"row {row.get('id') or row.get('needle')!r} has unknown keys {', '.join(sorted(unknown))}")


def _texts(value: object) -> tuple[str, ...]:
    if not isinstance(value, list) or not value or not all(isinstance(item, str) and item for item in value):
        raise ValueError(f"expected a list of texts, found {value!r}")
    return tuple(value)
