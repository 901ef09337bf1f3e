"""What the journal holds: entries as JSON lines; which of them a policy accepts; what kernel messages mean."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from seatrial.errors import ConfigError, ObservationError

__all__ = ["COREDUMPS", "ERRORS", "KERNEL", "KERNEL_TROUBLE", "OOM", "Entry", "parse_journal", "troubles", "unexpected"]

_FIELDS: Final = "--output-fields=MESSAGE,PRIORITY,SYSLOG_IDENTIFIER,_SYSTEMD_UNIT,_TRANSPORT"
# Bounded: an image that logs more than this has other troubles.
ERRORS: Final = f"journalctl -b -q --no-pager -p err -n 500 -o json {_FIELDS}"
KERNEL: Final = "journalctl -b -q --no-pager _TRANSPORT=kernel -n 5000 -o cat"
# MESSAGE_ID of systemd-coredump, and of systemd for a process that dumped core (sd-messages(3)).
COREDUMPS: Final = f"journalctl -b -q --no-pager -n 100 -o json MESSAGE_ID=fc2e22bc6ee647b6b90729ab34a250b1 {_FIELDS}"

KERNEL_TROUBLE: Final = (
    ("a kernel oops", r"\bOops:|\bBUG: |kernel BUG at|general protection fault|unable to handle (kernel|page fault)"),
    ("a kernel warning", r"\bWARNING: (CPU|possible|suspicious|at )"),
    (
        "a stalled or locked up CPU",
        r"soft lockup|hard LOCKUP|rcu.*(stall|self-detected)|hung_task|blocked for more than \d+ seconds",
    ),
    ("a sanitizer's report", r"\b(KASAN|KCSAN|KFENCE|UBSAN|KMSAN): "),
    ("damaged storage", r"I/O error|EXT4-fs error|erofs: .*(corrupt|failed)|verity: .*corrupted|Buffer I/O"),
    ("a machine check", r"mce: \[Hardware Error\]|Machine check"),
)
OOM: Final = (
    ("the kernel killed for memory", r"Out of memory: Killed|oom-kill:|invoked oom-killer|Memory cgroup out of memory"),
)


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
    """Return ``title: line`` for each of ``lines`` that a pattern of ``table`` finds."""
    found = []
    for line in lines:
        title = next((title for title, pattern in table if re.search(pattern, line)), None)
        if title is not None:
            found.append(f"{title}: {line.strip()[:200]}")
    return found
