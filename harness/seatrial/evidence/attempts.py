"""Attempts at what must be refused: the script that makes them, bound to one boot, and what became of each."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from seatrial.errors import ObservationError

__all__ = ["BOOT_ID", "ORDINARY", "Attempt", "attempts_script", "harmless_script", "on_this_boot", "parse_attempts"]

BOOT_ID: Final = "cat /proc/sys/kernel/random/boot_id"
# How root becomes somebody without any right of its own; needs no account.
ORDINARY: Final = "setpriv --reuid=65534 --regid=65534 --clear-groups --inh-caps=-all"
_UUID: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
# A shell of its own for each: a redirection that fails ends a POSIX shell.
_TRY: Final = (
    "export LC_ALL=C; nl='\n'; try() { said=$(sh -c \"$2\" 2>&1); rc=$?; "
    'printf \'%s\\t%s\\t%s\\n\' "$1" $rc "${said%%"$nl"*}"; }; '
)


@dataclass(frozen=True, slots=True)
class Attempt:
    """Something forbidden that was tried: what, whether it worked, and what was said."""

    what: str
    succeeded: bool
    said: str


def attempts_script(commands: Mapping[str, str], *, boot_id: str) -> str:
    """Return a script that tries ``commands`` (title to shell command) on the system with ``boot_id``, and on no other.

    :raises ObservationError: that is no boot id; without one the script could harm the wrong computer.
    :raises ValueError: a title or command holds a single quote.
    """
    return on_this_boot(harmless_script(commands), boot_id=boot_id)


def on_this_boot(script: str, *, boot_id: str) -> str:
    """Return ``script`` with a guard: anywhere but on the system with ``boot_id`` it does nothing and gives status 125.

    :raises ObservationError: that is no boot id; without one the script could harm the wrong computer.
    """
    wanted = boot_id.strip()
    if not _UUID.fullmatch(wanted):
        raise ObservationError(f"the guest gave {boot_id[:200]!r} as its boot id, expected a UUID")
    return f'if [ "$({BOOT_ID})" = {wanted} ]; then {script}; else exit 125; fi'


def harmless_script(commands: Mapping[str, str]) -> str:
    """Return a script that tries ``commands`` (title to shell command) wherever it runs: they leave nothing behind.

    :raises ValueError: a title or command holds a single quote.
    """
    if any("'" in text for pair in commands.items() for text in pair):
        raise ValueError("single quotes end the argument that a command is handed over in")
    return _TRY + "; ".join(f"try '{title}' '{command}'" for title, command in commands.items())


def parse_attempts(text: str, *, expected: int) -> tuple[Attempt, ...]:
    """Return attempts from lines of ``what<TAB>exit status<TAB>message``.

    :raises ObservationError: a line is none, a program was missing, or there are not as many as ``expected``.
    """
    attempts = []
    for line in filter(None, text.split("\n")):
        parts = line.split("\t", 2)
        if len(parts) != 3 or not re.fullmatch(r"[0-9]{1,3}", parts[1]):
            raise ObservationError(f"an attempt reported {line[:200]!r}, which is no 'what, status, message'")
        if int(parts[1]) in (126, 127):
            raise ObservationError(f"{parts[0]!r} could not be tried: {parts[2][:200]!r}; a program is missing")
        attempts.append(Attempt(parts[0], int(parts[1]) == 0, parts[2]))
    if len(attempts) != expected:
        raise ObservationError(
            f"{len(attempts)} attempts were reported, expected {expected}",
            hint="none at all: the host fixture is not the system that the facts are of, or its shell stopped",
        )
    return tuple(attempts)
