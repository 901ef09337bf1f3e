"""Ready means: the SSH server greets, our key is let in, and the system says that it has settled."""

from __future__ import annotations

import contextlib
import functools
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from seatrial.clock import Deadline
from seatrial.errors import AuthRefused, BootTimeout, SessionError, SessionLost
from seatrial.guest.rights import require_root
from seatrial.guest.shell import Shell, root_shell
from seatrial.guest.ssh import Address, Connection, Guard, LoginKey, OnDemand, connect, read_banner
from seatrial.progress import Progress

__all__ = ["Entry", "Guest", "Patience", "first_login", "ready_guest", "wait_until_settled"]

_LOOK_S = 0.5
_LONGEST_PAUSE_S = 5.0
_BANNER_S = 5.0
# A guest that is asked how it is doing twice a second is never quite idle.
_IDLE = 0.5
_SETTLED = ("running", "degraded", "maintenance", "offline", "unknown")


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """Limits in seconds: from power-on to the first login, then until the system has settled, and for one command.

    ``refused_s``: for how long a key that is refused is tried again, because something in the guest still brings it in.
    ``idle_s``: for how much of ``settle_s`` the guest's processors may have nothing to do; None for all of it.
    """

    boot_s: float
    settle_s: float
    command_s: float
    refused_s: float | None = None
    idle_s: float | None = None


@dataclass(slots=True, kw_only=True)
class Guest:
    """A guest that answers: connection, root shell, and when it got there (seconds since power-on)."""

    connection: Connection | OnDemand
    shell: Shell
    address: Address
    banner: str
    state: str
    banner_s: float
    login_s: float
    ready_s: float


