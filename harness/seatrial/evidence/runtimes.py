"""Container runtimes: their sockets, who may open them, and their versions."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from seatrial.errors import ConfigError, ObservationError

__all__ = ["SOCKETS", "VERSIONS", "Socket", "below_floor", "parse_runtime_versions", "parse_sockets", "version_text"]

_PROGRAMS: Final = ("runc", "crun", "containerd", "dockerd", "podman")
_PLACES: Final = (
    "/run/docker.sock /run/containerd/containerd.sock /run/containerd/containerd.sock.ttrpc /run/crio/crio.sock "
    "/run/podman/podman.sock /run/docker/containerd/containerd.sock /run/k3s/containerd/containerd.sock "
    "/run/buildkit/buildkitd.sock /run/cri-dockerd.sock"
)
# Who passes the folder matters as much as the socket: podman's and k3s' lie in closed ones.
SOCKETS: Final = (
    f'for s in {_PLACES}; do if [ -e $s ]; then echo "$s $(stat -c "%u %g %a" $s)"; fi; done; echo "the end"'
)
VERSIONS: Final = (
    f"for p in {' '.join(_PROGRAMS)}; do if command -v $p >/dev/null 2>&1; then "
    'echo "$p $($p --version 2>/dev/null </dev/null | head -n 1)"; fi; done; echo "the end"'
)
Version = tuple[int, int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Socket:
    """A runtime's socket with its owner, group and mode. Whoever may write to it is root."""

    path: str
    owner: int
    group: int
    mode: int

    @property
    def is_closed(self) -> bool:
        """Return whether only root, and a group at most, gets in."""
        return self.owner == 0 and self.mode & 0o007 == 0

    def __str__(self) -> str:
        return f"{self.path} (owner {self.owner}, group {self.group}, mode {self.mode:04o})"


def parse_sockets(text: str) -> tuple[Socket, ...]:
    """Return what :data:`SOCKETS` found.

    :raises ObservationError: a line is none, or the end is missing.
    """
    found = []
    for line in _until_the_end(text, "sockets"):
        match = re.fullmatch(r"(/run/[a-z0-9/.-]+) ([0-9]{1,10}) ([0-9]{1,10}) ([0-7]{1,5})", line)
        if match is None:
            raise ObservationError(f"the list of runtimes' sockets holds {line[:200]!r}, which is none")
        found.append(Socket(path=match[1], owner=int(match[2]), group=int(match[3]), mode=int(match[4], 8)))
    return tuple(found)


def parse_runtime_versions(text: str) -> Mapping[str, Version]:
    """Return runtime to version, for those that the image has.

    :raises ObservationError: a runtime did not say its version, or the end is missing.
    """
    found = {}
    for line in _until_the_end(text, "versions"):
        name, _, said = line.partition(" ")
        match = re.search(r"(?<![0-9.])v?([0-9]{1,4})\.([0-9]{1,4})(?:\.([0-9]{1,4}))?(-(?:rc|beta|alpha)\b)?", said)
        if name not in _PROGRAMS or match is None:
            raise ObservationError(f"the list of runtimes holds {line[:200]!r}, which names no runtime's version")
        # What comes before a release is below it, and has no number of its own: 1.4.0-rc.2 counts as 1.4.-1.
        found[name] = (int(match[1]), int(match[2]), int(match[3] or 0) - (1 if match[4] else 0))
    return found


def version_text(version: Version) -> str:
    """Return ``version`` for people; what comes before a first release is said to."""
    major, minor, patch = version
    return f"{major}.{minor}.{patch}" if patch >= 0 else f"{major}.{minor}.0, not yet released"


def below_floor(name: str, version: Version, floors: Iterable[str]) -> str:
    """Return the floor that ``version`` of runtime ``name`` is below, nothing when it is high enough.

    A floor (``runc 1.2.8``) counts for its own series, 1.2; a series between two floors, or before the first, has no
    fixed version and is below the next one. A series after the last floor is high enough.

    :raises ConfigError: a floor is none.
    """
    wanted = []
    for floor in floors:
        match = re.fullmatch(r"([a-z]+) ([0-9]{1,4})\.([0-9]{1,4})\.([0-9]{1,4})", floor)
        if match is None or match[1] not in _PROGRAMS:
            raise ConfigError(f"{floor!r} is no floor of a container runtime; expected such as 'runc 1.2.8'")
        if match[1] == name:
            wanted.append((int(match[2]), int(match[3]), int(match[4])))
    if not wanted:
        raise ConfigError(f"the flavour has no floor for the container runtime {name!r} in expect.runtime-floors")
    nearest = min((floor for floor in wanted if floor[:2] >= version[:2]), default=None)
    return "" if nearest is None or version >= nearest else ".".join(map(str, nearest))


def _until_the_end(text: str, what: str) -> list[str]:
    lines = text.rstrip("\n").split("\n")
    if lines[-1] != "the end":
        raise ObservationError(f"the list of runtimes' {what} was cut off: it ends with {lines[-1][:200]!r}")
    return lines[:-1]
