"""Machine definitions: the virtual hardware an image is booted on, as read from ``qemu/machines/*.toml``."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from seatrial.errors import ConfigError

__all__ = ["Accelerator", "Cpu", "FirmwareFiles", "Machine", "firmware_override", "load_machine", "overridden"]

Accelerator = Literal["kvm", "tcg"]
_STRICT = ConfigDict(frozen=True, extra="forbid")
_ENDING = ".toml"
_NOT_IN_A_FILE = frozenset({"name", "open_network", "overrides"})


class Cpu(BaseModel):
    """The CPU model for each accelerator, as QEMU's ``-cpu`` takes it."""

    model_config = _STRICT

    kvm: str
    tcg: str


class FirmwareFiles(BaseModel):
    """Firmware of the user's own: code alone is a BIOS, code with a variables template is UEFI in flash memory.

    Raw and qcow2 files are told apart by their content. Relative paths are relative to the definition.
    """

    model_config = _STRICT

    code: Path
    variables: Path | None = None

    def __str__(self) -> str:
        return f"{self.code}:{self.variables}" if self.variables else str(self.code)


class Machine(BaseModel):
    """Virtual hardware: board, firmware, CPU, memory in MiB, disk bus, devices.

    ``firmware``: ``uefi`` without Secure Boot; ``uefi-secure`` with Secure Boot on and keys enrolled; ``bios``.
    ``open_network`` (the guest reaches the world) and ``overrides`` (in words, what was changed) come from the command
    line alone.
    """

    model_config = _STRICT

    name: str
    title: str
    arch: Literal["x86_64", "aarch64"]
    board: Literal["q35", "virt"]
    firmware: Literal["uefi", "uefi-secure", "bios"]
    firmware_files: FirmwareFiles | None = None
    memory_mib: Annotated[int, Field(ge=128, le=65536)]
    cpus: Annotated[int, Field(ge=1, le=64)]
    disk: Literal["virtio-blk", "virtio-scsi", "nvme", "ahci"]
    network: Literal["virtio-net", "e1000e"]
    tpm: Literal["none", "crb", "tis"]
    display: Literal["none", "vga"]
    pvpanic: bool
    watchdog: bool
    vmgenid: bool
    cpu: Cpu
    open_network: bool = False
    overrides: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _fits_together(self) -> Machine:
        board = {"x86_64": "q35", "aarch64": "virt"}[self.arch]
        faults = [
            *([f"board: {self.arch} has board {board!r}, not {self.board!r}"] if self.board != board else []),
            *(["firmware: aarch64 boots by UEFI only"] if self.arch == "aarch64" and self.firmware != "uefi" else []),
            *(["tpm: aarch64 has 'tis' only"] if self.arch == "aarch64" and self.tpm == "crb" else []),
            *(["vmgenid, watchdog: QEMU has them for x86_64"] if self.arch != "x86_64" and self._is_pc_only else []),
            *self._firmware_faults(),
        ]
        if faults:
            raise ValueError("; ".join(faults))
        return self

    @property
    def _is_pc_only(self) -> bool:
        return self.vmgenid or self.watchdog

    def _firmware_faults(self) -> list[str]:
        own = self.firmware_files
        if own is None or (own.variables is None) == (self.firmware == "bios"):
            return []
        if self.firmware == "bios":
            return ["firmware_files: a BIOS is one file, without variables"]
        return [f"firmware_files: {self.firmware} needs a file of variables beside the code"]

    @property
    def qemu(self) -> str:
        """Return the name of the QEMU program for this machine."""
        return f"qemu-system-{self.arch}"

    @property
    def console(self) -> str:
        """Return the name that Linux gives to the first serial port."""
        return {"q35": "ttyS0", "virt": "ttyAMA0"}[self.board]

    def cpu_model(self, accelerator: Accelerator) -> str:
        """Return the CPU model under ``accelerator``."""
        return self.cpu.kvm if accelerator == "kvm" else self.cpu.tcg


def load_machine(name: str, folder: Path) -> Machine:
    """Return machine ``name`` from ``folder``; a ``name`` that ends in ``.toml`` is the path of the user's own file.

    :raises ConfigError: there is no such definition, or it is faulty; every fault is named with its key.
    """
    if name.endswith(_ENDING):
        return _read(Path(name))
    known = sorted(path.stem for path in folder.glob(f"*{_ENDING}"))
    if name not in known:
        raise ConfigError(
            f"unknown machine {name!r}",
            hint=f"known machines: {', '.join(known)}; or give the path of a definition of your own, ending in .toml",
        )
    return _read(folder / f"{name}{_ENDING}")


def _read(path: Path) -> Machine:
    name = path.stem
    try:
        table: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as exc:
        raise ConfigError(f"machine definition {str(path)!r} cannot be read: {exc.strerror}") from exc
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as exc:
        raise ConfigError(f"machine {name!r} is not valid TOML: {exc}", evidence=path) from exc
    if foreign := sorted(_NOT_IN_A_FILE & set(table)):
        raise ConfigError(f"machine {name!r} is not valid: unknown keys {', '.join(foreign)}", evidence=path)
    own = table.get("firmware_files")
    if isinstance(own, dict):
        table["firmware_files"] = {
            key: path.parent / value if isinstance(value, str) else value for key, value in own.items()
        }
    return _validated({"name": name, **table}, f"machine {name!r} is not valid", evidence=path)


def firmware_override(text: str | None) -> dict[str, Any]:
    """Return what the value of ``--firmware`` changes in a machine: a kind, CODE:VARIABLES, or the file of a BIOS."""
    if text is None:
        return {}
    if text in get_args(Machine.model_fields["firmware"].annotation):
        return {"firmware": text}
    code, _, variables = text.partition(":")
    files = FirmwareFiles(code=Path(code), variables=Path(variables) if variables else None)
    return {"firmware_files": files, **({} if variables else {"firmware": "bios"})}


def overridden(machine: Machine, changes: Mapping[str, Any]) -> Machine:
    """Return ``machine`` with the fields in ``changes`` that are not None replaced; each is kept in ``overrides``.

    :raises ConfigError: the machine would not hold together.
    """
    wanted = {key: value for key, value in changes.items() if value is not None and value != getattr(machine, key)}
    if not wanted:
        return machine
    said = tuple(f"{key} {value} instead of {getattr(machine, key)}" for key, value in wanted.items())
    table = {**machine.model_dump(), **wanted, "overrides": (*machine.overrides, *said)}
    return _validated(table, f"machine {machine.name!r} cannot be changed so")


def _validated(table: Mapping[str, Any], text: str, *, evidence: Path | None = None) -> Machine:
    try:
        return Machine.model_validate(table)
    except ValidationError as exc:
        faults = "\n".join(f"  {'.'.join(map(str, f['loc'])) or 'machine'}: {f['msg']}" for f in exc.errors())
        raise ConfigError(f"{text}:\n{faults}", evidence=evidence) from exc
