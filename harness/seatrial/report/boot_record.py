"""The record of a boot-time measurement: every sample whole, so that another run can be compared with it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from seatrial.errors import ConfigError
from seatrial.evidence.boot_units import Units
from seatrial.report.decode import Fault, decode
from seatrial.report.record import plain

__all__ = [
    "VERSION",
    "BootRecord",
    "HostFacts",
    "Sample",
    "Span",
    "read_boot_record",
    "sample_from_json",
    "spans",
    "to_json",
]

VERSION: Final = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """A unit's start: seconds since the kernel started; ``done_s`` is None for one that was still starting."""

    name: str
    started_s: float
    done_s: float | None

    @property
    def took_s(self) -> float:
        """Return how long the start took; 0 for one that was still starting."""
        return 0.0 if self.done_s is None else self.done_s - self.started_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One boot. ``phases`` and ``milestones`` are seconds; one that does not exist is absent, never zero.

    ``load`` is the host's load average afterwards, ``mhz`` its CPUs' mean frequency (None: unknown), ``wall_s`` what
    the boot took on the host, and ``odd`` what in the guest's own prose contradicts its time stamps.
    """

    number: int
    seed: int | None
    phases: Mapping[str, float]
    milestones: Mapping[str, float]
    units: tuple[Span, ...]
    chain: tuple[str, ...]
    wall_s: float
    load: float
    mhz: float | None
    odd: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class HostFacts:
    """The computer that measured: wall-clock times of one with another fingerprint compare with nothing here."""

    cpu: str
    cpus: int
    kernel: str
    fingerprint: str


@dataclass(frozen=True, slots=True, kw_only=True)
class BootRecord:
    """Boots of one image on one clock. ``clock`` is ``wall`` or ``counted``; ``which`` is ``first`` or ``later``."""

    version: int
    seatrial: str
    image: str
    sha256: str
    flavour: str
    machine: str
    accelerator: str
    clock: str
    shift: int | None
    which: str
    qemu: str
    host: HostFacts
    steps: str
    discarded: int
    samples: tuple[Sample, ...]

    def values(self, quantity: str) -> tuple[float, ...]:
        """Return the samples of a phase or milestone, as far as they have it."""
        every = ({**sample.milestones, **sample.phases}.get(quantity) for sample in self.samples)
        return tuple(value for value in every if value is not None)

    def unit_values(self, name: str) -> tuple[float, ...]:
        """Return how long unit ``name`` took to start in each sample that has it."""
        return tuple(
            span.took_s
            for sample in self.samples
            for span in sample.units
            if span.name == name and span.done_s is not None
        )

    def values_by_seed(self, quantity: str) -> Mapping[int, float]:
        """Return the samples of a phase or milestone by the seed of their boot; empty on the wall clock."""
        every = ((s.seed, {**s.milestones, **s.phases}.get(quantity)) for s in self.samples)
        return {seed: value for seed, value in every if seed is not None and value is not None}

    def unit_values_by_seed(self, name: str) -> Mapping[int, float]:
        """Return how long unit ``name`` took to start, by the seed of the boot; empty on the wall clock."""
        return {
            sample.seed: span.took_s
            for sample in self.samples
            for span in sample.units
            if sample.seed is not None and span.name == name and span.done_s is not None
        }

    @property
    def quantities(self) -> tuple[str, ...]:
        """Return the names of all phases and milestones, in the order of their first appearance."""
        return tuple(dict.fromkeys(name for s in self.samples for name in (*s.phases, *s.milestones)))

    @property
    def unit_names(self) -> tuple[str, ...]:
        """Return the names of all units."""
        return tuple(dict.fromkeys(span.name for sample in self.samples for span in sample.units))


def spans(units: Units) -> tuple[Span, ...]:
    """Return ``units`` in the order of their start."""
    ordered = sorted(units.values(), key=lambda unit: (unit.started_s, unit.name))
    return tuple(Span(name=u.name, started_s=u.started_s, done_s=u.done_s) for u in ordered)


def sample_from_json(value: object) -> Sample:
    """Return the sample that :func:`seatrial.report.record.plain` made ``value`` of.

    :raises ValueError: it is none.
    """
    return decode(Sample, value)


def to_json(record: BootRecord) -> str:
    """Return ``record`` as JSON text in ASCII."""
    return json.dumps(plain(record), indent=1, ensure_ascii=True, allow_nan=False) + "\n"


def read_boot_record(path: Path) -> BootRecord:
    """Return the measurement in file ``path``.

    :raises ConfigError: there is none, or it is of another version or form.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(value, dict) or value.get("version") != VERSION:
            raise ConfigError(f"{str(path)!r} is no boot-time record of version {VERSION}")
        record = decode(BootRecord, value)
    except (OSError, ValueError, RecursionError) as exc:
        kind = "is not valid" if isinstance(exc, Fault) else "cannot be read"
        raise ConfigError(
            f"boot-time record {str(path)!r} {kind}: {exc}", hint="'seatrial boot-time IMAGE --save FILE' writes one"
        ) from exc
    if not record.samples:
        raise ConfigError(f"boot-time record {str(path)!r} holds no boot")
    return record
