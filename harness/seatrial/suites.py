"""Where suites, flavours and machines are read from disk; the tables themselves are ``policy``'s."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from seatrial.errors import ConfigError
from seatrial.layout import data_dir
from seatrial.policy.controls import Control, parse_controls
from seatrial.policy.flavours import Flavour, load_flavour

__all__ = ["Suite", "Suites", "built_in_suites", "flavour_names", "read_flavour", "suite_folders"]

TABLE = "controls.toml"


@dataclass(frozen=True, slots=True, kw_only=True)
class Suite:
    """A folder with a control table."""

    name: str
    folder: Path
    controls: tuple[Control, ...]


@dataclass(slots=True)
class Suites:
    """The suites that one run has met, each table read once."""

    by_folder: dict[Path, Suite | None] = field(default_factory=dict)

    def of(self, path: Path) -> Suite | None:
        """Return the suite that the test file ``path`` belongs to: the nearest folder upwards with a control table.

        :raises ConfigError: the table is faulty.
        """
        for folder in path.parents:
            if folder not in self.by_folder:
                self.by_folder[folder] = _read(folder)
            found = self.by_folder[folder]
            if found is not None:
                return found
        return None


def _read(folder: Path) -> Suite | None:
    table = folder / TABLE
    if not table.is_file():
        return None
    try:
        text = table.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as exc:
        raise ConfigError(f"control table {str(table)!r} cannot be read: {exc}") from exc
    return Suite(name=folder.name, folder=folder, controls=parse_controls(text, where=str(table)))


def built_in_suites() -> tuple[str, ...]:
    """Return the names of the suites that come with Seatrial and have checks."""
    return tuple(
        sorted(path.parent.name for path in data_dir("suites").glob(f"*/{TABLE}") if any(path.parent.glob("test_*.py")))
    )


def suite_folders(names: Sequence[str]) -> tuple[Path, ...]:
    """Return the folders of the suites called ``names`` (built-in names or folders of the user's own); all for none.

    :raises ConfigError: neither a built-in suite nor a folder with a control table.
    """
    known = built_in_suites()
    folders = []
    for name in names or known:
        folder = data_dir("suites") / name if name in known else Path(name)
        if not (folder / TABLE).is_file():
            raise ConfigError(
                f"suite {name!r} is neither a built-in suite nor a folder with a {TABLE}",
                hint=f"built-in suites: {', '.join(known)}",
            )
        folders.append(folder.absolute())
    return tuple(folders)


def flavour_names() -> tuple[str, ...]:
    """Return the names of the flavours that an image can have."""
    folder = data_dir("suites") / "flavours"
    return tuple(
        sorted(path.stem for path in folder.glob("*.toml") if "abstract = true" not in path.read_text(encoding="utf-8"))
    )


def read_flavour(name: str) -> Flavour:
    """Return the built-in flavour ``name``, or that of a file of the user's own (``path/to/my-flavour.toml``).

    A flavour of a file is called as the file is, and may inherit a built-in one by its name.

    :raises ConfigError: unknown, unreadable or faulty.
    """
    folder = data_dir("suites") / "flavours"
    present = {path.stem: path for path in folder.glob("*.toml")}
    own = Path(name) if name.endswith(".toml") else None

    def read(wanted: str) -> str | None:
        if own is not None and wanted == name:
            return _text(own)
        return _text(present[wanted]) if wanted in present else None

    return load_flavour(name, read, known=flavour_names(), called=own.stem if own else name)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as exc:
        raise ConfigError(
            f"flavour file {str(path)!r} cannot be read: {exc}",
            hint=f"give a TOML file, or one of the built-in flavours: {', '.join(flavour_names())}",
        ) from exc
