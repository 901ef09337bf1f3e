"""What lies around on the guest's disks: links that lead nowhere, names that nobody chooses, remains of the build."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from seatrial.errors import ObservationError
from seatrial.evidence.files import complaints_of, local_trees
from seatrial.evidence.mounts import Mount

__all__ = ["Names", "disk_trees", "names_command", "parse_names", "parse_residue", "residue_command"]

_MEMORY: Final = frozenset({"tmpfs", "devtmpfs", "ramfs", "mqueue"})
# Every walk meets it: one that did not saw nothing.
_WITNESS: Final = "/etc/passwd"
_SUFFIXES: Final = ("*.old", "*.orig", "*.rpmsave", "*.rpmnew", "*.dpkg-*", "*~")
_ODD: Final = ("*[[:cntrl:]]*", " *", "* ", "...*", *_SUFFIXES)
_REPOSITORIES: Final = (".git", ".svn", ".hg", ".bzr")
_CREDENTIALS: Final = (
    ".aws", ".azure", ".kube", ".docker", ".dockercfg", ".git-credentials", ".npmrc", ".pypirc", ".netrc",
    "id_rsa", "id_dsa", "id_ecdsa", "id_ed25519",
)  # fmt: skip
_BUILD: Final = (
    "anaconda-ks.cfg",
    "original-ks.cfg",
    "ks.cfg",
    ".dockerenv",
    "*.deb",
    "*.rpm",
    "policy-rc.d",
    "qemu-*-static",
)
_LOGS: Final = (
    "/var/log/anaconda", "/var/log/installer", "/var/log/bootstrap.log", "/var/log/dpkg.log",
    "/var/log/apt/history.log",
)  # fmt: skip
# Anybody may have written these; programs and libraries are read by name only.
_WRITTEN: Final = ("/etc", "/root", "/home", "/opt", "/srv", "/var", "/usr/local")
_KEY_NAMES: Final = ("*.pem", "*.key")
# What is in them cannot be seen from outside, and is a private key nearly always.
_KEY_STORES: Final = ("*.p12", "*.pfx", "*.jks")
_SECRETS: Final = (
    "(^|[[:space:]\"'])-----BEGIN ([A-Z0-9]+ )*PRIVATE KEY", "(^|[^A-Z0-9])AKIA[0-9A-Z]{16}([^0-9A-Z]|$)",
    "AccountKey=[A-Za-z0-9+/]{60,}",
)  # fmt: skip
# The guest's own, made at its first boot, also where /etc is an overlay; that they were is another control's.
_OWN_KEYS: Final = "/etc/ssh/ssh_host_*_key"


@dataclass(frozen=True, slots=True, kw_only=True)
class Names:
    """Links whose target is missing, and names with control characters, blanks at an end, or the suffix of a backup."""

    dangling: tuple[str, ...]
    odd: tuple[str, ...]


def disk_trees(mounts: Sequence[Mount]) -> tuple[str, ...]:
    """Return one mount point for each file system of the image: what is in memory was made by this boot."""
    return local_trees(mounts, without=_MEMORY)


def names_command(trees: Sequence[str]) -> str:
    """Return the one walk over ``trees`` that looks at all names and links."""
    # A name is shown on one line whatever is in it, so that it cannot pose as another. One '-exec ... +' at the
    # outermost level: busybox runs no other.
    shown = '"$(printf %s "$f" | tr "\\001-\\037\\177" "?")"'
    body = (
        f'for f; do if [ "$f" = {_WITNESS} ]; then echo walked {_WITNESS}; fi; '
        f"""case "${{f##*/}}" in {"|".join(_quoted_glob(glob) for glob in _ODD)}) echo odd {shown};; esac; """
        f'if [ -L "$f" ] && [ ! -e "$f" ]; then echo dangling {shown}; fi; done'
    )
    wanted = f"-path {_WITNESS} -o -type l -o {_any('-name', _ODD)}"
    return f"find {_roots(trees)} -xdev \\( {wanted} \\) -exec sh -c '{body}' sh {{}} +"


def residue_command(trees: Sequence[str]) -> str:
    """Return the walks over ``trees`` that find credentials, private keys, repositories, and remains of a build."""
    names = _any("-name", (*_REPOSITORIES, *_CREDENTIALS, *_KEY_STORES, *_BUILD))
    secrets = " ".join(f"-e {shlex.quote(pattern)}" for pattern in _SECRETS)
    written = " -o ".join(f"-path '{folder}/*'" for folder in _WRITTEN)
    return (
        f"find {_roots(trees)} -xdev \\( -path {_WITNESS} -exec echo walked {{}} \\; -o {names} -print "
        f"-o {_any('-path', _LOGS)} -print -o -path '/root/[!.]*' -prune -print \\); "
        f"find {_roots(trees)} -xdev -type f -size -128 \\( {written} -o {_any('-name', _KEY_NAMES)} \\) "
        f"! -path '{_OWN_KEYS}' ! -path '*/upper/ssh/ssh_host_*_key' -exec grep -lasE {secrets} {{}} +; true"
    )


def parse_names(stdout: str, stderr: str) -> Names:
    """Return what the walk of :func:`names_command` found.

    :raises ObservationError: the walk did not see everything.
    """
    lines = _walked(stdout, stderr)
    found: dict[str, list[str]] = {"dangling": [], "odd": []}
    for line in lines:
        kind, _, path = line.partition(" ")
        if kind not in found or not path.startswith("/"):
            raise ObservationError(f"the walk over the guest's names said {line[:200]!r}, which is no kind and path")
        found[kind].append(path)
    return Names(dangling=tuple(sorted(set(found["dangling"]))), odd=tuple(sorted(set(found["odd"]))))


def parse_residue(stdout: str, stderr: str) -> tuple[str, ...]:
    """Return what the walks of :func:`residue_command` found.

    :raises ObservationError: a walk did not see everything.
    """
    return tuple(sorted(set(_walked(stdout, stderr))))


def _walked(stdout: str, stderr: str) -> list[str]:
    complaints = complaints_of(stderr)
    witness = f"walked {_WITNESS}"
    lines = [line for line in stdout.split("\n") if line]
    if complaints or witness not in lines:
        why = complaints[0][:200] if complaints else f"it did not meet {_WITNESS}"
        raise ObservationError(f"the walk over the guest's files is incomplete: {why!r}")
    return [line for line in lines if line != witness]


def _roots(trees: Sequence[str]) -> str:
    return " ".join(shlex.quote(tree) for tree in trees)


def _any(test: str, patterns: Sequence[str]) -> str:
    return f"\\( {' -o '.join(f'{test} {shlex.quote(pattern)}' for pattern in patterns)} \\)"


def _quoted_glob(glob: str) -> str:
    """Return ``glob`` as a pattern of ``case``: what is no wildcard stands in quotes."""
    return re.sub(r"[ ~]", lambda match: f'"{match[0]}"', glob)
