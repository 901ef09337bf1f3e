"""The diagnosis as text: one line a requirement, then the commands."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence

from seatrial.doctor.findings import Finding, State, exit_status
from seatrial.doctor.host import Host
from seatrial.doctor.steps import plan

__all__ = ["report"]

_WIDTH = 100


def report(host: Host, findings: Sequence[Finding], *, say_all: bool = True, say_remedy: bool = True) -> str:
    """Return the report on ``host`` for a terminal or a log; ``say_all`` also lists what is there."""
    shown = [found for found in findings if say_all or found.state is not State.OK]
    return "\n".join((*_table(shown), *(_remedy(host, findings) if say_remedy else ()), _conclusion(findings)))


def _table(shown: Sequence[Finding]) -> Iterator[str]:
    width = max((len(found.name) for found in shown), default=0)
    for found in shown:
        yield f"{found.state:<8}{found.name:<{width}}  {_remark(found)}"
        if found.state is not State.OK:
            yield from textwrap.wrap(found.why, _WIDTH, initial_indent=" " * 10, subsequent_indent=" " * 10)


def _remedy(host: Host, findings: Sequence[Finding]) -> Iterator[str]:
    remedy = plan(host, findings)
    if remedy.steps:
        by_sudo = host.has_sudo and not host.is_root
        yield "\nto install what is missing, run 'seatrial doctor --install', or by hand" + (
            ":" if by_sudo else " as root:"
        )
        yield from (step.as_typed("sudo" if by_sudo else "") for step in remedy.steps)
        yield from (f"note: {note}" for note in remedy.notes)


def _remark(found: Finding) -> str:
    if found.state is State.OK:
        return found.detail
    return "; ".join(filter(None, (f"({found.need})", found.detail)))


def _conclusion(findings: Sequence[Finding]) -> str:
    if exit_status(findings):
        return "doctor: something required is not there"
    lacking = [found.name for found in findings if found.state in {State.MISSING, State.TOO_OLD}]
    return "doctor: everything required is there" + (f"; without: {', '.join(lacking)}" if lacking else "")
