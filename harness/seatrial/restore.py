"""A ready guest as the suites see it, and isolated copies of it: frozen once, cloned as often as somebody asks."""

from __future__ import annotations

import contextlib
import functools
import secrets
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, Protocol

from seatrial.clock import Deadline, monotonic_s, utc_now
from seatrial.emulation import once_more
from seatrial.errors import BootTimeout, GuestStopped, ObservationError, SeatrialError, TimerLost
from seatrial.guest.facts import Asker, Facts
from seatrial.guest.lanes import Lanes
from seatrial.guest.lifeline import held_open
from seatrial.guest.ready import Guest
from seatrial.guest.restart import BOOT_ID, POWER_OFF, REBOOT, USERSPACE, WayIn, came_back, order, told
from seatrial.guest.shell import Shell, root_shell
from seatrial.guest.ssh import OnDemand
from seatrial.machine.boot import Boot, BootFacts
from seatrial.machine.definition import Machine
from seatrial.machine.memory import Reservations, private_bytes
from seatrial.machine.snapshot import NoSnapshot, Template, cloned, frozen
from seatrial.policy.differences import Difference, Kind, Touched

__all__ = ["COLD_BOOT", "FREEZABLE", "RESTORED", "Origin", "Restorer", "Restores", "Session", "new_session"]

