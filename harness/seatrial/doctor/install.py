"""Running the remedy: as root, or through sudo; what changes is said before it happens."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from seatrial.clock import Deadline
from seatrial.doctor.findings import examine
from seatrial.doctor.host import Host, look
from seatrial.doctor.requirements import Need
from seatrial.doctor.steps import Plan, Step, plan
from seatrial.errors import HostError
from seatrial.process import Finished, run

__all__ = ["install"]

Runner = Callable[[Step, tuple[str, ...]], Finished]

_STEP_S = 1800.0
_PROXIES = ("http_proxy", "https_proxy", "ftp_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY")
_QUIET = {"DEBIAN_FRONTEND": "noninteractive"}


def install(
    host: Host,
    *,
    say: Callable[[str], None],
    run_step: Runner | None = None,
    look_again: Callable[[], Host] = look,
) -> Host:
    """Run the commands that bring what is missing; return the host as it is afterwards.

    :raises HostError: a command failed, or we are neither root nor have sudo.
    """
    prefix = _prefix(host)
    runner = run_step or _run_step
    done: set[Plan] = set()
    # Twice at most: package lists may have to come first, and what no package brings stays missing.
    while (todo := plan(host, examine(host))).steps and todo not in done:
        for note in todo.notes:
            say(f"note: {note}")
        for step in todo.steps:
            _take(step, prefix, say, runner)
        done.add(todo)
        host = look_again()
    return host


def _take(step: Step, prefix: tuple[str, ...], say: Callable[[str], None], runner: Runner) -> None:
    typed = step.as_typed(" ".join(prefix))
    say(f"{typed}\n  ({step.changes})")
    finished = runner(step, prefix)
    if not finished.status:
        return
    complaint = f"{typed!r} ended with status {finished.status}, not 0:\n{finished.complaint or finished.text[-2000:]}"
    if step.need is Need.REQUIRED:
        raise HostError(
            complaint,
            hint="put right what the package manager complains about, then run 'seatrial doctor --install' again",
        )
    say(f"{complaint}\n  going on without ({step.need})")


def _prefix(host: Host) -> tuple[str, ...]:
    if host.is_root:
        return ()
    if host.has_sudo:
        return ("sudo",)
    commands = "\n".join(step.as_typed("") for step in plan(host, examine(host)).steps)
    raise HostError(
        "cannot install packages: this is not root, and there is no sudo",
        hint=f"ask root to run:\n{commands}",
    )


def _run_step(step: Step, prefix: tuple[str, ...]) -> Finished:
    proxies = {name: os.environ[name] for name in _PROXIES if name in os.environ}
    # Values of proxies may hold passwords: sudo takes them from the environment, never from the argument list.
    kept = (f"--preserve-env={','.join(proxies)}",) if prefix and proxies else ()
    quiet = [f"{name}={value}" for name, value in _QUIET.items()]
    return run(
        [*prefix, *kept, "env", *quiet, *step.argv],
        deadline=Deadline(_STEP_S),
        env=proxies,
        cwd=Path("/"),
        stdin=step.stdin.encode(),
    )
