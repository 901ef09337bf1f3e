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
# The console says nothing of credentials. What systemd could not read in an initrd without the module for fw_cfg, it
# reads in the system proper (seen with systemd 257).
_CREDENTIALS: Final = {
    "credentials": "credentials by SMBIOS need systemd 252 in the image, and its kernel's dmi-sysfs",
    "credentials-fw-cfg": "credentials by fw_cfg need systemd 251 in the image, and its kernel's module qemu_fw_cfg",
}
_ROOT: Final = (
    "does the image ship keys of root's own (systemd adds none to a /root/.ssh/authorized_keys that is there), and "
    "does its sshd let root in (PermitRootLogin, AllowUsers, DenyUsers)? --ssh-user NAME makes a user"
)
_OWN_USER: Final = (
    "does the image (systemd 252) run systemd-sysusers.service and systemd-tmpfiles-setup.service, which make user "
    "{user!r} and its key, and does its sshd let that user in (AllowUsers)?"
)


def advice(route: str, console: str, user: str) -> str:
    """Return what to do about a key of ``user`` that was refused, from what the guest's console said."""
    if route in _CREDENTIALS:
        return f"{_CREDENTIALS[route]}; {_ROOT if user == 'root' else _OWN_USER.format(user=user)}"
    if route in _SEEN:
        name, clues, silent = _SEEN[route]
        if not name.search(console):
            return silent
        found = next((text for pattern, text in clues if pattern.search(console)), "")
        return found or _OTHERS[route]
    return _OTHERS[route]
