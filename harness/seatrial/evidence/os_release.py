"""os-release(5): what a system says that it is."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from typing import Final

__all__ = ["OS_RELEASE", "parse_os_release"]

OS_RELEASE: Final = "cat /etc/os-release || cat /usr/lib/os-release"
_NAME: Final = re.compile(r"[A-Z][A-Z0-9_]*")
_MOST_LINES: Final = 1000


def parse_os_release(text: str) -> Mapping[str, str]:
    """Return name to value; values are quoted as in a shell, and lines that are no assignment are left out.

    The last of several assignments wins, as it does in a shell. A line whose quotes do not end is left out.
    """
    found: dict[str, str] = {}
    for line in text.split("\n")[:_MOST_LINES]:
        name, equals, value = line.strip().partition("=")
        if not equals or not _NAME.fullmatch(name):
            continue
        try:
            words = shlex.split(value, comments=False, posix=True)
        except ValueError:
            continue
        if len(words) <= 1:
            found[name] = "".join(words)
    return found
