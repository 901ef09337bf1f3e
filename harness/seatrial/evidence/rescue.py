"""What a boot that has failed, or a person at the console, gets: the programs of rescue and emergency mode."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from seatrial.errors import ObservationError
from seatrial.evidence.systemd import TRUE, parse_show

__all__ = ["RESCUE", "RescueMode", "parse_rescue"]

RESCUE: Final = (
    "systemctl show --no-pager -p Id -p LoadState -p ExecStart -p Environment emergency.service rescue.service"
)
_SULOGIN: Final = frozenset({"sulogin", "systemd-sulogin-shell"})
_COMMAND: Final = re.compile(r"\{ path=(\S+) ; argv\[\]=(.*?) ; (?:ignore_errors|flags)=")


@dataclass(frozen=True, slots=True, kw_only=True)
class RescueMode:
    """A unit that gives a shell at the console: ``commands`` are what it starts, program first."""

    unit: str
    is_there: bool
    commands: Sequence[Sequence[str]]
    is_forced: bool

    def open_doors(self) -> list[str]:
        """Return why this gives a shell without asking for root's password; sulogin(8)."""
        if not self.is_there:
            return []
        doors = [f"{self.unit} sets SYSTEMD_SULOGIN_FORCE"] if self.is_forced else []
        doors += [f"{self.unit} starts {' '.join(command)}" for command in self.commands if _is_open(command)]
        return doors


def parse_rescue(text: str) -> Sequence[RescueMode]:
    """Return both units from blocks of ``systemctl show``, set apart by empty lines.

    :raises ObservationError: a unit is missing, or one that is loaded starts nothing that can be read.
    """
    found = [_mode(block) for block in re.split(r"\n{2,}", text.strip("\n")) if block]
    if {mode.unit for mode in found} != {"emergency.service", "rescue.service"}:
        raise ObservationError(
            f"systemctl told of {[mode.unit for mode in found]!r}, expected emergency and rescue mode"
        )
    return found


def _mode(block: str) -> RescueMode:
    # A unit with several commands has several lines of them.
    lines = block.split("\n")
    starts = [line.removeprefix("ExecStart=") for line in lines if line.startswith("ExecStart=")]
    shown = parse_show("\n".join(line for line in lines if not line.startswith("ExecStart=")))
    commands = [tuple(argv.split()) for start in starts for _path, argv in _COMMAND.findall(start)]
    unit, is_there = shown.get("Id", ""), shown.get("LoadState") == "loaded"
    if is_there and (not commands or not all(commands)):
        raise ObservationError(f"{unit[:100]} starts {starts!r}, which cannot be read"[:600])
    words = (word.strip("\"'").partition("=") for word in shown.get("Environment", "").split())
    is_forced = any(name == "SYSTEMD_SULOGIN_FORCE" and value.lower() in TRUE for name, _equals, value in words)
    return RescueMode(unit=unit, is_there=is_there, commands=commands, is_forced=is_forced)


def _is_open(command: Sequence[str]) -> bool:
    name = command[0].lstrip("-@:+!").rpartition("/")[2]
    return name not in _SULOGIN or any(word in {"-e", "--force"} for word in command[1:])
