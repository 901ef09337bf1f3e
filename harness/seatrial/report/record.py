"""The record of a run: what was judged, on what, by which policy, and what came of it. Written after every verdict."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Final

from seatrial.errors import ConfigError
from seatrial.evidence.console import Finding
from seatrial.policy.differences import Difference
from seatrial.policy.judge import Decision, Outcome, Verdict, decide
from seatrial.policy.waivers import WaiverNote
from seatrial.report.atomic import write_atomic
from seatrial.report.decode import Fault, decode

__all__ = [
    "SCHEMA_VERSION",
    "BootTimes",
    "DiskWrites",
    "FlavourFacts",
    "ImageFacts",
    "MachineFacts",
    "Problem",
    "Record",
    "RecordWriter",
    "Replay",
    "RestoreFacts",
    "counts",
    "decision_of",
    "from_json",
    "plain",
    "read_record",
    "reasons_to_reject",
    "to_json",
    "verdict_from_json",
    "verdict_to_json",
    "waived_count",
]

SCHEMA_VERSION: Final = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageFacts:
    """The candidate's disk file. Both digests are SHA-256 in hex; the second is None until the run has ended."""

    path: str
    name: str
    format: str
    size_bytes: int
    sha256: str
    sha256_after: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class FlavourFacts:
    """The policy that judged, and the flavour that the system says it is (empty: it was not asked), with the reason."""

    name: str
    title: str
    kind: str
    recognised: str = ""
    recognised_by: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineFacts:
    """The virtual hardware, and why this accelerator ran it."""

    definition: str
    accelerator: str
    accelerator_reason: str
    qemu: str
    firmware: str
    cpus: int
    memory_mib: int


