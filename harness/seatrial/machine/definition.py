"""Machine definitions: the virtual hardware an image is booted on, as read from ``qemu/machines/*.toml``."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from seatrial.errors import ConfigError

__all__ = ["Accelerator", "Cpu", "Machine", "load_machine"]

Accelerator = Literal["kvm", "tcg"]
_STRICT = ConfigDict(frozen=True, extra="forbid")


class Cpu(BaseModel):
    """The CPU model for each accelerator, as QEMU's ``-cpu`` takes it."""

    model_config = _STRICT

    kvm: str
    tcg: str


class Machine(BaseModel):
    """Virtual hardware: board, firmware, CPU, memory in MiB, disk bus."""

    model_config = _STRICT

    name: str
    title: str
    arch: Literal["x86_64"]
    board: Literal["q35"]
    firmware: Literal["uefi", "bios"]
    memory_mib: Annotated[int, Field(ge=128, le=65536)]
    cpus: Annotated[int, Field(ge=1, le=64)]
    disk: Literal["virtio-blk", "virtio-scsi"]
    cpu: Cpu

    @property
    def qemu(self) -> str:
        """Return the name of the QEMU program for this machine."""
        return f"qemu-system-{self.arch}"


def load_machine(name: str, folder: Path) -> Machine:
    """Return machine ``name`` from ``folder``.

    :raises ConfigError: there is no such definition, or it is faulty.
    """
    known = sorted(path.stem for path in folder.glob("*.toml"))
    if name not in known:
        raise ConfigError(f"unknown machine {name!r}", hint=f"known machines: {', '.join(known)}")
    path = folder / f"{name}.toml"
    try:
        return Machine.model_validate({"name": name, **tomllib.loads(path.read_text(encoding="utf-8"))})
    except tomllib.TOMLDecodeError as exc:
        raise ConfigError(f"machine {name!r} is not valid TOML: {exc}", evidence=path) from exc
    except ValidationError as exc:
        faults = "\n".join(f"  {'.'.join(map(str, f['loc']))}: {f['msg']}" for f in exc.errors())
        raise ConfigError(f"machine {name!r} is not valid:\n{faults}", evidence=path) from exc
