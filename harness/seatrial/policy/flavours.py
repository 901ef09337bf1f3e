"""Flavours: what an image is, how one gets in, and the values that its policy expects; with inheritance."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
    model_validator,
)

from seatrial.errors import ConfigError
from seatrial.policy.controls import HostKind

__all__ = [
    "Access",
    "Because",
    "Budgets",
    "Deviation",
    "Flavour",
    "LynisPolicy",
    "Origin",
    "Quantity",
    "Route",
    "WaiverLimits",
    "explain_flavour",
    "lineage",
    "load_flavour",
    "merged_budgets",
]

Seconds = Annotated[float, Field(gt=0)]
_STRICT = ConfigDict(frozen=True, extra="forbid")
_UNIT = "unit_s"
_PHASES = frozenset({"firmware_s", "loader_s", "kernel_s", "initrd_s", "userspace_s"})


def _is_pattern(text: str) -> str:
    try:
        re.compile(text)
    except re.error as exc:
        raise ValueError(f"{text!r} is no regular expression: {exc}") from exc
    return text


Quantity = Literal[
    "disk_mib",
    "used_mib",
    "packages",
    "programs",
    "docs_kib",
    "idle_memory_mib",
    "listeners",
    "set_id_programs",
    "file_capabilities",
    "services",
    "timers",
    "processes",
    "modules",
    "bus_services",
]
Route = Literal["credentials", "credentials-fw-cfg", "cloud-init", "ignition", "existing"]


class Access(BaseModel):
    """How the run gets a root shell: the provisioning route, and the user that it provides.

    ``credentials`` are systemd's, by SMBIOS where that is sure to arrive; ``credentials-fw-cfg`` the same by QEMU's
    fw_cfg; ``existing`` brings nothing in: the image has the user and its key.
    """

    model_config = _STRICT

    route: Route
    user: Annotated[str, Field(pattern=r"^[a-z_][a-z0-9_-]{0,31}$")]


class Budgets(BaseModel):
    """Limits for boot times in seconds, one table a clock: a budget of another clock or machine judges nothing.

    ``kvm`` and ``tcg`` are for the wall clock on that accelerator, ``counted`` for the clock that counts instructions.
    ``unit_s`` in a table is the limit for every unit but those that ``slow_units`` (glob patterns) names. ``growth`` is
    in percent against a baseline: ``total_s``, ``phase_s`` for each phase, ``unit_s`` for each unit, or a phase's name.
    ``latency`` is for KVM: ``max_us``, the longest wake-up in microseconds. ``footprint`` holds sizes and counts, which
    depend on no clock. ``machine`` is the machine definition that the limits are for; by default the flavour's own.
    """

    model_config = _STRICT

    machine: str | None = None
    kvm: Mapping[str, Seconds] = {}
    tcg: Mapping[str, Seconds] = {}
    counted: Mapping[str, Seconds] = {}
    growth: Mapping[str, Seconds] = {}
    latency: Mapping[Literal["max_us"], Annotated[float, Field(gt=0)]] = {}
    footprint: Mapping[Quantity, Annotated[float, Field(ge=0)]] = {}
    slow_units: tuple[str, ...] = ()

    def limits(self, clock: str) -> Mapping[str, float]:
        """Return the limits of phases and milestones on ``clock`` (``kvm``, ``tcg``, ``counted``); others have none."""
        every = {"kvm": self.kvm, "tcg": self.tcg, "counted": self.counted}.get(clock, {})
        return {name: limit for name, limit in every.items() if name != _UNIT}

    def unit_limit(self, clock: str) -> float | None:
        """Return the limit of a single unit on ``clock``, None when there is none."""
        return {"kvm": self.kvm, "tcg": self.tcg, "counted": self.counted}.get(clock, {}).get(_UNIT)

    def growth_limit(self, quantity: str) -> float | None:
        """Return by how many percent ``quantity`` (``kernel_s``, ``unit_s``) may grow, None for no limit."""
        general = self.growth.get("phase_s") if quantity in _PHASES else None
        return self.growth.get(quantity, general)

    def is_slow(self, unit: str) -> bool:
        """Return whether ``unit`` is one of those that may be slow."""
        return any(fnmatchcase(unit, pattern) for pattern in self.slow_units)


class WaiverLimits(BaseModel):
    """What waivers the policy lets count; what it does not say is not limited.

    ``most`` waivers in a file; ``longest_days`` from today to an expiry; ``most_extensions`` of one waiver;
    ``oldest_days`` from the day that a waiver was granted to its expiry, which makes ``granted`` required.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    most: Annotated[int | None, Field(ge=0)] = None
    longest_days: Annotated[int | None, Field(ge=1, alias="longest-days")] = None
    most_extensions: Annotated[int | None, Field(ge=0, alias="most-extensions")] = None
    oldest_days: Annotated[int | None, Field(ge=1, alias="oldest-days")] = None


