"""Ready means: the SSH server greets, our key is let in, and the system says that it has settled."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from seatrial.clock import Deadline
from seatrial.errors import AuthRefused, BootTimeout, SessionLost
from seatrial.guest.shell import Shell, root_shell
from seatrial.guest.ssh import Address, Connection, Guard, OnDemand, RunKey, connect, read_banner
from seatrial.progress import Progress

__all__ = ["Guest", "Patience", "ready_guest"]

_LOOK_S = 0.5
_BANNER_S = 5.0
_SETTLED = ("running", "degraded", "maintenance", "offline", "unknown")


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """Limits in seconds: from power-on to the first login, then until the system has settled, and for one command."""

    boot_s: float
    settle_s: float
    command_s: float


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
def ready_guest(
    address: Address,
    user: str,
    key: RunKey,
    *,
    guard: Guard,
    patience: Patience,
    progress: Progress,
) -> Iterator[Guest]:
    """Wait until the guest is ready and give a root shell in it.

    :param guard: called now and then; raises when waiting has become pointless.
    :raises BootTimeout: no banner or no login in time.
    """
    deadline = Deadline(patience.boot_s)
    progress.phase("waiting for the SSH server")
    banner = _wait_for_banner(address, deadline, guard)
    banner_s = deadline.elapsed_s
    progress.phase(f"logging in as {user!r}")
    with contextlib.ExitStack() as stack:
        # Provisioning (cloud-init writes our key) may end after sshd has greeted, but not for ever.
        login = deadline.within(patience.settle_s)
        log_in = functools.partial(connect, address, user, key, deadline=login)
        connection = stack.enter_context(_logged_in(log_in, deadline=login, guard=guard, progress=progress))
        login_s = deadline.elapsed_s
        shell = stack.enter_context(root_shell(connection, guard=guard, timeout_s=patience.command_s))
        progress.phase("waiting for the system to settle")
        state = _wait_until_settled(shell, Deadline(patience.settle_s))
        yield Guest(
            connection=connection,
            shell=shell,
            address=address,
            banner=banner,
            state=state,
            banner_s=banner_s,
            login_s=login_s,
            ready_s=deadline.elapsed_s,
        )


def _wait_for_banner(address: Address, deadline: Deadline, guard: Guard) -> str:
    while True:
        guard()
        banner = read_banner(address, timeout_s=max(0.05, min(_BANNER_S, deadline.remaining_s)))
        if banner is not None:
            return banner
        if deadline.is_over:
            raise BootTimeout(
                f"no SSH server answered on port {address.port} within {deadline.total_s:.0f} s of power-on",
                hint="does the image start sshd and use DHCP? The end of the console log shows how far it came",
            )
        deadline.pause(_LOOK_S)


Login = Callable[[], contextlib.AbstractContextManager[Connection]]


@contextlib.contextmanager
def _logged_in(log_in: Login, *, deadline: Deadline, guard: Guard, progress: Progress) -> Iterator[Connection]:
    with contextlib.ExitStack() as stack:
        connection: Connection | None = None
        while connection is None:
            guard()
            try:
                connection = stack.enter_context(log_in())
            except (AuthRefused, SessionLost) as exc:
                progress.detail(exc.message)
                if deadline.is_over:
                    raise BootTimeout(
                        f"no login within {deadline.total_s:.0f} s of the SSH banner; the last try: {exc.message}",
                        hint="is the flavour's access route (credentials or cloud-init) one that this image supports?",
                    ) from exc
                deadline.pause(_LOOK_S)
        yield connection


def _wait_until_settled(shell: Shell, deadline: Deadline) -> str:
    """Return what systemd says of the whole system (systemctl(1), is-system-running), or that there is no systemd."""
    question = "systemctl is-system-running"
    status, out, _err = shell.run("command -v systemctl && test -d /run/systemd/system")
    if status != 0:
        return "no systemd"
    while True:
        status, out, _err = shell.run(question)
        state = out.decode("utf-8", "backslashreplace").strip()
        if state in _SETTLED or deadline.is_over:
            return state or f"no answer (exit status {status})"
        deadline.pause(_LOOK_S)
