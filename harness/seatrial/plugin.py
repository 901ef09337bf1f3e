"""The pytest plugin: translates between pytest and a gate run. Nothing heavy is imported until an image is judged."""

from __future__ import annotations

import contextlib
import inspect
import os
import signal
import sys
import types
from collections.abc import Generator, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from seatrial.check import Check
    from seatrial.errors import SeatrialError
    from seatrial.gate import Run
    from seatrial.guest.facts import Facts
    from seatrial.machine.boot import BootFacts
    from seatrial.options import Settings
    from seatrial.plan import Collected, Plan
    from seatrial.policy.controls import Control
    from seatrial.policy.flavours import Flavour
    from seatrial.progress import Progress
    from seatrial.rehearsal import Rehearsal
    from seatrial.session import Candidate, Session
    from seatrial.suites import Suites

_GATE = pytest.StashKey["Gate"]()
_CHECK = pytest.StashKey["Check"]()
_FAULTS = pytest.StashKey[list["SeatrialError"]]()
_TABLES = pytest.StashKey["Suites"]()
_JUDGED = pytest.StashKey[bool]()
_SAID = pytest.StashKey[tuple[str, str]]()
_VERDICT = "seatrial-verdict"
_REFUSAL = (
    "these suites judge a booted image and never this computer: {count} check(s) need --image, such as {first}\n"
    "  hint: pytest --image FILE --flavour NAME {folder}; 'seatrial gate' judges the demo image"
)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options of :mod:`seatrial.options`."""
    from seatrial.options import add_options

    add_options(parser)


@pytest.hookimpl(trylast=True)
def pytest_configure(config: pytest.Config) -> None:
    """Check the input and, with an image, take the ``host`` fixture over from testinfra."""
    config.addinivalue_line("markers", "control(id): the check of one control of the folder's controls.toml")
    config.addinivalue_line("markers", "changes_guest: the check gets an isolated copy of the ready guest of its own")
    config.addinivalue_line("markers", "probe(kind): the check of every control whose probe is of this kind")
    asked = any(
        config.getoption(f"seatrial_{name}")
        or os.environ.get(f"SEATRIAL_{name.upper()}")
        or config.getini(f"seatrial_{name}")
        for name in ("image", "facts")
    )
    if asked and not (config.option.help or config.option.version):
        # Registered last, so that the fixtures win over testinfra's in whatever order plugins were loaded.
        config.stash[_GATE] = Gate(config)
        from seatrial.copies import copy_fixtures

        gate = config.stash[_GATE]
        config.pluginmanager.register(gate, "seatrial-gate")
        config.pluginmanager.register(copy_fixtures(lambda: _guest_of(config), gate.own_guest), "seatrial-copies")
        config.pluginmanager.register(_guest_fixtures(), "seatrial-guest")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Give a probe function one row a control of its folder's table."""
    marker = metafunc.definition.get_closest_marker("probe")
    if marker is not None:
        from seatrial.errors import ConfigError
        from seatrial.plan import probe_rows

        rows: tuple[Control, ...] = ()
        try:
            rows = probe_rows(_tables(metafunc.config), metafunc.definition.path, str(marker.args[0]))
        except ConfigError as exc:
            # Raised here it would be one collection error of many; it is the user's, and said once at the end.
            metafunc.config.stash.setdefault(_FAULTS, []).append(exc)
        metafunc.parametrize("row", [pytest.param(row, id=row.id, marks=pytest.mark.control(row.id)) for row in rows])


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Refuse to run checks with faulty tables, or without a guest."""
    if faults := config.stash.get(_FAULTS, []):
        raise pytest.UsageError("\n".join(dict.fromkeys(str(fault) for fault in faults)))
    if config.pluginmanager.has_plugin("seatrial-gate") or config.option.collectonly:
        return
    ours = [item for item in items if item.get_closest_marker("control") or item.get_closest_marker("probe")]
    if ours:
        text = _REFUSAL.format(count=len(ours), first=ours[0].nodeid, folder=ours[0].nodeid.partition("/test_")[0])
        raise pytest.UsageError(text)


def _tables(config: pytest.Config) -> Suites:
    from seatrial.suites import Suites

    return config.stash.setdefault(_TABLES, Suites())


@contextlib.contextmanager
def _user_errors() -> Iterator[None]:
    """Turn our errors into pytest's: usage for what the user must change, exit status 2 for what this host lacks."""
    from seatrial.errors import ConfigError, SeatrialError

    try:
        yield
    except ConfigError as exc:
        raise pytest.UsageError(str(exc)) from exc
    except SeatrialError as exc:
        pytest.exit(f"cannot judge: {exc}", returncode=exc.exit_status)


def gate(subject: str, folders: Sequence[str], options: Sequence[str], *, quiet: bool) -> int:
    """Judge ``subject`` by the suites in ``folders`` in this process and return the exit status of the gate.

    :param subject: the option that names what is judged: ``--image=FILE`` or ``--facts=FILE``.
    """
    # No configuration file and no cache: the verdict must not depend on the folder that the command is started in.
    arguments = [
        "-c",
        os.devnull,
        "--rootdir",
        os.path.commonpath(folders),
        "-p",
        "no:cacheprovider",
        "--strict-markers",
    ]
    arguments += [
        "--import-mode=importlib",
        "--tb=no",
        "-rN",
        "--no-header",
        *(["-q"] if quiet else []),
        subject,
    ]
    return int(pytest.main([*arguments, *options, *folders]))


