"""What systemd says of its units and of its configuration files."""

from __future__ import annotations

import re
from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Final

from seatrial.errors import ObservationError

__all__ = [
    "UNITS",
    "UNIT_FILES",
    "UNIT_FOLDERS",
    "config_command",
    "matching_units",
    "parse_config",
    "parse_presets",
    "parse_unit_files",
    "parse_units",
]

# Where units and their drop-ins are read from (systemd.unit(5)); /lib is a folder of its own where it is no link.
UNIT_FOLDERS: Final = (
    "/etc/systemd/system /etc/systemd/system.control /run/systemd/system /run/systemd/system.control "
    "/run/systemd/generator /run/systemd/generator.early /run/systemd/generator.late /usr/local/lib/systemd/system "
    "/usr/lib/systemd/system $([ -L /lib ] || echo /lib/systemd/system)"
)
# systemd looks through every folder for every unit, for seconds in an emulated guest: with --root systemctl does that,
# by the same rules, and process 1 can answer others meanwhile. It calls a unit disabled, or static, that a link which
# is not of its [Install] section starts: such links are listed as well.
UNIT_FILES: Final = (
    "systemctl --root=/ list-unit-files --no-legend --no-pager --plain || exit; "
    f"for d in {UNIT_FOLDERS}; do for u in $d/*.wants/* $d/*.requires/*; do "
    'if [ -h $u ] || [ -e $u ]; then echo "pulled-in $u"; fi; done; done'
)
UNITS: Final = (
    "systemctl list-units --all --no-legend --no-pager --plain --type=service,socket,timer,target,path,mount,automount"
)

_STATE: Final = re.compile(r"(enabled|linked|masked)(-runtime)?|alias|static|disabled|indirect|generated|transient|bad")
_UNIT: Final = r"\S+\.(?:automount|device|mount|path|scope|service|slice|socket|swap|target|timer)"


def parse_unit_files(text: str) -> Mapping[str, str]:
    """Return unit to state (enabled, masked, static, ...) of ``systemctl list-unit-files``.

    A unit that is disabled or static by that, and that a link below /etc or of a generator pulls in, is ``enabled``;
    one that is disabled and that the vendor's link pulls in is ``wanted``. A vendor's static units stay what they are.

    :raises ObservationError: a line is none, or there is none.
    """
    units: dict[str, str] = {}
    for line in filter(None, text.split("\n")):
        words = line.split()
        if words[:1] == ["pulled-in"]:
            _pull_in(units, line.partition(" ")[2])
            continue
        if len(words) < 2 or not re.fullmatch(_UNIT, words[0]) or not _STATE.fullmatch(words[1]):
            raise ObservationError(f"systemctl said {line[:200]!r}, which is no unit file and its state")
        units[words[0]] = words[1]
    if not units:
        raise ObservationError("systemctl knows no unit file at all")
    return units


def _pull_in(units: dict[str, str], link: str) -> None:
    match = re.fullmatch(r"(/etc|/run|/usr|/lib)/(?:\S+/)?([^/\s]+)\.(?:wants|requires)/([^/\s]+)", link)
    if match is None:
        raise ObservationError(f"a link that pulls a unit in is called {link[:200]!r}")
    place, by, unit = match.groups()
    if units.get(unit) not in {"disabled", "static"} or by.startswith("initrd"):
        return
    if place in {"/etc", "/run"}:
        units[unit] = "enabled"
    elif units[unit] == "disabled":
        units[unit] = "wanted"


def parse_presets(text: str) -> Mapping[str, str]:
    """Return unit to what the presets say of it (enabled, disabled, ignored) of ``systemctl list-unit-files``.

    Units that no preset can change are left out, and so are all where systemctl is too old to say.
    """
    rows = (line.split() for line in text.split("\n"))
    return {words[0]: words[2] for words in rows if len(words) == 3 and words[2] in {"enabled", "disabled", "ignored"}}


def parse_units(text: str) -> Mapping[str, str]:
    """Return unit to activity (active, inactive, failed, ...) of ``systemctl list-units``.

    :raises ObservationError: a line is none, or there is none.
    """
    units = {}
    for line in filter(None, text.split("\n")):
        # A unit that failed or was not found carries a mark in front.
        words = re.sub(r"^[●*x↻○]\s+", "", line.strip()).split()
        if len(words) < 4 or not re.fullmatch(_UNIT, words[0]):
            raise ObservationError(f"systemctl said {line[:200]!r}, which is no unit and its state")
        units[words[0]] = words[2]
    if not units:
        raise ObservationError("systemctl knows no unit at all")
    return units


def matching_units(units: Mapping[str, str], patterns: tuple[str, ...], states: frozenset[str]) -> list[str]:
    """Return ``unit (state)`` for each unit that fits one of ``patterns`` and is in one of ``states``."""
    return [
        f"{unit} ({state})"
        for unit, state in units.items()
        if state in states and any(fnmatchcase(unit, pattern) for pattern in patterns)
    ]


def config_command(name: str) -> str:
    """Return the question for ``name`` (``systemd/journald.conf``) and its drop-ins, in systemd's order."""
    return f"systemd-analyze cat-config --no-pager {name}"


def parse_config(text: str) -> Mapping[str, str]:
    """Return ``Section.Key`` to value of systemd configuration; the last of several wins.

    What stands before a file's first section counts as little as it does for systemd.

    :raises ObservationError: a line is neither section, comment nor ``Key=value``.
    """
    settings: dict[str, str] = {}
    section, before = "", ""
    for line in text.split("\n"):
        stripped = line.strip()
        if not before and re.fullmatch(r"# /\S+\.conf", stripped):  # the next file, as cat-config announces it
            section = ""
        before = stripped
        if not stripped or stripped[0] in "#;":
            continue
        if match := re.fullmatch(r"\[([^\]]+)\]", stripped):
            section = match[1]
            continue
        key, equals, value = stripped.partition("=")
        if not equals:
            raise ObservationError(f"a systemd configuration file holds {line[:200]!r}, which is no 'Key=value'")
        if not section:
            continue
        settings[f"{section}.{key.strip()}"] = value.strip()
    return settings
