"""The command ``seatrial boot-time``: from options to a measurement, its files and an exit status."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from seatrial.boot_time import Measurement, Plan, Yardstick, measure
from seatrial.clock import utc_now
from seatrial.errors import ConfigError
from seatrial.first_look import with_flavour
from seatrial.layout import out_dir
from seatrial.options import Settings
from seatrial.policy.budgets import check_names
from seatrial.policy.flavours import Budgets, merged_budgets
from seatrial.policy.judge import Outcome
from seatrial.progress import Progress
from seatrial.report.atomic import write_atomic
from seatrial.report.boot_page import boot_lines, boot_page
from seatrial.report.boot_record import read_boot_record, to_json
from seatrial.session import Candidate, examine

__all__ = ["Files", "judge_boot_time"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Files:
    """What the user named: a baseline to compare with, where to save this measurement, budgets to lay over."""

    baseline: Path | None = None
    save: Path | None = None
    budgets: Path | None = None


def judge_boot_time(
    settings: Settings, plan: Plan, files: Files, *, progress: Progress, say: Callable[[str], None]
) -> int:
    """Measure, judge, write every report and return the exit status: 0 pass (or saved as asked, unjudged), 1 otherwise.

    :raises ConfigError: an option, a table or a record is not usable; nothing has booted then.
    :raises SeatrialError: the image did not come up, or could not be measured.
    """
    candidate = examine(with_flavour(settings, progress), progress)
    yardstick = Yardstick(
        budgets=_budgets(candidate, files.budgets),
        baseline=read_boot_record(files.baseline) if files.baseline else None,
    )
    if files.save is not None and not files.save.absolute().parent.is_dir():
        raise ConfigError(f"--save {str(files.save)!r}: there is no folder {str(files.save.parent)!r}")
    name = f"{utc_now():%Y%m%dT%H%M%SZ}-boot-time-{candidate.image.path.stem[:40]}-{secrets.token_hex(2)}"
    folder = (settings.out or out_dir()) / name
    folder.mkdir(parents=True)
    measurement = measure(
        candidate,
        plan,
        folder,
        yardstick=yardstick,
        progress=progress,
        keep=lambda record: write_atomic(folder / "boot-time.json", to_json(record)),
    )
    _write(measurement, files.save)
    for line in boot_lines(measurement.record, measurement.baseline, measurement.verdict):
        say(line)
    say(f"  report   {folder / 'boot-time.html'}")
    return _status(measurement, saved=files.save is not None)


def _budgets(candidate: Candidate, path: Path | None) -> Budgets:
    budgets = candidate.flavour.budgets
    if path is not None:
        try:
            text = path.read_text(encoding="utf-8-sig")
        except (OSError, UnicodeDecodeError) as exc:
            raise ConfigError(f"budgets file {str(path)!r} cannot be read: {exc}") from exc
        budgets = merged_budgets(candidate.flavour, text, where=f"budgets file {str(path)!r}")
    check_names(budgets)
    return budgets


def _write(measurement: Measurement, save: Path | None) -> None:
    text = to_json(measurement.record)
    write_atomic(measurement.folder / "boot-time.json", text)
    if save is not None:
        write_atomic(save, text)
    page = boot_page(measurement.record, measurement.baseline, measurement.verdict)
    write_atomic(measurement.folder / "boot-time.html", page)


def _status(measurement: Measurement, *, saved: bool) -> int:
    verdict = measurement.verdict
    # Who saves a first baseline asks for no judgement; whoever else gets none must not take it for a pass.
    first_baseline = saved and measurement.baseline is None and not verdict.findings
    return 0 if verdict.outcome is Outcome.PASS or first_baseline else 1
