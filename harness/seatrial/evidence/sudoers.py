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
    "grep -asH '' /etc/sudoers /etc/sudoers.d/* /usr/etc/sudoers /usr/etc/sudoers.d/*; true"
)

_FOLDERS: Final = ("/etc/sudoers.d", "/usr/etc/sudoers.d")
# The scope follows at once, and may be a list: one user, host, command or run-as user alone (sudoers(5)).
_DEFAULTS: Final = re.compile(r"Defaults([@:!>]\s*[^\s,]+(?:\s*,\s*[^\s,]+)*)?(?:\s+(.*))?")
_INCLUDE: Final = re.compile(r"[@#]include(dir)?\s+(\S+)\s*")


@dataclass(frozen=True, slots=True, kw_only=True)
class Sudoers:
    """The lines that count, each with its file: rules (and aliases), and the words of all Defaults lines.

    Each word has its scope, ``:deploy`` for one user; that of a word for everybody is empty.
    """

    rules: tuple[tuple[str, str], ...]
    defaults: tuple[tuple[str, str], ...]

    def default(self, name: str) -> str | bool | None:
        """Return the last value of ``name`` for everybody: text, True, False (``!name``), or None without any."""
        values = [value for scope, word in self.defaults if not scope and (value := _value(name, word)) is not None]
        return values[-1] if values else None

    def exceptions(self, name: str) -> tuple[tuple[str, str | bool], ...]:
        """Return scope and value wherever ``name`` is set for somebody or something alone."""
        found = ((scope, _value(name, word)) for scope, word in self.defaults if scope)
        return tuple((scope, value) for scope, value in found if value is not None)


def parse_sudoers(files: Mapping[str, Sequence[str]]) -> Sudoers:
    """Return what the sudoers ``files`` (path to lines) say.

    :raises ObservationError: a file includes another that was not read.
    """
    rules: list[tuple[str, str]] = []
    defaults: list[tuple[str, str]] = []
    for path, lines in files.items():
        folder, _, name = path.rpartition("/")
        if folder in _FOLDERS and ("." in name or name.endswith("~")):
            continue  # sudo ignores such names
        for line in _joined(lines):
            if match := _INCLUDE.fullmatch(line):
                _expect_read(match[2].strip('"').rstrip("/"), files, by=path)
            elif match := _DEFAULTS.fullmatch(line):
                scope = "".join((match[1] or "").split())
                defaults.extend((scope, word) for word in _default_words(match[2] or ""))
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


def _default_words(body: str) -> list[str]:
    words = re.findall(r'(?:[^,"]|"[^"]*")+', body)
    return [word.strip() for word in words if word.strip()]


def _value(name: str, word: str) -> str | bool | None:
    """Return what ``word`` sets ``name`` to; None when it is about another one."""
    key, given, rest = word.partition("=")
    key = key.rstrip("+- ").strip()
    if key == name:
        return rest.strip().strip('"') if given else True
    return False if key == f"!{name}" else None


def _expect_read(target: str, files: Mapping[str, Sequence[str]], *, by: str) -> None:
    if target not in files and target not in _FOLDERS:
        raise ObservationError(f"{by!r} includes {target!r}, which was not read: what it grants is unknown")
