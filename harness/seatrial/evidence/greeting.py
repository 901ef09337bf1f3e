"""What a text that greets strangers gives away: the system, its version, or a program's escapes for them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

__all__ = ["KERNEL_RELEASE", "leaks"]

KERNEL_RELEASE: Final = "uname -r"
# agetty writes these as the kernel's name, release and version, the machine, and os-release.
_ESCAPE: Final = re.compile(r"\\[srvmS]")
_NAMES: Final = ("ID", "NAME", "PRETTY_NAME", "VERSION", "VARIANT")


def leaks(text: str, os_release: Mapping[str, str], kernel: str) -> tuple[str, ...]:
    """Return what ``text`` tells of the system of ``os_release`` with the kernel of release ``kernel``."""
    names = ["Linux", kernel, *(os_release.get(name, "") for name in _NAMES)]
    found = [name for name in dict.fromkeys(names) if name and _has_word(text, name)]
    return (*dict.fromkeys(_ESCAPE.findall(text)), *found)


def _has_word(text: str, word: str) -> bool:
    return re.search(rf"(?<!\w){re.escape(word)}(?!\w)", text, re.IGNORECASE) is not None
