"""The facts file: every answer of one boot with what is needed to judge them again, when the guest is gone."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

from seatrial.errors import ConfigError
from seatrial.evidence.console import Finding
from seatrial.guest.facts import Answer
from seatrial.policy.differences import Difference
from seatrial.report.atomic import write_atomic
from seatrial.report.decode import Fault, decode
from seatrial.report.record import plain

__all__ = [
    "FACTS_FORMAT",
    "FACTS_VERSION",
    "FactsBoot",
    "FactsFile",
    "FactsImage",
    "facts_json",
    "read_facts",
    "write_facts",
]

FACTS_VERSION: Final = 1
FACTS_FORMAT: Final = "seatrial-facts"
# A guest is hostile, and a file from elsewhere more so; a real one has about one MiB.
_MOST_BYTES: Final = 256 * 1024 * 1024
_HINT: Final = "reports/facts.schema.json describes it; a gate run leaves facts.json in its folder"


@dataclass(frozen=True, slots=True, kw_only=True)
class FactsImage:
    """The image that was booted; its digest (SHA-256, hex) is the one from before the boot."""

    name: str
    format: str
    size_bytes: int
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class FactsBoot:
    """What was known of the boot from outside; see :class:`seatrial.machine.boot.BootFacts`."""

    accelerator: str
    firmware: str
    tpm: str
    banner_s: float
    login_s: float
    ready_s: float
    state: str
    console: str
    findings: tuple[Finding, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class FactsFile:
    """One boot's facts. ``flavour`` and ``user`` are what the run judged by and logged in as."""

    format: str
    version: int
    seatrial: str
    run: str
    taken: datetime
    flavour: str
    user: str
    image: FactsImage
    boot: FactsBoot
    differences: tuple[Difference, ...]
    answers: tuple[Answer, ...]


def facts_json(facts: FactsFile) -> str:
    """Return ``facts`` as JSON text. It is ASCII: whatever a guest wrote, the file is safe to show on a terminal."""
    return json.dumps(plain(facts), indent=1, ensure_ascii=True, allow_nan=False) + "\n"


def write_facts(facts: FactsFile, path: Path) -> None:
    """Replace the file ``path`` by ``facts``."""
    write_atomic(path, facts_json(facts))


def read_facts(path: Path) -> FactsFile:
    """Return the facts in file ``path``.

    :raises ConfigError: there is none, it is too large, no JSON, of another version, or does not fit the schema.
    """
    try:
        with path.open("rb") as file:
            data = file.read(_MOST_BYTES + 1)
    except OSError as exc:
        raise ConfigError(f"facts file {str(path)!r} cannot be read: {exc.strerror}", hint=_HINT) from exc
    if len(data) > _MOST_BYTES:
        raise ConfigError(f"facts file {str(path)!r} has more than {_MOST_BYTES >> 20} MiB", hint=_HINT)
    return _parsed(data, f"facts file {str(path)!r}")


def _parsed(data: bytes, where: str) -> FactsFile:
    try:
        value = json.loads(data.decode("utf-8"))
    except (ValueError, RecursionError) as exc:
        raise ConfigError(f"{where} is not valid JSON: {exc}", hint=_HINT) from exc
    head = (value.get("format"), value.get("version")) if isinstance(value, dict) else (None, None)
    if head != (FACTS_FORMAT, FACTS_VERSION):
        raise ConfigError(
            f"{where} has format and version {head!r}; this seatrial reads {(FACTS_FORMAT, FACTS_VERSION)!r}",
            hint=_HINT,
        )
    try:
        facts = decode(FactsFile, value)
    except Fault as exc:
        raise ConfigError(f"{where} is not valid: {exc}", hint=_HINT) from exc
    asked = [answer.command for answer in facts.answers]
    if len(asked) != len(set(asked)):
        twice = next(command for command in asked if asked.count(command) > 1)
        raise ConfigError(f"{where} holds two answers to {twice[:200]!r}", hint=_HINT)
    return facts
