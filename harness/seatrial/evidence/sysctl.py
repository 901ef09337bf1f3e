"""Kernel parameters at run time (``/proc/sys``), and what ``sysctl.d`` says that they should be."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Mapping
from typing import Final

from seatrial.errors import ConfigError, ObservationError

__all__ = [
    "NETWORK_SYSCTLS",
    "ROOTS",
    "SYSCTLS",
    "SYSCTL_D",
    "interfaces",
    "is_without_ipv6",
    "known_path",
    "matching_paths",
    "parse_sysctl_d",
    "parse_sysctls",
    "path_of",
    "question_for",
    "sysctls_command",
]

ROOTS: Final = ("dev", "fs", "kernel", "net/core", "vm")
_NETWORK_ROOTS: Final = ("net/ipv4", "net/ipv6")
# One question for all rows. Some files can only be written, for which grep complains: the end is marked instead.
# binfmt_misc is a file system that would be mounted by looking at it.
SYSCTLS: Final = (
    f"cd /proc/sys && {{ grep -ras --exclude-dir=binfmt_misc '' {' '.join(ROOTS)}; [ $? -lt 3 ] && echo 'the end'; }}"
)
# The neighbour tables hold as much again, and no control is about them.
NETWORK_SYSCTLS: Final = (
    "cd /proc/sys && { grep -ras --exclude-dir=neigh '' "
    + " ".join(_NETWORK_ROOTS)
    + "; [ $? -lt 3 ] && echo 'the end'; }"
)
_EVERY_INTERFACE: Final = frozenset({"all", "default"})
SYSCTL_D: Final = "systemd-analyze cat-config --no-pager sysctl.d"
_KEY: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_./:*?\[\]@-]*")
_PATH: Final = re.compile(r"[a-z]+(/[^/:\s]+)+")


def sysctls_command(paths: Iterable[str]) -> str:
    """Return the question for the files ``paths`` below ``/proc/sys``.

    :raises ObservationError: a path holds more than letters, digits and ``_./:@-``: it came from the guest.
    """
    words = sorted(set(paths))
    for word in words:
        if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_./:@-]*", word) or ".." in word:
            raise ObservationError(f"{word[:200]!r} is no path of a kernel parameter")
    # /dev/null makes grep name the file even when there is only one.
    return f"cd /proc/sys && {{ grep -as '' /dev/null {' '.join(words)}; [ $? -lt 3 ] && echo 'the end'; }}"


@functools.lru_cache(maxsize=4)
def parse_sysctls(text: str) -> Mapping[str, str]:
    """Return path to value (``kernel/sysrq`` to ``0``), blanks as single spaces, lines joined by a space.

    :raises ObservationError: a line is none, there is none, or the end is missing.
    """
    lines = text.rstrip("\n").split("\n")
    if lines[-1] != "the end":
        raise ObservationError(f"the list of kernel parameters was cut off: it ends with {lines[-1][:200]!r}")
    if len(lines) == 1:
        raise ObservationError(
            "the list of kernel parameters is empty",
            hint="the question needs GNU grep: busybox's knows no --exclude-dir",
        )
    values: dict[str, list[str]] = {}
    for line in lines[:-1]:
        path, colon, value = line.partition(":")
        if not colon or not _PATH.fullmatch(path):
            raise ObservationError(f"the list of kernel parameters holds {line[:200]!r}, which is no 'path:value'")
        values.setdefault(path, []).extend(value.split())
    return {path: " ".join(words) for path, words in values.items()}


def path_of(key: str) -> str:
    """Return the path below ``/proc/sys`` of ``key``: the first separator says which of ``.`` and ``/`` separates."""
    first = re.search(r"[./]", key)
    if first is None or first[0] == "/":
        return key
    return key.translate(str.maketrans("./", "/."))


def known_path(key: str) -> str:
    """Return the path of a control's ``key``.

    :raises ConfigError: neither :data:`SYSCTLS` nor :data:`NETWORK_SYSCTLS` reads it.
    """
    path, roots = path_of(key), (*ROOTS, *_NETWORK_ROOTS)
    if not path.startswith(tuple(f"{root}/" for root in roots)):
        raise ConfigError(f"sysctl {key!r} lies outside of what is read: {', '.join(roots)}")
    return path


def question_for(path: str) -> str:
    """Return the question whose answer holds the parameter ``path`` of :func:`known_path`."""
    return NETWORK_SYSCTLS if path.startswith(tuple(f"{root}/" for root in _NETWORK_ROOTS)) else SYSCTLS


def matching_paths(path: str, running: Mapping[str, str]) -> tuple[str, ...]:
    """Return which of the ``running`` parameters ``path`` means; ``*`` stands for every interface, and for all of them.

    The loopback interface is left out: nothing that a stranger sends arrives there.

    :raises ObservationError: some interfaces are named, and not those that every kernel has, ``all`` and ``default``.
    """
    before, star, after = path.partition("/*/")
    if not star:
        return (path,) if path in running else ()
    named = {
        one.removeprefix(f"{before}/").removesuffix(f"/{after}"): one
        for one in running
        if one.startswith(f"{before}/") and one.endswith(f"/{after}")
    }
    found = {name: one for name, one in named.items() if "/" not in name}
    if found and not found.keys() >= _EVERY_INTERFACE:
        raise ObservationError(f"{path!r} names the interfaces {sorted(found)!r}, without 'all' or 'default'")
    return tuple(one for name, one in sorted(found.items()) if name != "lo")


def interfaces(running: Mapping[str, str]) -> tuple[str, ...]:
    """Return the network interfaces, without loopback, whose parameters are among those of :data:`NETWORK_SYSCTLS`."""
    named = {match[1] for path in running if (match := re.fullmatch(r"net/ipv4/conf/([^/]+)/[^/]+", path))}
    return tuple(sorted(named - _EVERY_INTERFACE - {"lo"}))


def is_without_ipv6(running: Mapping[str, str]) -> bool:
    """Return whether the kernel that answered :data:`NETWORK_SYSCTLS` has no IPv6 at all, or has it off everywhere.

    ``disable_ipv6`` of every interface, and of those to come, is what benchmarks have people set (ip-sysctl.rst).
    """
    off = [running[path] for path in matching_paths("net/ipv6/conf/*/disable_ipv6", running)]
    return not any(path.startswith("net/ipv6/") for path in running) or (bool(off) and set(off) == {"1"})


def parse_sysctl_d(text: str) -> Mapping[str, str]:
    """Return path to value of merged ``sysctl.d`` files; the last wins. Patterns are left out: they name no single key.

    :raises ObservationError: a line is neither comment, ``key = value`` nor ``-key``.
    """
    wanted: dict[str, str] = {}
    for line in text.split("\n"):
        stripped = line.strip()
        if not stripped or stripped[0] in "#;":
            continue
        key, equals, value = stripped.partition("=")
        key = key.strip()
        name = key.removeprefix("-")
        if not _KEY.fullmatch(name) or not (equals or key.startswith("-")):
            raise ObservationError(f"a file of sysctl.d holds {line[:200]!r}, which is no 'key = value'")
        if set("*?[]") & set(name):
            continue
        if equals:  # a bare "-key" takes the key out of what patterns set, and sets nothing
            wanted[path_of(name)] = " ".join(value.split())
    return wanted
