"""Credentials that an image brings itself: in systemd's stores, in its units, on its command line."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from seatrial.evidence.cmdline import Cmdline
from seatrial.evidence.units import UNIT_FOLDERS

__all__ = ["BROUGHT", "Credential", "parse_brought"]

# The stores in which ImportCredential= and LoadCredential= look (systemd.exec(5)); not what the platform gave.
BROUGHT: Final = (
    "for d in /etc /run /usr/local/lib /usr/lib; do for f in $d/credstore/* $d/credstore.encrypted/*; do "
    'if [ -f "$f" ]; then printf "stored %s\\n" "$f"; fi; done; done; '
    f"grep -arsE '^[[:space:]]*(Set|Load)Credential(Encrypted)?[[:space:]]*=' {UNIT_FOLDERS}; true"
)
# LoadCredential= without a path passes on what the platform gave.
_OF_UNIT: Final = re.compile(
    r"(/[^:]*):\s*(?:Set|Load(?=Credential(?:Encrypted)?\s*=[^:]*:/))Credential(?:Encrypted)?\s*=\s*([^:\s]+):.*"
)
_WORDS: Final = ("systemd.set_credential", "systemd.set_credential_binary")
_LOGIN: Final = re.compile(r"(?:.*\.)?(?:agetty\.autologin|login\.noauth)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Credential:
    """A credential by its name, and where the image has it."""

    name: str
    where: str

    @property
    def is_ssh_key(self) -> bool:
        """Return whether systemd makes authorized keys of it (tmpfiles.d/provision.conf, systemd-ssh-generator(8))."""
        return self.name.startswith(("ssh.authorized_keys.", "ssh.ephemeral-authorized_keys"))

    @property
    def is_password(self) -> bool:
        """Return whether an account gets its password of it (systemd-sysusers(8), systemd-firstboot(1))."""
        return self.name.startswith(("passwd.hashed-password.", "passwd.plaintext-password."))

    @property
    def is_login(self) -> bool:
        """Return whether agetty or login let somebody in by it; a prefix may name the terminal (agetty(8))."""
        return _LOGIN.fullmatch(self.name) is not None

    def __str__(self) -> str:
        return f"{self.name} ({self.where})"


def parse_brought(text: str, line: Cmdline) -> tuple[Credential, ...]:
    """Return the credentials of the answer to :data:`BROUGHT`, and those on the command line."""
    found = []
    for one in text.split("\n"):
        if one.startswith("stored /"):
            path = one.removeprefix("stored ")
            # systemd-creds(1) puts '.cred' behind the names of encrypted ones, where somebody wants it.
            found.append(Credential(name=path.rpartition("/")[2].removesuffix(".cred"), where=path))
        elif match := _OF_UNIT.fullmatch(one):
            found.append(Credential(name=match[2], where=match[1]))
    for word in line.matching(_WORDS):
        name, colon, _ = word.partition("=")[2].partition(":")
        if colon:
            found.append(Credential(name=name, where="command line"))
    return tuple(dict.fromkeys(found))
