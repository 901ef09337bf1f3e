"""What the system manager says of itself and of its units, and the phases of a boot in seconds."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from seatrial.errors import ObservationError

__all__ = [
    "FAILED",
    "FALSE",
    "JOBS",
    "MANAGER",
    "SERVICES",
    "TRUE",
    "UNSETTLED",
    "Phases",
    "Service",
    "boot_phases",
    "parse_jobs",
    "parse_services",
    "parse_show",
    "slower_by_s",
]

# What systemd takes for a yes and for a no (systemd.syntax(7)), in lower case.
TRUE: Final = frozenset({"1", "y", "yes", "t", "true", "on"})
FALSE: Final = frozenset({"0", "n", "no", "f", "false", "off"})
_TIMES: Final = ("Firmware", "Loader", "InitRD", "Userspace", "Finish")
MANAGER: Final = "systemctl show " + " ".join(
    f"-p {name}"
    for name in (
        "SystemState",
        "NFailedUnits",
        "NJobs",
        "CtrlAltDelBurstAction",
        *(f"{time}TimestampMonotonic" for time in _TIMES),
    )
)
# A job that is really stuck outlives ten looks, unlike one that somebody starts just now.
JOBS: Final = (
    "jobs() { systemctl list-jobs --no-legend --no-pager --plain; }; n=0; j=$(jobs) || exit; "
    'while [ -n "$j" ] && [ "$j" != "No jobs running." ] && [ $n -lt 10 ]; do sleep 1; n=$((n+1)); j=$(jobs) || exit; '
    'done; printf "%s\\n" "$j"'
)
FAILED: Final = "systemctl list-units --all --no-legend --no-pager --plain --state=failed"
# Only services can restart, and showing every unit costs seconds in an emulated guest.
SERVICES: Final = (
    "systemctl show --no-pager --type=service --state=running,auto-restart,activating,failed "
    "-p Id -p ActiveState -p SubState -p Result -p NRestarts '*'"
)
# Not "reloading" alone: units that never come to rest in whatever direction. A service whose program ends just now is
# none of them: it is looked for ten seconds.
UNSETTLED: Final = (
    "moving() { systemctl list-units --all --no-legend --no-pager --plain "
    "--state=activating,deactivating,reloading,refreshing; }; n=0; m=$(moving) || exit; "
    'while [ -n "$m" ] && [ $n -lt 10 ]; do sleep 1; n=$((n+1)); m=$(moving) || exit; done; printf "%s\\n" "$m"'
)
# A host without KVM and with three times as many busy processes as processors slowed all phases by 2.5.
_MOST_SLOWER: Final = 4.0
# Half a second of the kernel's, as under KVM, varies by itself too much to tell how busy the host was.
_LEAST_KERNEL_S: Final = 2.0
_PROPERTY: Final = re.compile(r"([A-Za-z][A-Za-z0-9]*)=(.*)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """A service: ``state`` is its ActiveState, ``restarts`` counts automatic restarts."""

    name: str
    state: str
    sub_state: str
    result: str
    restarts: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Phases:
    """Seconds that a boot spent; None when the phase did not exist or the platform does not report it."""

    firmware_s: float | None
    loader_s: float | None
    kernel_s: float
    initrd_s: float | None
    userspace_s: float
    total_s: float

    @property
    def from_kernel_s(self) -> float:
        """Return the seconds from the start of the kernel to the last job."""
        return self.kernel_s + (self.initrd_s or 0.0) + self.userspace_s

    def measured(self) -> Mapping[str, float]:
        """Return the phases that were measured, by name (``kernel_s``), without the total."""
        every = {
            "firmware_s": self.firmware_s,
            "loader_s": self.loader_s,
            "kernel_s": self.kernel_s,
            "initrd_s": self.initrd_s,
            "userspace_s": self.userspace_s,
        }
        return {name: seconds for name, seconds in every.items() if seconds is not None}


def parse_show(text: str) -> Mapping[str, str]:
    """Return the properties of one ``systemctl show`` block.

    :raises ObservationError: a line is none, or a property comes twice.
    """
    found: dict[str, str] = {}
    for line in filter(None, text.split("\n")):
        match = _PROPERTY.fullmatch(line)
        if match is None:
            raise ObservationError(f"systemctl show said {line[:200]!r}, which is no property")
        if match[1] in found:
            raise ObservationError(
                f"systemctl show gave {match[1]!r} twice: {found[match[1]]!r} and {match[2][:200]!r}"
            )
        found[match[1]] = match[2]
    return found


def boot_phases(manager: Mapping[str, str]) -> Phases:
    """Return the phases of a finished boot from the manager's monotonic time stamps (microseconds).

    :raises ObservationError: a time stamp is missing or makes no sense, or the boot is not finished.
    """
    firmware, loader, initrd, userspace, finish = (
        _microseconds(manager, f"{name}TimestampMonotonic") for name in _TIMES
    )
    if finish == 0:
        raise ObservationError("the boot is not finished: FinishTimestampMonotonic is 0", hint="see bh-no-stuck-jobs")
    begins = [initrd, userspace, finish] if initrd else [userspace, finish]
    if userspace == 0 or begins != sorted(begins) or (firmware and firmware < loader):
        raise ObservationError(
            f"the boot's time stamps are out of order: initrd {initrd}, userspace {userspace}, finish {finish}, "
            f"firmware {firmware}, loader {loader}"
        )
    return Phases(
        # These two count backwards from the start of the kernel, and are 0 when the loader did not report them.
        firmware_s=(firmware - loader) / 1e6 if firmware else None,
        loader_s=loader / 1e6 if loader else None,
        kernel_s=begins[0] / 1e6,
        initrd_s=(userspace - initrd) / 1e6 if initrd else None,
        userspace_s=(finish - userspace) / 1e6,
        total_s=(max(firmware, loader) + finish) / 1e6,
    )


def slower_by_s(first: Phases, second: Phases) -> float:
    """Return by how many seconds the ``second`` boot was slower than the ``first``, beyond what the host explains.

    Until it starts process 1 the kernel does the same work at each boot: if that took longer, the host was slower then,
    and the rest may take longer by the same factor, within bounds.
    """
    host = 1.0
    if second.kernel_s >= _LEAST_KERNEL_S:
        host = min(max(second.kernel_s / max(first.kernel_s, 0.001), 1.0), _MOST_SLOWER)
    return second.from_kernel_s - host * first.from_kernel_s


def parse_jobs(text: str) -> tuple[str, ...]:
    """Return ``unit (type, state)`` for each job that waits or runs.

    :raises ObservationError: a line is none.
    """
    jobs = []
    for line in filter(None, text.split("\n")):
        if line.strip() == "No jobs running.":
            continue
        match = re.fullmatch(r"\s*\d+\s+(\S+)\s+(\S+)\s+(waiting|running)\s*", line)
        if match is None:
            raise ObservationError(f"systemctl list-jobs said {line[:200]!r}, which is no job")
        jobs.append(f"{match[1]} ({match[2]}, {match[3]})")
    return tuple(jobs)


def parse_services(text: str) -> Sequence[Service]:
    """Return the services from blocks of ``systemctl show``, set apart by empty lines.

    :raises ObservationError: a block lacks its name or state, or there is none.
    """
    services = [_service(parse_show(block)) for block in text.split("\n\n") if block.strip()]
    if not services:
        raise ObservationError("systemctl shows no running service at all")
    return services


def _service(block: Mapping[str, str]) -> Service:
    restarts = block.get("NRestarts", "0")
    if not block.get("Id") or not block.get("ActiveState") or not re.fullmatch(r"[0-9]{1,10}", restarts):
        raise ObservationError(f"systemctl show gave {dict(block)!r}"[:300] + ", which is no service with its state")
    return Service(
        name=block["Id"],
        state=block["ActiveState"],
        sub_state=block.get("SubState", ""),
        result=block.get("Result", ""),
        restarts=int(restarts),
    )


def _microseconds(manager: Mapping[str, str], name: str) -> int:
    value = manager.get(name)
    if value is None or not re.fullmatch(r"[0-9]{1,18}", value):
        raise ObservationError(f"the system manager gave {value!r} as {name}, expected microseconds")
    return int(value)
