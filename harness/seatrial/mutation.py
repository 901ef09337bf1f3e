"""Mutants at work: each defect is seeded in a copy of the guest of its own, and every control is judged there again.

A control is shown to work when the defect turns it red; one that turns red beside those that should is a false alarm.
"""

from __future__ import annotations

import contextlib
import itertools
import threading
from collections.abc import Callable, Collection, Generator, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Final, Protocol

from seatrial.again import called
from seatrial.clock import monotonic_s
from seatrial.errors import BootError, BootHung, ObservationError, SeatrialError, TimerLost
from seatrial.guest.shell import Shell
from seatrial.machine.disk import nameless_duplicate
from seatrial.mutants_file import Mutant, Stage
from seatrial.mutation_changes import (
    OLDER_S,
    Inapplicable,
    has_loader,
    make_change,
    needed_first,
    prepare,
    reword,
    seen_to_write,
    took,
    words_of,
)
from seatrial.mutation_groups import Asked, shared_out, slow_ones, suspects
from seatrial.mutation_results import Result, Tried, Verdicts, compared, fits, is_worse, tried_twice
from seatrial.offline import changed_disk
from seatrial.plan import Plan
from seatrial.policy.controls import verdict_without_boot
from seatrial.policy.flavours import Flavour
from seatrial.policy.judge import Outcome, Verdict
from seatrial.rebooted import Rebooted, reboot_once
from seatrial.rehearsal import Rehearsal, collect
from seatrial.restore import RESTORED, Origin
from seatrial.session import Session
from seatrial.workshop import PLACE as MOUNTED_AT

__all__ = ["OF_ITS_OWN", "Bench", "Probe"]

# What a check asks for that changes the guest, or takes a boot: it is judged only where a mutant names its control.
OF_ITS_OWN: Final = frozenset({"guest", "booted_from", "rebooted"})


class Way(StrEnum):
    """How a guest comes to be what a mutant made of it."""

    COPY = "a copy"
    RESTARTED = "a copy that was reset"
    WORDS = "other words on its kernel's command line"
    BOOTED = "another boot"
    OFFLINE = "another boot, of a disk that was changed before"


_WAYS: Final = {
    Stage.GUEST: Way.COPY,
    Stage.REBOOT: Way.RESTARTED,
    Stage.IMAGE: Way.OFFLINE,
    Stage.COMMAND_LINE: Way.WORDS,
}


@dataclass(frozen=True, slots=True)
class Probe:
    """A check that can be called: its node id, and how."""

    node: str
    check: Rehearsal


class _Gone(Exception):
    """The change was the guest's end, as ``lost`` says; ``before`` and ``after`` are what needs none to answer."""

    def __init__(self, lost: SeatrialError, before: Verdicts, after: Verdicts) -> None:
        super().__init__(lost.message)
        self.before, self.after = before, after


class _Down(Exception):
    """What the change made of the guest does not come up."""

    def __init__(self, error: BootError) -> None:
        super().__init__(error.message)
        self.error = error


# How a copy was made, what was done to it first, and the only controls that were judged (None: all that can be).
_Key = tuple[Way, str, frozenset[str] | None]


class BootAgain(Protocol):
    """Boots the image once more: with further words on its kernel's command line, or from a disk over it."""

    def __call__(self, *, words: str = "", disk: int | None = None) -> contextlib.AbstractContextManager[Session]:
        """Give the guest that came of it."""


