"""The command ``seatrial mutants``: pytest collects the checks, and each mutant meets them in a guest of its own."""

from __future__ import annotations

import contextlib
import functools
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from seatrial.errors import ConfigError, SeatrialError
from seatrial.hooks import Judging, callable_check
from seatrial.layout import data_dir
from seatrial.mutants_file import Mutant, Stage
from seatrial.mutation import OF_ITS_OWN, Bench, Probe
from seatrial.mutation_results import Results, Tried, outcome_of
from seatrial.plugin import JUDGING, MUTANTS
from seatrial.process import sigterm_as_interrupt
from seatrial.report.atomic import write_atomic
from seatrial.session import booted, booted_again
from seatrial.suites import suite_folders

if TYPE_CHECKING:
    from seatrial.plan import Plan
    from seatrial.progress import Progress
    from seatrial.session import Candidate, Session

__all__ = ["Ready", "Subject", "chosen", "default_jobs", "on_ready_guest", "run_mutants"]

# systemd-stub(7): words for the kernel's command line, added unless Secure Boot is on.
_EXTRA = "io.systemd.stub.kernel-cmdline-extra"


@dataclass(frozen=True, slots=True)
class Subject:
    """An image to try mutants on: how results call it, and the options that name it and its flavour."""

    name: str
    options: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ready:
    """A guest that is up, and all that judging it takes; ``place`` is a folder that goes with it."""

    candidate: Candidate
    plan: Plan
    probes: Sequence[Probe]
    session: Session
    place: Path
    progress: Progress


