"""Programs that the kernel starts by itself, as root: which, whose, and who could put another in their place."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from seatrial.errors import ObservationError

__all__ = ["USERMODE", "UsermodeHelper", "parse_usermode"]

_KEYS: Final = (
    "/proc/sys/kernel/modprobe",
    "/proc/sys/kernel/core_pattern",
    "/proc/sys/kernel/hotplug",
    "/proc/sys/kernel/poweroff_cmd",
    "/sys/kernel/uevent_helper",
)
# What the kernel has there by itself (kernel/reboot.c); an image need not have it.
_OWN_POWEROFF: Final = ("/proc/sys/kernel/poweroff_cmd", "/sbin/poweroff", "missing")
USERMODE: Final = (
    f"for k in {' '.join(_KEYS)}; do if [ -e $k ]; then v=$(head -n 1 $k); p=${{v#|}}; p=${{p%% *}}; r=-; s=-; "
    'case $p in /*) r=$(readlink -f "$p"); s=$(stat -c "%u %a" "$r" 2>/dev/null || echo missing) ;; esac; '
    'printf \'%s\\t%s\\t%s\\t%s\\n\' "$k" "$v" "${r:--}" "$s"; fi; done'
)


@dataclass(frozen=True, slots=True, kw_only=True)
class UsermodeHelper:
    """One setting: its file, its value, the program behind it (links followed), and that program's owner and mode."""

    key: str
    value: str
    program: str
    owner_and_mode: str

    @property
    def starts_a_program(self) -> bool:
        """Return whether the kernel starts anything: an empty value or a plain name of core files does not."""
        return bool(self.value) and (not self.key.endswith("core_pattern") or self.value.startswith("|"))

    @property
    def fault(self) -> str:
        """Return what is wrong with the program, nothing when it is root's own below /usr."""
        if not self.starts_a_program or (self.key, self.value, self.owner_and_mode) == _OWN_POWEROFF:
            return ""
        if not self.program.startswith("/usr/"):
            return f"{self.key} = {self.value}: outside of /usr"
        owner, _, mode = self.owner_and_mode.partition(" ")
        if owner != "0" or not mode or int(mode, 8) & 0o022:
            return f"{self.key} = {self.value}: owner and mode {self.owner_and_mode}"
        return ""


def parse_usermode(text: str) -> tuple[UsermodeHelper, ...]:
    """Return what :data:`USERMODE` found.

    :raises ObservationError: a line is none, or the setting that every kernel has is missing.
    """
    found = []
    for line in filter(None, text.split("\n")):
        key, *rest = line.split("\t")
        if key not in _KEYS or len(rest) != 3 or not _is_owner_and_mode(rest[2]):
            raise ObservationError(f"the kernel's helpers gave {line[:200]!r}, which is no 'key, value, program, mode'")
        found.append(UsermodeHelper(key=key, value=rest[0], program=rest[1], owner_and_mode=rest[2]))
    if _KEYS[1] not in {one.key for one in found}:
        raise ObservationError(f"{_KEYS[1]} is on every Linux, but the guest named {[one.key for one in found]!r}")
    return tuple(found)


def _is_owner_and_mode(text: str) -> bool:
    owner, _, mode = text.partition(" ")
    return text in {"-", "missing"} or (
        owner.isdecimal() and mode.isascii() and 0 < len(mode) < 6 and set(mode) <= set("01234567")
    )
