"""Kernel modules: what is loaded, and what ``modprobe`` would do."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Final

from seatrial.errors import ConfigError, ObservationError

__all__ = ["LOADED", "dry_run_command", "module_name", "parse_dry_runs", "parse_loaded"]

LOADED: Final = "cat /proc/modules"
_NAME: Final = re.compile(r"[a-z0-9][a-z0-9_-]*")
_BARRED: Final = re.compile(r"install (/usr)?/bin/(false|true)\s*")
_MISSING: Final = re.compile(r"modprobe: FATAL: Module \S+ not found in directory \S+")


def module_name(name: str) -> str:
    """Return ``name`` as the kernel writes it: ``-`` and ``_`` are one."""
    return name.replace("-", "_")


def dry_run_command(names: Iterable[str]) -> str:
    """Return the question what ``modprobe`` would do for each of ``names`` (modules or aliases); nothing is loaded.

    :raises ConfigError: a name is none of a module.
    """
    words = list(names)
    for word in words:
        if not _NAME.fullmatch(word):
            raise ConfigError(f"{word!r} is no name of a kernel module")
    # kmod tells a missing module with exit status 1, a missing program is 127.
    return (
        f"command -v modprobe >/dev/null || exit 127; for m in {' '.join(words)}; do "
        'echo "module $m"; modprobe -n -v "$m" 2>&1; echo "status $?"; done'
    )


def parse_dry_runs(text: str) -> Mapping[str, str]:
    """Return module to ``barred``, ``missing``, ``built-in`` or ``loadable``.

    :raises ObservationError: a block is not as :func:`dry_run_command` asks, or modprobe failed for another reason.
    """
    found: dict[str, str] = {}
    for block in re.split(r"(?m)^(?=module )", text):
        if not block.strip():
            continue
        match = re.fullmatch(r"module (\S+)\n((?:.*\n)*?)status (\d{1,3})\n*", block)
        if match is None:
            raise ObservationError(f"the question for modules gave {block[:200]!r}, which is no block of one module")
        found[match[1]] = _meaning(match[1], match[2], int(match[3]))
    return found


def _meaning(name: str, said: str, status: int) -> str:
    lines = [line.strip() for line in said.split("\n") if line.strip()]
    if status != 0:
        if lines and all(_MISSING.fullmatch(line) for line in lines):
            return "missing"
        raise ObservationError(f"modprobe could not tell about {name!r}: exit status {status}, {said[:200]!r}")
    if not lines or lines[-1].startswith("builtin "):
        return "built-in"  # in the kernel, or loaded already: either way it is there
    return "barred" if _BARRED.fullmatch(lines[-1]) else "loadable"


def parse_loaded(text: str) -> Mapping[str, str]:
    """Return module to taint flags (``OE``; empty for most) of ``/proc/modules``.

    :raises ObservationError: a line is none of it.
    """
    loaded = {}
    for line in filter(None, text.split("\n")):
        match = re.fullmatch(r"(\S+) \d+ -?\d+ \S+ \S+ 0x[0-9a-f]+(?: \(([A-Z+-]+)\))?", line)
        if match is None:
            raise ObservationError(f"/proc/modules holds {line[:200]!r}, which is no loaded module")
        loaded[match[1]] = (match[2] or "").strip("+-")
    return loaded
