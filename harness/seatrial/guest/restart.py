"""A guest that is restarted on purpose: it counts as back when it answers and says itself that it is another run."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Final

from seatrial.clock import Deadline
from seatrial.errors import AuthRefused, BootTimeout, CommandTimeout, ObservationError, SessionLost
from seatrial.guest.facts import Asker
from seatrial.guest.ready import Guest, Patience, ready_guest
from seatrial.guest.shell import root_shell
from seatrial.guest.ssh import Address, Guard, LoginKey, connect
from seatrial.machine.stillness import HangLimits
from seatrial.progress import Silent

__all__ = ["BOOT_ID", "POWER_OFF", "REBOOT", "USERSPACE", "WayIn", "came_back", "order", "told"]

# Another value after each start of the kernel (proc(5), random/boot_id).
BOOT_ID: Final = "cat /proc/sys/kernel/random/boot_id"
REBOOT: Final = "if command -v systemctl; then systemctl reboot; else reboot; fi"
POWER_OFF: Final = "if command -v systemctl; then systemctl poweroff; else poweroff; fi"
# A soft reboot keeps the kernel and its boot id; user space starts anew (systemd-soft-reboot.service(8)).
USERSPACE: Final = "systemctl show -p UserspaceTimestampMonotonic --value"
_LOOK_S: Final = 0.5
_LOGIN_S: Final = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class WayIn:
    """With what the run logs in to the guest, and how long it waits.

    ``hang`` says when a restart hangs; ``let_in`` is called when the guest is back, from when on it cannot.
    """

    user: str
    key: LoginKey
    patience: Patience
    hang: HangLimits | None = None
    let_in: Callable[[], object] = bool


def told(shell: Asker, question: str) -> str:
    """Return the guest's answer to ``question``.

    :raises ObservationError: it has none.
    """
    status, out, err = shell.run(question)
    answer = out.decode("utf-8", "backslashreplace").strip()
    if status != 0 or not answer:
        text = err.decode("utf-8", "backslashreplace").strip()[-200:]
        raise ObservationError(f"the guest could not answer {question!r}: exit status {status}, {text!r}")
    return answer


def order(shell: Asker, command: str) -> None:
    """Run ``command``, which takes the guest and this very shell down.

    :raises ObservationError: the guest refuses.
    """
    try:
        status, _out, err = shell.run(command)
    except (SessionLost, CommandTimeout):
        return  # it was quicker than its own answer
    if status != 0:
        text = err.decode("utf-8", "backslashreplace").strip()[-200:]
        raise ObservationError(f"the guest refused {command!r}: exit status {status}, {text!r}")


@contextlib.contextmanager
def came_back(
    address: Address,
    way: WayIn,
    question: str,
    before: str,
    *,
    guard: Guard,
    key_may_change: bool = False,
) -> Iterator[Guest]:
    """Wait until the guest answers ``question`` differently than ``before``, and is ready; give it.

    The host key must still be the one that ``address`` holds, unless it may change: then it is the one that the guest
    shows first when it is back.

    :raises BootTimeout: it did not come back in time.
    :raises HostKeyChanged: it came back with another host key.
    """
    deadline = Deadline(way.patience.boot_s)
    while True:
        # Its old server may answer once more on its way down: where the key may change, each look is a first one.
        looked_at = replace(address, host_key=None) if key_may_change else address
        if _is_another(looked_at, way, question, before, guard, deadline):
            break
        if deadline.is_over:
            raise BootTimeout(
                f"the guest did not come back within {deadline.total_s:.0f} s of its restart: "
                f"{question!r} still says {before!r}, or nobody answers",
                hint="the console log of this copy shows how far it came",
            )
        deadline.pause(_LOOK_S)
    way.let_in()
    patience = replace(way.patience, boot_s=max(_LOGIN_S, deadline.remaining_s))
    with ready_guest(looked_at, way.user, way.key, guard=guard, patience=patience, progress=Silent()) as guest:
        yield guest


def _is_another(address: Address, way: WayIn, question: str, before: str, guard: Guard, deadline: Deadline) -> bool:
    guard()
    with contextlib.suppress(SessionLost, AuthRefused, CommandTimeout, ObservationError):
        limit = max(1.0, min(_LOGIN_S, deadline.remaining_s))
        with (
            connect(address, way.user, way.key, deadline=Deadline(limit)) as connection,
            root_shell(connection, guard=guard, timeout_s=limit) as shell,
        ):
            return told(shell, question) != before
    return False
