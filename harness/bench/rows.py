"""What every benchmark here prints and saves: a list of ``name, value, goal, holds``."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

__all__ = ["Row", "save"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A figure and its goal; ``value`` is in the unit that ``name`` says, a ratio where it says none."""

    name: str
    value: float
    goal: str
    holds: bool

    @classmethod
    def at_most(cls, name: str, value: float, limit: float) -> Row:
        """Return a row that holds when ``value`` is at most ``limit``."""
        return cls(name=name, value=round(value, 4), goal=f"at most {limit:g}", holds=value <= limit)

    @classmethod
    def at_least(cls, name: str, value: float, limit: float) -> Row:
        """Return a row that holds when ``value`` is at least ``limit``."""
        return cls(name=name, value=round(value, 4), goal=f"at least {limit:g}", holds=value >= limit)


def save(rows: list[Row], path: Path) -> int:
    """Print ``rows``, write them to ``path`` as JSON and return the exit status: 0 when every goal holds, else 1."""
    width = max(len(row.name) for row in rows)
    for row in rows:
        print(f"{row.name:{width}}  {row.value:10.4f}  {row.goal:16}  {'holds' if row.holds else 'MISSED'}")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps([asdict(row) for row in rows], indent=2) + "\n", encoding="utf-8")
    print(f"written to {path}")
    return 0 if all(row.holds for row in rows) else 1
