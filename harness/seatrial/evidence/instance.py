"""State that belongs to one machine, and whether it is older than the boot: then the image brought it along."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from seatrial.errors import ObservationError

__all__ = ["INSTANCE_STATE", "InstanceState", "parse_instance_state"]

# Globs of the shell. The machine id and random seeds have controls of their own.
_PLACES: Final = (
    "/etc/ssh/ssh_host_*_key",
    "/var/lib/dhcp/*.lease*",
    "/var/lib/dhcpcd/*.lease*",
    "/var/lib/dhclient/*.lease*",
    "/var/lib/NetworkManager/*.lease",
    "/var/lib/NetworkManager/secret_key",
    "/etc/NetworkManager/secret_key",
    "/var/lib/systemd/network/*",
    "/var/lib/systemd/credential.secret",
    "/var/lib/systemd/tpm2-srk-public-key*",
    "/var/lib/cloud/instance",
    "/var/lib/cloud/instances/*",
    "/var/lib/cloud/data/*instance-id",
    "/var/lib/waagent/*.xml",
    "/var/lib/waagent/provisioned",
    "/var/lib/hyperv/.kvp_pool_*",
    f"/var/log/journal/{'[0-9a-f]' * 32}",
    "/etc/nvme/hostid",
    "/etc/nvme/hostnqn",
    "/etc/udev/rules.d/70-persistent-net.rules",
    "/etc/.ignition-result.json",
    "/etc/.flatcar-provisioned",
    "/var/lib/kubelet/pki/*",
    "/var/lib/docker/engine-id",
    "/etc/docker/key.json",
)
_ISCSI: Final = "/etc/iscsi/initiatorname.iscsi"
# Birth is "-", "?" or 0 where nobody knows it; a file's own times cannot be younger than its birth by accident.
INSTANCE_STATE: Final = (
    f'for f in {" ".join(_PLACES)}; do if [ -e "$f" ] || [ -h "$f" ]; then '
    "stat -c '%Y %W %n' \"$f\" | head -n 1; fi; done; "
    # Debian's package brings a line that has each machine make a name of its own.
    f'f={_ISCSI}; if grep -qs "^InitiatorName=" $f; then stat -c "%Y %W %n" $f; fi; '
    "grep '^btime ' /proc/stat"
)
_STAMP: Final = re.compile(r"([0-9]{1,15}) ([0-9]{1,15}|[-?]|W|%W) (/.*)")


@dataclass(frozen=True, slots=True)
class InstanceState:
    """When the kernel started, and when each piece of state was made, in seconds since the epoch."""

    booted: int
    made: Mapping[str, int]

    def older_than(self, slack_s: int) -> list[str]:
        """Return what was made more than ``slack_s`` seconds before the boot."""
        ages = {path: self.booted - made for path, made in self.made.items()}
        return [f"{path} ({age} s before the boot)" for path, age in ages.items() if age > slack_s]


def parse_instance_state(text: str) -> InstanceState:
    """Return what an answer to :data:`INSTANCE_STATE` says.

    :raises ObservationError: the time of boot is missing, or a line is none of that answer.
    """
    *lines, last = text.rstrip("\n").split("\n")
    boot = re.fullmatch(r"btime ([0-9]{1,15})", last)
    if boot is None:
        raise ObservationError(f"the guest gave {last[:200]!r}, expected the time of boot")
    made = {}
    for line in lines:
        match = _STAMP.fullmatch(line)
        if match is None:
            raise ObservationError(f"the list of instance state has the line {line[:200]!r}")
        born = int(match[2]) if match[2].isdecimal() else 0
        made[match[3]] = min(int(match[1]), born) if born else int(match[1])
    return InstanceState(int(boot[1]), made)
