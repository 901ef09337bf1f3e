"""Mutants: seeded defects, each with the controls that must catch it, from a YAML file of ours or of anybody."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from seatrial.errors import ConfigError

__all__ = ["Mutant", "Stage", "read_mutants"]

_MOST_BYTES = 4 * 1024 * 1024


class Stage(StrEnum):
    """Where a defect is seeded."""

    GUEST = "G"
    REBOOT = "R"
    IMAGE = "I"
    COMMAND_LINE = "K"
    QEMU = "Q"
    HARNESS = "H"
    BUILD = "B"


def _as_list(value: object) -> object:
    return [value] if isinstance(value, str) else value


class Mutant(BaseModel):
    """One way to break an image. ``caught_by`` names the controls that must go red.

    A harmless variant has ``stays_green`` instead: globs for controls that it must not turn red. Other keys are notes
    (a title, a source): one that is misspelt does not pass for a note, for each row needs all that count.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    id: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=80)]
    stage: Stage
    change: Annotated[str, Field(pattern=r"\S")]
    caught_by: Annotated[tuple[str, ...], BeforeValidator(_as_list)] = ()
    stays_green: Annotated[tuple[str, ...], BeforeValidator(_as_list)] = ()
    note: str = ""

    @model_validator(mode="after")
    def _one_of_both(self) -> Mutant:
        if bool(self.caught_by) == bool(self.stays_green):
            raise ValueError("either caught_by or stays_green names controls")
        if self.stage is Stage.COMMAND_LINE and self.change.split() in (["add"], ["drop"]):
            raise ValueError(f"change {self.change!r} names no word")
        return self

    @property
    def is_benign(self) -> bool:
        """Return whether nothing may go red."""
        return bool(self.stays_green)


class _File(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")

    mutants: tuple[Mutant, ...]
    benign: tuple[Mutant, ...] = ()

    @model_validator(mode="before")
    @classmethod
    def _no_row_is_left_out(cls, table: dict[object, object]) -> dict[object, object]:
        # Keys of the author's own are none of ours, but rows below a misspelt one would be missing in silence.
        for key, value in table.items():
            if key not in cls.model_fields and isinstance(value, list) and any(isinstance(row, dict) for row in value):
                raise ValueError(f"rows stand below {key!r}, expected 'mutants' or 'benign'")
        return table


class _OnceLoader(yaml.SafeLoader):
    """Refuses a key that stands twice: YAML keeps the last one unseen, and two files put together have such."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        """Return the next mapping; what it takes from others with ``<<`` is not in it yet.

        :raises yaml.YAMLError: a key stands in it twice.
        """
        node = super().compose_mapping_node(anchor)
        keys = Counter(key.value for key, _value in node.value if isinstance(key, yaml.ScalarNode))
        if twice := [key for key, number in keys.items() if number > 1]:
            raise yaml.composer.ComposerError(
                None, None, f"the key {twice[0]!r} stands more than once", node.start_mark
            )
        return node


def _place(place: Sequence[str | int], table: Mapping[str, Any]) -> str:
    """Return where a fault is: by the mutant's id, where it has one."""
    try:
        named = table[str(place[0])][place[1]]["id"]
    except (KeyError, IndexError, TypeError):
        return ".".join(map(str, place)) or "the file"
    return ".".join(map(str, (place[0], named, *place[2:])))


def read_mutants(path: Path) -> tuple[Mutant, ...]:
    """Return the mutants in file ``path``, and the harmless variants behind them.

    :raises ConfigError: it cannot be read, is no YAML, or mutants are wrong; all faults at once.
    """
    try:
        with path.open("rb") as file:
            data = file.read(_MOST_BYTES + 1)
    except OSError as exc:
        raise ConfigError(f"mutants file {str(path)!r} cannot be read: {exc.strerror}") from exc
    if len(data) > _MOST_BYTES:
        raise ConfigError(f"mutants file {str(path)!r} has more than {_MOST_BYTES >> 20} MiB")
    try:
        table = yaml.load(data, Loader=_OnceLoader)  # noqa: S506 -- it is a safe loader
        if not isinstance(table, dict):
            kind = "nothing" if table is None else f"a {type(table).__name__}"
            raise ConfigError(f"mutants file {str(path)!r} holds {kind}, expected a table with the key 'mutants'")
        found = _File.model_validate(table)
    except (yaml.YAMLError, RecursionError) as exc:
        raise ConfigError(f"mutants file {str(path)!r} is not valid YAML: {exc}") from exc
    except ValidationError as exc:
        faults = "\n".join(f"  {_place(f['loc'], table)}: {f['msg']}" for f in exc.errors())
        raise ConfigError(f"mutants file {str(path)!r} is not valid:\n{faults}") from exc
    mutants = (*found.mutants, *found.benign)
    if not mutants:
        raise ConfigError(f"mutants file {str(path)!r} has neither mutants nor harmless variants")
    if twice := sorted(name for name, number in Counter(m.id for m in mutants).items() if number > 1):
        raise ConfigError(f"mutants file {str(path)!r} has ids more than once: {', '.join(twice)}")
    return mutants
