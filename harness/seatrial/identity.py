"""Which flavour a booted system says that it is; said aloud when it is another one than it is judged by."""

from __future__ import annotations

from seatrial.evidence.mounts import MOUNTINFO, mount_at, parse_mountinfo
from seatrial.evidence.os_release import OS_RELEASE, parse_os_release
from seatrial.guest.facts import Facts
from seatrial.policy.controls import HostKind
from seatrial.policy.recognition import Recognised, kind_by_usr, recognise
from seatrial.suites import read_flavour, recognition_rules

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
    kind = kind_by_usr(usr is not None and not usr.is_writable)
    found = recognise(os_release, recognition_rules(), kind=kind)
    assert found is not None, "a system whose kind is known is always something"
    return _by_kind(found, kind)


def _by_kind(found: Recognised, kind: HostKind) -> Recognised:
    """Return ``found``, but the general flavour of immutable hosts for one that is told by ID alone and is such a host.

    Distributions have variants that say no VARIANT_ID; to judge one by what it is leaves no control out.
    """
    is_said = found.because.startswith("VARIANT_ID=") or found.flavour in ("general-purpose", "immutable-host")
    if is_said or kind != "immutable-host" or read_flavour(found.flavour).kind == kind:
        return found
    return Recognised(
        "immutable-host",
        f"{found.because} is {found.flavour}, a flavour of general-purpose hosts, and /usr is mounted read-only; "
        f"it is judged as immutable-host",
    )
