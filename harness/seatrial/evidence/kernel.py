"""States that the running kernel reports of itself: choices in brackets, taint, CPU vulnerabilities."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from seatrial.errors import ObservationError

__all__ = [
    "LOCKDOWN",
    "RANDOM_STRUCTURES",
    "SYMBOLS",
    "TAINTED",
    "VULNERABILITIES",
    "chosen",
    "is_vulnerable",
    "parse_vulnerabilities",
    "shown_symbols",
    "taint_reasons",
]

LOCKDOWN: Final = "cat /sys/kernel/security/lockdown"
# What an ordinary user sees.
SYMBOLS: Final = "LC_ALL=C setpriv --reuid=65534 --regid=65534 --clear-groups head -n 50 /proc/kallsyms"
TAINTED: Final = "cat /proc/sys/kernel/tainted"
VULNERABILITIES: Final = "grep -s '' /sys/devices/system/cpu/vulnerabilities/*"
RANDOM_STRUCTURES: Final = "randomised structures"
_TAINT: Final = (
    "a proprietary module",
    "a module loaded by force",
    "a kernel on an unsuitable processor",
    "a module unloaded by force",
    "a machine check",
    "a bad page",
    "user space asked for it",
    "an oops or a bug",
    "an overridden ACPI table",
    "a warning",
    "a staging driver",
    "a workaround for the platform's firmware",
    "a module built outside of the kernel",
    "an unsigned module",
    "a soft lockup",
    "a live patch",
    "an auxiliary taint of the distribution",
    RANDOM_STRUCTURES,
    "an in-kernel test",
    "a debug interface of firmware",
)


def shown_symbols(text: str, complaint: str = "") -> list[str]:
    """Return the lines of the answer to :data:`SYMBOLS` that show an address instead of zeros.

    :param complaint: what came on stderr: who may not read the file at all sees no address either.
    :raises ObservationError: a line is no symbol, or there is none although nothing was forbidden.
    """
    lines = [line for line in text.split("\n") if line.strip()]
    if not lines and not re.search(r"kallsyms\b.*: Permission denied", complaint):
        raise ObservationError(
            f"an ordinary user's /proc/kallsyms could not be read: {complaint.strip()[:200] or 'it is empty'}"
        )
    odd = next((line for line in lines if not re.match(r"[0-9a-f]{8,16} [A-Za-z?] \S", line)), None)
    if odd is not None:
        raise ObservationError(f"/proc/kallsyms holds {odd[:200]!r}, which is no symbol")
    return [line for line in lines if line.split()[0].strip("0")]


def is_vulnerable(state: str) -> bool:
    """Return whether the kernel says of a flaw, or of a part of it, that it is open.

    ``Mitigation: Retpolines; BHI: Vulnerable`` is open in a part (kernel, admin-guide/hw-vuln/spectre.rst);
    ``SMT vulnerable`` is said of threads of one core, about which another control asks.
    """
    return re.search(r"\bVulnerable\b", state) is not None


def chosen(text: str) -> str:
    """Return the choice in brackets: ``integrity`` of ``none [integrity] confidentiality``.

    :raises ObservationError: there is not exactly one.
    """
    found = re.findall(r"\[([a-z_]+)\]", text)
    if len(found) != 1:
        raise ObservationError(f"{text[:200]!r} has {len(found)} choices in brackets, expected one")
    return str(found[0])


def taint_reasons(text: str) -> tuple[str, ...]:
    """Return why the kernel is tainted, from the number in ``/proc/sys/kernel/tainted``; empty when it is not.

    :raises ObservationError: that is no number.
    """
    digits = text.strip()
    if not re.fullmatch(r"[0-9]{1,19}", digits):
        raise ObservationError(f"/proc/sys/kernel/tainted holds {text[:200]!r}, expected a number")
    bits = int(digits)
    names = [name for bit, name in enumerate(_TAINT) if bits >> bit & 1]
    rest = bits >> len(_TAINT) << len(_TAINT)
    return (*names, f"unknown bits {rest}") if rest else tuple(names)


def parse_vulnerabilities(text: str) -> Mapping[str, str]:
    """Return the processor's vulnerabilities and what the kernel does about each.

    :raises ObservationError: a line is none, or there is none.
    """
    found = {}
    for line in filter(None, text.split("\n")):
        match = re.fullmatch(r"/sys/devices/system/cpu/vulnerabilities/(\w+):(.+)", line)
        if match is None:
            raise ObservationError(f"the list of CPU vulnerabilities holds {line[:200]!r}, which is none")
        found[match[1]] = match[2]
    if not found:
        raise ObservationError("the kernel reports no CPU vulnerabilities at all")
    return found
