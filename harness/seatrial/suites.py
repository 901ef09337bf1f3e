"""Where suites, flavours and machines are read from disk; the tables themselves are ``policy``'s."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from seatrial.errors import ConfigError
from seatrial.layout import data_dir
from seatrial.policy.controls import Control, parse_controls
from seatrial.policy.flavours import Flavour, Origin, explain_flavour, lineage, load_flavour
from seatrial.policy.recognition import Rules

__all__ = [
    "Suite",
    "Suites",
    "built_in_suites",
    "explained_flavour",
    "flavour_lineage",
    "flavour_names",
    "named_suites",
    "read_flavour",
    "recognition_rules",
    "strange_names",
    "suite_folders",
]

TABLE = "controls.toml"
# One letter too many or too few in a name of seven: names of a user's own are seldom so near to ours.
_NEARLY = 0.85


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
        text = table.read_text(encoding="utf-8-sig")
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
        own = Path(name) / TABLE
        if name in known and own.is_file() and not own.samefile(folder / TABLE):
            raise ConfigError(
                f"suite {name!r} is a built-in one, and a folder of yours here",
                hint=f"./{name} is the folder; to judge by both, name both",
            )
        if not (folder / TABLE).is_file():
            raise ConfigError(
                f"suite {name!r} is neither a built-in suite nor a folder with a {TABLE}",
                hint=f"built-in suites: {', '.join(known)}; lynis's report is judged with --lynis",
            )
        folders.append(folder.absolute())
    return tuple(folders)


def named_suites(arguments: Sequence[str], where: Path, tables: Suites) -> tuple[Suite, ...]:
    """Return the user's own suites among ``arguments``, folders that pytest was given, and right below them.

    One whose checks pytest does not find (a file that is not called ``test_*.py``) must not be forgotten.

    :param where: the folder that relative arguments start from.
    :raises ConfigError: a table is faulty.
    """
    folders = [where / argument for argument in arguments if (where / argument).is_dir()]
    places = [place for folder in folders for place in (folder, *sorted(folder.glob("*/")))]
    own = [place for place in places if data_dir("suites") not in (place.resolve(), *place.resolve().parents)]
    return tuple(
        suite for place in own if (place / TABLE).is_file() and (suite := tables.of(place / TABLE)) is not None
    )


def flavour_names() -> tuple[str, ...]:
    """Return the names of the flavours that an image can have."""
    return tuple(sorted(name for name, text in _flavour_texts().items() if "abstract = true" not in text))


def read_flavour(name: str) -> Flavour:
    """Return the built-in flavour ``name``, or that of a file of the user's own (``path/to/my-flavour.toml``).

    A flavour of a file is called as the file is, and may inherit a built-in one by its name.

    :raises ConfigError: unknown, unreadable or faulty.
    """
    return load_flavour(name, _flavour_text(name), known=flavour_names(), called=_called(name))


def explained_flavour(name: str) -> tuple[Origin, ...]:
    """Return the effective policy of flavour ``name``, value by value, each with where it comes from.

    :raises ConfigError: unknown or faulty.
    """
    return explain_flavour(name, _flavour_text(name), known=flavour_names(), called=_called(name))


def flavour_lineage(name: str) -> tuple[str, ...]:
    """Return the flavours that flavour ``name`` is made of, itself first.

    :raises ConfigError: unknown or faulty.
    """
    return lineage(name, _flavour_text(name), known=flavour_names())


def strange_names(flavour: Flavour, controls: Collection[str]) -> tuple[str, ...]:
    """Return what a flavour of the user's own says of controls and lists that nobody here knows, as lines to show.

    :param controls: ids of the controls that are judged, the user's own among them.
    :raises ConfigError: a name is nearly that of one that is known, or a pattern: what it says would not count.
    """
    built_in = [suite.controls for name in built_in_suites() if (suite := _read(data_dir("suites") / name))]
    ids = {control.id for some in built_in for control in some}.union(controls)
    lists = {key for name in flavour_names() for key in read_flavour(name).expect}
    found = [(f"deviations.{name}", _nearest(name, ids)) for name in sorted(flavour.deviations.keys() - ids)]
    found += [(f"expect.{name}", _nearest(name, lists)) for name in sorted(flavour.expect.keys() - lists)]
    if wrong := [f"{name} ({hint})" for name, hint in found if hint]:
        raise ConfigError(
            f"flavour {flavour.name!r} speaks of what no control is or asks for, so that it would not count: "
            f"{', '.join(wrong)}",
            hint="mend the names: 'seatrial controls' lists controls, 'seatrial flavour show NAME' a flavour's lists",
        )
    return tuple(f"flavour {flavour.name!r} speaks of {name}, which no built-in control asks for" for name, _ in found)


def _nearest(name: str, known: Collection[str]) -> str:
    """Return what is wrong with ``name``: what it may be meant to be, or that it is a pattern; nothing if neither."""
    if set(name) & set("*?["):
        return "a pattern; each control is named by itself"
    near = difflib.get_close_matches(name, known, n=1, cutoff=_NEARLY)
    return f"did you mean {near[0]!r}?" if near else ""


def _called(name: str) -> str:
    return Path(name).stem if name.endswith(".toml") else name


def recognition_rules() -> Rules:
    """Return by which os-release each flavour is recognised.

    :raises ConfigError: a flavour is faulty.
    """
    return {name: read_flavour(name).recognise for name in flavour_names()}


def _flavour_texts() -> dict[str, str]:
    folder = data_dir("suites") / "flavours"
    return {path.stem: path.read_text(encoding="utf-8") for path in folder.glob("*.toml")}


def _flavour_text(name: str) -> Callable[[str], str | None]:
    """Return what reads flavours: built-in ones, and ``name`` itself where that is a file of the user's own."""
    texts = _flavour_texts()
    own = Path(name) if name.endswith(".toml") else None

    def read(wanted: str) -> str | None:
        return _text(own) if own is not None and wanted == name else texts.get(wanted)

    return read


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as exc:
        raise ConfigError(
            f"flavour file {str(path)!r} cannot be read: {exc}",
            hint=f"give a TOML file, or one of the built-in flavours: {', '.join(flavour_names())}",
        ) from exc
