"""The experiment: more boots while it is open, a cap that is no pass, and every boot kept as soon as it is over."""

from __future__ import annotations

import contextlib
import itertools
import os
import socket
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import pytest
from click.testing import CliRunner
from seatrial import boot_time
from seatrial.boot_sample import Conditions, Seen, observe, sampled
from seatrial.boot_time import Plan, Yardstick, measure
from seatrial.cli import main
from seatrial.errors import ConfigError, ObservationError
from seatrial.evidence.analyze import ANALYZE
from seatrial.evidence.boot_units import DEFAULT_TARGET, UNITS
from seatrial.evidence.systemd import MANAGER
from seatrial.guest.facts import Facts
from seatrial.machine.counted import patient_wire
from seatrial.machine.disk import open_image
from seatrial.policy.flavours import Budgets
from seatrial.policy.judge import Outcome
from seatrial.progress import Silent
from seatrial.report.boot_record import BootRecord, Sample
from suite_bench import recorded
from test_boot_budget import record

Measured = Callable[..., tuple[boot_time.Measurement, list[int]]]


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Measured:
    """Return a measurement whose boots take the given totals, and how many boots were kept each time."""

    def run(plan: Plan, totals: Sequence[float], limit: float) -> tuple[boot_time.Measurement, list[int]]:
        endless = itertools.cycle(record(*totals).samples)

        @contextlib.contextmanager
        def state(*_args: object) -> Iterator[SimpleNamespace]:
            yield SimpleNamespace(choice=SimpleNamespace(accelerator="tcg"), steps="", discarded=0)

        def boot(*_args: object, **_kwargs: object) -> Sample:
            return next(endless)

        def empty(*_args: object) -> BootRecord:
            return record()

        for name, fake in (("_state", state), ("_boot", boot), ("_empty", empty)):
            monkeypatch.setattr(boot_time, name, fake)
        kept: list[int] = []
        candidate: Any = SimpleNamespace(flavour=SimpleNamespace(machine="q35-uefi"))
        found = measure(
            candidate,
            plan,
            tmp_path,
            yardstick=Yardstick(budgets=Budgets(counted={"total_s": limit})),
            progress=Silent(),
            keep=lambda so_far: kept.append(len(so_far.samples)),
        )
        return found, kept

    return run


@pytest.mark.parametrize("clock", ["wall", "counted"])
def test_the_key_that_is_brought_in_is_the_one_that_logs_in(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, clock: Literal["wall", "counted"]
) -> None:
    monkeypatch.setenv("SEATRIAL_CACHE", str(tmp_path))
    plan = Plan(boots=1, cap=1, clock=clock)
    assert boot_time._key(plan).public_line == boot_time._key(plan).public_line


def test_clear_result_needs_no_more_boots(measured: Measured) -> None:
    found, kept = measured(Plan(boots=3, cap=9, clock="counted"), [25.0, 25.1, 25.2], 30.0)
    assert (found.verdict.outcome, kept) == (Outcome.PASS, [1, 2, 3])


def test_open_result_boots_up_to_the_cap_and_is_then_not_checked(measured: Measured) -> None:
    found, kept = measured(Plan(boots=2, cap=5, clock="counted"), [30.1, 29.9], 30.0)
    assert found.verdict.outcome is Outcome.NOT_CHECKED
    assert kept == [1, 2, 3, 4, 5]
    assert "do not settle it" in found.verdict.unjudged[-1]


def test_failure_is_not_booted_away(measured: Measured) -> None:
    found, kept = measured(Plan(boots=2, cap=9, clock="counted"), [40.0, 41.0], 30.0)
    assert (found.verdict.outcome, kept) == (Outcome.FAIL, [1, 2])


def test_cap_below_the_boots_is_a_fault(measured: Measured) -> None:
    with pytest.raises(ConfigError, match="cap of 2"):
        measured(Plan(boots=3, cap=2, clock="counted"), [25.0], 30.0)


class Answers:
    """A guest that answers from recorded facts."""

    def __init__(self, answers: dict[str, str]) -> None:
        self.answers = answers

    def run(self, command: str, *, timeout_s: float | None = None) -> tuple[int, bytes, bytes]:
        if command in self.answers:
            return 0, self.answers[command].encode(), b""
        return (0, b"systemd\n", b"") if "/run/systemd/system" in command and self.answers else (0, b"", b"")


BOOTED = {
    MANAGER: recorded("boot/manager-counted"),
    UNITS: recorded("boot/units"),
    DEFAULT_TARGET: "graphical.target\n",
    ANALYZE: recorded("boot/analyze"),
}


def test_recorded_boot_has_phases_milestones_chain_and_nothing_odd() -> None:
    seen = observe(Facts(Answers(BOOTED)), drawing=False)
    assert seen.phases["total_s"] == pytest.approx(25.996231)
    assert seen.milestones.keys() == {"multi_user_s", "default_target_s", "ssh_unit_s"}
    assert seen.chain[:2] == ("graphical.target", "multi-user.target")
    assert seen.odd == ()


def test_unfinished_boot_is_an_error_and_no_sample() -> None:
    unfinished = BOOTED[MANAGER].replace("FinishTimestampMonotonic=25996231", "FinishTimestampMonotonic=0")
    with pytest.raises(ObservationError, match="not finished"):
        observe(Facts(Answers({**BOOTED, MANAGER: unfinished})), drawing=False)


