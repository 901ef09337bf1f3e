"""Firmware, chosen by feature from QEMU's own descriptors (QEMU docs/interop/firmware.json), never by a fixed path."""

from __future__ import annotations

import fnmatch
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from seatrial.errors import ConfigError, HostError

if TYPE_CHECKING:
    # For its types alone: the doctor looks for firmware before anything is installed, pydantic included.
    from seatrial.machine.definition import FirmwareFiles, Machine

__all__ = ["Firmware", "descriptor_folders", "find_uefi", "usable_firmware"]

Format = Literal["raw", "qcow2"]
_QCOW2 = b"QFI\xfb"
# Descriptors name versioned boards by pattern ("pc-q35-*", "virt-*"); any version stands for all.
_VERSIONED = {"q35": "pc-q35-10.0", "virt": "virt-10.0"}
_SECURE = frozenset({"secure-boot", "enrolled-keys"})
# Builds for confidential guests alone start no plain one (those for SEV are "stateless", which is refused as well).
_CONFIDENTIAL = "intel-tdx"
_PACKAGES = {"x86_64": "OVMF or edk2", "aarch64": "AAVMF or edk2-aarch64"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Firmware:
    """A firmware build: its code and, for UEFI, its variables template; each raw or qcow2.

    ``variables`` is None for a BIOS. ``smm``: the variables may be written in system management mode only, which is
    what makes Secure Boot hold against the guest's kernel.
    """

    description: str
    code: Path
    code_format: Format = "raw"
    variables: Path | None
    variables_format: Format = "raw"
    smm: bool = False


def descriptor_folders(env: Mapping[str, str] | None = None) -> tuple[Path, ...]:
    """Return where descriptors lie, the user's first, then the administrator's, then the distribution's."""
    known = os.environ if env is None else env
    config = known.get("XDG_CONFIG_HOME") or os.path.join(known.get("HOME", "/root"), ".config")  # noqa: PTH118 -- text
    return (Path(config, "qemu/firmware"), Path("/etc/qemu/firmware"), Path("/usr/share/qemu/firmware"))


def usable_firmware(machine: Machine, *, folders: Sequence[Path] | None = None) -> Firmware | None:
    """Return the firmware that ``machine`` asks for; None means QEMU's built-in BIOS.

    :raises HostError: it is not installed.
    :raises ConfigError: the machine names files of its own that cannot be used.
    """
    secure = machine.firmware == "uefi-secure"
    if machine.firmware_files is not None:
        return _own(machine.firmware_files, smm=secure)
    if machine.firmware == "bios":
        return None
    return find_uefi(machine.arch, machine.board, secure=secure, folders=folders)


def find_uefi(arch: str, board: str, *, secure: bool = False, folders: Sequence[Path] | None = None) -> Firmware:
    """Return the first installed UEFI firmware for ``arch`` and ``board``, by file name as QEMU's specification wants.

    :param secure: with Secure Boot on and keys enrolled; else without Secure Boot.
    :raises HostError: there is none.
    """
    places = descriptor_folders() if folders is None else folders
    for path in sorted(_descriptors(places), key=lambda p: p.name):
        found = _usable(path, arch, board, secure=secure)
        if found is not None:
            return found
    kind = "with Secure Boot and enrolled keys" if secure else "without Secure Boot"
    raise HostError(
        f"no UEFI firmware {kind} for {arch} ({board}) is installed; "
        f"looked at descriptors in {', '.join(map(str, places))}",
        hint=f"'seatrial doctor' names the package ({_PACKAGES.get(arch, 'edk2')}) and the command that installs it; "
        "or name files of your own: --firmware CODE:VARIABLES",
    )


def _descriptors(folders: Sequence[Path]) -> list[Path]:
    # A file in an earlier folder hides the one of the same name in a later folder, also when it is empty.
    by_name: dict[str, Path] = {}
    for folder in folders:
        for path in folder.glob("*.json"):
            by_name.setdefault(path.name, path)
    return list(by_name.values())


def _usable(path: Path, arch: str, board: str, *, secure: bool) -> Firmware | None:
    try:
        described: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        mapping, features = described["mapping"], set(described["features"])
        if not (
            _targets(described["targets"], arch, board)
            and "uefi" in described["interface-types"]
            and mapping["device"] == "flash"
            and mapping.get("mode", "split") == "split"
            and _has_kind(features, secure=secure)
        ):
            return None
        code, variables = mapping["executable"], mapping["nvram-template"]
        found = Firmware(
            description=str(described["description"]),
            code=Path(code["filename"]),
            code_format=code["format"],
            variables=Path(variables["filename"]),
            variables_format=variables["format"],
            smm="requires-smm" in features,
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None  # somebody else's broken descriptor is no reason to fail: another one may fit
    formats = {found.code_format, found.variables_format}
    is_there = found.code.is_file() and found.variables is not None and found.variables.is_file()
    return found if formats <= {"raw", "qcow2"} and is_there else None


def _targets(targets: list[dict[str, Any]], arch: str, board: str) -> bool:
    names = (board, _VERSIONED.get(board, board))
    return any(
        target["architecture"] == arch
        and any(fnmatch.fnmatchcase(name, pattern) for pattern in target["machines"] for name in names)
        for target in targets
    )


def _has_kind(features: set[str], *, secure: bool) -> bool:
    if _CONFIDENTIAL in features:
        return False
    return features >= _SECURE if secure else not features & {"secure-boot", "requires-smm"}


def _own(files: FirmwareFiles, *, smm: bool) -> Firmware:
    variables = files.variables
    return Firmware(
        description=f"the user's own: {files.code.name}" + (f" with {variables.name}" if variables else ""),
        code=files.code,
        code_format=_format_of(files.code),
        variables=variables,
        variables_format=_format_of(variables) if variables else "raw",
        smm=smm,
    )


def _format_of(path: Path) -> Format:
    try:
        with path.open("rb") as file:
            head = file.read(4)
    except OSError as exc:
        raise ConfigError(
            f"firmware file {str(path)!r} cannot be read: {exc.strerror}", hint="check --firmware or firmware_files"
        ) from exc
    if not head:
        raise ConfigError(f"firmware file {str(path)!r} is empty")
    return "qcow2" if head == _QCOW2 else "raw"
