"""Firmware, chosen by feature from QEMU's own descriptors (QEMU docs/interop/firmware.json), never by a fixed path."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seatrial.errors import HostError

__all__ = ["DESCRIPTOR_FOLDERS", "Firmware", "find_uefi"]

# In this order QEMU's own specification looks: the administrator's, then the distribution's.
DESCRIPTOR_FOLDERS = (Path("/etc/qemu/firmware"), Path("/usr/share/qemu/firmware"))
_UNWANTED = {"secure-boot", "requires-smm"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Firmware:
    """A UEFI build: code and variables template, each with its pflash format."""

    description: str
    code: Path
    variables: Path
    format: str


def find_uefi(arch: str, board: str, *, folders: Sequence[Path] = DESCRIPTOR_FOLDERS) -> Firmware:
    """Return the first installed UEFI firmware without Secure Boot for ``arch`` and ``board``.

    :raises HostError: there is none.
    """
    for path in sorted(_descriptors(folders), key=lambda p: p.name):
        found = _usable(path, arch, board)
        if found is not None:
            return found
    raise HostError(
        f"no UEFI firmware for {arch} ({board}) is installed; looked at descriptors in {', '.join(map(str, folders))}",
        hint="'seatrial doctor' names the package (OVMF or edk2) and the command that installs it",
    )


def _descriptors(folders: Sequence[Path]) -> list[Path]:
    # A file in an earlier folder hides the one of the same name in a later folder.
    by_name: dict[str, Path] = {}
    for folder in folders:
        for path in folder.glob("*.json"):
            by_name.setdefault(path.name, path)
    return list(by_name.values())


def _usable(path: Path, arch: str, board: str) -> Firmware | None:
    try:
        described: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        mapping = described["mapping"]
        fits = any(
            target["architecture"] == arch and any(f"-{board}-" in f"{machine}-" for machine in target["machines"])
            for target in described["targets"]
        )
        if (
            not fits
            or "uefi" not in described["interface-types"]
            or mapping["device"] != "flash"
            or mapping.get("mode", "split") != "split"
            or _UNWANTED & set(described["features"])
        ):
            return None
        code, variables = mapping["executable"], mapping["nvram-template"]
        found = Firmware(
            description=described["description"],
            code=Path(code["filename"]),
            variables=Path(variables["filename"]),
            format=code["format"],
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None  # somebody else's broken descriptor is no reason to fail: another one may fit
    return found if found.format == "raw" and found.code.is_file() and found.variables.is_file() else None
