"""What an immutable host makes anew when its state is gone."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

import pytest
from seatrial.check import Check
from seatrial.errors import AuthRefused, BootError, QemuExited, RightsRefused
from seatrial.evidence.systemd import FAILED

if TYPE_CHECKING:
    from seatrial.restore import Session

    BootedFrom = Callable[[str], AbstractContextManager[Session]]

# What is left may only be places of mounts.
EMPTY_VAR = """
v=$R/var
if [ -h "$v" ] || [ ! -d "$v" ]; then echo "/var is no directory on the disk" >&2; exit 1; fi
find "$v" -mindepth 1 ! -type d -exec rm -f {} +
find "$v" -mindepth 1 -depth -type d -exec rmdir {} + 2>/dev/null
find "$v" -mindepth 1 | while IFS= read -r f; do
    grep -qF -e " $f " -e " $f/" /proc/self/mountinfo || { echo "$f cannot be removed" >&2; exit 1; }
done
"""


@pytest.mark.control("imm-empty-var-boots")
def test_image_boots_with_an_empty_var(booted_from: BootedFrom, check: Check) -> None:
    """A first boot from a disk whose /var was emptied: login works, the system is running, and no unit has failed."""
    expected = "with an empty /var: a login, and a system that is running without a failed unit"
    try:
        with booted_from(EMPTY_VAR) as session:
            state, failed = session.boot_facts.state, session.facts.lines(FAILED)
    except QemuExited:
        raise
    except (BootError, AuthRefused, RightsRefused) as exc:
        check.holds(False, expected=expected, seen=exc.message)
        return
    names = ", ".join(line.split()[0] for line in failed if line.split()) or "none"
    check.holds(state == "running" and names == "none", expected=expected, seen=f"{state}; failed units: {names}")