def test_prose_that_contradicts_the_stamps_is_odd() -> None:
    lies = "Startup finished in 1.000s (kernel) + 2.000s (userspace) = 3.000s\n"
    assert observe(Facts(Answers({**BOOTED, ANALYZE: lies})), drawing=False).odd


def test_image_without_systemd_has_times_from_outside_only() -> None:
    seen = observe(Facts(Answers({})))
    assert seen == Seen()
    conditions = Conditions(wall_s=9.0, load=0.5, mhz=None)
    sample = sampled(seen, {"banner_s": 3.5}, number=1, seed=None, conditions=conditions)
    assert (dict(sample.phases), dict(sample.milestones)) == ({}, {"banner_s": 3.5})


def test_wire_takes_what_nobody_reads_yet() -> None:
    """A socket pair alone holds some 250 single bytes; QEMU would wait for the reader."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        with patient_wire(theirs) as descriptor:
            os.set_blocking(descriptor, False)
            for _ in range(20_000):
                assert os.write(descriptor, b"x") == 1
            received = b""
            while len(received) < 20_000:
                received += ours.recv(65536)
        assert received == b"x" * 20_000
        assert ours.recv(1) == b""


def test_command_explains_itself_and_refuses_a_missing_baseline(tmp_path: Path) -> None:
    assert "--baseline RECORD" in CliRunner().invoke(main, ["boot-time", "--help"]).output
    done = CliRunner().invoke(main, ["boot-time", str(tmp_path / "none.raw"), "--flavour", "debian-general"])
    assert done.exit_code == 4
    assert "none.raw' does not exist" in done.output


class Booting:
    """Stands for every boot: writes its number into the disk that it was given, and keeps what it found there."""

    def __init__(self) -> None:
        self.found: list[bytes | None] = []
        self.powered_off: list[int] = []
        self.seeds: list[int | None] = []

    def launch(self, *_args: object, disk: int | None, seed: int | None) -> SimpleNamespace:
        self.seeds.append(seed)
        return SimpleNamespace(disk=disk, choice=None)

    @contextlib.contextmanager
    def measured(self, launch: SimpleNamespace, *_args: object) -> Iterator[SimpleNamespace]:
        number = len(self.found)
        self.found.append(os.pread(launch.disk, 4, 0) if launch.disk is not None else None)
        if launch.disk is not None:
            os.pwrite(launch.disk, f"#{number:03}".encode(), 0)
        guest = SimpleNamespace(shell=None, banner_s=1.0, login_s=2.0, ready_s=3.0)
        yield SimpleNamespace(
            guest=guest, prompt_s=None, asked_s=None, power_off=lambda: self.powered_off.append(number)
        )


@pytest.fixture
def booting(monkeypatch: pytest.MonkeyPatch) -> Booting:
    """Put fakes in the place of QEMU and the guest; disks and their copies are real."""
    fake = Booting()

    def patience(*_args: object) -> None:
        return None

    def observed(*_args: object, **_kwargs: object) -> Seen:
        return Seen(phases={"total_s": 25.0})

    for name, replacement in (
        ("_launch", fake.launch),
        ("measured_boot", fake.measured),
        ("_patience", patience),
        ("observe", observed),
    ):
        monkeypatch.setattr(boot_time, name, replacement)
    return fake


def measured_with(plan: Plan, folder: Path) -> BootRecord:
    """Return the record of ``plan`` on an image whose first bytes are ``raw!``; the image must stay as it is."""
    path = folder / "disk.raw"
    path.write_bytes(b"raw!" + bytes(506) + b"\x55\xaa" + bytes(65_024))
    candidate: Any = SimpleNamespace(
        image=open_image(path),
        flavour=SimpleNamespace(name="debian-immutable", machine="q35-uefi"),
        machine=SimpleNamespace(name="q35-uefi"),
        features=SimpleNamespace(version_text="10"),
        key=None,
    )
    yardstick = Yardstick(budgets=Budgets(counted={"total_s": 30.0}))
    found = measure(candidate, plan, folder, yardstick=yardstick, progress=Silent())
    assert path.read_bytes()[:4] == b"raw!"
    return found.record


@pytest.mark.skipif(not os.access("/dev/shm", os.W_OK), reason="this computer has no file system in memory")
def test_later_boots_all_start_from_what_the_first_one_left(booting: Booting, tmp_path: Path) -> None:
    plan = Plan(boots=3, cap=3, clock="counted", which="later", first_seed=4, drawing=False)
    record = measured_with(plan, tmp_path)
    # The first boot finds the image; the others what that one wrote, and nothing of each other.
    assert booting.found == [b"raw!", b"#000", b"#000", b"#000"]
    assert booting.powered_off == [0]
    assert (record.which, record.discarded, [sample.seed for sample in record.samples]) == ("later", 1, [4, 5, 6])


def test_first_boots_have_the_image_itself_and_none_is_thrown_away(booting: Booting, tmp_path: Path) -> None:
    record = measured_with(Plan(boots=2, cap=2, clock="counted", drawing=False), tmp_path)
    assert (booting.found, booting.powered_off) == ([None, None], [])
    assert (record.which, record.discarded, booting.seeds) == ("first", 0, [1, 2])
