"""lynis as a part of a run and as a command of its own: report in, verdicts and XML out."""

from __future__ import annotations

import tomllib
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from seatrial.errors import ConfigError, HostError
from seatrial.evidence.lynis.report import MAX_BYTES
from seatrial.evidence.lynis.tree import examine, serialise
from seatrial.guest.lynis import run_lynis
from seatrial.guest.lynis_tree import find_tree
from seatrial.layout import data_dir
from seatrial.options import TCG_FACTOR
from seatrial.policy.flavours import LynisPolicy
from seatrial.policy.judge import Decision, Outcome, Verdict, decide
from seatrial.policy.lynis import judge_lynis
from seatrial.session import Session
from seatrial.suites import Suite, Suites, read_flavour

__all__ = ["judge_file", "judge_guest", "lynis_suite"]

_AUDIT_S = 240.0
_SHOWN = {Outcome.ERROR, Outcome.FAIL, Outcome.NOT_CHECKED}


def lynis_suite() -> Suite:
    """Return the suite whose controls a lynis run answers."""
    suite = Suites().of(data_dir("suites") / "lynis" / "controls.toml")
    if suite is None:
        raise HostError("the lynis suite is missing from this installation", hint="install Seatrial again")
    return suite


def judge_guest(session: Session, policy: LynisPolicy, folder: Path, *, say: Callable[[str], None]) -> list[Verdict]:
    """Run lynis in the guest, keep its report and the XML in ``folder``, and return the verdicts.

    :raises SeatrialError: lynis could not be run, or its report cannot be read.
    """
    factor = TCG_FACTOR if session.boot.launch.choice.accelerator == "tcg" else 1
    data = run_lynis(session.guest.shell, tree=find_tree(), deadline_s=_AUDIT_S * factor, say=say)
    (folder / "lynis-report.dat").write_bytes(data)
    return _judged(data, policy, folder / "lynis-report.xml")


def judge_file(report: Path, *, flavour: str | None, xml: Path | None, say: Callable[[str], None]) -> int:
    """Judge a report from disk, say the findings, and return the exit status: 0 release, 1 reject.

    :raises ConfigError: the file cannot be read, or the flavour is unknown.
    :raises ObservationError: it is no lynis report.
    """
    policy = read_flavour(flavour).lynis if flavour else _base_policy()
    try:
        with report.open("rb") as file:
            data = file.read(MAX_BYTES + 1)  # one more than is allowed, so that what is too large is refused
    except OSError as exc:
        raise ConfigError(
            f"lynis report {str(report)!r} cannot be read: {exc.strerror}",
            hint="lynis writes /var/log/lynis-report.dat, or where --report-file says",
        ) from exc
    verdicts = _judged(data, policy, xml)
    for verdict in (v for v in verdicts if v.outcome in _SHOWN):
        say(f"{verdict.outcome}: {verdict.control} [{verdict.severity}] {verdict.title}\n  {verdict.because}")
    counts = Counter(verdict.outcome for verdict in verdicts)
    decision = decide(verdicts)
    say(f"decision: {decision} ({', '.join(f'{counts[o]} {o}' for o in Outcome if counts[o])})")
    return 0 if decision is Decision.RELEASE else 1


def _judged(data: bytes, policy: LynisPolicy, xml: Path | None) -> list[Verdict]:
    schema = (data_dir("reports") / "lynis.xsd").read_text(encoding="utf-8")
    tree, run = examine(data, schema)
    if xml is not None:
        xml.write_bytes(serialise(tree))
    return judge_lynis(run, policy, lynis_suite().controls)


def _base_policy() -> LynisPolicy:
    table = tomllib.loads((data_dir("suites") / "flavours" / "base.toml").read_text(encoding="utf-8"))
    return LynisPolicy.model_validate(table["lynis"])
