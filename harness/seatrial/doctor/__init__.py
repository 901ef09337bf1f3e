"""``seatrial doctor``: what this computer lacks, why it is needed, and the command that installs it.

Nothing but the standard library and modules of ours that need no more are imported here: the bootstrap runs this
before any package is installed.
"""

from __future__ import annotations

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


def main(*, install_missing: bool = False, say_all: bool = True) -> int:
    """Examine this computer, install what is missing when asked to, print the report; return the exit status.

    :param say_all: also list what is there (else only what is not).
    :raises HostError: installing failed, or is not possible.
    """
    host = look()
    if install_missing and plan(host, examine(host)).steps:
        try:
            host = install(host, say=_say)
        except HostError:
            _say(report(host, examine(host), say_all=say_all))
            raise
    findings = examine(host)
    _say(report(host, findings, say_all=say_all))
    return exit_status(findings)


def _say(text: str) -> None:
    print(text, flush=True)