COLD_BOOT: Final = "cold boot"
# What every copy of a guest has in common with it, though two boots of the image would not.
RESTORED: Final = Difference(
    kind=Kind.RESTORED,
    text="the guest is a copy of one that was frozen when it was ready; its clock was set forward",
    touches=(
        Touched.MACHINE_ID,
        Touched.HOST_KEYS,
        Touched.RANDOM_SEED,
        Touched.FIRST_BOOT,
        Touched.BOOT_TIMES,
        Touched.CLOCK,
        Touched.TPM,
    ),
)
FREEZABLE: Final = (
    Difference(
        kind=Kind.DEVICE,
        text="made to be copied: a VM generation id device, guest memory in a file of the host, and two addresses in "
        "QEMU's own network (10.0.2.100, TCP 2201 and 2202) through which a copy of the run's shell answers",
    ),
)
_MOST_CONSOLE: Final = 262_144
_MOST_LANES: Final = 4  # of the ten channels that sshd allows a connection (MaxSessions, sshd_config(5))
_MEMORY_S: Final = 300.0
_OVERHEAD: Final = 192 << 20  # QEMU itself and its translated code
# systemd waits 90 s for a unit to stop (DefaultTimeoutStopSec=, systemd-system.conf(5)).
_OFF_S: Final = 180.0
_LOOK_S: Final = 0.1
_CLOCK_S: Final = 1.0
_CLOCK_TRIES: Final = 4
# The driver takes fresh randomness as soon as it is told of a new generation (drivers/virt/vmgenid.c, Linux 5.18).
_HAS_VMGENID: Final = "ls -d /sys/bus/*/drivers/vmgenid >/dev/null 2>&1"
# Without it only an ioctl does (random(4), RNDRESEEDCRNG), for which no usual program exists.
_RESEED: Final = (
    """{ perl -e 'open(F, ">", "/dev/urandom") && ioctl(F, 0x5207, 0) || exit 1' """
    """|| python3 -c 'import fcntl; fcntl.ioctl(open("/dev/urandom", "wb"), 0x5207)'; } >/dev/null 2>&1"""
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """What a guest that has booted anew came from.

    ``ready`` is the guest whose copies can see a second disk, ``disk`` a descriptor of the overlay over the image as it
    was before the boot (None: there was none), and ``boot`` boots another such overlay in the same way.
    """

    ready: Session
    disk: int | None
    boot: Callable[[int], contextlib.AbstractContextManager[Session]]


@dataclass(slots=True, kw_only=True)
class Session:
    """A ready guest as the suites see it. ``host`` is a testinfra host, made for this boot."""

    host: Any
    facts: Facts
    guest: Guest
    boot: Boot
    way: WayIn | None = None
    restorer: Restorer | None = None
    is_restored: bool = False
    restarts: int = 0
    origin: Origin | None = None
    held: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)

    @property
    def shell(self) -> Shell:
        """Return the root shell in the guest."""
        return self.guest.shell

    @property
    def boot_facts(self) -> BootFacts:
        """Return what is known of the boot from outside."""
        return BootFacts(
            accelerator=self.boot.launch.choice.accelerator,
            firmware=self.boot.launch.machine.firmware,
            tpm=self.boot.launch.machine.tpm,
            banner_s=self.guest.banner_s,
            login_s=self.guest.login_s,
            ready_s=self.guest.ready_s,
            state=self.guest.state,
            console=self.boot.console.text(_MOST_CONSOLE),
            findings=self.boot.watch.findings,
        )

    @property
    def is_lost(self) -> bool:
        """Return whether the guest is gone or can no longer be asked."""
        try:
            self.boot.guard()
        except SeatrialError:
            return True
        return not self.guest.connection.is_alive

    def guard(self) -> None:
        """Raise when the guest is lost; see :meth:`seatrial.machine.watch.Watch.guard`.

        :raises SeatrialError: what the watch saw.
        """
        self.boot.guard()

    def restored(self) -> contextlib.AbstractContextManager[Session]:
        """Give an isolated copy of this guest as it was when it was frozen; any number of them, from any thread.

        What is done in it is seen by nobody else; the end of the block ends it.

        :raises HostError: this host has no memory left for it, or QEMU did not start.
        :raises SeatrialError: the copy did not come up.
        """
        return self._own_restorer().restored(self)

    def cold_boot(self, *, disk: int | None = None) -> contextlib.AbstractContextManager[Session]:
        """Boot the same image once more from its beginning, beside this guest, and give that one.

        :param disk: a descriptor of the overlay over the image to boot from; None for a fresh one.
        :raises SeatrialError: it did not come up.
        """
        restorer = self._own_restorer()
        if disk is not None:  # what a boot has written to is no fresh disk
            return restorer.cold_boot(self, disk=disk)
        return once_more(lambda: restorer.cold_boot(self))

    def _own_restorer(self) -> Restorer:
        if self.restorer is None:
            raise ObservationError("a copy of a copy was asked for", hint="ask the first guest for another one")
        return self.restorer

    def reboot(self, *, key_may_change: bool = False) -> None:
        """Reboot the guest and wait until it is ready again; ``host``, ``facts`` and ``shell`` are new ones then.

        Only a guest of one's own can be restarted; this holds for :meth:`power_cut` and :meth:`soft_reboot` too.

        :param key_may_change: take the SSH host key that it comes back with, whichever that is.
        :raises BootTimeout: it did not come back in time.
        :raises BootHung: it stands still on its way up; any other :class:`BootError` as in a boot.
        :raises HostKeyChanged: it came back with another SSH host key.
        :raises ObservationError: it is the guest that others look at, or refuses.
        """
        self._restart(BOOT_ID, lambda: order(self.shell, REBOOT), key_may_change=key_may_change)

    def power_cut(self) -> None:
        """Reset the machine without a word to the guest, and wait until it is ready again; see :meth:`reboot`.

        What the guest had not yet written to its disk is lost; its disk loses nothing that it had taken.
        """
        self._restart(BOOT_ID, lambda: self.boot.monitor.execute("system_reset"))

    def soft_reboot(self) -> None:
        """Start user space anew under the running kernel (systemd 254); see :meth:`reboot`."""
        self._restart(USERSPACE, lambda: order(self.shell, "systemctl soft-reboot"))

    def power_off(self) -> float:
        """Have the guest power itself off, and return the seconds from the order until the machine is off.

        Only a guest of one's own can be powered off; nothing can be asked of it afterwards.

        :raises BootTimeout: it is still on after three minutes.
        :raises ObservationError: it is the guest that others look at, or refuses.
        """
        self._refuse_shared()
        began, deadline = monotonic_s(), Deadline(_OFF_S)
        # That QEMU has ended is what this waits for, and how the guard says it.
        with contextlib.suppress(GuestStopped), self.boot.watch.reboot_expected():
            order(self.shell, POWER_OFF)
            while not deadline.is_over:
                self.boot.guard()
                deadline.pause(_LOOK_S)
        if self.boot.process.status is None:
            raise BootTimeout(
                f"the guest was still on {deadline.total_s:.0f} s after it was told to power off",
                hint="its console log shows what it waits for: a unit that does not stop, or no ACPI power-off",
                evidence=self.boot.console.path,
            )
        return monotonic_s() - began

    def _refuse_shared(self) -> None:
        if not self.is_restored or self.way is None:
            raise ObservationError(
                "the guest that all checks look at may not be restarted",
                hint="mark the check changes_guest and use the fixture 'guest', or call restored() for a copy",
            )

    def _restart(self, question: str, restart: Callable[[], object], *, key_may_change: bool = False) -> None:
        self._refuse_shared()
        assert self.way is not None
        before = told(self.shell, question)
        with self.boot.watch.reboot_expected(self.way.hang):
            restart()
            self.restarts += 1
            self.held.close()
            back = functools.partial(
                came_back,
                self.guest.address,
                replace(self.way, let_in=self.boot.watch.let_in),
                question,
                before,
                guard=self.boot.guard,
                key_may_change=key_may_change,
            )
            try:
                self.guest = self.held.enter_context(back())
            except TimerLost:
                if not self.boot.watch.forgive_lost_timer():
                    raise
                self.boot.monitor.execute("system_reset")
                self.guest = self.held.enter_context(back())
        fresh = new_session(self.guest, self.boot)
        self.host, self.facts = fresh.host, fresh.facts


