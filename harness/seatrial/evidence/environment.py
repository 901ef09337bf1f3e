"""Variables that change what every program loads: where an image sets them, and who runs with them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from seatrial.errors import ObservationError
from seatrial.evidence.units import UNIT_FOLDERS

__all__ = ["ENVIRONMENT", "parse_environment"]

_NAMES: Final = "(LD_(PRELOAD|AUDIT)|OPENSSL_(CONF|MODULES|ENGINES))"
# Where a login (pam_env(8), shells) and systemd (system.conf, environment.d, units) get variables from, and what root's
# login shell and whatever runs were really given.
ENVIRONMENT: Final = (
    f"grep -asHE '^[^#]*{_NAMES}([[:blank:]]+(DEFAULT|OVERRIDE))?=' /etc/environment "
    "/etc/environment.d/*.conf /usr/lib/environment.d/*.conf /etc/security/pam_env.conf /etc/profile "
    "/etc/profile.d/*.sh /etc/bash.bashrc /etc/bashrc /root/.profile /root/.bashrc /root/.bash_profile "
    "/etc/systemd/*.conf /etc/systemd/*.conf.d/*.conf /usr/lib/systemd/*.conf.d/*.conf; "
    f"grep -arsHE '^[^#;]*{_NAMES}=' /etc/default /etc/sysconfig {UNIT_FOLDERS}; "
    f"sh -lc env </dev/null 2>/dev/null | sed -nE 's/^{_NAMES}=./login shell:&/p'; "
    f"grep -aszHE '^{_NAMES}=.' /proc/[0-9]*/environ | tr '\\000' '\\n'; echo end"
)


def parse_environment(text: str, names: Sequence[str]) -> tuple[str, ...]:
    """Return the lines of the answer to :data:`ENVIRONMENT` that set one of ``names``, each with its place.

    :raises ObservationError: the answer has no end.
    """
    *lines, end = text.removesuffix("\n").split("\n")
    if end != "end":
        raise ObservationError(f"the environment of programs was answered with {end[:200]!r}")
    return tuple(line for line in lines if re.search(rf"\b({'|'.join(names)})\b", line))
