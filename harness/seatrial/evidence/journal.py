"""What the journal holds: entries as JSON lines; which of them a policy accepts; what kernel messages mean."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from seatrial.errors import ConfigError, ObservationError

__all__ = [
    "COREDUMPS",
    "ERRORS",
    "KERNEL",
    "KERNEL_TROUBLE",
    "OOM",
    "STALLED",
    "STORAGE",
    "UNCLEAN",
    "Entry",
    "failed_unmounts",
    "parse_journal",
    "troubles",
    "unexpected",
    "way_down",
]

_FIELDS: Final = "--output-fields=MESSAGE,PRIORITY,SYSLOG_IDENTIFIER,_SYSTEMD_UNIT,_TRANSPORT"
# Bounded: an image that logs more than this has other troubles.
ERRORS: Final = f"journalctl -b -q --no-pager -p err -n 500 -o json {_FIELDS}"
KERNEL: Final = "journalctl -b -q --no-pager _TRANSPORT=kernel -n 5000 -o cat"
# MESSAGE_ID of systemd-coredump, and of systemd for a process that dumped core (sd-messages(3)).
COREDUMPS: Final = f"journalctl -b -q --no-pager -n 100 -o json MESSAGE_ID=fc2e22bc6ee647b6b90729ab34a250b1 {_FIELDS}"

# What tells how the file systems, and the journal itself, were left by the boot before.
STORAGE: Final = (
    "journalctl -b -q --no-pager -n 5000 -o cat "
    "_TRANSPORT=kernel + SYSLOG_IDENTIFIER=systemd-fsck + SYSLOG_IDENTIFIER=systemd-journald"
)

_ECHO: Final = re.compile(r"(Kernel command|Command|Unknown kernel command) line\b")
STALLED: Final = "a stalled or locked up CPU"
KERNEL_TROUBLE: Final = (
    (  # first, for the kernel calls some of them bugs
        STALLED,
        # Not what the kernel's command line, which it echoes, says of stalls and hung tasks.
        r"soft lockup|hard LOCKUP|blocked for more than \d+ seconds"
        r"|\brcu\w*:? .*(detected (stall|expedited stalls)|self-detected stall|kthread (starved|timer wakeup))",
    ),
    # journald takes a first word with a colon for a program's name, in what is not the kernel's own.
    (
        "a kernel oops",
        r"\bOops:|\bBUG: |kernel BUG at|general protection fault|unable to handle (kernel|page fault)"
        r"|NULL pointer dereference|\b\d{4} \[#\d+\] ",
    ),
    ("a kernel warning", r"\bWARNING: (CPU|possible|suspicious|at |\S+:\d+ at )|^CPU: \d+ PID: \d+ at "),
    ("a sanitizer's report", r"\b(KASAN|KCSAN|KFENCE|UBSAN|KMSAN): "),
    (
        "damaged storage",
        r"I/O error|EXT4-fs error|erofs\b.*(corrupt|failed|bogus)|verity: .*corrupted|Buffer I/O|SQUASHFS error"
        r"|BTRFS\b.*(\berror\b|critical|corrupt [1-9]|csum failed)|XFS \(.*(Corruption|CRC error|Internal error)"
        r"|F2FS-fs .*(error|inconsisten)|Remounting filesystem read-only",
    ),
    ("a machine check", r"mce: \[Hardware Error\]|Machine check"),
)
OOM: Final = (
    ("the kernel killed for memory", r"Out of memory: Killed|oom-kill:|invoked oom-killer|Memory cgroup out of memory"),
)
UNCLEAN: Final = (
    (
        "a file system's journal was replayed",
        r"recovering journal|(EXT[234]-fs|JBD2?)\b.*recover(y complete|ing)|recovery required|XFS\b.*ing recovery"
        r"|tree-log replay|F2FS-fs\b.*[Rr]ecover",
    ),
    ("a file system was not unmounted", r"not (been )?(properly|cleanly) u(n)?mounted|Dirty bit is set|unchecked fs"),
    ("fsck repaired a file system", r"FILE SYSTEM WAS MODIFIED|UNEXPECTED INCONSISTENCY|error.* corrected"),
    ("the journal was not closed", r"corrupted or uncleanly shut down"),
)
_BOOT_ID: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
# systemd(1), the result of a job of a mount unit: its name, then its description.
_FAILED_UNMOUNT: Final = re.compile(r"Failed unmounting (\S{1,250}\.mount)\b")


@dataclass(frozen=True, slots=True)
class Entry:
    """One message with who said it."""

    said_by: str
    message: str
    priority: int

    def __str__(self) -> str:
        return f"{self.said_by}: {self.message}"


def parse_journal(text: str) -> Sequence[Entry]:
    """Return the entries of ``journalctl -o json``.

    :raises ObservationError: a line is no JSON object.
    """
    return [_entry(line) for line in text.split("\n") if line.strip()]


def _entry(line: str) -> Entry:
    try:
        fields = json.loads(line)
    except (ValueError, RecursionError):
        raise ObservationError(f"journalctl said {line[:200]!r}, which is no JSON") from None
    if not isinstance(fields, dict):
        raise ObservationError(f"journalctl said {line[:200]!r}, which is no entry")
    priority = _text(fields.get("PRIORITY", ""))
    return Entry(
        said_by=_text(
            fields.get("SYSLOG_IDENTIFIER") or fields.get("_SYSTEMD_UNIT") or fields.get("_TRANSPORT") or "?"
        ),
        message=_text(fields.get("MESSAGE", "")),
        priority=int(priority) if re.fullmatch(r"[0-7]", priority) else 6,
    )


def _text(value: object) -> str:
    # Bytes that are no text come as a list of numbers, a field that was set more than once as a list of texts.
    if isinstance(value, list):
        if value and all(isinstance(item, int) and 0 <= item < 256 for item in value):
            return bytes(value).decode("utf-8", "backslashreplace")
        return "; ".join(str(item) for item in value)
    return "" if value is None else str(value)


def unexpected(entries: Iterable[Entry], accepted: Sequence[str]) -> list[str]:
    """Return the entries that no pattern of ``accepted`` finds in ``said by: message``.

    :raises ConfigError: a pattern is no regular expression.
    """
    patterns = []
    for text in accepted:
        try:
            patterns.append(re.compile(text))
        except re.error as exc:
            raise ConfigError(f"an accepted journal message {text!r} is no regular expression: {exc}") from exc
    return [str(entry) for entry in entries if not any(pattern.search(str(entry)) for pattern in patterns)]


def troubles(lines: Iterable[str], table: Sequence[tuple[str, str]]) -> list[str]:
    """Return ``title: line`` for each of ``lines`` that a pattern of ``table`` finds.

    What the kernel echoes of its command line is none: words there may speak of corruption, stalls or panics.
    """
    found = []
    for line in lines:
        if _ECHO.match(line):
            continue
        title = next((title for title, pattern in table if re.search(pattern, line)), None)
        if title is not None:
            found.append(f"{title}: {line.strip()[:200]}")
    return found


def way_down(boot_id: str) -> str:
    """Return the question for what the system manager said last in the boot ``boot_id`` (as the kernel writes it).

    :raises ObservationError: it is none.
    """
    if _BOOT_ID.fullmatch(boot_id) is None:
        raise ObservationError(f"the guest gave {boot_id[:200]!r} as the id of its boot")
    return f"journalctl -b {boot_id.replace('-', '')} -q --no-pager -n 300 -o cat _PID=1"


def failed_unmounts(lines: Iterable[str]) -> list[str]:
    """Return the paths of the mounts that a system manager could not unmount."""
    return [_path_of(found[1]) for line in lines if (found := _FAILED_UNMOUNT.search(line))]


def _path_of(unit: str) -> str:
    """Return the path that a mount unit is for (systemd.unit(5), "String escaping")."""
    escaped = unit.removesuffix(".mount").replace("-", "/")
    return "/" + re.sub(r"\\x([0-9a-f]{2})", lambda found: chr(int(found[1], 16)), escaped).lstrip("/")