def _guest_fixtures() -> object:
    """Return what checks ask for, as an object to register: at module level they would hide others' fixtures always."""

    @pytest.fixture(scope="session")
    def host(pytestconfig: pytest.Config) -> Any:
        """The booted guest as a testinfra host; never this computer."""
        return _guest_of(pytestconfig).host

    @pytest.fixture(scope="session")
    def facts(pytestconfig: pytest.Config) -> Facts:
        """Read-only questions to the guest, each asked once."""
        return _guest_of(pytestconfig).facts

    @pytest.fixture(scope="session")
    def flavour(pytestconfig: pytest.Config) -> Flavour:
        """The policy that the image is judged by."""
        return pytestconfig.stash[_GATE].candidate.flavour

    @pytest.fixture(scope="session")
    def boot(pytestconfig: pytest.Config) -> BootFacts:
        """What is known of the boot from outside the guest."""
        return _guest_of(pytestconfig).boot_facts

    @pytest.fixture
    def check(request: pytest.FixtureRequest) -> Check:
        """Where a check says what it saw."""
        from seatrial.check import Check

        return request.node.stash.setdefault(_CHECK, Check())  # type: ignore[no-any-return]  # the node is untyped

    holder = types.ModuleType("seatrial_guest_fixtures")
    holder.__dict__.update(host=host, facts=facts, flavour=flavour, boot=boot, check=check)
    return holder


