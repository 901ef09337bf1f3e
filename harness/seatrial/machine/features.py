"""What a QEMU program can do, asked of the program itself: versions lie where distributions patch and leave out."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seatrial.clock import Deadline
from seatrial.errors import HostError
from seatrial.layout import cache_dir
from seatrial.process import require_program, run

__all__ = ["NO_QEMU", "OLDEST", "Features", "parse_answers", "qemu_features", "require_devices"]

OLDEST = (7, 2)
_ANSWER_S = 60.0
# The doctor asks for what most need; who names a machine of another architecture needs this as well.
_PACKAGES = {
    "qemu-system-aarch64": "qemu-system-arm and qemu-efi-aarch64 (apt), qemu-system-aarch64-core and edk2-aarch64 "
    "(dnf), qemu-arm and qemu-uefi-aarch64 (zypper), qemu-system-aarch64 and edk2-aarch64 (pacman)"
}
_FORM = 1  # of the remembered answers: raised when they hold something new
_QUESTIONS: Sequence[Mapping[str, Any]] = (
    {"execute": "qmp_capabilities"},
    {"execute": "query-version", "id": "version"},
    {"execute": "query-qmp-schema", "id": "schema"},
    {"execute": "qom-list-types", "arguments": {"implements": "device", "abstract": False}, "id": "devices"},
    {"execute": "qom-list-properties", "arguments": {"typename": "kvm-accel"}, "id": "kvm"},
    {"execute": "quit"},
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Features:
    """One QEMU program: its version, device models, migration capabilities, QMP commands.

    ``kvm_by_descriptor``: it can be handed an open ``/dev/kvm`` (QEMU 9.0 and newer).
    """

    version: tuple[int, ...]
    version_text: str
    devices: frozenset[str]
    migration: frozenset[str]
    commands: frozenset[str]
    kvm_by_descriptor: bool

    @property
    def has_mapped_ram(self) -> bool:
        """Return whether memory can be migrated to a file at fixed offsets (QEMU 9.0 and newer)."""
        return "mapped-ram" in self.migration


NO_QEMU = Features(
    version=(),
    version_text="none",
    devices=frozenset(),
    migration=frozenset(),
    commands=frozenset(),
    kvm_by_descriptor=False,
)


def qemu_features(program: str, *, why: str) -> Features:
    """Return what ``program`` can do; it is asked once (0.2 s) and its answers are kept until it changes.

    :raises HostError: it is not installed, does not start, gives answers that cannot be read, or is too old.
    """
    path = _found(program, why)
    memory = cache_dir("qemu") / f"{_identity(path)}.json"
    features = _remembered(memory)
    if features is None:
        answers = _ask(path)
        features = parse_answers(answers)
        _remember(memory, features)
    if features.version < OLDEST:
        raise HostError(
            f"{program!r} is QEMU {features.version_text}; {'.'.join(map(str, OLDEST))} or newer is needed",
            hint="'seatrial doctor' names the command that installs a newer one",
        )
    return features


def _found(program: str, why: str) -> Path:
    try:
        return require_program(program, why=why)
    except HostError as exc:
        if program not in _PACKAGES:
            raise
        raise HostError(exc.message, hint=f"install {_PACKAGES[program]}") from exc


def require_devices(features: Features, devices: Sequence[str]) -> None:
    """Check that QEMU was built with ``devices``: distributions leave some out.

    :raises HostError: one is missing; a definition without it is what helps.
    """
    missing = sorted(set(devices) - features.devices)
    if missing:
        raise HostError(
            f"this QEMU ({features.version_text}) was built without {', '.join(map(repr, missing))}",
            hint="choose another --machine, --disk-bus or --tpm, or install a complete QEMU",
        )


def parse_answers(text: str) -> Features:
    """Return the features from what QEMU wrote on its QMP channel.

    :raises HostError: an answer is missing or has another form.
    """
    try:
        answers: dict[str, Any] = {
            str(message["id"]): message.get("return")
            for message in map(json.loads, text.splitlines())
            if isinstance(message, dict) and "id" in message
        }
        number, package = answers["version"]["qemu"], str(answers["version"]["package"]).strip()
        version = tuple(int(number[part]) for part in ("major", "minor", "micro"))
        dotted = ".".join(map(str, version))
        schema = answers["schema"]
        return Features(
            version=version,
            version_text=f"{dotted} ({package})" if package else dotted,
            devices=frozenset(str(device["name"]) for device in answers["devices"]),
            migration=_migration(schema),
            commands=frozenset(str(entry["name"]) for entry in schema if entry["meta-type"] == "command"),
            kvm_by_descriptor=any(known["name"] == "device" for known in answers.get("kvm") or ()),
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as exc:
        raise HostError(f"QEMU's answers cannot be read: {type(exc).__name__}: {exc}") from exc


def _migration(schema: Sequence[Mapping[str, Any]]) -> frozenset[str]:
    # The schema hides the names of types, not those of an enumeration's members (QEMU docs/devel/qapi-code-gen).
    for entry in schema:
        members = entry.get("values", ()) if entry["meta-type"] == "enum" else ()
        if "x-ignore-shared" in members:
            return frozenset(map(str, members))
    return frozenset()


def _ask(path: Path) -> str:
    words: list[str | Path] = [
        path,
        *("-M", "none", "-nodefaults", "-no-user-config", "-display", "none", "-qmp", "stdio"),
    ]
    questions = "".join(f"{json.dumps(question)}\n" for question in _QUESTIONS)
    done = run(words, deadline=Deadline(_ANSWER_S), stdin=questions.encode())
    if done.status != 0:
        raise HostError(f"{path.name!r} does not start: {done.complaint}", hint="run 'seatrial doctor'")
    return done.text


def _identity(path: Path) -> str:
    found = path.stat()
    return hashlib.sha256(f"{_FORM} {path} {found.st_mtime_ns} {found.st_size}".encode()).hexdigest()[:16]


def _remember(memory: Path, features: Features) -> None:
    table = {
        "version": features.version,
        "version_text": features.version_text,
        "devices": sorted(features.devices),
        "migration": sorted(features.migration),
        "commands": sorted(features.commands),
        "kvm_by_descriptor": features.kvm_by_descriptor,
    }
    temporary = memory.with_name(f".{memory.name}.{os.getpid()}")
    temporary.write_text(json.dumps(table), encoding="utf-8")
    temporary.replace(memory)


def _remembered(memory: Path) -> Features | None:
    try:
        table = json.loads(memory.read_text(encoding="utf-8"))
        return Features(
            version=tuple(int(part) for part in table["version"]),
            version_text=str(table["version_text"]),
            devices=frozenset(map(str, table["devices"])),
            migration=frozenset(map(str, table["migration"])),
            commands=frozenset(map(str, table["commands"])),
            kvm_by_descriptor=bool(table["kvm_by_descriptor"]),
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None  # no memory, or a damaged one: ask again
