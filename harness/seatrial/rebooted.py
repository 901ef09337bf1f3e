"""One orderly reboot of one copy of the guest, for all checks that compare what is before it and after it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NoReturn

from seatrial.errors import HostKeyChanged, ObservationError
from seatrial.guest.facts import Facts
from seatrial.policy.flavours import Flavour
from seatrial.rehearsal import Rehearsal, collect, not_yet
from seatrial.restore import Session

__all__ = ["Rebooted", "reboot_once"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rebooted:
    """What a guest answered before and after one reboot; it is not there any more.

    Its checks were rehearsed to find out what they ask. So a check asks both facts before it decides anything by what
    else it gets, but ``check``, ``flavour``, ``boot`` and ``row``; a question that comes as a surprise is an error.

    :param new_host_key: what is wrong with the SSH host key that the guest came back with; empty when it is the same.
    """

    before: Facts
    after: Facts
    new_host_key: str = ""


@dataclass(frozen=True, slots=True)
class _Gone:
    """Stands where the guest was; raises ``error`` instead, if there is one."""

    when: str
    error: HostKeyChanged | None = field(default=None)

    def run(self, command: str, *, timeout_s: float | None = None) -> NoReturn:  # noqa: ARG002 -- an Asker
        if self.error is not None:
            raise self.error
        raise ObservationError(
            f"{command!r} was not asked {self.when} the reboot, because no rehearsal of the check met it",
            hint="a check with 'rebooted' asks its questions before it needs anything but check, flavour, boot and row",
        )


def reboot_once(session: Session, checks: Sequence[Rehearsal], *, flavour: Flavour, boot: object) -> Rebooted:
    """Ask the guest all that ``checks`` ask before a reboot, reboot it, and ask all that they ask after it.

    :raises BootTimeout: it did not come back in time.
    :raises SessionLost: the connection broke.
    """
    collect(
        session.facts,
        checks,
        flavour=flavour,
        boot=boot,
        offer=lambda facts: {"rebooted": Rebooted(before=facts, after=not_yet())},
    )
    before, known = _kept(session.facts, _Gone("before")), session.guest.address.host_key
    try:
        session.reboot(key_may_change=True)
    except HostKeyChanged as exc:  # it goes on changing: nobody can be sure whom he asks
        return Rebooted(before=before, after=Facts(_Gone("after", exc)), new_host_key=exc.message)
    changed = _changed(known, session.guest.address.host_key)
    collect(
        session.facts,
        checks,
        flavour=flavour,
        boot=boot,
        offer=lambda facts: {"rebooted": Rebooted(before=before, after=facts, new_host_key=changed)},
    )
    return Rebooted(before=before, after=_kept(session.facts, _Gone("after")), new_host_key=changed)


def _kept(facts: Facts, gone: _Gone) -> Facts:
    kept = Facts(gone)
    kept.answers.update(facts.answers)
    return kept


def _changed(before: tuple[str, bytes] | None, after: tuple[str, bytes] | None) -> str:
    if after == before or before is None or after is None:
        return ""
    return f"the key with which the SSH server answers changed from {before[0]} to {after[0]} (other bytes)"
