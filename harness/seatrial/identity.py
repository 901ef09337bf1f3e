"""Which flavour a booted system says that it is; said aloud when it is another one than it is judged by."""

from __future__ import annotations

from seatrial.evidence.mounts import MOUNTINFO, mount_at, parse_mountinfo
from seatrial.evidence.os_release import OS_RELEASE, parse_os_release
from seatrial.guest.facts import Facts
from seatrial.policy.recognition import Recognised, kind_by_usr, recognise
from seatrial.suites import recognition_rules

__all__ = ["ask_identity", "recognised"]


def ask_identity(facts: Facts) -> None:
    """Ask what :func:`recognised` needs."""
    facts.ask_all([OS_RELEASE, MOUNTINFO])


def recognised(facts: Facts) -> Recognised:
    """Return the flavour of the system that ``facts`` are of: a known one, else a general one by how /usr is mounted.

    :raises ObservationError: the guest did not say, or recorded facts do not.
    :raises ConfigError: two flavours claim the system.
    """
    os_release = parse_os_release(facts.text(OS_RELEASE))
    mounts = parse_mountinfo(facts.text(MOUNTINFO))
    usr = mount_at(mounts, "/usr") or mount_at(mounts, "/")
    found = recognise(os_release, recognition_rules(), kind=kind_by_usr(usr is not None and not usr.is_writable))
    assert found is not None, "a system whose kind is known is always something"
    return found
