"""A frozen guest for other processes of the same run: they clone what one process has booted and frozen.

The state lies in a nameless file in memory that the other processes reach through ``/proc/PID/fd`` of the first one
(proc_pid_fd(5)), as they reach the frozen files themselves: nobody else can, and nothing is left when the first ends.
"""

from __future__ import annotations

import contextlib
import functools
import os
import pickle
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Final

from seatrial.errors import HostError
from seatrial.guest.facts import Answer
from seatrial.guest.ready import Guest
from seatrial.guest.restart import WayIn
from seatrial.guest.shell import Shell
from seatrial.guest.ssh import Address, OnDemand
from seatrial.machine.boot import BootFacts
from seatrial.machine.snapshot import Template
from seatrial.restore import Restorer, Session
from seatrial.session import Candidate, booted_again

__all__ = ["Handover", "Place", "handover_place", "taken_over"]

_REPEAT: Final = "run it without -n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Handover:
    """What a process needs to clone the guest that ``pid`` has frozen, and what is known of it already."""

    pid: int
    template: Template
    has_lifeline: bool
    notices_copies: bool
    way: WayIn
    host_key: tuple[str, bytes] | None
    banner: str
    state: str
    times: tuple[float, float, float]
    answers: Mapping[str, Answer]
    boot_facts: BootFacts
    falsified: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Place:
    """Where a handover will lie: a file without a name, open in this process."""

    descriptor: int

    @property
    def path(self) -> str:
        """Return the path by which other processes of this user open it."""
        return f"/proc/{os.getpid()}/fd/{self.descriptor}"

    def offer(self, session: Session, falsified: Mapping[str, str]) -> None:
        """Freeze the guest of ``session`` and let others take it over.

        :raises HostError: this machine cannot be frozen.
        """
        restorer = session.restorer
        assert restorer is not None
        restorer.freeze(session)
        template = restorer.template
        if template is None:
            why = restorer.restores.reason if restorer.restores else ""
            raise HostError(
                f"several workers need a guest that can be frozen, and this one cannot: {why}", hint=_REPEAT
            )
        guest = session.guest
        offered = Handover(
            pid=os.getpid(),
            template=template,
            has_lifeline=restorer.has_lifeline,
            notices_copies=restorer.notices_copies,
            way=restorer.way,
            host_key=guest.address.host_key,
            banner=guest.banner,
            state=guest.state,
            times=(guest.banner_s, guest.login_s, guest.ready_s),
            answers=dict(session.facts.answers),
            boot_facts=session.boot_facts,
            falsified=dict(falsified),
        )
        os.pwrite(self.descriptor, pickle.dumps(offered), 0)


@contextlib.contextmanager
def handover_place() -> Iterator[Place]:
    """Give a place for one handover, for the life of the block."""
    descriptor = os.memfd_create("seatrial-handover", os.MFD_CLOEXEC)
    try:
        yield Place(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def taken_over(path: str, candidate: Candidate, worker: str) -> Iterator[tuple[Session, Handover]]:
    """Clone the guest that was offered at ``path`` and give its session; answers that are known are not asked again.

    :param worker: the name of this process, for the folder of the clone's logs.
    :raises HostError: nothing was offered there, or the process that offered it has ended.
    """
    try:
        content = Path(path).read_bytes()
    except OSError as exc:
        raise HostError(
            f"the frozen guest at {path!r} is gone: {exc.strerror}", hint="did the first process end?"
        ) from exc
    if not content:
        raise HostError(f"no guest was offered at {path!r}", hint=_REPEAT)
    offered: Handover = pickle.loads(content)  # noqa: S301 -- from our own memory: only this user can write there
    with contextlib.ExitStack() as stack:
        template = _reopened(stack, offered)
        launch, folder = template.launch, template.launch.folder / "workers" / worker
        restorer = Restorer(
            offered.way, folder, cold=functools.partial(booted_again, candidate, launch, offered.way.key)
        )
        stack.callback(restorer.close)
        restorer.take_over(template, has_lifeline=offered.has_lifeline, notices_copies=offered.notices_copies)
        session = stack.enter_context(restorer.copied(_origin(offered), template))
        session.facts.answers.update(offered.answers)
        session.restorer, session.is_restored = restorer, False  # to the checks of this worker it is the ready guest
        yield session, offered


def _reopened(stack: contextlib.ExitStack, offered: Handover) -> Template:
    numbers: dict[str, int] = {}
    for field in fields(Template):
        number = getattr(offered.template, field.name)
        if field.name.endswith("_fd") and number is not None:
            numbers[field.name] = os.open(f"/proc/{offered.pid}/fd/{number}", os.O_RDWR | os.O_CLOEXEC)
            stack.callback(os.close, numbers[field.name])
    return replace(offered.template, **numbers)  # type: ignore[arg-type]  # only fields that are descriptors


def _origin(offered: Handover) -> Guest:
    """Return the guest that was frozen, as far as a clone takes after it; it cannot be talked to."""
    address = Address(0, offered.host_key)
    nobody = OnDemand(address, offered.way.user, offered.way.key, patience_s=offered.way.patience.settle_s)
    banner_s, login_s, ready_s = offered.times
    return Guest(
        connection=nobody,
        shell=Shell(nobody, guard=lambda: None, timeout_s=offered.way.patience.command_s),
        address=address,
        banner=offered.banner,
        state=offered.state,
        banner_s=banner_s,
        login_s=login_s,
        ready_s=ready_s,
    )
