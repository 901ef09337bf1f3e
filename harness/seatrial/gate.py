"""One gate run: plan, boot, verdicts, decision. A straight line; pytest only drives it."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path

from seatrial import __version__
from seatrial.boot_picture import boot_picture
from seatrial.clock import utc_now
from seatrial.errors import BootError, ConfigError, ObservationError, SeatrialError, SessionError
from seatrial.evidence.console import Finding, plain, with_reasons
from seatrial.evidence.systemd import MANAGER, boot_phases, parse_show
from seatrial.identity import ask_identity, recognised
from seatrial.layout import out_dir
from seatrial.lynis import judge_guest, lynis_suite
from seatrial.machine.arguments import differences
from seatrial.machine.boot import Launch
from seatrial.machine.digest import sha256, sha256_of_all
from seatrial.machine.watch import SCREENSHOT, Watch
from seatrial.plan import why_not_applicable
from seatrial.policy.controls import Control, verdict_on, verdict_without_boot
from seatrial.policy.differences import Difference, falsifying
from seatrial.policy.judge import Decision, Outcome, Verdict
from seatrial.policy.writes import PROBE, judge_writes
from seatrial.progress import Progress
from seatrial.rehearsal import Rehearsal, collect
from seatrial.report.facts import FACTS_FORMAT, FACTS_VERSION, FactsBoot, FactsFile, FactsImage, write_facts
from seatrial.report.record import (
    SCHEMA_VERSION,
    BootTimes,
    FlavourFacts,
    ImageFacts,
    MachineFacts,
    Problem,
    Record,
    RecordWriter,
    RestoreFacts,
    decision_of,
)
from seatrial.report.write import write_reports
from seatrial.restore import FREEZABLE
from seatrial.session import Candidate, Session, booted
from seatrial.suites import Suite, flavour_lineage
from seatrial.workshop import SPARE_PORT
from seatrial.writes import EVIDENCE, DiskWatch, disk_watch, facts_of, keep

__all__ = ["Run", "made_folder"]

_TAIL_BYTES = 16_384
_TAIL_LINES = 30

_JOURNAL = (
    "if command -v journalctl >/dev/null 2>&1; then journalctl -b -o short-monotonic --no-pager; else dmesg; fi"
    " | tail -c 8000000"
)


class Run:
    """One candidate's way to a decision. The record on disk grows with every verdict and says reject until the end."""

    keeps_every_verdict = True

    def __init__(self, candidate: Candidate, suites: tuple[Suite, ...], *, progress: Progress) -> None:
        if candidate.settings.lynis:
            suites = (*suites, lynis_suite())
        self.candidate = candidate
        self.progress = progress
        self.session: Session | None = None
        self._watch: Watch | None = None
        self._timeline = ""
        self.falsified: Mapping[str, str] = {}
        self.controls: Mapping[str, tuple[Suite, Control]] = _by_id(suites)
        started = utc_now()
        name = f"{started:%Y%m%dT%H%M%SZ}-{candidate.image.path.stem[:40]}-{secrets.token_hex(2)}"
        self.folder = made_folder(candidate.settings.out or out_dir(), name)
        self._writer = RecordWriter(self.folder)
        self._verdicts = {key: self._before(suite, control) for key, (suite, control) in self.controls.items()}
        self.record = Record(
            schema_version=SCHEMA_VERSION,
            seatrial=__version__,
            run=name,
            decision=Decision.REJECT,
            complete=False,
            started=started,
            finished=None,
            image=self._image(),
            flavour=FlavourFacts(
                name=candidate.flavour.name, title=candidate.flavour.title, kind=candidate.flavour.kind
            ),
            machine=None,
            boot=None,
            restores=None,
            suites=tuple(suite.name for suite in suites),
            differences=(),
            verdicts=tuple(self._verdicts.values()),
            findings=(),
            problem=None,
            evidence={},
        )
        self._save()

    def _image(self) -> ImageFacts:
        image = self.candidate.image
        if image.digest is None:
            self.progress.phase(f"taking the digest of {image.path.name}")
        return ImageFacts(
            path=str(image.path.absolute()),
            name=image.path.name,
            format=image.title,
            size_bytes=image.file_bytes,
            sha256=image.digest or self._digest(),
        )

    def _before(self, suite: Suite, control: Control) -> Verdict:
        if (reason := why_not_applicable(control, self.candidate.flavour)) is not None:
            return verdict_on(control, suite.name, Outcome.NOT_APPLICABLE, because=reason)
        return verdict_on(control, suite.name, Outcome.NOT_CHECKED, because="the run ended before it was checked")

    def note_unchecked(self, reasons: Mapping[str, str]) -> None:
        """Keep why controls will not be checked (deselected, without a check); they reject all the same."""
        for key, reason in reasons.items():
            self._verdicts[key] = replace(self._verdicts[key], because=reason)
        self._save()

    def add(self, verdict: Verdict, *, trace: str = "") -> None:
        """Take a verdict and write the record; of a check that broke, ``trace`` is kept as evidence."""
        if reason := self.falsified.get(verdict.control):
            verdict = replace(verdict, outcome=Outcome.NOT_CHECKED, because=reason)
        verdict = self.candidate.waivers.on(verdict)
        self._verdicts[verdict.control] = verdict
        if verdict.outcome is Outcome.ERROR:
            with (self.folder / "errors.txt").open("a", encoding="utf-8", errors="backslashreplace") as file:
                file.write(f"--- {verdict.suite}/{verdict.control}: {verdict.because}\n{trace}\n\n")
        self._save()

    def fail(self, error: SeatrialError) -> None:
        """Keep the first reason why the run could not go on; an image that did not come up fails what says so."""
        if self.record.problem is not None:
            return
        self.record = replace(self.record, problem=_problem(error, self.folder))
        self._save()
        if isinstance(error, BootError) and self.record.boot is None:
            for suite, control in self.controls.values():
                if control.fails_without_boot and self._verdicts[control.id].outcome is Outcome.NOT_CHECKED:
                    self.add(verdict_without_boot(control, suite.name, error.message))

    @contextlib.contextmanager
    def booted(self, *, is_cloneable: bool = False, has_spare_port: bool = False) -> Iterator[Session]:
        """Boot the candidate and give the session; see :func:`seatrial.session.booted`.

        :param is_cloneable: checks will want copies of the guest; it is frozen as soon as it is ready.
        :param has_spare_port: checks will want a disk changed before it boots.
        :raises SeatrialError: it did not come up, or this host cannot boot it.
        """
        with contextlib.ExitStack() as beyond_the_end:
            with booted(
                self.candidate,
                self.folder,
                run=self.record.run,
                progress=self.progress,
                describe=self._describe,
                is_cloneable=is_cloneable,
                has_spare_port=has_spare_port,
                watched=self._watched,
            ) as session:
                disk = beyond_the_end.enter_context(disk_watch(session.boot))
                yield from self._ready(session, is_cloneable=is_cloneable)
            self._judge_disk(disk)

    def _ready(self, session: Session, *, is_cloneable: bool) -> Iterator[Session]:
        guest = session.guest
        times = BootTimes(banner_s=guest.banner_s, login_s=guest.login_s, ready_s=guest.ready_s, state=guest.state)
        self.record = replace(self.record, boot=times)
        self._save()
        self.session = session
        if is_cloneable and session.restorer is not None:
            self.progress.phase("freezing the guest for copies")
            session.restorer.freeze(session)
        try:
            yield session
        finally:
            self._keep_restores(session)
            self.session = None

    def _judge_disk(self, disk: DiskWatch) -> None:
        """Keep what the guest wrote to its disk, and judge it; when it cannot be told, its controls are in error."""
        image, flavour = self.candidate.image, self.candidate.flavour
        judged = [
            (s, c)
            for s, c in self.controls.values()
            if c.probe_kind == PROBE and why_not_applicable(c, flavour) is None
        ]
        try:
            found = disk.written(image)
            self.record = replace(self.record, disk_writes=facts_of(found, flavour))
            keep(found, self.folder)
            verdicts = [judge_writes(control, suite.name, flavour, found) for suite, control in judged]
        except SeatrialError as exc:
            verdicts = [verdict_on(c, s.name, Outcome.ERROR, because=exc.message) for s, c in judged]
        for verdict in verdicts:
            self.add(verdict)

    def _keep_restores(self, session: Session) -> None:
        if session.restorer is not None and session.restorer.restores is not None:
            self.record = replace(self.record, restores=RestoreFacts(**asdict(session.restorer.restores)))
            self._save()

    def collect_facts(self, session: Session, checks: Sequence[Rehearsal]) -> None:
        """Ask the guest in a few round trips what ``checks`` will ask one by one.

        :raises SessionLost: the connection broke.
        """
        self.progress.phase("collecting the facts")
        checks = [Rehearsal(ask_identity, frozenset({"facts"})), *checks]
        boot = session.boot_facts if any("boot" in check.needs for check in checks) else None
        done = collect(session.facts, checks, flavour=self.candidate.flavour, boot=boot)
        self.progress.phase(f"{done.questions} facts in {done.rounds} rounds")
        self.note_identity(session)

    def note_identity(self, session: Session) -> None:
        """Keep which flavour the system says that it is; a system that does not say is judged all the same."""
        with contextlib.suppress(ObservationError, SessionError):
            found = recognised(session.facts)
            judged_as = self.candidate.settings.flavour
            if judged_as and found.flavour in flavour_lineage(judged_as)[1:]:
                return  # one's own flavour of that system
            self.record = replace(
                self.record,
                flavour=replace(self.record.flavour, recognised=found.flavour, recognised_by=found.because),
            )
            self._save()

    @property
    def _seen(self) -> tuple[Finding, ...]:
        return self._watch.findings if self._watch is not None else ()

    def _watched(self, watch: Watch) -> None:
        self._watch = watch

    def _describe(self, launch: Launch) -> None:
        machine = launch.machine
        self.record = replace(
            self.record,
            machine=MachineFacts(
                definition=machine.name,
                accelerator=launch.choice.accelerator,
                accelerator_reason=launch.choice.reason,
                qemu=self.candidate.features.version_text,
                firmware=launch.firmware.description if launch.firmware else "QEMU's built-in BIOS",
                cpus=machine.cpus,
                memory_mib=machine.memory_mib,
            ),
        )
        freezable = FREEZABLE if launch.is_cloneable else ()
        port = SPARE_PORT if launch.has_spare_port else ()
        started = (launch.kernel.difference,) if launch.kernel and not launch.image.parts else ()
        self.differ(
            *launch.provision.differences, *differences(machine, launch.choice.accelerator), *freezable, *port, *started
        )

    def differ(self, *differences: Difference) -> None:
        """Keep how the run differs from how the image ships; a control that this makes meaningless is not checked."""
        self.record = replace(self.record, differences=differences)
        self.falsified = {
            key: f"it would judge what this run brought: {found.kind}: {found.text}"
            for key, (_suite, control) in self.controls.items()
            if (found := falsifying(control.falsified_by, differences))
        }
        for key, reason in self.falsified.items():
            if self._verdicts[key].outcome is Outcome.NOT_CHECKED:
                self._verdicts[key] = replace(self._verdicts[key], because=reason)
        self._save()

    def judge_by_lynis(self, session: Session) -> None:
        """Run lynis in the guest and take its verdicts.

        :raises SeatrialError: it could not be run or read; its controls stay not checked.
        """
        self.progress.phase("running lynis in the guest; this takes minutes")
        policy = self.candidate.flavour.lynis
        for verdict in judge_guest(session, policy, self.folder, say=self.progress.note):
            self.add(verdict)

    def keep_evidence(self, session: Session) -> None:
        """Save the journal and every answer of the guest; one that died after its last check is the run's problem."""
        try:
            session.guard()
        except SeatrialError as exc:
            self.fail(exc)
        with contextlib.suppress(SeatrialError):
            _status, out, _err = session.guest.shell.run(_JOURNAL)
            (self.folder / "journal.txt").write_bytes(out)
        with contextlib.suppress(SeatrialError):  # a guest without systemd, or one that is not done, has no phases
            measured = boot_phases(parse_show(session.facts.text(MANAGER))).measured()
            phases = {name.removesuffix("_s"): seconds for name, seconds in measured.items()}
            if self.record.boot is not None:
                self.record = replace(self.record, boot=replace(self.record.boot, phases=phases))
        self._draw_boot(session)
        write_facts(self._facts(session), self.folder / "facts.json")

    def _draw_boot(self, session: Session) -> None:
        self._timeline = boot_picture(session.facts)

    def _facts(self, session: Session) -> FactsFile:
        image, flavour, boot = self.record.image, self.candidate.flavour, session.boot_facts
        return FactsFile(
            format=FACTS_FORMAT,
            version=FACTS_VERSION,
            seatrial=__version__,
            run=self.record.run,
            taken=utc_now(),
            flavour=flavour.name,
            user=flavour.access.user,
            image=FactsImage(name=image.name, format=image.format, size_bytes=image.size_bytes, sha256=image.sha256),
            boot=FactsBoot(
                accelerator=boot.accelerator,
                firmware=boot.firmware,
                tpm=boot.tpm,
                banner_s=boot.banner_s,
                login_s=boot.login_s,
                ready_s=boot.ready_s,
                state=boot.state,
                console=boot.console,
                findings=boot.findings,
            ),
            differences=self.record.differences,
            answers=tuple(session.facts.answers.values()),
        )

    def finish(self) -> Record:
        """Compare the image's digest, decide, write every report and return the final record."""
        after = self._digest_after()
        if after != self.record.image.sha256:
            self.fail(
                SeatrialError(
                    f"the image changed during the run: SHA-256 was {self.record.image.sha256}, is now {after}",
                    hint="another program writes to the file; judge a copy that nobody touches",
                )
            )
        self._save()
        done = replace(
            self.record,
            complete=True,
            finished=utc_now(),
            image=replace(self.record.image, sha256_after=after),
            verdicts=tuple(self._verdicts.values()),
            waivers=self.candidate.waivers.review(tuple(self._verdicts.values())),
            evidence=self._evidence(),
        )
        self.record = replace(done, decision=decision_of(done))
        reports = write_reports(self.record, self.folder, timeline=self._timeline)
        self.record = replace(self.record, evidence={**self.record.evidence, **reports})
        self._writer.write(self.record)
        return self.record

    def _digest_after(self) -> str:
        self.progress.phase("comparing the image's digest")
        return self._digest()

    def _digest(self) -> str:
        image = self.candidate.image

        def show(share: float) -> None:
            self.progress.detail(f"{share:.0%}")

        return sha256_of_all(image.parts, progress=show) if image.parts else sha256(image.path, progress=show)

    @property
    def exit_status(self) -> int:
        """Return 0 for release, 1 for reject, 2 when the run could not judge."""
        if self.record.problem is not None and self.record.complete:
            return self.record.problem.exit_status
        return 0 if self.record.decision is Decision.RELEASE else 1

    def _evidence(self) -> dict[str, str]:
        files = {
            "console": "console.log",
            "journal": "journal.txt",
            "facts": "facts.json",
            "errors": "errors.txt",
            "lynis": "lynis-report.dat",
            "lynis-xml": "lynis-report.xml",
            "qemu": "qemu.log",
            "swtpm": "swtpm.log",
            "restored": "restored",
            "workers": "workers",
            "screenshot": SCREENSHOT,
            "disk-writes": EVIDENCE,
        }
        return {name: file for name, file in files.items() if (self.folder / file).exists()}

    def _save(self) -> None:
        findings = with_reasons(self._seen, self.candidate.flavour.console_accepted)
        self.record = replace(self.record, verdicts=tuple(self._verdicts.values()), findings=findings)
        if self.keeps_every_verdict:
            self._writer.write(self.record)