@dataclass(kw_only=True)
class _Planned:
    """The pytest plugin of a session that plans as a gate does, and then does something else with the ready guest."""

    __name__ = MUTANTS  # by which pluggy registers it

    work: Callable[[Ready], object]
    judging: Judging | None = None
    failure: SeatrialError | None = None
    broken: list[str] = field(default_factory=list)

    def prepare(self, config: pytest.Config) -> None:
        """Plan as a gate does; called instead of it."""
        self.judging = config.stash[JUDGING] = Judging(config)
        config.pluginmanager.register(self.judging, "seatrial-judging")

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Keep what could not be collected: its controls would be missing in silence."""
        if report.failed:
            self.broken.append(f"{report.nodeid}: {report.longreprtext.strip().splitlines()[-1]}")

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        """Boot once and hand the guest over."""
        try:
            if self.broken:
                raise ConfigError("the suites could not be collected:\n  " + "\n  ".join(self.broken))
            self._boot(session.items)
        except SeatrialError as exc:
            self.failure = exc
        return True

    def _boot(self, items: Sequence[pytest.Item]) -> None:
        assert self.judging is not None
        assert self.judging.plan is not None
        probes = [
            Probe(item.nodeid, check) for item in items if (check := callable_check(item, OF_ITS_OWN)) is not None
        ]
        candidate = self.judging.candidate
        with (
            sigterm_as_interrupt(),
            self.judging.shown() as progress,
            tempfile.TemporaryDirectory(prefix="seatrial-mutants-") as place,
            booted(
                candidate, Path(place), run="mutants", progress=progress, is_cloneable=True, has_spare_port=True
            ) as session,
        ):
            self.work(
                Ready(
                    candidate=candidate,
                    plan=self.judging.plan,
                    probes=probes,
                    session=session,
                    place=Path(place),
                    progress=progress,
                )
            )


def on_ready_guest(work: Callable[[Ready], object], options: Sequence[str], suites: Sequence[str]) -> int | None:
    """Boot what ``options`` say, planned as a gate by ``suites`` is, and call ``work`` with it.

    :return: pytest's exit status when it came to nothing (it has said why), None otherwise.
    :raises SeatrialError: the suites are faulty, the image did not come up, or ``work`` raised it.
    """
    plugin = _Planned(work=work)
    folders = [str(folder) for folder in suite_folders(suites)]
    arguments = ["-c", os.devnull, "--rootdir", str(data_dir("suites")), "--strict-markers", "--import-mode=importlib"]
    arguments += ["-s", "-p", "no:cacheprovider", "-p", "no:terminal"]
    status = pytest.main([*arguments, *options, *folders], plugins=[plugin])
    if plugin.failure is not None:
        raise plugin.failure
    return int(status) if status not in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED) else None


def _try_all(ready: Ready, image: str, mutants: Sequence[Mutant], *, jobs: int, results: Results) -> None:
    progress = ready.progress
    bench = Bench(
        image=image,
        ready=ready.session,
        plan=ready.plan,
        probes=ready.probes,
        flavour=ready.candidate.flavour,
        boot_again=functools.partial(_boot_again, ready),
        tell=progress.detail,
        known_so_far=results.known_so_far,
    )
    known = {control.id for suite in ready.plan.suites for control in suite.controls}
    asked = [m for m in mutants if m.stage not in (Stage.HARNESS, Stage.BUILD)]
    if strange := sorted({name for m in asked for name in m.caught_by} - known):
        more = f" and {len(strange) - 10} more" if len(strange) > 10 else ""
        progress.note(f"no suite that is judged has the controls {', '.join(strange[:10])}{more}: they kill nothing")
    progress.phase(f"judging {len(ready.probes)} controls once, and freezing the guest")
    bench.warmed_up()
    progress.phase(f"trying {len(mutants)} mutants, {jobs} at a time")
    for number, tried in enumerate(bench.tried_all(mutants, jobs=jobs), start=1):
        results.final(tried)
        _show(tried, progress, f"{number}/{len(mutants)}")


@contextlib.contextmanager
def _boot_again(ready: Ready, *, words: str = "", disk: int | None = None) -> Iterator[Session]:
    assert ready.session.way is not None
    launch = ready.session.boot.launch
    if words:
        provision = launch.provision
        provision = replace(provision, smbios=(*provision.smbios, f"{_EXTRA}={words}"))
        launch = replace(launch, provision=provision)
    folder = Path(tempfile.mkdtemp(dir=ready.place))
    with booted_again(ready.candidate, launch, ready.session.way.key, folder, disk=disk) as session:
        yield session


def _show(tried: Tried, progress: Progress, number: str) -> None:
    said = ", ".join(tried.killed_by) or tried.error
    progress.note(f"{number} {tried.id} {tried.result}: {said} ({tried.seconds:.0f} s)")
    for other in tried.unexpected:
        progress.note(f"      unexpected: {other}")


def default_jobs() -> int:
    """Return how many guests run at a time when nobody says."""
    return max(2, (os.cpu_count() or 2) // 2)


def chosen(mutants: Sequence[Mutant], only: Sequence[str]) -> tuple[Mutant, ...]:
    """Return the mutants whose ids, controls' ids or stages are among ``only``; all of them for none.

    :raises ConfigError: a name matches nothing.
    """
    names = [name for text in only for name in text.split(",") if name]
    by_name = {name: [m for m in mutants if name in (m.id, m.stage, *m.caught_by)] for name in names}
    if unknown := [name for name, found in by_name.items() if not found]:
        raise ConfigError(
            f"--only names nothing in the file: {', '.join(unknown)}",
            hint="give ids of mutants, of controls that they must turn red ('seatrial controls' lists both), or stages",
        )
    wanted = {mutant.id for found in by_name.values() for mutant in found}
    return tuple(m for m in mutants if not names or m.id in wanted)


def run_mutants(  # noqa: PLR0913  # one parameter an option of the command
    subjects: Sequence[Subject],
    mutants: Sequence[Mutant],
    *,
    suites: Sequence[str],
    options: Sequence[str],
    jobs: int,
    output: Path | None,
    say: Callable[[str], object],
) -> int:
    """Try ``mutants`` on every image; return the exit status: 0 when all were killed and no control else changed.

    :param output: where the results are written, anew after each one; see :class:`seatrial.mutation_results.Tried`.
    :raises SeatrialError: an image could not be booted or the suites are faulty.
    """
    if output is not None:
        _prepare(output)
    results = Results(output)
    benign = frozenset(mutant.id for mutant in mutants if mutant.is_benign)
    stood = True
    for subject in subjects:
        work = functools.partial(_try_all, image=subject.name, mutants=mutants, jobs=jobs, results=results)
        status = on_ready_guest(work, [*subject.options, *options], suites)
        if status == pytest.ExitCode.INTERRUPTED:
            kept = f"; {output} holds them, and what was known of others" if output is not None else ""
            say(
                f"{subject.name}: interrupted when {len(results.of(subject.name))} of {len(mutants)} were through{kept}"
            )
        if status is not None:
            return status
        text, is_proven = outcome_of(results.of(subject.name), benign)
        say(f"{subject.name}: {text}")
        stood = stood and is_proven
    return 0 if stood else 1


def _prepare(output: Path) -> None:
    try:
        if output.is_symlink() or (output.exists() and not output.is_file()):
            raise ConfigError(f"{str(output)!r} is no file: results are written to a file of their own (--json FILE)")
        output.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(output, "[]\n")  # what an earlier run wrote must not look like this one's
    except OSError as exc:
        raise ConfigError(
            f"the results cannot be written to {str(output)!r}: {exc.strerror}", hint="--json FILE names another place"
        ) from exc
