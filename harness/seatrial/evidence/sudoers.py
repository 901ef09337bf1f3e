"""What sudoers files grant: rules and defaults, read as sudo reads them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from seatrial.errors import ObservationError

__all__ = ["SUDOERS", "Sudoers", "parse_sudoers"]

SUDOERS: Final = (
    "command -v sudo >/dev/null 2>&1 && echo /:sudo; "
    "grep -arsH '' /etc/sudoers /etc/sudoers.d /usr/etc/sudoers /usr/etc/sudoers.d; true"
)

_FOLDERS: Final = ("/etc/sudoers.d", "/usr/etc/sudoers.d")
_INCLUDE: Final = re.compile(r"[@#]include(dir)?\s+(\S+)\s*")


@dataclass(frozen=True, slots=True, kw_only=True)
class Sudoers:
    """The lines that count, each with its file: rules (and aliases), and the words of all Defaults lines."""

    rules: tuple[tuple[str, str], ...]
    defaults: tuple[str, ...]

    def default(self, name: str) -> str | bool | None:
        """Return the last value of default ``name``: text, True, False (``!name``), or None when no line sets it."""
        value: str | bool | None = None
        for word in self.defaults:
            key, given, rest = word.partition("=")
            key = key.rstrip("+- ").strip()
            if key == name:
                value = rest.strip().strip('"') if given else True
            elif key == f"!{name}":
                value = False
        return value


def parse_sudoers(files: Mapping[str, Sequence[str]]) -> Sudoers:
    """Return what the sudoers ``files`` (path to lines) say.

    :raises ObservationError: a file includes another that was not read.
    """
    rules: list[tuple[str, str]] = []
    defaults: list[str] = []
    for path, lines in files.items():
        folder, _, name = path.rpartition("/")
        if folder in _FOLDERS and ("." in name or name.endswith("~")):
            continue  # sudo ignores such names
        for line in _joined(lines):
            if match := _INCLUDE.fullmatch(line):
                _expect_read(match[2].strip('"').rstrip("/"), files, by=path)
            elif re.match(r"Defaults\b", line):
                defaults.extend(_default_words(line))
            else:
                rules.append((path, line))
    return Sudoers(rules=tuple(rules), defaults=tuple(defaults))


def _joined(lines: Sequence[str]) -> list[str]:
    joined, carried = [], ""
    for line in [*lines, ""]:
        text = carried + line
        if text.endswith("\\"):
            carried = text[:-1] + " "
            continue
        carried = ""
        # '#' begins a comment, but not '#include' and not '#1000', which names a user by number.
        text = re.sub(r"#(?!include|\d).*", "", text).strip()
        if text:
            joined.append(text)
    return joined


def _default_words(line: str) -> list[str]:
    body = re.sub(r"^Defaults([@:!>]\S+)?\s*", "", line)
    words = re.findall(r'(?:[^,"]|"[^"]*")+', body)
    return [word.strip() for word in words if word.strip()]


def _expect_read(target: str, files: Mapping[str, Sequence[str]], *, by: str) -> None:
    if target not in files and target not in _FOLDERS:
        raise ObservationError(f"{by!r} includes {target!r}, which was not read: what it grants is unknown")
