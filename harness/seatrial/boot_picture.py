"""The picture of a gate's one boot, made of facts that its checks have asked for."""

from __future__ import annotations

import contextlib
from typing import Final

from seatrial.errors import SeatrialError
from seatrial.evidence.boot_units import UNITS, Units, critical_chain, parse_unit_times
from seatrial.evidence.systemd import MANAGER, boot_phases, parse_show
from seatrial.guest.facts import Facts
from seatrial.report.boot_record import spans
from seatrial.report.timeline import boot_svg

__all__ = ["boot_picture"]

# Where a boot ends by default; which of them this image aims at is not worth a question of its own.
_ENDS: Final = ("graphical.target", "multi-user.target")


def boot_picture(facts: Facts) -> str:
    """Return the boot as SVG; empty when no check asked for the times of its units, or they cannot be read."""
    if not facts.answers.keys() >= {MANAGER, UNITS}:
        return ""
    with contextlib.suppress(SeatrialError):  # what they lack, the checks that asked for them say
        phases, units = boot_phases(parse_show(facts.text(MANAGER))), parse_unit_times(facts.text(UNITS))
        started = phases.kernel_s + (phases.initrd_s or 0.0)
        return boot_svg(phases.measured(), spans(units), critical_chain(units, _end(units), since_s=started))
    return ""


def _end(units: Units) -> str:
    return next((name for name in _ENDS if name in units), "")
