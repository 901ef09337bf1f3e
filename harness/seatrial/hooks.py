"""The hooks of a pytest session that judges an image; imported only then."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import inspect
import sys
from collections.abc import Collection, Generator, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pytest

from seatrial.plugin import CHECK, guest_of, tables_of, user_errors

if TYPE_CHECKING:
    from seatrial.gate import Run
    from seatrial.handover import Place
    from seatrial.options import Settings
    from seatrial.plan import Collected, Plan
    from seatrial.policy.judge import Verdict
    from seatrial.progress import Progress
    from seatrial.rebooted import Rebooted
    from seatrial.rehearsal import Rehearsal
    from seatrial.session import Candidate, Session

_JUDGED = pytest.StashKey[bool]()
_SAID = pytest.StashKey[tuple[str, str]]()
_VERDICT = "seatrial-verdict"
_LOST = "seatrial-lost"
_COPIES = "seatrial_copies"
_FLAVOUR = "seatrial_flavour"


class _Idle:
    """Takes the place of whoever runs the checks, workers included, when there is no guest to ask."""

    def __init__(self, gate: Gate) -> None:
        self._gate = gate

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self) -> bool | None:
        """Run nothing: every control stays not checked."""
        return True if self._gate.run is not None and self._gate.session is None else None


class Judging:
    """The hooks of a session that plans to judge an image: bad input and the plan, before anything boots."""

    def __init__(self, config: pytest.Config) -> None:
        from seatrial.options import environment, resolve

        self.config = config
        with self.shown() as progress, user_errors():
            settings = resolve(config.getoption, config.getini, environment())
            if told := getattr(config, "workerinput", {}).get(_FLAVOUR):
                settings = dataclasses.replace(settings, flavour=told)
            _refuse_break_elsewhere(settings, config)
            self.candidate: Candidate = _candidate(settings, progress)
        self.plan: Plan | None = None

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        """Fix the selected controls before anything boots; leave out checks of controls for another kind of image."""
        from seatrial.copies import needs_guest, redirect
        from seatrial.plan import make_plan, without_live_checks
        from seatrial.suites import named_suites

        checks = [_collected(item) for item in items]
        with user_errors():
            tables = tables_of(config)
            own = named_suites(config.args, config.invocation_params.dir, tables)
            plan = make_plan(tables, checks, self.candidate.flavour, root=config.rootpath, named=own)
            if self.candidate.settings.facts:
                plan = without_live_checks(plan, {item.nodeid for item in items if needs_guest(item)})
            self._say_strange_names(plan)
        self.plan = plan
        config.hook.pytest_deselected(items=[item for item in items if not plan.applies(item.nodeid)])
        items[:] = [item for item in items if plan.applies(item.nodeid)]
        redirect(items)

    def _say_strange_names(self, plan: Plan) -> None:
        from seatrial.suites import strange_names

        if (self.candidate.settings.flavour or "").endswith(".toml"):
            ids = [control.id for suite in plan.suites for control in suite.controls]
            with self.shown() as progress:
                for line in strange_names(self.candidate.flavour, ids):
                    progress.note(line)

    @contextlib.contextmanager
    def shown(self) -> Iterator[Progress]:
        """Give what shows progress, past pytest's capturing."""
        from seatrial.progress import progress_for

        capture = self.config.pluginmanager.getplugin("capturemanager")
        visible = capture.global_and_fixture_disabled() if capture else contextlib.nullcontext()
        with visible, progress_for(sys.stderr, plain=self.config.getoption("verbose", 0) < 0) as progress:
            yield progress