@dataclass(frozen=True, slots=True, kw_only=True)
class Restores:
    """How guests were restored, for the record: the way, why no better one, and seconds."""

    method: str
    reason: str = ""
    freeze_s: float = 0.0
    lifeline: bool = False
    reseeded: bool | None = None
    seconds: tuple[float, ...] = ()
    cold_boots: int = 0


def new_session(guest: Guest, boot: Boot, **more: Any) -> Session:
    """Return a session on ``guest`` with a testinfra host and facts of its own; ``more`` holds further fields."""
    # testinfra takes long to import: only when a guest is up, while nobody waits for it.
    from seatrial.guest.backend import new_host  # noqa: PLC0415

    host = new_host(guest.shell, boot.launch.image.path.name)
    lanes = Lanes(guest.shell, most=min(boot.launch.machine.cpus, _MOST_LANES))
    return Session(host=host, facts=Facts(lanes), guest=guest, boot=boot, **more)


class Cold(Protocol):
    """Boots the image once more."""

    def __call__(self, folder: Path, *, disk: int | None = None) -> contextlib.AbstractContextManager[Session]:
        """Give the guest that came of it; its logs go to ``folder``, its writes to the overlay ``disk``."""


class Restorer:
    """Freezes a session's guest the first time somebody asks, and gives copies of it. For any number of threads."""

    def __init__(self, way: WayIn, folder: Path, *, cold: Cold) -> None:
        self.way = way
        self._folder = folder
        self._cold = cold
        self._lock = threading.Lock()
        self._kept = contextlib.ExitStack()
        self._memory = Reservations()
        self.template: Template | None = None
        self.has_lifeline = False
        self.notices_copies = False
        self._count = 0
        self._restores: Restores | None = None
        self._cold_boots = 0

    @property
    def restores(self) -> Restores | None:
        """Return how guests were restored so far; None when nobody asked for one of his own."""
        if self._restores is None and self._cold_boots:
            return Restores(method=COLD_BOOT, cold_boots=self._cold_boots)
        return replace(self._restores, cold_boots=self._cold_boots) if self._restores else None

    def take_over(self, template: Template, *, has_lifeline: bool, notices_copies: bool) -> None:
        """Give copies of a guest that another process has frozen."""
        self.template, self.has_lifeline, self.notices_copies = template, has_lifeline, notices_copies
        self._restores = Restores(
            method=template.way.name,
            reason=template.refused,
            freeze_s=template.freeze_s,
            lifeline=has_lifeline,
            reseeded=notices_copies or None,
        )

    def note_others(self, seconds: Sequence[float], cold_boots: int, *, reseeded: bool | None) -> None:
        """Count the copies and cold boots that another process has made of the same frozen guest."""
        with self._lock:
            self._cold_boots += cold_boots
            if self._restores is not None:
                every = (*self._restores.seconds, *seconds)
                known = {self._restores.reseeded, reseeded} - {None}
                self._restores = replace(self._restores, seconds=every, reseeded=all(known) if known else None)

    def close(self) -> None:
        """Forget the frozen state."""
        self._kept.close()

    def freeze(self, session: Session) -> None:
        """Freeze the guest now, if that was not done yet; otherwise the first :meth:`restored` does it.

        :raises GuestStopped: QEMU ended.
        """
        with self._lock:
            if self._restores is not None:
                return
            why: list[str] = []
            if session.boot.launch.is_cloneable:
                self.notices_copies = session.guest.shell.run(_HAS_VMGENID)[0] == 0
            method, began = COLD_BOOT, monotonic_s()
            try:
                with held_open(session.guest.shell, session.boot.lifeline, say_why=why) as self.has_lifeline:
                    template = self.template = self._kept.enter_context(frozen(session.boot))
                method = template.way.name
                why.insert(0, template.refused)
            except NoSnapshot as exc:
                why.append(exc.message)
            self._restores = Restores(
                method=method,
                reason="; ".join(filter(None, why)),
                freeze_s=round(monotonic_s() - began, 3),
                lifeline=self.has_lifeline,
                reseeded=self.notices_copies or None,
                seconds=(),
            )

    @contextlib.contextmanager
    def restored(self, session: Session) -> Iterator[Session]:
        """Give a copy of the guest of ``session``; see :meth:`Session.restored`."""
        self.freeze(session)
        copy = session.cold_boot() if self.template is None else self.copied(session.guest, self.template)
        with copy as restored:
            yield restored

    @contextlib.contextmanager
    def copied(self, origin: Guest, template: Template) -> Iterator[Session]:
        """Give a copy of the frozen guest ``origin``, when there is memory for one more."""
        with self._reserved(template.launch.machine) as count:
            began = monotonic_s()
            with self._clone(origin, template) as copy:
                count(lambda: private_bytes(copy.boot.process.pid))
                self._note(monotonic_s() - began)
                yield copy

    @contextlib.contextmanager
    def cold_boot(self, session: Session, *, disk: int | None = None) -> Iterator[Session]:
        """Boot the same image once more; see :meth:`Session.cold_boot`."""
        with self._reserved(session.boot.launch.machine) as count, self._cold(self._place(), disk=disk) as copy:
            count(lambda: private_bytes(copy.boot.process.pid))
            with self._lock:
                self._cold_boots += 1
            yield copy

    def _reserved(self, machine: Machine) -> contextlib.AbstractContextManager[Callable[[Callable[[], int]], None]]:
        needed = (machine.memory_mib << 20) + _OVERHEAD
        return self._memory.reserved(needed, deadline=Deadline(_MEMORY_S))

    @contextlib.contextmanager
    def _clone(self, origin: Guest, template: Template) -> Iterator[Session]:
        with cloned(template, self._place()) as boot, contextlib.ExitStack() as stack:
            # Connections of the frozen guest are dead in a clone; its host key is not, and no other is accepted.
            address = replace(origin.address, port=boot.port)
            patience = self.way.patience
            connection = OnDemand(address, self.way.user, self.way.key, patience_s=patience.settle_s)
            stack.callback(connection.close)
            shell = stack.enter_context(
                root_shell(
                    connection,
                    guard=boot.guard,
                    timeout_s=patience.command_s,
                    channel=boot.lifeline if self.has_lifeline else None,
                )
            )
            if not self.notices_copies:
                self._note_reseeded(reseed(shell))
            set_clock(shell)
            guest = replace(origin, connection=connection, shell=shell, address=address)
            yield new_session(guest, boot, way=self.way, is_restored=True, held=stack)

    def _note_reseeded(self, reseeded: bool) -> None:
        with self._lock:
            assert self._restores is not None
            self._restores = replace(self._restores, reseeded=reseeded)

    def _place(self) -> Path:
        with self._lock:
            self._count += 1
            place = self._folder / "restored" / f"{self._count:03}"
        place.mkdir(parents=True)
        return place

    def _note(self, seconds: float) -> None:
        with self._lock:
            assert self._restores is not None
            self._restores = replace(self._restores, seconds=(*self._restores.seconds, round(seconds, 3)))


def reseed(shell: Asker) -> bool:
    """Give the kernel of a copy randomness of our own; return whether it used it at once, not within a minute only."""
    status, _out, _err = shell.run(f"echo {secrets.token_hex(64)} >/dev/urandom; {_RESEED}")
    return status == 0


def set_clock(shell: Asker) -> None:
    """Set the guest's clock to ours: a clone goes on at the time at which it was frozen.

    A first command in a fresh clone can take long: the time is sent again until it was at most a second old.

    :raises ObservationError: the guest refuses.
    """
    for _try in range(_CLOCK_TRIES):
        sent = utc_now().timestamp()
        # busybox takes whole seconds only.
        status, _out, err = shell.run(f"date -u -s @{sent:.3f} >/dev/null 2>&1 || date -u -s @{sent:.0f} >/dev/null")
        if status != 0:
            text = err.decode("utf-8", "backslashreplace").strip()[-200:]
            raise ObservationError(f"the clock of a restored guest could not be set: exit status {status}, {text!r}")
        if utc_now().timestamp() - sent <= _CLOCK_S:
            return
