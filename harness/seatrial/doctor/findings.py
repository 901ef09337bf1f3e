"""The diagnosis: what of the table is there, missing or too old. Pure: decided from the facts alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

from seatrial.doctor.host import Host
from seatrial.doctor.requirements import REQUIREMENTS, Manager, Need, Requirement

__all__ = ["Finding", "State", "examine", "exit_status", "manager_of"]

SPACE_GIB = 10.0
_FAMILIES = {
    "debian": Manager.APT,
    "ubuntu": Manager.APT,
    "azurelinux": Manager.TDNF,
    "mariner": Manager.TDNF,
    "fedora": Manager.DNF,
    "rhel": Manager.DNF,
    "centos": Manager.DNF,
    "opensuse": Manager.ZYPPER,
    "suse": Manager.ZYPPER,
    "arch": Manager.PACMAN,
}


class State(StrEnum):
    """How it is with one requirement."""

    OK = "ok"
    MISSING = "missing"
    TOO_OLD = "too old"
    WARNING = "warning"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One requirement and how it is met here; ``package`` is what would bring it, empty when no package does."""

    name: str
    state: State
    need: Need
    why: str
    detail: str = ""
    package: str = ""


def manager_of(host: Host) -> Manager | None:
    """Return the package manager to use: that of the distribution's family if installed, else the first found."""
    for system in (host.os_id, *host.os_like):
        family = _FAMILIES.get(system.partition("-")[0])
        if family is Manager.TDNF and Manager.TDNF not in host.managers:
            family = Manager.DNF  # Azure Linux 4 has dnf in tdnf's place
        if family in host.managers:
            return family
    return host.managers[0] if host.managers else None


def examine(host: Host) -> tuple[Finding, ...]:
    """Return one finding for each requirement that concerns this host, in the order of the table."""
    wanted = (row for row in REQUIREMENTS if not (row.rootless_only and host.is_root))
    return (*(_judge(row, host) for row in wanted), *_surroundings(host))


def exit_status(findings: Sequence[Finding]) -> int:
    """Return 0 when everything required is there, else 2."""
    lacking = {State.MISSING, State.TOO_OLD}
    return 2 if any(found.need is Need.REQUIRED and found.state in lacking for found in findings) else 0


def _judge(row: Requirement, host: Host) -> Finding:
    version = host.present.get(row.name)
    state, detail = _state_of(row, version)
    manager = manager_of(host)
    package = "" if manager is None or state is State.OK else row.packages.get(_naming(host, manager), "")
    if state is not State.OK and not package:
        detail = "; ".join(filter(None, (detail, f"no package of this distribution brings it: {_elsewhere(row)}")))
    elif state is State.TOO_OLD:
        detail += f"; if the package manager has none: {_elsewhere(row)}"
    return Finding(name=row.name, state=state, need=row.need, why=row.why, detail=detail, package=package)


def _naming(host: Host, manager: Manager) -> Manager:
    # Azure Linux packages less than Fedora does, whichever of the two programs it is installed with.
    return Manager.TDNF if host.os_id in {"azurelinux", "mariner"} else manager


def _elsewhere(row: Requirement) -> str:
    return row.elsewhere or f"install the program {row.name!r} by hand"


def _state_of(row: Requirement, version: tuple[int, ...] | None) -> tuple[State, str]:
    if version is None:
        return State.MISSING, f"{_dotted(row.minimum)} or newer" if row.minimum else ""
    if version < row.minimum:
        return State.TOO_OLD, f"{_dotted(version)} is installed, {_dotted(row.minimum)} or newer is needed"
    if version < row.preferred:
        return State.OK, f"{_dotted(version)}; {_dotted(row.preferred)} or newer is better"
    return State.OK, _dotted(version)


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))


def _surroundings(host: Host) -> Iterator[Finding]:
    yield Finding(
        name="KVM",
        state=State.WARNING if host.kvm else State.OK,
        need=Need.OPTIONAL,
        why="makes guests fast; without it QEMU emulates the processor (TCG), ten to twenty times slower",
        detail=host.kvm or "/dev/kvm opens; the first boot shows whether it runs guests",
    )
    if not host.is_root:
        yield Finding(
            name="user namespaces",
            state=State.WARNING if host.user_namespaces else State.OK,
            need=Need.DEMO,
            why="let mkosi build without root",
            detail=host.user_namespaces,
        )
    room = host.free_gib >= SPACE_GIB
    yield Finding(
        name="disk space",
        state=State.OK if room else State.WARNING,
        need=Need.DEMO,
        why="holds built images, overlays and snapshots",
        detail=f"{host.free_gib:.0f} GiB free in {str(host.cache)!r}"
        + ("" if room else f", {SPACE_GIB:.0f} are wanted: name a larger place in SEATRIAL_CACHE"),
    )
