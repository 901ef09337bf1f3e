"""Judges the facts of an earlier run again, without a guest: a change of policy needs no boot."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from seatrial.check import NotChecked
from seatrial.clock import utc_now
from seatrial.errors import ConfigError, ObservationError
from seatrial.evidence.console import Finding
from seatrial.gate import Run
from seatrial.guest.facts import Recorded
from seatrial.identity import recognised
from seatrial.layout import data_dir
from seatrial.machine.boot import BootFacts
from seatrial.machine.definition import load_machine
from seatrial.machine.disk import Image
from seatrial.machine.features import NO_QEMU
from seatrial.options import Settings
from seatrial.progress import Progress
from seatrial.rehearsal import Rehearsal
from seatrial.report.facts import FactsFile, read_facts
from seatrial.report.record import BootTimes, ImageFacts, Replay
from seatrial.session import Candidate, Session
from seatrial.suites import Suite, read_flavour
from seatrial.waiver_file import read_waivers

__all__ = ["RecordedCandidate", "Rejudgement", "examine_facts"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedCandidate(Candidate):
    """A candidate of which only the facts are left: ``path`` is their file."""

    recorded: FactsFile
    path: Path


def examine_facts(settings: Settings) -> RecordedCandidate:
    """Return the candidate that the facts file of ``settings`` describes.

    :raises ConfigError: the file or the flavour is not usable, or options do not go together.
    """
    assert settings.facts is not None
    if settings.image is not None:
        raise ConfigError(
            "--image and --facts do not go together", hint="name one: an image to boot, or facts to judge"
        )
    if settings.lynis:
        raise ConfigError(
            "--lynis needs a guest, and --facts has none",
            hint="'seatrial lynis FOLDER/lynis-report.dat' judges the report of the earlier run",
        )
    facts = read_facts(settings.facts)
    flavour = read_flavour(settings.flavour or _flavour_of(facts))
    size = facts.image.size_bytes
    return RecordedCandidate(
        settings=settings,
        image=Image(path=settings.facts, format="raw", file_bytes=size, disk_bytes=size),
        flavour=flavour,
        machine=load_machine(flavour.machine, data_dir("qemu") / "machines"),
        firmware=None,
        features=NO_QEMU,
        tries=(),
        waivers=read_waivers(settings.waivers, settings.facts, flavour, utc_now().date()),
        recorded=facts,
        path=settings.facts,
    )


def _flavour_of(facts: FactsFile) -> str:
    """Return what the system says that it is; where it was not asked, what the earlier run judged it by."""
    try:
        return recognised(Recorded(facts.answers)).flavour
    except ObservationError:
        return facts.flavour


class _NoHost:
    """The host of a check that should not have been run: such checks are left out beforehand."""

    def __getattr__(self, name: str) -> Any:
        raise NotChecked(f"only a guest can answer host.{name}, and there is none: facts are judged")


class Replayed(Session):
    """A session whose guest is gone."""

    def __init__(self, facts: FactsFile) -> None:
        gone: Any = None
        super().__init__(host=_NoHost(), facts=Recorded(facts.answers), guest=gone, boot=gone)
        self._recorded = facts

    @property
    def boot_facts(self) -> BootFacts:
        """Return what the earlier run knew of its boot."""
        boot = self._recorded.boot
        return BootFacts(
            accelerator=boot.accelerator,
            firmware=boot.firmware,
            tpm=boot.tpm,
            banner_s=boot.banner_s,
            login_s=boot.login_s,
            ready_s=boot.ready_s,
            state=boot.state,
            console=boot.console,
            findings=boot.findings,
        )

    @property
    def is_lost(self) -> bool:
        """Return that nobody can be asked anything more."""
        return True

    def guard(self) -> None:
        """Find nothing lost: there is no guest."""


class Rejudgement(Run):
    """One candidate's facts on their way to a decision; like a run, without its boot.

    Nothing is lost with one that dies, so its record is written at the end only.
    """

    keeps_every_verdict = False

    def __init__(
        self, candidate: RecordedCandidate, suites: tuple[Suite, ...], *, left_out: Sequence[str], progress: Progress
    ) -> None:
        self._recorded = candidate.recorded
        super().__init__(candidate, suites, progress=progress)
        data = candidate.path.read_bytes()
        replay = Replay(
            facts=str(candidate.path.absolute()),
            sha256=hashlib.sha256(data).hexdigest(),
            taken=self._recorded.taken,
            left_out=tuple(left_out),
        )
        self.record = replace(self.record, replay=replay)

    def _image(self) -> ImageFacts:
        image = self._recorded.image
        return ImageFacts(
            path=image.name, name=image.name, format=image.format, size_bytes=image.size_bytes, sha256=image.sha256
        )

    def _digest_after(self) -> str:
        # The image is not opened: nothing here can change it.
        return self._recorded.image.sha256

    @contextlib.contextmanager
    def booted(self, *, is_cloneable: bool = False, has_spare_port: bool = False) -> Iterator[Session]:  # noqa: ARG002 -- there is no guest to copy
        """Give the session of the recorded facts; nothing is booted."""
        boot = self._recorded.boot
        self.record = replace(
            self.record,
            boot=BootTimes(banner_s=boot.banner_s, login_s=boot.login_s, ready_s=boot.ready_s, state=boot.state),
        )
        self.differ(*self._recorded.differences)
        self.session = Replayed(self._recorded)
        try:
            yield self.session
        finally:
            self.session = None

    def collect_facts(self, session: Session, checks: Sequence[Rehearsal]) -> None:  # noqa: ARG002 -- nothing to collect
        """Collect nothing: everything that was asked is answered."""
        self.note_identity(session)

    @property
    def _seen(self) -> tuple[Finding, ...]:
        return self._recorded.boot.findings

    def keep_evidence(self, session: Session) -> None:
        """Keep nothing but the drawing: the evidence is the facts file."""
        self._draw_boot(session)