@dataclass(slots=True, kw_only=True)
class Bench:
    """A ready guest, the checks, and what they say of copies that nobody has changed.

    :param boot_again: boots the image anew; words for the kernel go past any boot loader's file.
    :param tell: called with what happens, in few words.
    :param known_so_far: called by any thread with what is known at once of each mutant. Its result is final when its
        neighbours are through: until then nobody has looked whether it changed a control that none of them names.
    """

    image: str
    ready: Session
    plan: Plan
    probes: Sequence[Probe]
    flavour: Flavour
    boot_again: BootAgain
    tell: Callable[[str], object] = str
    known_so_far: Callable[[Tried], object] = id
    _ending: threading.Event = field(default_factory=threading.Event)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _baselines: dict[_Key, Verdicts] = field(default_factory=dict)
    _kept: dict[_Key, threading.Lock] = field(default_factory=dict)

    def warmed_up(self) -> None:
        """Judge the ready guest itself once, and freeze it: its copies find what they will read in memory."""
        self.judged(self.ready)
        if self.ready.restorer is not None:
            self.ready.restorer.freeze(self.ready)

    def tried_all(self, mutants: Sequence[Mutant], *, jobs: int) -> Generator[Tried, None, None]:
        """Give the results as they come, ``jobs`` guests at a time; mutants that need no restart are tried first.

        In its own copy a mutant meets the controls that it or one of its neighbours names, a harmless one also those
        that it must not turn red. Whether it changes any other is looked at for these neighbours together, and for
        halves of them as long as some did.
        """
        ordered = sorted(mutants, key=lambda mutant: list(Stage).index(mutant.stage))
        groups = [list(group) for _way, group in itertools.groupby(ordered, key=lambda mutant: _WAYS.get(mutant.stage))]
        neighbours = [some for group in groups for some in shared_out(group, jobs)]
        with ThreadPoolExecutor(jobs, thread_name_prefix="mutant") as pool:
            waiting = [pool.submit(self._tried_together, some) for some in neighbours]
            try:
                for future in as_completed(waiting):
                    yield from future.result()
            except BaseException:
                # Whoever ended the run waits for the guests that are at work, and for none that they would start.
                self._ending.set()
                raise
            finally:
                for future in waiting:
                    future.cancel()

    def tried(self, mutant: Mutant, *, asked: Asked = None) -> Tried:
        """Seed ``mutant`` in a guest of its own and judge.

        :param asked: the controls to judge beside those that it names; None for all.
        """
        return self._tried(mutant, asked)[0]

    def _tried_together(self, mutants: Sequence[Mutant]) -> list[Tried]:
        named = frozenset(name for mutant in mutants for name in mutant.caught_by)
        # Together, what goes red for a harmless one could be taken for what follows the controls of its neighbours.
        green = {mutant.id: {n for n in self.known if fits(n, mutant.stays_green)} for mutant in mutants}
        alone = [self._tried_first(mutant, named | green[mutant.id]) for mutant in mutants]
        made = {mutant.id: tried for mutant, (tried, was_made) in zip(mutants, alone, strict=True) if was_made}
        slow = slow_ones({name: tried.seconds for name, tried in made.items()})
        again = suspects(
            [mutant for mutant in mutants if mutant.id in made and mutant.id not in slow],
            lambda some, asked: self._alarming(some, named, asked),
        )
        again |= dict.fromkeys(slow)
        return [
            tried_twice(tried, self.tried(mutant, asked=again[mutant.id])) if mutant.id in again else tried
            for mutant, (tried, _was_made) in zip(mutants, alone, strict=True)
        ]

    def _tried_first(self, mutant: Mutant, asked: Asked) -> tuple[Tried, bool]:
        tried, is_made = self._tried(mutant, asked)
        self.known_so_far(tried)
        return tried, is_made

    def _alarming(self, mutants: Sequence[Mutant], named: frozenset[str], asked: Asked) -> frozenset[str] | None:
        """Make all these changes in one copy; return the controls that changed, but are neither named nor follow.

        None when that cannot be done: together they break the guest, or exclude each other.
        """
        self.tell(f"looking for alarms of {len(mutants)} together, from {mutants[0].id} on")
        try:
            before, after = self._before_and_after(mutants, asked)
        except (SeatrialError, Inapplicable, _Gone, _Down):
            return None
        changed = (n for n in after if n not in named and is_worse(before[n], after[n]))
        return frozenset(n for n in changed if not any(fits(name, self.follows.get(n, ())) for name in named))

    def _tried(self, mutant: Mutant, asked: Asked) -> tuple[Tried, bool]:
        """Return what became of ``mutant``, and whether its change was made and the guest still answers."""
        began, is_made = monotonic_s(), False
        try:
            self._refused(mutant)
            before, after = self._tried_again_when_hung(mutant, asked)
            done = compared(mutant, before, after, image=self.image, follows=self.follows)
            is_made = True
        except Inapplicable as exc:
            done = Tried(id=mutant.id, image=self.image, result=Result.NOT_APPLICABLE, error=str(exc))
        except _Gone as exc:
            done = replace(
                compared(mutant, exc.before, exc.after, image=self.image, follows=self.follows), error=str(exc)
            )
        except _Down as exc:
            done = self._without_boot(mutant, exc.error)
        except SeatrialError as exc:
            done = Tried(id=mutant.id, image=self.image, result=Result.SURVIVED, error=exc.message)
        self.tell(f"{mutant.id}: {done.result}, as far as it is known {' / '.join(done.unexpected)}")
        return replace(done, seconds=round(monotonic_s() - began, 1)), is_made

    def _tried_again_when_hung(self, mutant: Mutant, asked: Asked) -> tuple[Verdicts, Verdicts]:
        """Return the verdicts before and after; a boot that hangs under emulation, as some do, is made once more."""
        try:
            return self._before_and_after([mutant], asked)
        except _Down as exc:
            if not isinstance(exc.error, BootHung):
                raise
        except (BootHung, TimerLost):
            pass
        return self._before_and_after([mutant], asked)

    def _without_boot(self, mutant: Mutant, error: BootError) -> Tried:
        """Return what a mutant came to that does not come up: a gate rejects it by what ``fails_without_boot``."""
        rows = [(s.name, c) for s in self.plan.suites for c in s.controls if c.fails_without_boot]
        after = {c.id: verdict_without_boot(c, suite, error.message) for suite, c in rows if c.id in mutant.caught_by}
        if not after:
            return Tried(id=mutant.id, image=self.image, result=Result.SURVIVED, error=error.message)
        before = self._baseline(Way.COPY, "", ())
        done = compared(mutant, before, after, image=self.image)
        return replace(done, error=done.error or error.message)

    def judged(self, session: Session, *, asked: Asked = None, also: Collection[str] = ()) -> Verdicts:
        """Return the verdicts on ``session`` by control.

        :param asked: the controls to judge, of which those that are :attr:`apart` are left out; None for all.
        :param also: controls to judge even if they are :attr:`apart`.
        :raises SessionLost: the connection broke.
        """
        apart, control_of = self.apart, self.plan.control_of
        wanted = {*also} | {n for n in self.known if n not in apart and (asked is None or n in asked)}
        probes = [p for p in self.probes if control_of[p.node] in wanted]
        # A check that changes the guest comes last: the others shall not see what it did.
        probes.sort(key=lambda probe: _disturbance(probe.check))
        quiet, rebooting = ([p.check for p in probes if _disturbance(p.check) == degree] for degree in (0, 1))
        collect(session.facts, quiet, flavour=self.flavour, boot=session.boot_facts)
        found: dict[str, Verdict] = {}
        rebooted: Rebooted | None = None
        for probe in probes:
            session.guard()
            if rebooted is None and _disturbance(probe.check) == 1:
                rebooted = reboot_once(session, rebooting, flavour=self.flavour, boot=session.boot_facts)
            ended = called(probe.check, session, self.flavour, rebooted=rebooted)
            found[control_of[probe.node]] = self.plan.verdict(probe.node, ended)
        return found

    @property
    def follows(self) -> Mapping[str, Sequence[str]]:
        """Return by control what it goes red with by its nature."""
        return {c.id: c.follows for suite in self.plan.suites for c in suite.controls if c.follows}

    @property
    def apart(self) -> frozenset[str]:
        """Return the controls that are judged only where a mutant names them.

        They change or reboot the guest, boot another, or are about its boot, which a copy has not made itself.
        """
        about_its_boot = (p.node for p in self.probes if self.plan.is_falsified(p.node, RESTORED))
        return self.changing.union(self.plan.control_of[node] for node in about_its_boot)

    @property
    def changing(self) -> frozenset[str]:
        """Return the controls that do more than look at a guest."""
        return frozenset(self.plan.control_of[p.node] for p in self.probes if _disturbance(p.check))

    @property
    def rebooting(self) -> frozenset[str]:
        """Return the controls that look at the guest before and after its reboot."""
        return frozenset(self.plan.control_of[p.node] for p in self.probes if _disturbance(p.check) == 1)

    def _refused(self, mutant: Mutant) -> None:
        if mutant.stage is Stage.HARNESS:
            raise Inapplicable("stage H: input of the harness; the unit tests make this change, no guest can")
        if mutant.stage is Stage.BUILD:
            raise Inapplicable("stage B: a rebuilt artefact; build it and judge it with 'seatrial gate'")
        if mutant.stage is Stage.QEMU:
            raise Inapplicable("stage Q: another machine; judge it with 'seatrial gate --machine FILE'")
        names = ", ".join(mutant.caught_by)
        built = {control.id for suite in self.plan.suites for control in suite.controls}
        # That nobody has a control for it is no excuse: if the change can be made, it survives.
        if set(mutant.caught_by) & built and not set(mutant.caught_by) & self.known:
            raise Inapplicable(f"no control of it is for {self.flavour.name}, or can be judged in a copy: {names}")

    @property
    def known(self) -> frozenset[str]:
        """Return the controls that can be judged here."""
        return frozenset(self.plan.control_of[probe.node] for probe in self.probes)

    def _before_and_after(self, mutants: Sequence[Mutant], asked: Asked) -> tuple[Verdicts, Verdicts]:
        """Make the changes of all these mutants, which need the same way of restarting, in one copy.

        :raises Inapplicable: the only change could not be made; of several, one that stands in another's way is left.
        :raises CancelledError: the run has ended.
        """
        if self._ending.is_set():
            raise CancelledError
        first = needed_first([mutant.change for mutant in mutants])
        also = mutants[0].caught_by if len(mutants) == 1 else ()
        way = _WAYS[mutants[0].stage]
        forgiven = (Inapplicable,) if len(mutants) > 1 else ()
        with _told_when_down(), contextlib.ExitStack() as stack:
            if way is Way.OFFLINE:
                way, copy = Way.BOOTED, stack.enter_context(self._offline(mutants, forgiven))
                prepare(copy.shell, first)
            elif way is Way.WORDS:
                words = [words_of(mutant.change) for mutant in mutants]
                added, dropped = ([word for pair in words for word in pair[which]] for which in (0, 1))
                way, copy = self._with_command_line(added, dropped, stack)
            else:
                copy = stack.enter_context(self.ready.restored())
                prepare(copy.shell, first)
                for mutant in mutants:
                    with contextlib.suppress(*forgiven):
                        self._changed(copy, mutant)
                if way is Way.RESTARTED:
                    copy.power_cut()
            after = self.judged(copy, asked=asked, also=also)
        return self._baseline(way, first, also), after

    def _changed(self, copy: Session, mutant: Mutant) -> None:
        """Make the change of ``mutant`` in ``copy``; a guest that it ends is judged by what was seen from outside."""
        try:
            make_change(copy.shell, mutant.change)
        except SeatrialError as exc:
            if not copy.is_lost:
                raise
            # A copy that lives shows no boot on its console: what there was before is the ready guest's.
            asked = self.known - self.apart | {*mutant.caught_by}
            raise _Gone(exc, *(self._from_outside(session, asked) for session in (self.ready, copy))) from exc

    def _from_outside(self, session: Session, asked: Collection[str]) -> Verdicts:
        """Return the verdicts of what asks no guest, which may be lost."""
        probes = {self.plan.control_of[p.node]: p for p in self.probes if p.check.asks_no_guest}
        return {
            name: self.plan.verdict(probe.node, called(probe.check, session, self.flavour))
            for name, probe in probes.items()
            if name in asked
        }

    @contextlib.contextmanager
    def _offline(self, mutants: Sequence[Mutant], forgiven: tuple[type[Exception], ...]) -> Iterator[Session]:
        """Make the changes on a disk over the image, and boot that for the first time."""

        def change(shell: Shell, device: str) -> None:
            for mutant in mutants:
                with contextlib.suppress(*forgiven), seen_to_write(shell, mutant.change):
                    make_change(shell, mutant.change, root=MOUNTED_AT, disk=device)
            shell.run(f"sleep {OLDER_S}")

        with contextlib.ExitStack() as stack:
            try:
                disk = stack.enter_context(changed_disk(self.ready, change))
            except ObservationError as exc:
                raise Inapplicable(exc.message) from exc
            yield stack.enter_context(self._booted(disk=disk))

    @contextlib.contextmanager
    def _booted(self, *, words: str = "", disk: int | None = None) -> Iterator[Session]:
        """Boot the image once more; a check can then boot its own changes of the same disk."""
        with contextlib.ExitStack() as stack:
            before = None
            if disk is not None:
                before = stack.enter_context(nameless_duplicate(disk, self.ready.boot.launch.folder))
            session = stack.enter_context(self.boot_again(words=words, disk=disk))
            session.origin = Origin(
                ready=self.ready, disk=before, boot=lambda changed: self.boot_again(words=words, disk=changed)
            )
            yield session

    def _with_command_line(
        self, added: Sequence[str], dropped: Sequence[str], stack: contextlib.ExitStack
    ) -> tuple[Way, Session]:
        way, copy = Way.RESTARTED, stack.enter_context(self.ready.restored())
        if has_loader(copy.shell):
            reword(copy.shell, added, dropped)
            copy.power_cut()
        elif dropped:
            raise Inapplicable("the kernel's words are inside of a signed or unified image: none can be dropped")
        else:
            way = Way.BOOTED
            stack.close()
            copy = stack.enter_context(self._booted(words=" ".join(added)))
        took(copy.shell, added, dropped)
        return way, copy

    def _baseline(self, way: Way, first: str, also: Collection[str]) -> Verdicts:
        """Return the verdicts on a copy that nobody has changed, made in the same way; each is judged once."""
        whole = self._kept_verdicts(way, first, None)
        apart = self.apart.intersection(also).difference(whole)
        if apart & self.rebooting:
            apart |= self.rebooting  # one reboot answers all of them
        return {**whole, **self._kept_verdicts(way, first, apart)} if apart else whole

    def _kept_verdicts(self, way: Way, first: str, only: frozenset[str] | None) -> Verdicts:
        key = (way, first, only)
        with self._lock:
            lock = self._kept.setdefault(key, threading.Lock())
        with lock:
            if key not in self._baselines:
                self._baselines[key] = self._unchanged(way, first, only)
            return self._baselines[key]

    def _unchanged(self, way: Way, first: str, only: frozenset[str] | None) -> Verdicts:
        # A copy that has booted shows its boot to whoever only looks.
        seen = self.apart - self.changing if way is not Way.COPY else frozenset()
        found = self._untouched(way, first, asked=only and (), also=seen if only is None else only)
        # A busy host may have kept an answer back: what says nothing of one copy is asked of another.
        if unclear := frozenset(name for name, verdict in found.items() if verdict.outcome is Outcome.ERROR):
            found = {**found, **self._untouched(way, first, asked=unclear, also=unclear & self.apart)}
        return found

    def _untouched(self, way: Way, first: str, *, asked: Asked, also: Collection[str]) -> Verdicts:
        """Judge a copy that went the same way, without a change."""
        with self._booted() if way is Way.BOOTED else self.ready.restored() as copy:
            prepare(copy.shell, first)
            make_change(copy.shell, ":")
            if way is Way.RESTARTED:
                copy.power_cut()
            return self.judged(copy, asked=asked, also=also)


@contextlib.contextmanager
def _told_when_down() -> Iterator[None]:
    """Tell a guest that its change kept from coming up from one that nobody has changed.

    :raises _Down: it did not come up.
    """
    try:
        yield
    except BootError as exc:
        raise _Down(exc) from exc


def _disturbance(check: Rehearsal) -> int:
    """Return 0 for a check that only looks, 1 for one that wants a reboot, 2 for one that may do anything."""
    asked = OF_ITS_OWN & check.needs
    return 2 if check.changes_guest or asked - {"rebooted"} else int(bool(asked))