class LynisPolicy(BaseModel):
    """What lynis findings mean for the decision.

    ``accepted`` says why findings are accepted: of a whole test (``"AUTH-9286"``), or a single one, by the id of its
    verdict (``"lynis-ssh-7408-port"``).
    """

    model_config = _STRICT

    gate_on_suggestions: bool
    accepted: Mapping[
        Annotated[str, Field(pattern=r"^([A-Z][A-Z0-9]{1,15}(-[0-9]{1,6})?|lynis(-[a-z0-9]+)+)$")],
        Annotated[str, Field(min_length=1)],
    ] = {}
    min_index: Annotated[int, Field(ge=0, le=100)]


class Because(BaseModel):
    """Why a flavour deviates from what it inherits, and where that is written."""

    model_config = _STRICT

    reason: Annotated[str, Field(min_length=1)]
    source: Annotated[str, Field(min_length=1)]


class Deviation(Because):
    """How a control is judged on this flavour: by another probe than its row's, or not at all.

    One that has neither takes an inherited deviation back.
    """

    probe: Mapping[str, Any] | None = None
    applies: bool = True

    @model_validator(mode="after")
    def _not_both(self) -> Deviation:
        if self.probe is not None and not self.applies:
            raise ValueError("a deviation has either another probe, or applies = false")
        return self


