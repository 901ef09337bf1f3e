"""One restart, in a copy of the guest: what was made at the first boot is still the same."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from seatrial.check import Check
from seatrial.errors import HostKeyChanged

if TYPE_CHECKING:
    from seatrial.restore import Session

IDENTITY = "cat /etc/machine-id; uname -n"
HOST_KEYS = (
    "sshd -T 2>/dev/null | sed -n 's/^hostkey //p' | while read -r f; do"
    ' [ ! -f "$f.pub" ] || cut -d" " -f1,2 "$f.pub"; done'
)


@pytest.mark.changes_guest
@pytest.mark.control("idn-survives-reboot")
def test_identity_survives_a_reboot(guest: Session, check: Check) -> None:
    """Machine id, host name and host keys are the same after a reboot."""
    before = (*guest.facts.lines(IDENTITY), *guest.facts.lines(HOST_KEYS))
    if len(before) < 3:
        check.cannot_tell(f"expected machine id, host name and SSH host keys, saw {before!r}")
    try:
        guest.reboot()
    except HostKeyChanged as exc:
        check.holds(False, expected="the SSH host key of before", seen=exc.message)
        return
    after = (*guest.facts.lines(IDENTITY), *guest.facts.lines(HOST_KEYS))
    check.holds(after == before, expected=f"the same as before: {_shown(before)}", seen=_shown(after))


def _shown(lines: tuple[str, ...]) -> str:
    return ", ".join(line[:40] for line in lines)
