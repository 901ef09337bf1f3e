"""One restart of a copy of the guest: what was made at the first boot is still the same, and is not made again."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import pytest
from seatrial.check import Check
from seatrial.evidence.first_boot import (
    CONDITIONS,
    MARKS,
    SIGNS,
    conditions_met,
    first_boot_units,
    made_anew,
    parse_marks,
    signs_of_a_first_boot,
    unit_conditions,
)

if TYPE_CHECKING:
    from seatrial.rebooted import Rebooted

IDENTITY = "cat /etc/machine-id; uname -n"
HOST_KEYS = (
    "sshd -T 2>/dev/null | sed -n 's/^hostkey //p' | while read -r f; do"
    ' [ ! -f "$f.pub" ] || cut -d" " -f1,2 "$f.pub"; done'
)


@pytest.mark.control("idn-survives-reboot")
def test_identity_survives_a_reboot(rebooted: Rebooted, check: Check) -> None:
    """Machine id, host name and host keys are the same after a reboot."""
    before = (*rebooted.before.lines(IDENTITY), *rebooted.before.lines(HOST_KEYS))
    if len(before) < 3:
        check.cannot_tell(f"expected machine id, host name and SSH host keys, saw {before!r}")
    if rebooted.new_host_key:
        check.holds(False, expected="the SSH host key of before", seen=rebooted.new_host_key)
        return
    after = (*rebooted.after.lines(IDENTITY), *rebooted.after.lines(HOST_KEYS))
    check.holds(after == before, expected=f"the same as before: {_shown(before)}", seen=_shown(after))


@pytest.mark.control("imm-first-boot-once")
def test_provisioning_runs_once(rebooted: Rebooted, check: Check) -> None:
    """The second boot is no first one, starts no unit of the first one, and leaves the marks of provisioning alone."""
    units = first_boot_units(rebooted.before.text(CONDITIONS))
    before = parse_marks(rebooted.before.text(MARKS))
    after = parse_marks(rebooted.after.text(MARKS))
    if not units and not before and not after:
        check.not_applicable(
            "it has neither units for its first boot nor cloud-init, Ignition, machine id or host keys"
        )
    signs = signs_of_a_first_boot(rebooted.after.text(SIGNS))
    check.nothing(signs, expected="no sign of a first boot after the reboot")
    if units:
        met = conditions_met(rebooted.after.text(unit_conditions(units)), units)
        check.nothing(met, expected=f"none of the {len(units)} units for the first boot started again")
    check.nothing(
        made_anew(before, after), expected=f"{len(before)} marks of provisioning as they were: {_names(before)}"
    )


def _names(paths: Iterable[str]) -> str:
    return ", ".join(sorted({path.rsplit("/", 1)[-1] for path in paths}))


def _shown(lines: tuple[str, ...]) -> str:
    return ", ".join(line[:40] for line in lines)