class Flavour(BaseModel):
    """A kind of image with its policy. ``expect`` holds the lists that audits compare with (allow-lists).

    ``console_accepted`` (in the file: ``[console-accepted]``) maps regular expressions for ``title: line`` of a finding
    on the console to the reason why it is accepted.
    ``recognise`` holds alternatives, each names of os-release with globs; it is not inherited. ``deviations`` are by
    control.
    """

    model_config = _STRICT

    name: Annotated[str, Field(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$")]
    title: str
    kind: HostKind
    machine: str
    access: Access
    budgets: Budgets = Budgets()
    lynis: LynisPolicy
    waivers: WaiverLimits = WaiverLimits()
    expect: Mapping[str, tuple[str, ...]]
    console_accepted: Annotated[
        Mapping[Annotated[str, AfterValidator(_is_pattern)], Annotated[str, Field(min_length=1)]],
        Field(alias="console-accepted"),
    ] = {}
    deviations: Mapping[str, Deviation] = {}
    recognise: tuple[Annotated[Mapping[str, str], Field(min_length=1)], ...] = ()

    def allowed(self, key: str) -> tuple[str, ...]:
        """Return the list that the policy holds under ``expect.key``.

        :raises ConfigError: the flavour does not say; nothing is assumed.
        """
        try:
            return self.expect[key]
        except KeyError:
            raise ConfigError(
                f"flavour {self.name!r} has no list 'expect.{key}', which a selected control compares with",
                hint=f"add '{key} = [...]' to [expect] in the file {self.name}.toml or one that it inherits",
            ) from None


@dataclass(frozen=True, slots=True)
class Origin:
    """One value of a flavour's effective policy: which flavour of the chain says it, and why, where it says so."""

    key: str
    value: object
    flavour: str
    reason: str
    source: str


@dataclass(frozen=True, slots=True)
class _Layer:
    name: str
    table: Mapping[str, Any]
    because: Mapping[str, Because]


def load_flavour(
    name: str, read: Callable[[str], str | None], *, known: tuple[str, ...], called: str | None = None
) -> Flavour:
    """Return flavour ``name`` with all that it inherits; ``read`` gives the text of one flavour's table or None.

    :param called: what the flavour is called where that is not ``name``: one that is read from a file of its own.
    :raises ConfigError: unknown flavour, a circle of inheritance, or a faulty table.
    """
    layers = _layers(name, read, known)
    merged: dict[str, Any] = {}
    for layer in layers:
        merged = _merge(layer.table, merged)
    if merged.pop("abstract", False) and "abstract" in layers[0].table:
        raise ConfigError(
            f"flavour {name!r} is a base for others and no image's flavour", hint=f"known flavours: {', '.join(known)}"
        )
    try:
        return Flavour.model_validate({**merged, "name": called or name})
    except ValidationError as exc:
        chain = " -> ".join(layer.name for layer in layers)
        raise ConfigError(f"flavour {name!r} ({chain}) is not valid:\n{_faults(exc)}") from exc


def explain_flavour(
    name: str, read: Callable[[str], str | None], *, known: tuple[str, ...], called: str | None = None
) -> tuple[Origin, ...]:
    """Return the effective policy of flavour ``name``, value by value, each with where it comes from.

    :raises ConfigError: as :func:`load_flavour`.
    """
    load_flavour(name, read, known=known, called=called)
    origins: dict[str, Origin] = {}
    for layer in reversed(_layers(name, read, known)):
        for key, value in _flat(layer.table):
            inline = Because(reason=value["reason"], source=value["source"]) if key.startswith("deviations.") else None
            because = layer.because.get(key, inline)
            origins[key] = Origin(
                key, value, layer.name, because.reason if because else "", because.source if because else ""
            )
    return tuple(origins[key] for key in sorted(origins) if key != "abstract")


def lineage(name: str, read: Callable[[str], str | None], *, known: tuple[str, ...]) -> tuple[str, ...]:
    """Return ``name`` and the flavours that it inherits, the nearest first.

    :raises ConfigError: as :func:`load_flavour`.
    """
    return tuple(layer.name for layer in _layers(name, read, known))


def _layers(name: str, read: Callable[[str], str | None], known: tuple[str, ...]) -> tuple[_Layer, ...]:
    """Return the tables of ``name`` and of all that it inherits, the nearest first."""
    layers: list[_Layer] = []
    current: str | None = name
    while current is not None:
        chain = [layer.name for layer in layers]
        if current in chain:
            raise ConfigError(f"flavour {name!r} inherits in a circle: {' -> '.join([*chain, current])}")
        text = read(current)
        if text is None:
            raise ConfigError(
                f"unknown flavour {current!r}" + (f", inherited by {chain[-1]!r}" if chain else ""),
                hint=f"known flavours: {', '.join(known)}",
            )
        try:
            table = tomllib.loads(text)
        except tomllib.TOMLDecodeError as exc:
            raise ConfigError(f"flavour {current!r} is not valid TOML: {exc}") from exc
        parent = table.pop("inherits", None)
        if parent is not None and not isinstance(parent, str):
            raise ConfigError(
                f"flavour {current!r} inherits {parent!r}, expected the name of one flavour",
                hint='inherits = "debian-general"',
            )
        if layers:
            table.pop("recognise", None)
        because = _because(current, table)
        layers.append(_Layer(current, table, because))
        current = parent
    return tuple(layers)


def _because(name: str, table: dict[str, Any]) -> Mapping[str, Because]:
    try:
        found = TypeAdapter(dict[str, Because]).validate_python(table.pop("because", {}))
    except ValidationError as exc:
        raise ConfigError(f"flavour {name!r} has reasons that are not valid:\n{_faults(exc)}") from exc
    if strange := sorted(found.keys() - {key for key, _value in _flat(table)}):
        raise ConfigError(f"flavour {name!r} gives reasons for what it does not set: {', '.join(strange)}")
    return found


def _flat(table: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """Give the values of ``table`` with dotted keys; a deviation is one value."""
    for key, value in table.items():
        if isinstance(value, dict) and above != "deviations.":
            yield from _flat(value, f"{above}{key}.")
        else:
            yield f"{above}{key}", value


def _faults(exc: ValidationError) -> str:
    return "\n".join(f"  {'.'.join(map(str, f['loc']))}: {f['msg']}" for f in exc.errors())


def merged_budgets(flavour: Flavour, text: str, *, where: str) -> Budgets:
    """Return the flavour's budgets with those in ``text`` (TOML, a ``[budgets.*]`` table as in a flavour) laid over.

    :raises ConfigError: the text is not valid, or holds anything else.
    """
    try:
        table = tomllib.loads(text)
        if table.keys() - {"budgets"}:
            raise ConfigError(
                f"{where} holds {', '.join(sorted(table.keys() - {'budgets'}))}; only budgets are read here"
            )
        own = flavour.budgets.model_dump(exclude_unset=True)
        return Budgets.model_validate(_merge(own, table.get("budgets", {})))
    except tomllib.TOMLDecodeError as exc:
        raise ConfigError(f"{where} is not valid TOML: {exc}") from exc
    except ValidationError as exc:
        faults = "\n".join(f"  budgets.{'.'.join(map(str, f['loc']))}: {f['msg']}" for f in exc.errors())
        raise ConfigError(f"{where} is not valid:\n{faults}") from exc


def _merge(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    both = {
        # A deviation is taken whole: a probe of one flavour does not go with another one's reason.
        key: {**under[key], **over[key]} if key == "deviations" else _merge(under[key], over[key])
        for key in under.keys() & over.keys()
        if isinstance(under[key], dict) and isinstance(over[key], dict)
    }
    return {**under, **over, **both}