class Gate(Judging):
    """The hooks of a session that judges an image."""

    def __init__(self, config: pytest.Config) -> None:
        super().__init__(config)
        self.run: Run | None = None
        self.session: Session | None = None
        self.falsified: Mapping[str, str] = {}
        self._place: Place | None = None
        self._worker: Mapping[str, str] | None = getattr(config, "workerinput", None)
        self._until_end = contextlib.ExitStack()
        config.add_cleanup(self._until_end.close)
        config.pluginmanager.register(_Idle(self))

    @property
    def _has_workers(self) -> bool:
        return self._worker is None and self.config.pluginmanager.has_plugin("dsession")

    @property
    def _wants_copies(self) -> bool:
        settings = self.candidate.settings
        return self._has_workers or settings.break_ or settings.repeat_failed > 0

    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(self, node: Any) -> None:
        """Tell a worker of pytest-xdist where the frozen guest will be."""
        from seatrial.handover import handover_place

        if self._place is None:
            self._place = self._until_end.enter_context(handover_place())
        node.workerinput["seatrial_handover"] = self._place.path
        node.workerinput[_FLAVOUR] = self.candidate.settings.flavour

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        """Count the copies that a worker has made; one that died has not told."""
        told = getattr(node, "workeroutput", {}).get(_COPIES)
        if told is not None and self.session is not None and self.session.restorer is not None:
            seconds, cold_boots, reseeded = told
            self.session.restorer.note_others(seconds, cold_boots, reseeded=reseeded)

    @pytest.hookimpl(wrapper=True)
    def pytest_collection(self, session: pytest.Session) -> Generator[None, object, object]:
        """Collect here too when workers run the checks: the plan is fixed before anything boots."""
        result = yield
        if self._has_workers:
            session.perform_collect()
        return result

    @pytest.hookimpl(wrapper=True)
    def pytest_runtestloop(self, session: pytest.Session) -> Generator[None, object, object]:
        """Boot, let the checks run, keep the evidence, decide."""
        if session.config.option.collectonly or session.testsfailed or self._worker is not None:
            return (yield)
        from seatrial.process import sigterm_as_interrupt

        with sigterm_as_interrupt(), contextlib.ExitStack() as stack:
            guest = self._boot(stack, session.items)
            try:
                return (yield)
            except (KeyboardInterrupt, session.Interrupted, session.Failed) as exc:
                self._failed(exc)
                raise
            finally:
                if guest is not None:
                    self._after_suites(guest)

    def _boot(self, stack: contextlib.ExitStack, items: Sequence[pytest.Item]) -> Session | None:
        from seatrial.copies import needs_copies, needs_spare_port
        from seatrial.errors import SeatrialError
        from seatrial.progress import Silent

        assert self.plan is not None
        with self.shown() as progress, user_errors():
            self.run = _run(self.candidate, self.plan, progress)
            self.run.note_unchecked(self.plan.unchecked)
            try:
                is_cloneable = self._wants_copies or needs_copies(items)
                booted = self.run.booted(is_cloneable=is_cloneable, has_spare_port=needs_spare_port(items))
                guest = stack.enter_context(booted)
                self.run.collect_facts(guest, list(_rehearsals(items)))
                self.session, self.falsified = guest, self.run.falsified
                if self._place is not None:
                    self._place.offer(guest, self.falsified)
            except (SeatrialError, KeyboardInterrupt) as exc:
                self._failed(exc)
                if isinstance(exc, KeyboardInterrupt):
                    raise
                return None
            else:
                return guest
            finally:
                self.run.progress = Silent()

    def own_guest(self, item: pytest.Item) -> contextlib.AbstractContextManager[Session]:
        """Give a check a guest of its own: a copy of the ready one, or a cold boot where a copy would falsify it."""
        from seatrial.restore import RESTORED

        assert self.plan is not None
        ready = guest_of(self.config)
        return ready.cold_boot() if self.plan.is_falsified(item.nodeid, RESTORED) else ready.restored()

    def rebooted(self, items: Sequence[pytest.Item]) -> Rebooted:
        """Reboot a copy of the ready guest once for all of ``items`` that look at a reboot."""
        from seatrial.rebooted import reboot_once

        known = (callable_check(item, {"rebooted"}) for item in items)
        checks = [check for check in known if check is not None and "rebooted" in check.needs]
        ready = guest_of(self.config)
        with ready.restored() as copy:
            return reboot_once(copy, checks, flavour=self.candidate.flavour, boot=ready.boot_facts)

    def _failed(self, exc: BaseException) -> None:
        from seatrial.errors import SeatrialError

        assert self.run is not None
        if isinstance(exc, KeyboardInterrupt) and not isinstance(exc, pytest.Session.Interrupted):
            exc = SeatrialError("the run was interrupted", hint="start it again; nothing of it is left running")
        self.run.fail(exc if isinstance(exc, SeatrialError) else SeatrialError(f"the run was stopped: {exc}"))

    def _after_suites(self, guest: Session) -> None:
        from seatrial.errors import SeatrialError

        assert self.run is not None
        self.config.get_terminal_writer().line()
        with self.shown() as progress:
            self.run.progress = progress
            if self.candidate.settings.lynis and self.run.record.problem is None:
                try:
                    self.run.judge_by_lynis(guest)
                except SeatrialError as exc:
                    self.run.fail(exc)
            self.run.keep_evidence(guest)

    @contextlib.contextmanager
    def _at_the_terminal(self) -> Iterator[None]:
        """Give a person terminal and keyboard, which pytest takes away while it captures; then it has them again."""
        capture = self.config.pluginmanager.getplugin("capturemanager")
        if capture is None:
            yield
            return
        was_capturing = capture.is_globally_capturing() and capture._global_capturing.is_started()
        capture.suspend(in_=True)
        try:
            yield
        finally:
            capture.resume()
            if not was_capturing:  # between the phases of a check only the keyboard was taken
                capture.suspend_global_capture(in_=False)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        """Do not ask a guest that is lost, nor what the run itself has made meaningless."""
        assert self.plan is not None
        from seatrial.policy.judge import Outcome

        if self._worker is not None and self.session is None:
            self._take_over(self._worker)
        check = callable_check(item)
        if self.session is not None and not (check is not None and check.asks_no_guest):
            self.session.guard()
        if reason := self.falsified.get(self.plan.control_of[item.nodeid]):
            item.stash[_SAID] = (Outcome.NOT_CHECKED, reason)
            pytest.fail(f"not checked: {reason}", pytrace=False)

    def _take_over(self, worker: Mapping[str, str]) -> None:
        from seatrial.handover import taken_over

        taking = taken_over(worker["seatrial_handover"], self.candidate, worker["workerid"])
        self.session, offered = self._until_end.enter_context(taking)
        self.falsified = offered.falsified

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Generator[None, None, None]:
        """Make pytest see what the check saw: an observation that does not hold is a failure."""
        from seatrial.check import NotApplicable, NotChecked
        from seatrial.policy.judge import Outcome, judge

        try:
            yield
        except NotApplicable as exc:
            item.stash[_SAID] = (Outcome.NOT_APPLICABLE, str(exc))
            pytest.skip(f"not applicable: {exc}")  # only how pytest shows it: the verdict is what was said
        except NotChecked as exc:
            item.stash[_SAID] = (Outcome.NOT_CHECKED, str(exc))
            pytest.fail(f"not checked: {exc}", pytrace=False)
        if item.get_closest_marker("control"):
            observations = item.stash[CHECK].observations if CHECK in item.stash else []
            outcome, _expected, _seen, because = judge(observations)
            if outcome is not Outcome.PASS:
                item.stash[_JUDGED] = True
                pytest.fail(because, pytrace=False)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Turn what became of a check into the verdict on its control, which travels with the report."""
        report = yield
        if self.plan is not None and (call.when == "call" or report.outcome != "passed"):
            from seatrial.plan import Ended
            from seatrial.report.record import verdict_to_json

            check = item.stash.get(CHECK, None)
            ended = Ended(
                error=call.excinfo.value if call.excinfo else None,
                said=item.stash.get(_SAID, None),
                observations=tuple(check.observations) if check else (),
                seconds=call.duration,
                judged=item.stash.get(_JUDGED, False),
                skipped=report.skipped,
                reason=_first_line(report),
            )
            verdict = self.candidate.waivers.on(self.plan.verdict(item.nodeid, ended))
            if verdict.waived is not None:
                # How pytest shows a failure that is accepted.
                report.outcome, report.wasxfail = "skipped", f"waived until {verdict.waived.expires}"
            verdict = self._looked_into(item, verdict)
            report.user_properties.append((_VERDICT, verdict_to_json(verdict)))
            self._note_loss(item, report, ended.error)
        return report

    def _looked_into(self, item: pytest.Item, verdict: Verdict) -> Verdict:
        """Repeat a check that failed, and let a person look at it, where that was asked for."""
        from seatrial.policy.judge import Outcome

        settings, check = self.candidate.settings, next(iter(_rehearsals([item])), None)
        if not (settings.break_ or settings.repeat_failed) or settings.facts is not None:
            return verdict
        if verdict.outcome not in (Outcome.FAIL, Outcome.ERROR) or self.session is None or self.session.is_lost:
            return verdict
        assert self.plan is not None
        judge_again, flavour = functools.partial(self.plan.verdict, item.nodeid), self.candidate.flavour
        if settings.repeat_failed and check is not None:
            from seatrial.again import repeated

            times = settings.repeat_failed
            verdict = repeated(verdict, check, self.session, judge_again=judge_again, flavour=flavour, times=times)
        if settings.break_:
            from seatrial.again import broken_into

            with self._at_the_terminal():
                wish = broken_into(verdict, check, self.session, judge_again=judge_again, flavour=flavour)
            if wish == "quit":
                item.session.shouldstop = "ended by the person at the break"
        return verdict

    def _note_loss(self, item: pytest.Item, report: pytest.TestReport, error: BaseException | None) -> None:
        """End the session at the first loss of the guest: what follows would only repeat it."""
        from seatrial.copies import uses_copies
        from seatrial.errors import BootError, HostError, SessionLost, packed

        if uses_copies(item) and self.session is not None and not self.session.is_lost:
            return  # only the check's own guest is gone
        if isinstance(error, BootError | HostError | SessionLost):
            if self.run is None:
                report.user_properties.append((_LOST, packed(error)))
            else:
                self.run.fail(error)
                self._judge_from_outside(item.session.items)
            item.session.shouldfail = f"the guest was lost: {error.message}"

    def _judge_from_outside(self, items: Sequence[pytest.Item]) -> None:
        """Judge again what needs no guest: it may well show what the end of the guest was."""
        from seatrial.again import called

        assert self.plan is not None
        assert self.run is not None
        for item in items:
            check = callable_check(item)
            if self.session is not None and check is not None and check.asks_no_guest:
                self.run.add(self.plan.verdict(item.nodeid, called(check, self.session, self.candidate.flavour)))

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Take the verdict that came with the report, and a worker's word that it has lost the guest."""
        from seatrial.errors import unpacked
        from seatrial.report.record import verdict_from_json

        if self.run is None:
            return
        for name, text in report.user_properties:
            if name == _VERDICT:
                self.run.add(verdict_from_json(str(text)), trace=report.longreprtext)
            elif name == _LOST:
                self.run.fail(unpacked(str(text)))
                self.config.pluginmanager.getplugin("dsession").shouldstop = "a worker has lost the guest"

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> Generator[None, None, None]:
        """Decide; the exit status says it. A worker decides nothing: it tells which copies it has made."""
        restorer = self.session.restorer if self._worker is not None and self.session is not None else None
        if restorer is not None and (made := restorer.restores):
            self.config.workeroutput[_COPIES] = (list(made.seconds), made.cold_boots, made.reseeded)  # type: ignore[attr-defined]  # xdist's
        if self.run is not None:
            with self.shown() as progress, user_errors():
                self.run.progress = progress
                self.run.finish()
            if session.exitstatus in (
                pytest.ExitCode.OK,
                pytest.ExitCode.TESTS_FAILED,
                pytest.ExitCode.NO_TESTS_COLLECTED,
            ):
                session.exitstatus = self.run.exit_status
        yield

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Print the decision and what a release engineer needs to act on it."""
        if self.run is not None:
            from seatrial.report.terminal import summary_lines

            terminalreporter.section("seatrial")
            for line in summary_lines(
                self.run.record,
                self.run.folder,
                width=terminalreporter._tw.fullwidth,
                colour=terminalreporter.hasmarkup,
            ):
                terminalreporter.write_line(line)

    def pytest_report_header(self) -> str:
        """Say what is judged."""
        candidate = self.candidate
        return f"seatrial: {candidate.image.path} as {candidate.flavour.name}, QEMU {candidate.features.version_text}"


def _refuse_break_elsewhere(settings: Settings, config: pytest.Config) -> None:
    from seatrial.errors import ConfigError

    if settings.break_ and (config.getoption("tx", None) or hasattr(config, "workerinput")):
        raise ConfigError(
            "--break needs a person at the process that runs the checks, and pytest-xdist's workers have no terminal",
            hint="leave -n away, or --break",
        )


def _candidate(settings: Settings, progress: Progress) -> Candidate:
    if settings.facts is not None:
        from seatrial.replay import examine_facts

        return examine_facts(settings)
    from seatrial.session import examine

    if settings.flavour is None:
        from seatrial.first_look import with_flavour

        settings = with_flavour(settings, progress)
    return examine(settings, progress)


def _run(candidate: Candidate, plan: Plan, progress: Progress) -> Run:
    if candidate.settings.facts is not None:
        from seatrial.replay import RecordedCandidate, Rejudgement

        assert isinstance(candidate, RecordedCandidate)
        return Rejudgement(candidate, plan.suites, left_out=plan.left_out, progress=progress)
    from seatrial.gate import Run

    return Run(candidate, plan.suites, progress=progress)


def _rehearsals(items: Sequence[pytest.Item]) -> Iterator[Rehearsal]:
    """Give each check in a form that can be called before its run, but those that need more than we can give."""
    from seatrial.copies import uses_copies

    for item in items:
        if not uses_copies(item) and (check := callable_check(item)) is not None:
            yield check


def callable_check(item: pytest.Item, more: Collection[str] = ()) -> Rehearsal | None:
    """Return the check of a control in a form that can be called; None for one that asks for what nobody can give.

    :param more: fixtures that can be given beside those of :data:`seatrial.rehearsal.NEEDS`.
    """
    from seatrial.copies import MARKER
    from seatrial.rehearsal import NEEDS, Rehearsal

    if not isinstance(item, pytest.Function) or item.get_closest_marker("control") is None:
        return None
    needs = frozenset(inspect.signature(item.obj).parameters)
    row = item.callspec.params.get("row") if hasattr(item, "callspec") else None
    if not needs <= NEEDS.union(more):
        return None
    return Rehearsal(item.obj, needs, row, changes_guest=item.get_closest_marker(MARKER) is not None)


def _collected(item: pytest.Item) -> Collected:
    from seatrial.plan import Collected

    marker = item.get_closest_marker("control")
    return Collected(item.nodeid, item.path, " ".join(map(str, marker.args)) if marker else None)


def _first_line(report: pytest.TestReport) -> str:
    if isinstance(report.longrepr, tuple):
        return str(report.longrepr[2])
    return next((line for line in report.longreprtext.splitlines()[::-1] if line.strip()), "")