@contextlib.contextmanager
def ready_guest(  # noqa: PLR0913  # what a boot is waited for with, each by its name
    address: Address,
    user: str,
    key: LoginKey,
    *,
    guard: Guard,
    patience: Patience,
    progress: Progress,
    let_in: Callable[[], None] = lambda: None,
) -> Iterator[Guest]:
    """Wait until the guest is ready and give a root shell in it.

    :param guard: called now and then; raises when waiting has become pointless.
    :param let_in: called after the first login.
    :raises BootTimeout: no banner in time, or the server that greets never lets a login come to its end.
    :raises AuthRefused: the server refuses the key.
    :raises RightsRefused: the user is let in, and cannot become root.
    """
    entering = first_login(address, [user], key, guard=guard, patience=patience, progress=progress)
    with entering as entry, contextlib.ExitStack() as stack:
        connection = entry.connection
        let_in()
        require_root(connection, guard=guard)
        shell = stack.enter_context(root_shell(connection, guard=guard, timeout_s=patience.command_s))
        progress.phase("waiting for the system to settle")
        idle_s = patience.settle_s if patience.idle_s is None else patience.idle_s
        state = wait_until_settled(shell, Deadline(patience.settle_s), idle_s=idle_s)
        yield Guest(
            connection=connection,
            shell=shell,
            address=address,
            banner=entry.banner,
            state=state,
            banner_s=entry.banner_s,
            login_s=entry.login_s,
            ready_s=entry.since_power_on.elapsed_s,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """The first login: the connection, and when it was made (seconds since power-on)."""

    connection: Connection
    banner: str
    banner_s: float
    login_s: float
    since_power_on: Deadline


@contextlib.contextmanager
def first_login(  # what a boot is waited for with, each by its name
    address: Address, users: Sequence[str], key: LoginKey, *, guard: Guard, patience: Patience, progress: Progress
) -> Iterator[Entry]:
    """Wait until the guest, which was powered on just now, lets ``key`` in as one of ``users``.

    :raises BootTimeout: no banner in time, or the server that greets never lets a login come to its end.
    :raises AuthRefused: the server refuses the key.
    """
    deadline = Deadline(patience.boot_s)
    progress.phase("waiting for the SSH server")
    banner = _wait_for_banner(address, deadline, guard)
    banner_s = deadline.elapsed_s
    progress.phase(f"logging in as {' or '.join(map(repr, users))}")
    # Provisioning (cloud-init writes our key) may end after sshd has greeted, but not for ever.
    login = deadline.within(patience.settle_s)
    tries = _Tries(login, deadline.within(patience.refused_s or patience.settle_s), guard, progress)

    def connect_as(user: str) -> contextlib.AbstractContextManager[Connection]:
        return connect(address, user, key, deadline=login, guard=guard)

    with _logged_in(functools.partial(_as_one_of, users, connect_as), tries) as connection:
        yield Entry(
            connection=connection,
            banner=banner,
            banner_s=banner_s,
            login_s=deadline.elapsed_s,
            since_power_on=deadline,
        )


@contextlib.contextmanager
def _as_one_of(
    users: Sequence[str], connect_as: Callable[[str], contextlib.AbstractContextManager[Connection]]
) -> Iterator[Connection]:
    with contextlib.ExitStack() as stack:
        for user in users:
            try:
                connection = stack.enter_context(connect_as(user))
            except AuthRefused:
                if user == users[-1]:
                    raise
            else:
                break
        yield connection


def _wait_for_banner(address: Address, deadline: Deadline, guard: Guard) -> str:
    while True:
        guard()
        banner = read_banner(address, timeout_s=max(0.05, min(_BANNER_S, deadline.remaining_s)))
        if banner is not None:
            return banner
        if deadline.is_over:
            raise BootTimeout(
                f"no SSH server answered on port {address.port} within {deadline.total_s:.0f} s of power-on; "
                f"the last look: {address.trouble}",
                hint="does the image start sshd and use DHCP? The end of the console log shows how far it came",
            )
        deadline.pause(_LOOK_S)


Login = Callable[[], contextlib.AbstractContextManager[Connection]]


@dataclass(frozen=True, slots=True)
class _Tries:
    """For how long a login is tried, and for how long while the key is refused."""

    login: Deadline
    refused: Deadline
    guard: Guard
    progress: Progress


@contextlib.contextmanager
def _logged_in(log_in: Login, tries: _Tries) -> Iterator[Connection]:
    pause_s, reason = _LOOK_S, ""
    with contextlib.ExitStack() as stack:
        connection: Connection | None = None
        while connection is None:
            tries.guard()
            try:
                connection = stack.enter_context(log_in())
            except AuthRefused as exc:
                if tries.refused.is_over or tries.login.is_over:
                    text = f"{exc.message}; tried for {tries.login.elapsed_s:.0f} s from its greeting on"
                    raise AuthRefused(text, hint=exc.hint) from exc
                pause_s = _pause(exc, pause_s, tries)
            except SessionLost as exc:
                # A last try that had no time left says nothing.
                reason = exc.message if not (reason and tries.login.is_over) else reason
                if tries.login.is_over:
                    raise BootTimeout(
                        f"the SSH server greets, but no login came to its end within {tries.login.total_s:.0f} s; "
                        f"the last try: {reason}",
                        hint=exc.hint,
                    ) from exc
                pause_s = _pause(exc, pause_s, tries)
        yield connection


def _pause(exc: SessionError, pause_s: float, tries: _Tries) -> float:
    """Wait a little longer each time: servers shut out who fails too often (OpenSSH 9.8, PerSourcePenalties)."""
    tries.progress.detail(exc.message)
    tries.login.pause(pause_s)
    return min(pause_s * 1.5, _LONGEST_PAUSE_S)


def wait_until_settled(shell: Shell, deadline: Deadline, *, idle_s: float) -> str:
    """Return what systemd says of the whole system (systemctl(1), is-system-running), or that there is no systemd.

    :param idle_s: give up when the guest has done nothing for so long: a slower processor waits no longer than a fast
        one, and more time brings no start-up job to its end that only waits.
    """
    status, out, _err = shell.run("command -v systemctl && test -d /run/systemd/system")
    if status != 0:
        return "no systemd"
    idle, looked_s, before = 0.0, deadline.elapsed_s, _processors(shell)
    while True:
        status, out, _err = shell.run("systemctl is-system-running")
        state = out.decode("utf-8", "backslashreplace").strip()
        if state in _SETTLED or deadline.is_over or idle > idle_s:
            return state or f"no answer (exit status {status})"
        deadline.pause(_LOOK_S)
        now, now_s = _processors(shell), deadline.elapsed_s
        if now.busy_since(before) < _IDLE:
            idle += now_s - looked_s
        before, looked_s = now, now_s


@dataclass(frozen=True, slots=True)
class _Processors:
    """What processors have done, in the kernel's ticks: all they counted, and what they had nothing to do of it."""

    number: int
    ticks: int
    idle: int

    def busy_since(self, before: _Processors) -> float:
        """Return how many of them were busy on average; all, if nothing was counted."""
        ticks = self.ticks - before.ticks
        return self.number * (1 - (self.idle - before.idle) / ticks) if ticks > 0 else float(self.number or 1)


def _processors(shell: Shell) -> _Processors:
    """Return the guest's processor times so far (proc(5), /proc/stat); waiting for a disk is no idleness."""
    text = shell.run("grep ^cpu /proc/stat")[1].decode("utf-8", "backslashreplace")
    match = re.match(r"cpu +([0-9]+(?: [0-9]+){3,})", text)
    # The last two fields, a guest's own guests, are in the first two already.
    ticks = [int(field) for field in match[1].split()[:8]] if match else []
    return _Processors(
        number=len(re.findall(r"^cpu[0-9]", text, re.MULTILINE)), ticks=sum(ticks), idle=ticks[3] if ticks else 0
    )
