"""``seatrial doctor``: what this computer lacks, why it is needed, and the command that installs it.

Nothing but the standard library and modules of ours that need no more are imported here: the bootstrap runs this
before any package is installed.
"""

from __future__ import annotations

from collections.abc import Callable

from seatrial.doctor.findings import Finding, State, examine, exit_status
from seatrial.doctor.host import AptSource, Host, look
from seatrial.doctor.install import install
from seatrial.doctor.report import report
from seatrial.doctor.requirements import Need, Requirement
from seatrial.doctor.steps import Plan, Step, plan
from seatrial.errors import HostError

__all__ = [
    "AptSource",
    "Finding",
    "Host",
    "Need",
    "Plan",
    "Requirement",
    "State",
    "Step",
    "examine",
    "exit_status",
    "install",
    "look",
    "main",
    "plan",
    "report",
]


def main(
    *,
    install_missing: bool = False,
    say_all: bool = True,
    look_at: Callable[[], Host] = look,
    install_on: Callable[[Host], Host] = lambda host: install(host, say=_say),
) -> int:
    """Examine this computer, install what is missing when asked to, print the report; return the exit status.

    :param say_all: also list what is there (else only what is not).
    :raises HostError: something required is missing, and installing it failed or is not possible.
    """
    host = look_at()
    failed: HostError | None = None
    if install_missing and plan(host, examine(host)).steps:
        try:
            host = install_on(host)
        except HostError as error:
            host, failed = look_at(), error
    findings = examine(host)
    _say(report(host, findings, say_all=say_all, say_remedy=failed is None))
    status = exit_status(findings)
    if failed is not None:
        if status:
            raise failed
        _say(str(failed))
    return status


def _say(text: str) -> None:
    print(text, flush=True)
