"""A ready guest as the suites see it, and isolated copies of it: frozen once, cloned as often as somebody asks."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from seatrial.clock import Deadline, monotonic_s, utc_now
from seatrial.errors import ObservationError
from seatrial.guest.facts import Facts
from seatrial.guest.lifeline import held_open
from seatrial.guest.ready import Guest, Patience
from seatrial.guest.shell import Shell, root_shell
from seatrial.guest.ssh import OnDemand, RunKey
from seatrial.machine.boot import Boot, BootFacts
from seatrial.machine.memory import Reservations, private_bytes
from seatrial.machine.snapshot import NoSnapshot, Template, cloned, frozen

__all__ = ["COLD_BOOT", "Restorer", "Restores", "Session", "new_session"]

COLD_BOOT: Final = "cold boot"
_MOST_CONSOLE: Final = 262_144
_MEMORY_S: Final = 300.0
_RESEED_S: Final = 10
_OVERHEAD: Final = 192 << 20  # QEMU itself and its translated code
_RESEEDED: Final = "crng reseeded due to virtual machine fork"  # drivers/char/random.c since Linux 5.18


@dataclass(slots=True, kw_only=True)
class Session:
    """A ready guest as the suites see it. ``host`` is a testinfra host, made for this boot."""

    host: Any
    facts: Facts
    guest: Guest
    boot: Boot
    restorer: Restorer | None = None
    is_restored: bool = False

    @property
    def shell(self) -> Shell:
        """Return the root shell in the guest."""
        return self.guest.shell

    @property
    def boot_facts(self) -> BootFacts:
        """Return what is known of the boot from outside."""
        console = self.boot.console.path.read_bytes()[-_MOST_CONSOLE:].decode("utf-8", "backslashreplace")
        return BootFacts(
            accelerator=self.boot.launch.choice.accelerator,
            banner_s=self.guest.banner_s,
            login_s=self.guest.login_s,
            ready_s=self.guest.ready_s,
            state=self.guest.state,
            console=console,
        )

    def restored(self) -> contextlib.AbstractContextManager[Session]:
        """Give an isolated copy of this guest as it was when it was frozen; any number of them, from any thread.

        What is done in it is seen by nobody else; the end of the block ends it.

        :raises HostError: this host has no memory left for it, or QEMU did not start.
        :raises SeatrialError: the copy did not come up.
        """
        if self.restorer is None:
            raise ObservationError("a copy of a copy was asked for", hint="ask the first guest for another one")
        return self.restorer.restored(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Restores:
    """How guests were restored, for the record: the way, why no better one, and seconds."""

    method: str
    reason: str
    freeze_s: float
    lifeline: bool
    reseeded: bool | None
    seconds: tuple[float, ...]


def new_session(guest: Guest, boot: Boot, *, restorer: Restorer | None = None, is_restored: bool = False) -> Session:
    """Return a session on ``guest`` with a testinfra host and facts of its own."""
    # testinfra takes long to import: only when a guest is up, while nobody waits for it.
    from seatrial.guest.backend import new_host  # noqa: PLC0415

    host = new_host(guest.shell, boot.launch.image.path.name)
    return Session(
        host=host, facts=Facts(guest.shell), guest=guest, boot=boot, restorer=restorer, is_restored=is_restored
    )


Cold = Callable[[Path], contextlib.AbstractContextManager[Session]]


class Restorer:
    """Freezes a session's guest the first time somebody asks, and gives copies of it. For any number of threads."""

    def __init__(self, key: RunKey, patience: Patience, folder: Path, *, cold: Cold) -> None:
        self._key = key
        self._patience = patience
        self._folder = folder
        self._cold = cold
        self._lock = threading.Lock()
        self._kept = contextlib.ExitStack()
        self._memory = Reservations()
        self._template: Template | None = None
        self._has_lifeline = False
        self._count = 0
        self.restores: Restores | None = None

    def close(self) -> None:
        """Forget the frozen state."""
        self._kept.close()

    def freeze(self, session: Session) -> None:
        """Freeze the guest now, if that was not done yet; otherwise the first :meth:`restored` does it.

        :raises GuestStopped: QEMU ended.
        """
        with self._lock:
            if self.restores is not None:
                return
            why: list[str] = []
            method, began = COLD_BOOT, monotonic_s()
            try:
                with held_open(session.guest.shell, session.boot.lifeline, say_why=why) as self._has_lifeline:
                    template = self._template = self._kept.enter_context(frozen(session.boot))
                method = template.way.name
                why.insert(0, template.refused)
            except NoSnapshot as exc:
                why.append(exc.message)
            self.restores = Restores(
                method=method,
                reason="; ".join(filter(None, why)),
                freeze_s=round(monotonic_s() - began, 3),
                lifeline=self._has_lifeline,
                reseeded=None,
                seconds=(),
            )

    @contextlib.contextmanager
    def restored(self, session: Session) -> Iterator[Session]:
        """Give a copy of the guest of ``session``; see :meth:`Session.restored`."""
        self.freeze(session)
        machine = session.boot.launch.machine
        needed = (machine.memory_mib << 20) + _OVERHEAD
        with contextlib.ExitStack() as stack:
            count = stack.enter_context(self._memory.reserved(needed, deadline=Deadline(_MEMORY_S)))
            began = monotonic_s()
            copy = stack.enter_context(self._cold(self._place()) if self._template is None else self._clone(session))
            count(lambda: private_bytes(copy.boot.process.pid))
            self._note(monotonic_s() - began)
            yield copy

    @contextlib.contextmanager
    def _clone(self, session: Session) -> Iterator[Session]:
        assert self._template is not None
        with cloned(self._template, self._place()) as boot, contextlib.ExitStack() as stack:
            # Connections of the frozen guest are dead in a clone; its host key is not, and no other is accepted.
            address = replace(session.guest.address, port=boot.port)
            user = session.guest.connection.user
            connection = OnDemand(address, user, self._key, patience_s=self._patience.settle_s)
            stack.callback(connection.close)
            shell = stack.enter_context(
                root_shell(
                    connection,
                    guard=boot.guard,
                    timeout_s=self._patience.command_s,
                    channel=boot.lifeline if self._has_lifeline else None,
                )
            )
            set_clock(shell)
            self._see_fresh_randomness(shell)
            guest = replace(session.guest, connection=connection, shell=shell, address=address)
            yield new_session(guest, boot, is_restored=True)

    def _see_fresh_randomness(self, shell: Shell) -> None:
        """Learn in the first clone whether this guest's kernel notices that it is one (vmgenid)."""
        with self._lock:
            if self.restores is None or self.restores.reseeded is not None:
                return
            look = f"dmesg | grep -q '{_RESEEDED}'"
            wait = f"n=0; until {look}; do [ $n -lt {_RESEED_S} ] || exit 1; n=$((n+1)); sleep 1; done"
            status, _out, _err = shell.run(wait)
            self.restores = replace(self.restores, reseeded=status == 0)

    def _place(self) -> Path:
        with self._lock:
            self._count += 1
            place = self._folder / "restored" / f"{self._count:03}"
        place.mkdir(parents=True)
        return place

    def _note(self, seconds: float) -> None:
        with self._lock:
            assert self.restores is not None
            self.restores = replace(self.restores, seconds=(*self.restores.seconds, round(seconds, 3)))


def set_clock(shell: Shell) -> None:
    """Set the guest's clock to ours: a clone goes on at the time at which it was frozen.

    :raises ObservationError: the guest refuses.
    """
    now = utc_now().timestamp()
    # busybox takes whole seconds only.
    status, _out, err = shell.run(f"date -u -s @{now:.3f} >/dev/null 2>&1 || date -u -s @{now:.0f} >/dev/null")
    if status != 0:
        text = err.decode("utf-8", "backslashreplace").strip()[-200:]
        raise ObservationError(f"the clock of a restored guest could not be set: exit status {status}, {text!r}")
