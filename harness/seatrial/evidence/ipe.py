"""Integrity Policy Enforcement (kernel 6.12): whether it enforces, by which policies, and attempts that it must refuse.

Source of files and their meaning: kernel, Documentation/admin-guide/LSM/ipe.rst.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from seatrial.errors import ObservationError

__all__ = ["IPE", "REFUSED", "UNTRUSTED", "Ipe", "IpePolicy", "parse_ipe"]

IPE: Final = (
    'd=/sys/kernel/security/ipe; if [ -e $d/enforce ]; then echo "enforce $(cat $d/enforce)"; '
    "for p in $d/policies/*; do [ ! -e $p/active ] "
    '|| echo "policy $(cat $p/active) $(cat $p/version) $(cat $p/name)"; done; '
    "elif [ -e /sys/kernel/security/lsm ]; then echo none; fi"
)
# In a mount namespace of its own root gets a file system that no policy can know, and that is not mounted noexec.
_FRESH: Final = "mount -t tmpfs -o mode=0700 none /run"
UNTRUSTED: Final[Mapping[str, str]] = MappingProxyType(
    {
        "run a copied program": (
            f'unshare -m sh -c "{_FRESH} && cp -L /usr/bin/true /run/true && chmod 0700 /run/true || exit 3; '
            '/run/true; s=\\$?; [ \\$s = 126 ] && exit 1; exit \\$s"'
        ),
        "map a copied library": (
            'lib=$(sed -n "s,.* \\(/.*/libc[-.].*\\),\\1,p" /proc/self/maps | head -n 1); '
            '[ -n "$lib" ] || { echo no shared library; exit 1; }; '
            f'unshare -m sh -c "{_FRESH} && cp -L $lib /run/lib.so || exit 3; '
            "said=\\$(LD_PRELOAD=/run/lib.so /usr/bin/true 2>&1); "
            '[ -z \\"\\$said\\" ] && exit 0; echo \\"\\$said\\"; exit 1"'
        ),
    }
)
# What the shell says of a program, and the loader of a library, that the kernel does not let through.
REFUSED: Final = re.compile(
    r"/run/true: Permission denied|/run/lib\.so\b.*(cannot be preloaded|Permission denied)|no shared library"
)
_POLICY: Final = re.compile(r"policy ([01]) (\d{1,5}\.\d{1,5}\.\d{1,5}) (\S{1,255})")


@dataclass(frozen=True, slots=True)
class IpePolicy:
    """A policy that the kernel has taken; ``version`` is of the form 1.2.3."""

    name: str
    version: str
    is_active: bool


@dataclass(frozen=True, slots=True)
class Ipe:
    """The state of a kernel that has IPE."""

    enforces: bool
    policies: Sequence[IpePolicy]

    @property
    def active(self) -> list[str]:
        """Return the names of the policies that count; the kernel has one at most."""
        return [policy.name for policy in self.policies if policy.is_active]


def parse_ipe(text: str) -> Ipe | None:
    """Return the state, or None of a kernel without IPE.

    :raises ObservationError: securityfs is not mounted, or a line is none that :data:`IPE` gives.
    """
    lines = text.rstrip("\n").split("\n")
    if lines == ["none"]:
        return None
    if lines[0] not in ("enforce 0", "enforce 1"):
        raise ObservationError(
            f"expected whether IPE enforces, saw {lines[0][:200]!r}",
            hint="nothing at all: securityfs is not mounted at /sys/kernel/security",
        )
    found = [(line, _POLICY.fullmatch(line)) for line in lines[1:]]
    if wrong := [line for line, fits in found if fits is None]:
        raise ObservationError(f"expected 'policy ACTIVE VERSION NAME', saw {wrong[0][:200]!r}")
    policies = [IpePolicy(name=fits[3], version=fits[2], is_active=fits[1] == "1") for _line, fits in found if fits]
    return Ipe(enforces=lines[0] == "enforce 1", policies=policies)
