"""What we look at on this computer: one record of facts, gathered in one function."""

from __future__ import annotations

import getpass
import importlib.util
import os
import platform
import re
import shutil
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from seatrial.clock import Deadline
from seatrial.doctor.requirements import REQUIREMENTS, Manager
from seatrial.errors import HostError
from seatrial.layout import cache_dir
from seatrial.machine.firmware import find_uefi
from seatrial.process import clean_environment, run

__all__ = ["ANY_VERSION", "DEBIAN_KEYRING", "KVM", "AptSource", "Host", "look"]

ANY_VERSION: tuple[int, ...] = ()
DEBIAN_KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
KVM = Path("/dev/kvm")
_PROBE_S = 30.0
_SUBORDINATE_IDS = 65536


@dataclass(frozen=True, slots=True)
class AptSource:
    """One line of apt's own configuration: a mirror, the release asked of it, a component."""

    uri: str
    release: str
    component: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """The facts about a computer that a diagnosis needs.

    ``present`` maps the names of :data:`REQUIREMENTS` that are there to their versions (empty: not asked for).
    ``kvm`` and ``user_namespaces`` say what is wrong with them; empty when nothing is.
    """

    os_id: str
    os_like: tuple[str, ...] = ()
    os_name: str = ""
    codename: str = ""
    managers: tuple[Manager, ...] = ()
    is_root: bool = True
    has_sudo: bool = False
    present: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    apt_sources: tuple[AptSource, ...] = ()
    kvm: str = ""
    user_namespaces: str = ""
    cache: Path = Path("/var/cache/seatrial")
    free_gib: float = 1000.0


def look() -> Host:
    """Return the facts about this computer."""
    system = _os_release()
    managers = tuple(manager for manager in Manager if _which(manager))
    is_root = os.geteuid() == 0
    cache = cache_dir()
    return Host(
        os_id=system.get("ID", "linux"),
        os_like=tuple(system.get("ID_LIKE", "").split()),
        os_name=system.get("PRETTY_NAME", ""),
        codename=system.get("VERSION_CODENAME", ""),
        managers=managers,
        is_root=is_root,
        has_sudo=_which("sudo"),
        present=dict(_present()),
        apt_sources=_apt_sources() if Manager.APT in managers else (),
        kvm=_kvm_fault(),
        user_namespaces="" if is_root else _user_namespace_fault(Path("/proc/sys"), Path("/etc")),
        cache=cache,
        free_gib=shutil.disk_usage(cache).free / 2**30,
    )


def _os_release() -> dict[str, str]:
    with suppress(OSError):
        return platform.freedesktop_os_release()
    return {}


def _which(program: str) -> bool:
    return shutil.which(program, path=clean_environment()["PATH"]) is not None


def _present() -> Iterable[tuple[str, tuple[int, ...]]]:
    special: dict[str, Callable[[], bool]] = {
        "UEFI firmware": _has_firmware,
        "python venv": lambda: importlib.util.find_spec("ensurepip") is not None,
        "Debian archive keyring": DEBIAN_KEYRING.is_file,
    }
    for wanted in REQUIREMENTS:
        if wanted.name in special:
            if special[wanted.name]():
                yield wanted.name, ANY_VERSION
        elif _which(wanted.name):
            yield wanted.name, _version_of(wanted.name) if wanted.minimum else ANY_VERSION


def _version_of(program: str) -> tuple[int, ...]:
    answer = run([program, "--version"], deadline=Deadline(_PROBE_S)).text
    return parse_version(answer)


def parse_version(text: str) -> tuple[int, ...]:
    """Return the first dotted number in ``text`` as a tuple; (0,) when there is none."""
    found = re.search(r"\d{1,6}(?:\.\d{1,6}){0,3}", text, re.ASCII)
    return tuple(int(part) for part in found.group().split(".")) if found else (0,)


def _has_firmware() -> bool:
    with suppress(HostError):
        find_uefi("x86_64", "q35")
        return True
    return False


def _apt_sources() -> tuple[AptSource, ...]:
    # apt itself reads its file formats and resolves mirrors; before the first 'apt-get update' it answers nothing.
    fields = "$(REPO_URI) $(RELEASE) $(COMPONENT)"
    answer = run(
        ["apt-get", "indextargets", "--format", fields, "Created-By: Packages"],
        deadline=Deadline(_PROBE_S),
    )
    lines = (line.split() for line in answer.text.splitlines())
    return tuple(AptSource(*words) for words in lines if len(words) == 3)


def _kvm_fault() -> str:
    if not KVM.exists():
        return "/dev/kvm is not there: the kernel module is not loaded, or this machine lends no virtualization"
    if os.access(KVM, os.R_OK | os.W_OK):
        return ""
    return f"user {_user()!r} may not open /dev/kvm: 'sudo usermod -aG kvm {_user()}', then log in again"


def _user_namespace_fault(proc_sys: Path, etc: Path) -> str:
    for knob, closed in (
        ("user/max_user_namespaces", "0"),
        ("kernel/unprivileged_userns_clone", "0"),
        ("kernel/apparmor_restrict_unprivileged_userns", "1"),
    ):
        with suppress(OSError):
            if (proc_sys / knob).read_text(encoding="ascii").strip() == closed:
                return f"unprivileged user namespaces are closed: {knob.replace('/', '.')} is {closed}"
    for name in ("subuid", "subgid"):
        if not _has_subordinate_ids(etc / name):
            return f"user {_user()!r} has no {_SUBORDINATE_IDS} subordinate ids in {etc / name}"
    return ""


def _has_subordinate_ids(table: Path) -> bool:
    with suppress(OSError, ValueError):
        for line in table.read_text(encoding="utf-8").splitlines():
            name, _, count = line.split(":")
            if name in {_user(), str(os.getuid())}:
                return int(count) >= _SUBORDINATE_IDS
    return False


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())
