"""The kernel command line: parameters in order, the last of several wins, as the kernel reads it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from seatrial.errors import ObservationError

__all__ = ["CMDLINE", "Cmdline", "parse_cmdline"]

CMDLINE: Final = "cat /proc/cmdline"
_TRUE: Final = frozenset({"1", "y", "yes", "on", "true", "t"})


@dataclass(frozen=True, slots=True)
class Cmdline:
    """Parameters as name and value; a bare word has the value None. ``-`` and ``_`` in names are one.

    ``for_init`` are those behind ``--``, which the kernel leaves alone. systemd does not: it reads the whole line.
    """

    parameters: Sequence[tuple[str, str | None]]
    for_init: Sequence[tuple[str, str | None]] = ()

    def values(self, name: str) -> list[str]:
        """Return all values that ``name`` was given, in order; a bare word counts as an empty value."""
        return [value or "" for known, value in self.parameters if _same(known) == _same(name)]

    def last(self, name: str) -> str | None:
        """Return the value that wins for ``name``, or None when it is not there."""
        return next(reversed(self.values(name)), None)

    def is_on(self, name: str) -> bool | None:
        """Return whether the switch ``name`` is on by the kernel's rules; None when it is not there."""
        value = self.last(name)
        return None if value is None else value == "" or value.lower() in _TRUE

    def matching(self, patterns: Iterable[str]) -> list[str]:
        """Return the parameters that are in ``patterns``: ``name`` fits any, ``name=value`` that one, ``name=`` none.

        Values of several choices (``mitigations=auto,nosmt``, ``auto;no_user_kernel``) fit when one of them does. A
        value that a later one overrides counts as well, and so does one for init: nobody ships a switch in order to
        undo it.
        """
        found = []
        for pattern in patterns:
            name, equals, wanted = pattern.partition("=")
            values = [v for known, v in (*self.parameters, *self.for_init) if _same(known) == _same(name)]
            for value in values:
                if not equals or wanted.lower() in re.split("[,;]", (value or "").lower()):
                    found.append(name if value is None else f"{name}={value}")
        return found


def parse_cmdline(text: str) -> Cmdline:
    """Return the parameters of ``/proc/cmdline``; double quotes keep blanks together, what follows ``--`` is for init.

    :raises ObservationError: it is not one line.
    """
    lines = text.rstrip("\n").split("\n")
    if len(lines) != 1 or not lines[0].strip():
        raise ObservationError(f"/proc/cmdline holds {len(lines)} line(s), expected one: {text[:200]!r}")
    found: list[tuple[str, str | None]] = []
    words = _words(lines[0])
    for word in words:
        name, equals, value = word.partition("=")
        found.append((name.strip('"'), value.replace('"', "") if equals else None))
    end = words.index("--") if "--" in words else len(words)
    return Cmdline(tuple(found[:end]), tuple(found[end + 1 :]))


def _words(line: str) -> list[str]:
    words, current, quoted = [], "", False
    for letter in line:
        quoted ^= letter == '"'
        if letter.isspace() and not quoted:
            words.append(current)
            current = ""
        else:
            current += letter
    return [word for word in [*words, current] if word]


def _same(name: str) -> str:
    return name.replace("-", "_")
