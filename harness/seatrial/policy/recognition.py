"""Which flavour an image is, by what its os-release says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from seatrial.errors import ConfigError
from seatrial.policy.controls import HostKind

__all__ = ["Recognised", "Rules", "kind_by_usr", "recognise"]

Rules = Mapping[str, Sequence[Mapping[str, str]]]
# What an image is, before what it is made from: ID alone says "azurelinux" of three things that differ in kind.
_ORDER = ("VARIANT_ID", "ID", "ID_LIKE")


@dataclass(frozen=True, slots=True)
class Recognised:
    """A flavour, and by what it was recognised, in words."""

    flavour: str
    because: str


def recognise(os_release: Mapping[str, str], rules: Rules, *, kind: HostKind | None) -> Recognised | None:
    """Return the flavour of a system; for an unknown one the general flavour of its ``kind``, if that is known.

    :param rules: by flavour, alternatives; each is names of os-release with globs for their values. One that names
        VARIANT_ID goes before one that names ID, that before ID_LIKE, and within these the one that names most, then
        the one with the fewest globs.
    :raises ConfigError: two flavours claim the system with equal right.
    """
    claims = [
        (_rank(rule), flavour, rule)
        for flavour, alternatives in rules.items()
        for rule in alternatives
        if all(_holds(name, pattern, os_release) for name, pattern in rule.items())
    ]
    if claims:
        best = min(rank for rank, _flavour, _rule in claims)
        first, *others = [(flavour, rule) for rank, flavour, rule in claims if rank == best]
        if rivals := sorted({flavour for flavour, _rule in others} - {first[0]}):
            raise ConfigError(
                f"flavours {first[0]!r} and {', '.join(map(repr, rivals))} both claim {_said(os_release)}"
            )
        return Recognised(first[0], " ".join(f"{name}={os_release[name]}" for name in first[1]))
    if kind is None:
        return None
    return Recognised(kind, f"no flavour claims {_said(os_release)}; it is judged as {kind}, by how /usr is mounted")


def kind_by_usr(is_read_only: bool) -> HostKind:
    """Return the kind of a system that nobody knows: one whose /usr cannot be written to is an immutable host."""
    return "immutable-host" if is_read_only else "general-purpose"


def _holds(name: str, pattern: str, os_release: Mapping[str, str]) -> bool:
    value = os_release.get(name)
    if value is None:
        return False
    values = value.split() if name == "ID_LIKE" else [value]
    return any(fnmatchcase(one, pattern) for one in values)


def _rank(rule: Mapping[str, str]) -> tuple[int, int, int]:
    place = next((number for number, name in enumerate(_ORDER) if name in rule), len(_ORDER))
    return place, -len(rule), sum(any(letter in pattern for letter in "*?[") for pattern in rule.values())


def _said(os_release: Mapping[str, str]) -> str:
    named = [f"{name}={os_release[name]}" for name in ("VARIANT_ID", "ID", "VERSION_ID") if name in os_release]
    return " ".join(named) or "a system without ID in os-release"
