"""Why a way in did not work, as far as the console tells: what a key that is refused means for each route."""

from __future__ import annotations

import re
from typing import Final

__all__ = ["advice"]

_Clue = tuple[re.Pattern[str], str]
_CLOUD_INIT: Final[tuple[_Clue, ...]] = (
    (
        re.compile(r"DataSourceNone|No instance datasource found|did not find a data ?source", re.IGNORECASE),
        "cloud-init found no seed: is NoCloud in its datasource_list, and can the kernel read iso9660?",
    ),
    (
        re.compile(r"Failed (loading|at merging).{0,80}(yaml|cloud.config)|Unhandled non-multipart", re.IGNORECASE),
        "cloud-init did not take the run's user-data; its version may be too old: --access credentials may work",
    ),
)
_IGNITION: Final[tuple[_Clue, ...]] = (
    (
        re.compile(r"(invalid|unsupported|unknown) config version|config is not valid|failed to (fetch|parse) config"),
        "Ignition did not take the config: does the image know version 3? The console shows its report",
    ),
    (
        re.compile(r"no config(uration)? (at|found|provided)|not a config \(empty\)", re.IGNORECASE),
        "Ignition found no config: was it started with platform 'qemu', and has the kernel qemu_fw_cfg?",
    ),
)
_SEEN: Final = {
    "cloud-init": (
        re.compile(r"cloud-init", re.IGNORECASE),
        _CLOUD_INIT,
        "the console never names cloud-init: is it in the image and enabled? Else choose another --access",
    ),
    "ignition": (
        re.compile(r"ignition", re.IGNORECASE),
        _IGNITION,
        "the console never names Ignition: does the initrd hold it, and is this a first boot?",
    ),
}
_OTHERS: Final = {
    "existing": "does the image have this user (--ssh-user), and the public half of --ssh-key in its authorized_keys?",
    "cloud-init": "the guest ran cloud-init; 'seatrial boot --console' shows how it ended, and what sshd refuses",
    "ignition": "does sshd read what Ignition wrote (~/.ssh/authorized_keys.d/ignition)?",
}


def advice(route: str, console: str) -> str:
    """Return what to do about a key that was refused, from what the guest's console said."""
    if route in _SEEN:
        name, clues, silent = _SEEN[route]
        if not name.search(console):
            return silent
        found = next((text for pattern, text in clues if pattern.search(console)), "")
        return found or _OTHERS[route]
    return _OTHERS.get(
        route, "credentials need systemd 252 (251 by fw_cfg) and an sshd that reads ~/.ssh/authorized_keys"
    )
