"""How the run gets in: the flavour's way, overridden by options, with every bad combination found before a boot."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError

from seatrial.errors import ConfigError
from seatrial.guest.keys import LoginKey, load_key
from seatrial.options import Settings
from seatrial.policy.flavours import Access, Flavour

__all__ = ["ChosenAccess", "way_in"]

_MOST_IGNITION: Final = 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class ChosenAccess:
    """The way that was chosen; a ``key`` only where the image lets it in already, an Ignition config only if given."""

    access: Access
    key: LoginKey | None
    ignition: str


def way_in(flavour: Flavour, settings: Settings) -> ChosenAccess:
    """Return how to get into an image of ``flavour``: ``--ssh-key`` alone means a user that the image has already.

    :raises ConfigError: options that contradict each other, a key or a config that cannot be used.
    """
    route = settings.access or ("existing" if settings.ssh_key else flavour.access.route)
    same = route == flavour.access.route
    user = settings.ssh_user or (flavour.access.user if same or route == "existing" else _usual_user(route))
    if route == "existing" and settings.ssh_key is None:
        raise ConfigError(
            f"access route 'existing' logs in as {user!r} with a key that the image lets in, and no key was given",
            hint="--ssh-key FILE names the private key",
        )
    if route != "existing" and settings.ssh_key is not None:
        raise ConfigError(
            f"--ssh-key does not go with access route {route!r}, which brings in a fresh key of its own",
            hint="leave --ssh-key away, or choose --access existing",
        )
    if route != "ignition" and settings.ignition is not None:
        raise ConfigError(
            f"--ignition does not go with access route {route!r}", hint="choose --access ignition, or leave it away"
        )
    if route == "cloud-init" and user == "root":
        raise ConfigError(
            "access route 'cloud-init' makes a user of its own, and cloud-init shuts root's login by default",
            hint="give another --ssh-user, or choose --access credentials",
        )
    return ChosenAccess(
        access=_access(route, user),
        key=load_key(settings.ssh_key) if settings.ssh_key else None,
        ignition=_config(settings.ignition) if settings.ignition else "",
    )


def _usual_user(route: str) -> str:
    return {"ignition": "core", "cloud-init": "seatrial"}.get(route, "root")


def _access(route: str, user: str) -> Access:
    try:
        return Access.model_validate({"route": route, "user": user})
    except ValidationError as exc:
        faults = "; ".join(f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in exc.errors())
        raise ConfigError(f"the way in by route {route!r} as user {user!r} is not valid: {faults}") from exc


def _config(path: Path) -> str:
    """Return the text of an Ignition config of version 3."""
    try:
        text = path.read_text(encoding="utf-8")[: _MOST_IGNITION + 1]
    except (OSError, UnicodeDecodeError) as exc:
        raise ConfigError(f"--ignition {str(path)!r} cannot be read: {exc}", hint="name an Ignition JSON file") from exc
    if len(text) > _MOST_IGNITION:
        raise ConfigError(f"--ignition {str(path)!r} is larger than {_MOST_IGNITION >> 20} MiB")
    try:
        config: Any = json.loads(text)
    except (ValueError, RecursionError) as exc:
        raise ConfigError(
            f"--ignition {str(path)!r} is not JSON: {exc}", hint="Butane YAML is translated by: butane FILE"
        ) from exc
    section = config.get("ignition") if isinstance(config, dict) else None
    version = section.get("version") if isinstance(section, dict) else None
    if not (isinstance(version, str) and version.startswith("3.")):
        raise ConfigError(
            f"--ignition {str(path)!r} has Ignition version {version!r}; version 3 was expected, such as '3.3.0'",
            hint="older configs are translated by ign-converter",
        )
    users = config.get("passwd", {})
    if not isinstance(users, dict) or not isinstance(users.get("users", []), list):
        raise ConfigError(f"--ignition {str(path)!r}: passwd.users is no list")
    return text