class Gate:
    """The hooks of a session that judges an image."""

    def __init__(self, config: pytest.Config) -> None:
        from seatrial.options import environment, resolve

        if getattr(config.option, "numprocesses", None) or hasattr(config, "workerinput"):
            raise pytest.UsageError("--image does not go with -n: one session judges one guest\n  hint: leave -n away")
        self.config = config
        with self._shown() as progress, _user_errors():
            self.candidate: Candidate = _candidate(resolve(config.getoption, config.getini, environment()), progress)
        self.plan: Plan | None = None
        self.run: Run | None = None

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        """Fix the selected controls before anything boots; leave out checks of controls for another kind of image."""
        from seatrial.copies import redirect
        from seatrial.plan import make_plan, without_live_checks

        checks = [_collected(item) for item in items]
        with _user_errors():
            plan = make_plan(_tables(config), checks, self.candidate.flavour, root=config.rootpath)
            if self.candidate.settings.facts:
                plan = without_live_checks(plan, {item.nodeid for item in items if _needs(item) is None})
        self.plan = plan
        config.hook.pytest_deselected(items=[item for item in items if not plan.applies(item.nodeid)])
        items[:] = [item for item in items if plan.applies(item.nodeid)]
        redirect(items)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtestloop(self, session: pytest.Session) -> Generator[None, object, object]:
        """Boot, let the checks run, keep the evidence, decide."""
        if session.config.option.collectonly or session.testsfailed:
            return (yield)
        with _sigterm_as_interrupt(), contextlib.ExitStack() as stack:
            guest = self._boot(stack, session.items)
            if guest is None:
                session.items.clear()  # nothing can be asked; every control stays not checked
            try:
                return (yield)
            except (KeyboardInterrupt, session.Interrupted, session.Failed) as exc:
                self._failed(exc)
                raise
            finally:
                if guest is not None:
                    self._after_suites(guest)

    def _boot(self, stack: contextlib.ExitStack, items: Sequence[pytest.Item]) -> Session | None:
        from seatrial.copies import needs_copies
        from seatrial.errors import SeatrialError
        from seatrial.progress import Silent

        assert self.plan is not None
        with self._shown() as progress, _user_errors():
            self.run = _run(self.candidate, self.plan, progress)
            self.run.note_unchecked(self.plan.unchecked)
            try:
                guest = stack.enter_context(self.run.booted(is_cloneable=needs_copies(items)))
                self.run.collect_facts(guest, list(_rehearsals(items)))
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
        assert self.run is not None
        assert self.plan is not None
        ready = _guest_of(self.config)
        falsified = self.run.is_falsified_by_copying(self.plan.control_of[item.nodeid])
        return ready.cold_boot() if falsified else ready.restored()

    def _failed(self, exc: BaseException) -> None:
        from seatrial.errors import SeatrialError

        assert self.run is not None
        if isinstance(exc, KeyboardInterrupt):
            exc = SeatrialError("the run was interrupted", hint="start it again; nothing of it is left running")
        self.run.fail(exc if isinstance(exc, SeatrialError) else SeatrialError(f"the run was stopped: {exc}"))

    def _after_suites(self, guest: Session) -> None:
        from seatrial.errors import SeatrialError

        assert self.run is not None
        self.config.get_terminal_writer().line()
        with self._shown() as progress:
            self.run.progress = progress
            if self.candidate.settings.lynis and self.run.record.problem is None:
                try:
                    self.run.judge_by_lynis(guest)
                except SeatrialError as exc:
                    self.run.fail(exc)
            self.run.keep_evidence(guest)

    @contextlib.contextmanager
    def _shown(self) -> Iterator[Progress]:
        from seatrial.progress import progress_for

        capture = self.config.pluginmanager.getplugin("capturemanager")
        visible = capture.global_and_fixture_disabled() if capture else contextlib.nullcontext()
        with visible, progress_for(sys.stderr, plain=self.config.option.verbose < 0) as progress:
            yield progress

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        """Do not ask a guest that is lost, nor what the run itself has made meaningless."""
        assert self.run is not None
        assert self.plan is not None
        from seatrial.policy.judge import Outcome

        if self.run.session is not None:
            self.run.session.guard()
        if reason := self.run.falsified.get(self.plan.control_of[item.nodeid]):
            item.stash[_SAID] = (Outcome.NOT_CHECKED, reason)
            pytest.fail(f"not checked: {reason}", pytrace=False)

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
            observations = item.stash[_CHECK].observations if _CHECK in item.stash else []
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

            check = item.stash.get(_CHECK, None)
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
            report.user_properties.append((_VERDICT, verdict_to_json(verdict)))
            self._stop_when_lost(item, ended.error)
        return report

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Take the verdict that came with the report."""
        from seatrial.report.record import verdict_from_json

        for name, text in report.user_properties:
            if name == _VERDICT and self.run is not None:
                self.run.add(verdict_from_json(str(text)), trace=report.longreprtext)

    def _stop_when_lost(self, item: pytest.Item, error: BaseException | None) -> None:
        """End the session at the first loss of the guest: what follows would only repeat it."""
        from seatrial.copies import uses_copies
        from seatrial.errors import BootError, HostError, SessionLost

        assert self.run is not None
        if uses_copies(item) and self.run.session is not None and not self.run.session.is_lost:
            return  # only the check's own guest is gone
        if isinstance(error, BootError | HostError | SessionLost):
            self.run.fail(error)
            item.session.shouldfail = f"the guest was lost: {error.message}"

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> Generator[None, None, None]:
        """Decide; the exit status says it."""
        if self.run is not None:
            with self._shown() as progress, _user_errors():
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
        return f"seatrial: {candidate.image.path} as {candidate.flavour.name}, QEMU {candidate.qemu}"


def _guest_of(config: pytest.Config) -> Session:
    run = config.stash[_GATE].run
    if run is None or run.session is None:
        pytest.fail("no guest is up", pytrace=False)
    return run.session


def _candidate(settings: Settings, progress: Progress) -> Candidate:
    if settings.facts is not None:
        from seatrial.replay import examine_facts

        return examine_facts(settings)
    from seatrial.session import examine

    return examine(settings, progress)


def _run(candidate: Candidate, plan: Plan, progress: Progress) -> Run:
    if candidate.settings.facts is not None:
        from seatrial.replay import RecordedCandidate, Rejudgement

        assert isinstance(candidate, RecordedCandidate)
        return Rejudgement(candidate, plan.suites, left_out=plan.left_out, progress=progress)
    from seatrial.gate import Run

    return Run(candidate, plan.suites, progress=progress)


def _needs(item: pytest.Item) -> frozenset[str] | None:
    """Return what a check asks for when facts alone can give it; None for one that needs a guest or anything else."""
    from seatrial.copies import uses_copies
    from seatrial.rehearsal import NEEDS

    if not isinstance(item, pytest.Function) or item.get_closest_marker("control") is None or uses_copies(item):
        return None
    needs = frozenset(inspect.signature(item.obj).parameters)
    return needs if needs <= NEEDS - {"host"} else None


def _rehearsals(items: Sequence[pytest.Item]) -> Iterator[Rehearsal]:
    """Give each check in a form that can be called before its run, but those that need more than we can give."""
    from seatrial.copies import uses_copies
    from seatrial.rehearsal import NEEDS, Rehearsal

    for item in items:
        if isinstance(item, pytest.Function) and item.get_closest_marker("control") and not uses_copies(item):
            needs = frozenset(inspect.signature(item.obj).parameters)
            row = item.callspec.params.get("row") if hasattr(item, "callspec") else None
            if needs <= NEEDS:
                yield Rehearsal(item.obj, needs, row)


def _collected(item: pytest.Item) -> Collected:
    from seatrial.plan import Collected

    marker = item.get_closest_marker("control")
    return Collected(item.nodeid, item.path, " ".join(map(str, marker.args)) if marker else None)


def _first_line(report: pytest.TestReport) -> str:
    if isinstance(report.longrepr, tuple):
        return str(report.longrepr[2])
    return next((line for line in report.longreprtext.splitlines()[::-1] if line.strip()), "")


@contextlib.contextmanager
def _sigterm_as_interrupt() -> Iterator[None]:
    """Let a termination request end the run in order, as Ctrl-C does."""

    def interrupt(_number: int, _frame: object) -> None:
        raise KeyboardInterrupt("SIGTERM")

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
