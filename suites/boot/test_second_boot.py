"""One restart of a copy of the guest: how the first boot ended, and how long the second one took."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from seatrial.check import Check
from seatrial.evidence.attempts import BOOT_ID
from seatrial.evidence.journal import STORAGE, UNCLEAN, failed_unmounts, troubles, way_down
from seatrial.evidence.systemd import MANAGER, Phases, boot_phases, parse_show, slower_by_s
from seatrial.guest.facts import Facts
from seatrial.policy.flavours import Flavour

if TYPE_CHECKING:
    from seatrial.machine.boot import BootFacts
    from seatrial.rebooted import Rebooted

# Where logins over SSH are, the run's own above all: they keep that file system busy until they are killed, after the
# mount units.
SESSIONS = (
    "pwd -P; for p in $(grep -ls SSH_CONNECTION= /proc/[0-9]*/environ); do"
    " readlink ${p%/environ}/cwd; done | sort -u; true"
)
PERSISTENT = "ls /var/log/journal/*/system.journal 2>/dev/null; true"


@pytest.mark.control("bt-first-vs-second")
def test_second_boot_is_no_slower(rebooted: Rebooted, flavour: Flavour, boot: BootFacts, check: Check) -> None:
    """From the kernel to the last job, by the guest's own clock, the second boot takes no longer than the first.

    How much slower the host was meanwhile is taken from the kernel's own phase, and does not count.
    """
    first, second = _phases(rebooted.before), _phases(rebooted.after)
    limit_s = flavour.budgets.limits(boot.accelerator).get("second_s")
    if limit_s is None:
        check.not_checked(
            f"flavour {flavour.name!r} has no second_s in budgets.{boot.accelerator}; "
            "a budget of another accelerator judges nothing"
        )
    slower_s = slower_by_s(first, second)
    check.holds(
        slower_s <= limit_s,
        expected=f"the second boot at most {limit_s:g} s longer than the first under {boot.accelerator}",
        seen=f"{_told(first)}, then {_told(second)}: {_more(slower_s)} than the host explains",
    )


def _phases(facts: Facts) -> Phases:
    return boot_phases(parse_show(facts.text(MANAGER)))


def _told(phases: Phases) -> str:
    return f"{phases.from_kernel_s:.1f} s (kernel {phases.kernel_s:.1f} s)"


def _more(seconds: float) -> str:
    return f"{abs(seconds):.1f} s {'more' if seconds > 0 else 'less'}"


@pytest.mark.control("bh-clean-poweroff")
def test_system_goes_down_cleanly(rebooted: Rebooted, check: Check) -> None:
    """After an orderly reboot no file system and no journal has to be mended; nothing failed to be unmounted."""
    boot_id = rebooted.before.text(BOOT_ID).strip()
    sessions = rebooted.before.lines(SESSIONS)
    was_kept = bool(rebooted.before.lines(PERSISTENT))
    said = rebooted.after.text(STORAGE).split("\n")
    last = rebooted.after.lines(way_down(boot_id), allowed=(0, 1))
    if not any(line.startswith("Linux version ") for line in said):
        check.cannot_tell("the journal lacks the kernel's first line, 'Linux version ...': it was cut or rotated away")
    check.nothing(troubles(said, UNCLEAN), expected="no replayed journal and no repair at the second boot")
    if last:
        busy = [path for path in failed_unmounts(last) if not any(_is_below(folder, path) for folder in sessions)]
        check.nothing(busy, expected="every file system unmounted, as far as the journal of the first boot tells")
    else:
        check.holds(
            not was_kept,
            expected="the journal of the first boot, if it was kept on disk",
            seen="none of it is left" if was_kept else "none was kept, so what it said last could not be looked at",
        )


def _is_below(folder: str, mount: str) -> bool:
    return folder == mount or folder.startswith(mount.rstrip("/") + "/")
