"""What is done at the first boot only, and the marks that it left: whether a later boot did it again."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from seatrial.errors import ObservationError
from seatrial.evidence.systemd import TRUE, parse_show

__all__ = [
    "CONDITIONS",
    "MARKS",
    "SIGNS",
    "conditions_met",
    "first_boot_units",
    "made_anew",
    "parse_marks",
    "signs_of_a_first_boot",
    "unit_conditions",
]

# Lines "file:ConditionFirstBoot=value" of every unit file and drop-in (systemd.unit(5)).
CONDITIONS: Final = (
    "for d in /etc /run /usr/local/lib /usr/lib /lib; do"
    " grep -sH '^ConditionFirstBoot=' $d/systemd/system/*.* $d/systemd/system/*.d/*.conf; done; true"
)
# The words that say so to Ignition and to systemd, and systemd's own note.
SIGNS: Final = "cat /proc/cmdline; ls -d /run/systemd/first-boot 2>/dev/null; true"
# Seconds of the last change, and the file: cloud-init's semaphores, what Ignition and the Azure agent note, the machine
# id (but one that is mounted from memory, which is anew at every boot) and the SSH host keys.
MARKS: Final = (
    "stat -c %Y / >/dev/null || exit 3; "
    "for f in /var/lib/cloud/instances/*/sem/* /var/lib/cloud/sem/* /etc/.ignition-result.json"
    " /var/lib/waagent/provisioned /etc/machine-id $(sshd -T 2>/dev/null | sed -n 's/^hostkey //p'); do"
    ' [ ! -f "$f" ] || grep -qF " $f " /proc/mounts || stat -c "%Y %n" "$f"; done'
)
_WORDS: Final = re.compile(
    r"(flatcar|coreos)\.first_boot(=.*)?|ignition\.firstboot(=.*)?|systemd\.condition.first.boot(=.*)?"
)
_OFF: Final = re.compile(r".*=(0|no|false|off)")
_LINE: Final = re.compile(r"(/[^:]+):ConditionFirstBoot=\s*(\S*)\s*")
_UNIT: Final = re.compile(r"[A-Za-z0-9:_.\\-]{1,200}\.[a-z]{3,12}")
_MARK: Final = re.compile(r"([0-9]{1,12}) (/.+)")
_MOST_UNITS: Final = 200


def first_boot_units(text: str) -> tuple[str, ...]:
    """Return the units that start at a first boot only, from the answer to :data:`CONDITIONS`, but templates.

    A condition that is one of several of which any will do (``|``) decides nothing.

    :raises ObservationError: a line is none, or there are far too many.
    """
    units = set()
    for line in filter(None, text.split("\n")):
        match = _LINE.fullmatch(line)
        if match is None:
            raise ObservationError(f"the guest gave {line[:200]!r}, which is no condition of a unit file")
        *_, folder, name = match[1].split("/")
        unit = folder.removesuffix(".d") if name.endswith(".conf") else name
        if match[2].lower() in TRUE and _UNIT.fullmatch(unit):
            units.add(unit)
    if len(units) > _MOST_UNITS:
        raise ObservationError(f"{len(units)} units are for the first boot only, more than any system has")
    return tuple(sorted(units))


def unit_conditions(units: tuple[str, ...]) -> str:
    """Return the question for whether the conditions of ``units`` were met."""
    return f"systemctl show -p Id -p ConditionResult -p ConditionTimestampMonotonic {' '.join(units)}"


def conditions_met(text: str, units: tuple[str, ...]) -> list[str]:
    """Return which of ``units`` met their conditions in this boot, and so were started.

    :raises ObservationError: one of them is not told of.
    """
    blocks = [parse_show(block) for block in text.split("\n\n") if block.strip()]
    if len(blocks) != len(units) or not all({"Id", "ConditionResult"} <= block.keys() for block in blocks):
        raise ObservationError(f"asked for the conditions of {len(units)} units, the guest told of {len(blocks)}")
    return [
        block["Id"]
        for block in blocks
        if block["ConditionResult"] == "yes" and block.get("ConditionTimestampMonotonic") != "0"
    ]


def signs_of_a_first_boot(text: str) -> list[str]:
    """Return what makes a boot a first one, from the answer to :data:`SIGNS`."""
    return [word for word in text.split() if word == "/run/systemd/first-boot" or _is_on(word)]


def _is_on(word: str) -> bool:
    return bool(_WORDS.fullmatch(word)) and not _OFF.fullmatch(word)


def parse_marks(text: str) -> Mapping[str, int]:
    """Return by file when it was changed last, from the answer to :data:`MARKS`.

    :raises ObservationError: a line is no such mark.
    """
    marks = {}
    for line in filter(None, text.split("\n")):
        match = _MARK.fullmatch(line)
        if match is None:
            raise ObservationError(f"the guest gave {line[:200]!r}, expected a time and a file")
        marks[match[2]] = int(match[1])
    return marks


def made_anew(before: Mapping[str, int], after: Mapping[str, int]) -> list[str]:
    """Return what became of the marks that are not as they were."""
    gone = [f"{path} is gone" for path in before if path not in after]
    new = [f"{path} is new" for path in after if path not in before]
    return [*gone, *new, *(f"{path} was made anew" for path in before if after.get(path, before[path]) != before[path])]
