"""Two trees of files, compared by names, kinds, rights, owners, link targets and contents."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Final

from seatrial.errors import ObservationError

__all__ = ["Tree", "differences", "parse_tree", "tree_command"]

# As `stat -c '%f %u %g %N'` has it: raw mode, owners, the quoted name, for a link its target behind an arrow.
_ENTRY: Final = re.compile(r"([0-9a-f]{4}) ([0-9]+) ([0-9]+) (['\"]?\./.*)")
_DIGEST: Final = re.compile(r"\\?([0-9a-f]{64})  (\./.*)")
_MARK: Final = "contents"
_END: Final = "the end"


@dataclass(frozen=True, slots=True)
class Tree:
    """Names relative to the top, each with mode, owners and target as one text, and digests of the regular files."""

    entries: Mapping[str, str]
    digests: Mapping[str, str]


def tree_command(top: str) -> str:
    """Return the question for :func:`parse_tree` about the folder ``top`` (an absolute path)."""
    return (
        f"cd {shlex.quote(top)} && export LC_ALL=C QUOTING_STYLE=shell-escape-always && "
        "find . -xdev ! -name . -exec stat -c '%f %u %g %N' {} + && "
        f"echo {_MARK} && find . -xdev -type f -exec sha256sum {{}} + && echo {shlex.quote(_END)}"
    )


def parse_tree(text: str) -> Tree:
    """Return the tree that an answer to :func:`tree_command` describes.

    :raises ObservationError: a line is none of that answer, or it was cut.
    """
    lines = text.split("\n")
    if lines[-2:] != [_END, ""] or _MARK not in lines:
        raise ObservationError(f"the list of files ends with {text[-100:]!r}, expected {_END!r}")
    at = lines.index(_MARK)
    entries, digests = dict[str, str](), dict[str, str]()
    for line in lines[:at]:
        match = _ENTRY.fullmatch(line)
        if match is None:
            raise ObservationError(f"the list of files has the line {line[:200]!r}")
        name, arrow, target = match[4].partition(" -> ")
        entries[_plain(name)] = f"mode {match[1]}, owner {match[2]}:{match[3]}" + (
            f", to {_plain(target)}" if arrow else ""
        )
    for line in lines[at + 1 : -2]:
        match = _DIGEST.fullmatch(line)
        if match is None:
            raise ObservationError(f"the list of digests has the line {line[:200]!r}")
        digests[_plain(match[2])] = match[1]
    return Tree(entries, digests)


def differences(tree: Tree, defaults: Tree, *, allowed: Iterable[str]) -> list[str]:
    """Return what sets ``tree`` apart from ``defaults``, but for names that fit one of the globs ``allowed``."""
    patterns = tuple(allowed)
    found = [f"{name} is not among the defaults" for name in tree.entries.keys() - defaults.entries.keys()]
    found += [f"{name} is missing" for name in defaults.entries.keys() - tree.entries.keys()]
    found += [
        f"{name} has {tree.entries[name]}; by default {defaults.entries[name]}"
        for name in tree.entries.keys() & defaults.entries.keys()
        if tree.entries[name] != defaults.entries[name]
    ]
    # Both programs quote odd names, but not alike: contents are compared by the name that sha256sum gives.
    both = tree.digests.keys() & defaults.digests.keys()
    found += [f"{name} has other contents" for name in both if tree.digests[name] != defaults.digests[name]]
    return sorted(one for one in found if not any(fnmatchcase(one.partition(" ")[0], p) for p in patterns))


def _plain(name: str) -> str:
    return name.strip("'\"").removeprefix("./")
