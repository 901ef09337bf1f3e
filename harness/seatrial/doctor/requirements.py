"""The table of what a computer needs, and the packages that bring it; a new need is a new row."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType

__all__ = ["BACKPORTED", "REQUIREMENTS", "Manager", "Need", "Requirement"]


class Manager(StrEnum):
    """A package manager that we can write commands for, the preferred one first."""

    APT = "apt-get"
    TDNF = "tdnf"
    DNF = "dnf"
    ZYPPER = "zypper"
    PACMAN = "pacman"


class Need(StrEnum):
    """What does not work without it."""

    REQUIRED = "required"
    DEMO = "demo images"
    OPTIONAL = "optional"


@dataclass(frozen=True, slots=True, kw_only=True)
class Requirement:
    """Something to have: a program, or a fact that :mod:`seatrial.doctor.host` looks at under that name."""

    name: str
    why: str
    need: Need
    packages: Mapping[Manager, str] = field(default_factory=dict)
    minimum: tuple[int, ...] = ()
    preferred: tuple[int, ...] = ()
    rootless_only: bool = False
    elsewhere: str = ""


def _named(apt: str = "", dnf: str = "", tdnf: str = "", zypper: str = "", pacman: str = "") -> Mapping[Manager, str]:
    names = {
        Manager.APT: apt,
        Manager.DNF: dnf,
        Manager.TDNF: tdnf,
        Manager.ZYPPER: zypper,
        Manager.PACMAN: pacman,
    }
    return MappingProxyType({manager: name for manager, name in names.items() if name})


def _everywhere(name: str) -> Mapping[Manager, str]:
    return _named(apt=name, dnf=name, tdnf=name, zypper=name, pacman=name)


REQUIREMENTS: tuple[Requirement, ...] = (
    Requirement(
        name="qemu-system-x86_64",
        why="runs the candidate image",
        need=Need.REQUIRED,
        minimum=(7, 2),
        preferred=(10, 0),
        packages=_named(
            apt="qemu-system-x86",
            dnf="qemu-system-x86-core",
            tdnf="qemu-system-x86-core",
            zypper="qemu-x86",
            pacman="qemu-system-x86",
        ),
    ),
    Requirement(
        name="qemu-img",
        why="makes the throw-away overlay, so that the image itself is never written to",
        need=Need.REQUIRED,
        packages=_named(apt="qemu-utils", dnf="qemu-img", tdnf="qemu-img", zypper="qemu-tools", pacman="qemu-img"),
    ),
    Requirement(
        name="UEFI firmware",
        why="starts images that boot by UEFI; found through QEMU's firmware descriptors",
        need=Need.REQUIRED,
        packages=_named(apt="ovmf", dnf="edk2-ovmf", tdnf="edk2-ovmf", zypper="qemu-ovmf-x86_64", pacman="edk2-ovmf"),
    ),
    Requirement(
        name="setpriv",
        why="binds QEMU to the life of the run, so that nothing is left behind",
        need=Need.REQUIRED,
        packages=_everywhere("util-linux"),
    ),
    Requirement(
        name="python venv",
        why="lets Python make the environments that the tests run in (module ensurepip)",
        need=Need.REQUIRED,
        packages=_named(apt="python3-venv"),
        elsewhere="reinstall Python with its bundled pip",
    ),
    Requirement(
        name="mkosi",
        why="builds the demo images; not needed to gate an image of your own",
        need=Need.DEMO,
        minimum=(24,),
        packages=_named(apt="mkosi", dnf="mkosi", zypper="mkosi", pacman="mkosi"),
        elsewhere="mkosi is one Python program: put a release of https://github.com/systemd/mkosi on PATH",
    ),
    Requirement(
        name="apt-get",
        why="fetches the packages of the demo images and of the tests' micro guest, which are made of Debian's",
        need=Need.DEMO,
        packages=_named(dnf="apt", tdnf="apt", pacman="apt"),
        elsewhere="build the demo images on Debian, Ubuntu, Fedora or Arch and give them with --image",
    ),
    Requirement(
        name="dpkg-deb",
        why="unpacks the packages of the tests' micro guest",
        need=Need.DEMO,
        packages=_everywhere("dpkg"),
    ),
    Requirement(
        name="Debian archive keyring",
        why="checks the signatures of the packages of the demo images",
        need=Need.DEMO,
        packages=_named(apt="debian-archive-keyring", dnf="debian-keyring", pacman="debian-archive-keyring"),
        elsewhere="copy debian-archive-keyring.gpg from a Debian system to /usr/share/keyrings",
    ),
    Requirement(
        name="newuidmap",
        why="lets mkosi build without root",
        need=Need.DEMO,
        packages=_named(apt="uidmap", dnf="shadow-utils", tdnf="shadow-utils", zypper="shadow", pacman="shadow"),
        rootless_only=True,
    ),
    Requirement(
        name="debugfs",
        why="lets the tests look into file systems without mounting them",
        need=Need.DEMO,
        packages=_everywhere("e2fsprogs"),
    ),
    Requirement(
        name="ssh",
        why="logs in by the command that --break shows; a test does so",
        need=Need.DEMO,
        packages=_named(
            apt="openssh-client",
            dnf="openssh-clients",
            tdnf="openssh-clients",
            zypper="openssh-clients",
            pacman="openssh",
        ),
    ),
    Requirement(
        name="swtpm",
        why="gives guests a TPM, for machines that have one",
        need=Need.OPTIONAL,
        minimum=(0, 7),
        packages=_everywhere("swtpm"),
    ),
    Requirement(
        name="lynis",
        why="is handed to guests without a Lynis of their own, for its hardening index",
        need=Need.OPTIONAL,
        packages=_named(apt="lynis", dnf="lynis", zypper="lynis", pacman="lynis"),
        elsewhere="Lynis is one shell script with its data: put a release of https://github.com/CISOfy/lynis on PATH",
    ),
)

# Packages that are too old in a release and come from its backports, by (ID, VERSION_CODENAME) of os-release.
BACKPORTED: Mapping[tuple[str, str], frozenset[str]] = MappingProxyType(
    {("debian", "bookworm"): frozenset({"mkosi", "qemu-system-x86", "qemu-utils"})}
)
