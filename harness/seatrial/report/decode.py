"""Reads JSON into frozen dataclasses by their annotations, strictly: no key too many, none missing, no other type."""

from __future__ import annotations

import math
import types
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from datetime import datetime
from enum import StrEnum
from typing import Final, TypeVar, Union, get_args, get_origin, get_type_hints

__all__ = ["Fault", "decode"]

T = TypeVar("T")


class Fault(ValueError):
    """A value does not fit; the message names its place, what was expected and what was there."""


def decode(kind: type[T], value: object, place: str = "$") -> T:
    """Return ``value`` (as ``json.loads`` gives it) as a ``kind``.

    :raises Fault: it does not fit.
    """
    result = _decode(kind, value, place)
    assert isinstance(result, kind)
    return result


def _decode(kind: object, value: object, place: str) -> object:
    origin, args = get_origin(kind), get_args(kind)
    if origin in (types.UnionType, Union):  # only ``X | None`` occurs in our records
        return None if value is None else _decode(next(a for a in args if a is not type(None)), value, place)
    if origin is tuple:
        items = _as(list, value, place)
        return tuple(_decode(args[0], item, f"{place}[{index}]") for index, item in enumerate(items))
    if origin is Mapping:
        return {key: _decode(args[1], item, f"{place}.{key}") for key, item in _as(dict, value, place).items()}
    if not isinstance(kind, type):
        raise TypeError(f"{place}: no JSON form is known for {kind!r}")
    if is_dataclass(kind):
        return _decode_record(kind, _as(dict, value, place), place)
    if issubclass(kind, StrEnum):
        return _decode_enum(kind, value, place)
    return _SCALARS[kind](value, place)


def _decode_record(kind: type, value: Mapping[str, object], place: str) -> object:
    names = [field.name for field in fields(kind)]
    if missing := [name for name in names if name not in value]:
        raise Fault(f"{place}: missing {', '.join(missing)}")
    if unknown := sorted(value.keys() - set(names)):
        raise Fault(f"{place}: unknown {', '.join(map(repr, unknown))}; known are {', '.join(names)}")
    hints = get_type_hints(kind)
    decoded = {name: _decode(hints[name], value[name], f"{place}.{name}") for name in names}
    try:
        return kind(**decoded)
    except ValueError as exc:
        raise Fault(f"{place}: {exc}") from exc


def _decode_enum(kind: type[StrEnum], value: object, place: str) -> StrEnum:
    try:
        return kind(_as(str, value, place))
    except ValueError:
        raise Fault(f"{place}: expected one of {', '.join(kind)}, found {value!r}") from None


def _as(kind: type[T], value: object, place: str) -> T:
    # bool is an int to Python, and is none to JSON.
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise Fault(f"{place}: expected {kind.__name__}, found {type(value).__name__} {value!r:.80}")
    return value


def _number(value: object, place: str) -> float:
    number = float(_as(int, value, place)) if isinstance(value, int) else _as(float, value, place)
    if not math.isfinite(number):
        raise Fault(f"{place}: expected a finite number, found {number}")
    return number


def _moment(value: object, place: str) -> datetime:
    try:
        moment = datetime.fromisoformat(_as(str, value, place))
    except ValueError as exc:
        raise Fault(f"{place}: expected a time as in RFC 3339, found {value!r}") from exc
    if moment.tzinfo is None:
        raise Fault(f"{place}: expected a time with its zone, found {value!r}")
    return moment


_SCALARS: Final[Mapping[type, Callable[[object, str], object]]] = {
    str: lambda value, place: _as(str, value, place),
    bool: lambda value, place: _as(bool, value, place),
    int: lambda value, place: _as(int, value, place),
    float: _number,
    datetime: _moment,
}
