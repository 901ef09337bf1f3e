"""What a boot that has failed, or a person at the console, gets: the programs of rescue and emergency mode."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from seatrial.errors import ObservationError
from seatrial.evidence.systemd import TRUE, parse_show

__all__ = ["RESCUE", "RescueMode", "parse_rescue"]

RESCUE: Final = (
    "systemctl show --no-pager -p Id -p LoadState -p ExecStart -p Environment emergency.service rescue.service && "
    # What the manager hands to every unit (DefaultEnvironment= of systemd-system.conf(5), systemd.setenv=).
    "echo && echo Id=manager && systemctl show --no-pager -p Environment"
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
    *blocks, manager = re.split(r"\n{2,}", text.strip("\n"))
    found = [_mode(block) for block in blocks if block]
    if {mode.unit for mode in found} != {"emergency.service", "rescue.service"}:
        raise ObservationError(
            f"systemctl told of {[mode.unit for mode in found]!r}, expected emergency and rescue mode"
        )
    name, _newline, environment = manager.partition("\n")
    if name != "Id=manager":
        raise ObservationError(f"systemctl told {manager[:200]!r} last, expected the service manager's environment")
    forced = _is_forced(parse_show(environment).get("Environment", ""))
    return [replace(mode, is_forced=mode.is_forced or forced) for mode in found]


def _mode(block: str) -> RescueMode:
    # A unit with several commands has several lines of them.
    lines = block.split("\n")
    starts = [line.removeprefix("ExecStart=") for line in lines if line.startswith("ExecStart=")]
    shown = parse_show("\n".join(line for line in lines if not line.startswith("ExecStart=")))
    commands = [tuple(argv.split()) for start in starts for _path, argv in _COMMAND.findall(start)]
    unit, is_there = shown.get("Id", ""), shown.get("LoadState") == "loaded"
    if is_there and (not commands or not all(commands)):
        raise ObservationError(f"{unit[:100]} starts {starts!r}, which cannot be read"[:600])
    is_forced = _is_forced(shown.get("Environment", ""))
    return RescueMode(unit=unit, is_there=is_there, commands=commands, is_forced=is_forced)


def _is_forced(environment: str) -> bool:
    words = (word.strip("\"'").partition("=") for word in environment.split())
    return any(name == "SYSTEMD_SULOGIN_FORCE" and value.lower() in TRUE for name, _equals, value in words)


def _is_open(command: Sequence[str]) -> bool:
    name = command[0].lstrip("-@:+!").rpartition("/")[2]
    return name not in _SULOGIN or any(word in {"-e", "--force"} for word in command[1:])