@dataclass(frozen=True, slots=True, kw_only=True)
class BootTimes:
    """Seconds from the start of the CPUs to the SSH banner, the first login and the settled system, and its state.

    ``phases`` holds the durations that the guest itself reports (firmware, kernel, initrd, userspace), in order.
    """

    banner_s: float
    login_s: float
    ready_s: float
    state: str
    phases: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Replay:
    """The facts that a run was judged from instead of a guest: the file, its SHA-256 in hex, when they were taken.

    ``left_out`` names the controls that only a guest can answer: they are outside of what the decision speaks of.
    """

    facts: str
    sha256: str
    taken: datetime
    left_out: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class RestoreFacts:
    """How checks got guests of their own: copies of the ready guest, frozen by ``method``, and further cold boots.

    ``reason`` says why no better method was used. ``lifeline`` tells whether copies answered without a new SSH login,
    ``reseeded`` whether the kernel took fresh randomness in a copy (None: there was no copy). ``seconds`` holds for
    each copy how long it took until it answered its first command.
    """

    method: str
    reason: str
    freeze_s: float
    lifeline: bool
    reseeded: bool | None
    seconds: tuple[float, ...]
    cold_boots: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DiskWrites:
    """What the guest wrote to one part of its disk, read from outside after it had ended.

    ``number`` is the partition's; 0 is what is in none: the ``partition-table`` and the ``unpartitioned`` rest.
    ``written_bytes`` counts whole clusters (64 KiB) of the overlay, ``changed_bytes`` sectors whose content differs.
    """

    number: int
    label: str
    type: str
    size_bytes: int
    written_bytes: int
    changed_bytes: int
    immutable: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """Why the run could not judge, and the exit status that says so. ``console_tail`` holds the last console lines.

    Of a boot that failed, ``phase`` and ``at_s`` say how far it was, and after how many seconds since power-on.
    """

    kind: str
    message: str
    hint: str = ""
    evidence: str = ""
    exit_status: int = 2
    phase: str = ""
    at_s: float | None = None
    console_tail: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One run. It cannot say release unless everything in it does; ``run`` is also the name of its folder.

    ``differences`` holds every way in which the run differs from how the image ships; ``evidence`` maps a name to a
    file relative to the folder. ``waivers`` says what became of each accepted failure that this flavour has.
    ``disk_writes`` is empty when it was not looked at.
    """

    schema_version: int
    seatrial: str
    run: str
    decision: Decision
    complete: bool
    started: datetime
    finished: datetime | None
    image: ImageFacts
    flavour: FlavourFacts
    machine: MachineFacts | None
    boot: BootTimes | None
    restores: RestoreFacts | None
    suites: tuple[str, ...]
    differences: tuple[Difference, ...]
    verdicts: tuple[Verdict, ...]
    findings: tuple[Finding, ...]
    problem: Problem | None
    evidence: Mapping[str, str]
    replay: Replay | None = None
    waivers: tuple[WaiverNote, ...] = ()
    disk_writes: tuple[DiskWrites, ...] = ()

    def __post_init__(self) -> None:
        """Refuse a release that the rest of the record contradicts.

        :raises ValueError: the decision is release, and there are reasons to reject.
        """
        if self.decision is Decision.RELEASE and (reasons := reasons_to_reject(self)):
            raise ValueError(f"the record says release, but {'; '.join(reasons)}")


def reasons_to_reject(record: Record) -> tuple[str, ...]:
    """Return everything that stands against a release, in words; empty when nothing does."""
    image = record.image
    found = {
        "the run did not end": not record.complete or record.finished is None,
        "the run met a problem": record.problem is not None,
        "the image's digest was not taken again": image.sha256_after is None,
        "the image changed during the run": image.sha256_after not in (None, image.sha256),
        "the verdicts do not allow it": decide(record.verdicts) is not Decision.RELEASE,
    }
    return tuple(reason for reason, stands in found.items() if stands)


def decision_of(record: Record) -> Decision:
    """Return the decision that follows from all else in ``record``, whatever it says itself."""
    return Decision.REJECT if reasons_to_reject(record) else Decision.RELEASE


def counts(record: Record, suite: str | None = None) -> Mapping[Outcome, int]:
    """Return how many verdicts (of ``suite``) have each outcome, worst outcome first."""
    found = Counter(v.outcome for v in record.verdicts if suite in (None, v.suite))
    return {outcome: found[outcome] for outcome in Outcome}


def waived_count(record: Record, suite: str | None = None) -> int:
    """Return how many failures (of ``suite``) are accepted; :func:`counts` counts them as failures too."""
    return sum(v.waived is not None for v in record.verdicts if suite in (None, v.suite))


def to_json(record: Record) -> str:
    """Return ``record`` as JSON text. It is ASCII: whatever a guest wrote, the file is safe to show on a terminal."""
    return json.dumps(plain(record), indent=2, ensure_ascii=True, allow_nan=False) + "\n"


def from_json(text: str, *, where: str = "the record") -> Record:
    """Return the record in ``text``.

    :raises ConfigError: it is no JSON, of another version, does not fit the schema, or its decision contradicts it.
    """
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as exc:
        raise ConfigError(f"{where} is not valid JSON: {exc}") from exc
    version = value.get("schema_version") if isinstance(value, dict) else None
    if version != SCHEMA_VERSION:
        raise ConfigError(
            f"{where} has schema_version {version!r}; this seatrial reads version {SCHEMA_VERSION}",
            hint="read it with the seatrial version that the record names, or judge the image again",
        )
    try:
        record = decode(Record, value)
    except Fault as exc:
        raise ConfigError(
            f"{where} is not a valid record: {exc}", hint="reports/record.schema.json describes it"
        ) from exc
    if record.decision is not decision_of(record):
        raise ConfigError(f"{where} says {record.decision}, but its verdicts say {decision_of(record)}")
    return record


def verdict_to_json(verdict: Verdict) -> str:
    """Return ``verdict`` as one line of ASCII JSON, for its way from who judged to who records."""
    return json.dumps(plain(verdict), ensure_ascii=True, allow_nan=False)


def verdict_from_json(text: str) -> Verdict:
    """Return the verdict that :func:`verdict_to_json` wrote.

    :raises ValueError: it did not.
    """
    return decode(Verdict, json.loads(text))


def read_record(path: Path) -> Record:
    """Return the record in file ``path``.

    :raises ConfigError: there is none, or it is not valid.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as exc:
        raise ConfigError(f"cannot read record {str(path)!r}: {exc}", hint="name the record.json of a run") from exc
    return from_json(text, where=repr(str(path)))


class RecordWriter:
    """Writes a record to ``record.json`` in ``folder``; at every moment the file there is whole."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "record.json"

    def write(self, record: Record) -> None:
        """Replace the file by ``record``."""
        write_atomic(self.path, to_json(record))


def plain(value: object) -> object:
    """Return ``value`` (records, mappings, tuples, times) in the form that JSON knows."""
    if is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, Mapping):
        return {_text(str(key)): plain(item) for key, item in value.items()}
    if isinstance(value, tuple):
        return [plain(item) for item in value]
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, StrEnum):
        return value.value
    return _text(value) if isinstance(value, str) else value


def _text(value: str) -> str:
    # Half of a surrogate pair is no character, and other readers of JSON refuse it.
    return value.encode("utf-8", "backslashreplace").decode("utf-8")