def made_folder(place: Path, name: str) -> Path:
    """Make the folder of a run.

    :raises ConfigError: it cannot be made there.
    """
    try:
        (place / name).mkdir(parents=True)
    except OSError as exc:
        raise ConfigError(
            f"the folder for results {str(place)!r} cannot be used: {exc.strerror}",
            hint="--out DIR names another",
        ) from exc
    return place / name


def _by_id(suites: tuple[Suite, ...]) -> dict[str, tuple[Suite, Control]]:
    found: dict[str, tuple[Suite, Control]] = {}
    for suite in suites:
        for control in suite.controls:
            if control.id in found:
                raise ConfigError(
                    f"control {control.id!r} is in suite {found[control.id][0].name!r} and in {suite.name!r}"
                )
            found[control.id] = (suite, control)
    return found


def _problem(error: SeatrialError, folder: Path) -> Problem:
    console = folder / "console.log"
    is_boot = isinstance(error, BootError) and console.is_file()
    scene = error.scene if isinstance(error, BootError) else None
    return Problem(
        kind=type(error).__name__,
        message=error.message,
        hint=error.hint,
        evidence=str(error.evidence) if error.evidence else str(folder),
        exit_status=error.exit_status,
        phase=scene.phase if scene else "",
        at_s=scene.at_s if scene else None,
        console_tail=scene.tail if scene else _tail(console) if is_boot else (),
    )


def _tail(console: Path) -> tuple[str, ...]:
    with console.open("rb") as file:  # a flood leaves 49 MiB
        file.seek(max(0, console.stat().st_size - _TAIL_BYTES))
        text = plain(file.read(_TAIL_BYTES))
    return tuple(line for line in text.splitlines() if line.strip())[-_TAIL_LINES:]
