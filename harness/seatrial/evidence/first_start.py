"""When this guest was first started: the run's own key was brought then, whatever the guest has been through since."""

from __future__ import annotations

import shlex
from typing import Final

from seatrial.errors import ObservationError

__all__ = ["OWN_KEY_FILES", "first_start_s", "started_command"]

# sshd's own file, and the fragment that Ignition leaves, which only some images merge into it.
OWN_KEY_FILES: Final = ("authorized_keys", "authorized_keys.d/ignition")
# How long before the run's own key, by the guest's clock, the first boot may have begun.
_FIRST_BOOT_S: Final = 900


def started_command(home: str, *, by_ignition: bool) -> str:
    """Return the question when the guest was booted, and when the run's key came into ``home``."""
    key, fragment = (shlex.quote(f"{home.rstrip('/')}/.ssh/{name}") for name in OWN_KEY_FILES)
    find = f"stat -c %Y {key}"
    if by_ignition:
        find = f"if [ -e {fragment} ]; then stat -c %Y {fragment}; else {find}; fi"
    return f"sed -n 's/^btime //p' /proc/stat && {find}"


def first_start_s(text: str, *, is_shipped: bool) -> int:
    """Return since when the guest can have made things of its own, in seconds since 1970 by its clock.

    When this is a later boot, the first began a little before the key came.

    :param text: what :func:`started_command` gave.
    :param is_shipped: the image has the key, which says nothing of a first boot.
    :raises ObservationError: those are not two times.
    """
    times = text.split()
    if len(times) != 2 or not all(time.isdigit() for time in times):
        raise ObservationError(f"boot time and the time of the run's key are not two numbers: {times!r}")
    booted, provisioned = int(times[0]), int(times[1])
    return booted if provisioned >= booted or is_shipped else provisioned - _FIRST_BOOT_S
