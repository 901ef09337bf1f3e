"""The remedy: the exact commands for this distribution. Pure: nothing is run here."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

from seatrial.doctor.findings import Finding, manager_of
from seatrial.doctor.host import DEBIAN_KEYRING, Host
from seatrial.doctor.requirements import BACKPORTED, Manager, Need

__all__ = ["BACKPORTS_FILE", "Plan", "Step", "plan"]

BACKPORTS_FILE = "/etc/apt/sources.list.d/seatrial-backports.sources"
_APT_INSTALL = ("apt-get", "install", "-y", "--no-install-recommends")
_INSTALL = {
    Manager.TDNF: ("tdnf", "install", "-y"),
    Manager.DNF: ("dnf", "install", "-y", "--setopt=install_weak_deps=False"),
    Manager.ZYPPER: ("zypper", "--non-interactive", "install", "--no-recommends"),
    Manager.PACMAN: ("pacman", "-S", "--needed", "--noconfirm"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One command for root, what it changes, and what cannot work when it fails."""

    argv: tuple[str, ...]
    changes: str
    need: Need = Need.REQUIRED
    stdin: str = ""

    def as_typed(self, prefix: str) -> str:
        """Return the command as one types it, after ``prefix`` (``sudo`` or nothing)."""
        command = " ".join(filter(None, (prefix, shlex.join(self.argv))))
        return f"{command} <<'END'\n{self.stdin}END" if self.stdin else command


@dataclass(frozen=True, slots=True)
class Plan:
    """The commands that bring what is missing, in order; ``notes`` say what is worth knowing before."""

    steps: tuple[Step, ...] = ()
    notes: tuple[str, ...] = ()


def plan(host: Host, findings: Sequence[Finding]) -> Plan:
    """Return what has to be run on ``host`` so that everything that packages can bring is there."""
    # One command a need: a package that a repository lacks must not keep the required ones out.
    groups = {need: tuple(f.package for f in findings if f.package and f.need is need) for need in Need}
    manager = manager_of(host)
    if manager is None or not any(groups.values()):
        return Plan()
    if manager is Manager.APT:
        return _with_apt(host, groups)
    return Plan(tuple(_install(_INSTALL[manager], need, names) for need, names in groups.items() if names))


def _with_apt(host: Host, groups: Mapping[Need, tuple[str, ...]]) -> Plan:
    update = Step(argv=("apt-get", "update"), changes="fetches the newest package lists")
    suite = f"{host.codename}-backports"
    backported = BACKPORTED.get((host.os_id, host.codename), frozenset())
    wanted = backported.intersection(chain.from_iterable(groups.values()))
    installs = tuple(
        # -t for the whole command: mkosi's own dependencies (systemd-container) have to come from there as well.
        _install((*_APT_INSTALL, "-t", suite) if backported & set(names) else _APT_INSTALL, need, names)
        for need, names in groups.items()
        if names
    )
    if not wanted:
        return Plan((update, *installs))
    notes: tuple[str, ...] = (
        f"{', '.join(sorted(wanted))}: too old in this release, so taken from {suite}, its official backports",
    )
    if "mkosi" in wanted:
        notes += (f"mkosi brings the newer systemd of {suite} with it",)
    if any(source.release == suite for source in host.apt_sources):
        return Plan((update, *installs), notes)
    mirror = _mirror(host)
    if not mirror:
        return Plan((update,), (*notes, "your mirror is known only after 'apt-get update': run the doctor again then"))
    return Plan((_backports(mirror, suite), update, *installs), notes)


def _install(command: tuple[str, ...], need: Need, packages: tuple[str, ...]) -> Step:
    return Step(
        argv=(*command, *packages),
        changes=f"installs {', '.join(packages)} and what they depend on",
        need=need,
    )


def _backports(mirror: str, suite: str) -> Step:
    text = f"Types: deb\nURIs: {mirror}\nSuites: {suite}\nComponents: main\nSigned-By: {DEBIAN_KEYRING}\n"
    return Step(argv=("tee", BACKPORTS_FILE), changes=f"adds {suite} of your own mirror to apt's sources", stdin=text)


def _mirror(host: Host) -> str:
    names = {host.codename, "stable", "oldstable"}
    return next((s.uri for s in host.apt_sources if s.release in names and s.component == "main"), "")
