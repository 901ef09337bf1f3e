"""Where waivers are read from: a file that the user names, or the one beside the image."""

from __future__ import annotations

from datetime import date
from pathlib import Path

from seatrial.errors import ConfigError
from seatrial.policy.flavours import Flavour
from seatrial.policy.waivers import Waivers, parse_waivers
from seatrial.suites import flavour_names

__all__ = ["read_waivers"]

_SUFFIX = ".waivers.toml"
_MOST_BYTES = 1024 * 1024


def read_waivers(named: Path | None, beside: Path, flavour: Flavour, today: date) -> Waivers:
    """Return the waivers of the file ``named``, else of the one beside ``beside``, else none.

    The file beside ``disk.raw`` is ``disk.raw.waivers.toml`` or ``disk.waivers.toml``.

    :raises ConfigError: the file is missing, cannot be read or is faulty; or there are two beside the image.
    """
    path = named or _beside(beside)
    if path is None:
        return Waivers(items=(), flavour=flavour.name, today=today, file="")
    try:
        with path.open("rb") as file:
            data = file.read(_MOST_BYTES + 1)
        if len(data) > _MOST_BYTES:
            raise ConfigError(f"waivers file {str(path)!r} has more than {_MOST_BYTES >> 20} MiB")
        text = data.decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as exc:
        raise ConfigError(f"waivers file {str(path)!r} cannot be read: {exc}") from exc
    items = parse_waivers(
        text,
        where=f"waivers file {str(path)!r}",
        flavours={*flavour_names(), flavour.name},
        limits=flavour.waivers,
        today=today,
    )
    return Waivers(items=items, flavour=flavour.name, today=today, file=str(path))


def _beside(image: Path) -> Path | None:
    names = dict.fromkeys((image.with_name(image.name + _SUFFIX), image.with_name(image.stem + _SUFFIX)))
    found = [path for path in names if path.exists()]
    if len(found) > 1:
        raise ConfigError(
            f"two waivers files lie beside the image: {str(found[0])!r} and {str(found[1])!r}",
            hint="keep one, or name one with --waivers FILE",
        )
    return found[0] if found else None
