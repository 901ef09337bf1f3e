"""A bench for suites: their checks run against recorded answers of a guest, in which one defect can be seeded."""

from __future__ import annotations

import contextlib
import importlib.util
import inspect
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from seatrial.check import Check, NotApplicable, NotChecked
from seatrial.errors import SeatrialError
from seatrial.evidence.console import Scanner
from seatrial.guest.facts import Facts
from seatrial.layout import data_dir
from seatrial.machine.console import console_table
from seatrial.policy.controls import Control, parse_controls
from seatrial.policy.flavours import Budgets
from seatrial.policy.judge import Outcome, judge
from seatrial.policy.writes import PROBE as WRITTEN_FROM_OUTSIDE
from seatrial.rebooted import Rebooted
from seatrial.suites import read_flavour

FACTS = Path(__file__).resolve().parents[2] / "fixtures" / "facts"
BOOT_ID = "9d1a62a6-0f0f-4c5a-8f6e-2f0d3b6f3c11"


def recorded(name: str) -> str:
    """Return a recorded answer, such as ``kernel/sysctls``."""
    return (FACTS / f"{name}.txt").read_text(encoding="utf-8")


@dataclass
class Guest:
    """Answers by question; tries and their outcome by title; what the run knows of the boot.

    ``deadly`` holds questions that end it, ``later`` the answers that are others after a reboot, ``expect`` lists of
    the flavour that are others here.
    """

    answers: dict[str, str]
    tries: dict[str, tuple[int, str]] = field(default_factory=dict)
    boot: dict[str, Any] = field(default_factory=dict)
    flavour: str = "debian-immutable"
    budgets: Budgets | None = None
    power_off: Callable[[], float] = lambda: 6.0
    deadly: dict[str, Exception] = field(default_factory=dict)
    booted_from: Callable[[str], Guest] | None = None
    later: dict[str, str] = field(default_factory=dict)
    new_host_key: str = ""
    expect: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def run(self, command: str, *, timeout_s: float | None = None) -> tuple[int, bytes, bytes]:
        """Answer as the guest's shell would; a question that was never recorded is a fault of the test."""
        assert command in self.answers, f"no recorded answer for {command!r}"
        if command in self.deadly:
            raise self.deadly[command]
        return 0, self.answers[command].encode(), b""

    def replace(self, question: str, old: str, new: str) -> None:
        """Seed a defect in the answer to ``question``."""
        assert old in self.answers[question], f"{old!r} is not in the answer to {question!r}"
        self.answers[question] = self.answers[question].replace(old, new)

    def add(self, question: str, line: str) -> None:
        """Seed a defect at the end of the answer to ``question``."""
        self.answers[question] += f"{line}\n"


def all_of(*seeds: Callable[[Guest], None]) -> Callable[[Guest], None]:
    """Return one defect that is made of several."""

    def seed(guest: Guest) -> None:
        for one in seeds:
            one(guest)

    return seed


class Host:
    """The part of testinfra's host that checks use."""

    def __init__(self, guest: Guest) -> None:
        self._guest = guest

    def run(self, command: str) -> SimpleNamespace:
        """Report the tries in ``command``, or answer it."""
        titles = re.findall(r"try '([^']*)' '", command)
        if not titles:
            return SimpleNamespace(rc=0, stdout=self._guest.run(command)[1].decode(), stderr="")
        assert BOOT_ID in command
        lines = ("\t".join((title, *map(str, self._guest.tries[title]))) for title in titles)
        return SimpleNamespace(rc=0, stdout="".join(f"{line}\n" for line in lines), stderr="")


@dataclass(frozen=True)
class Bench:
    """One suite's controls and the check of each."""

    modules: Mapping[str, Any]
    controls: Mapping[str, Control]
    checks: Mapping[str, Callable[..., None]]

    def outcome(self, control: str, guest: Guest) -> Outcome:
        """Return what becomes of ``control`` on ``guest``."""
        return self.explained(control, guest)[0]

    def explained(self, control: str, guest: Guest) -> tuple[Outcome, str]:
        """Return the outcome and why."""
        check = Check()
        boot = {
            "accelerator": "tcg", "firmware": "uefi", "tpm": "none",
            "banner_s": 50.0, "login_s": 55.0, "ready_s": 60.0, "state": "running",
            "console": "[    0.0] Linux version 6.12\nseatrial login: ", **guest.boot,
        }  # fmt: skip
        scanner = Scanner(console_table())
        scanner.feed(boot["console"].encode(), 1.0)
        flavour = read_flavour(guest.flavour)
        offered = {
            "row": self.controls[control],
            "facts": Facts(guest),
            "check": check,
            "flavour": flavour.model_copy(
                update={"budgets": guest.budgets or flavour.budgets, "expect": {**flavour.expect, **guest.expect}}
            ),
            "host": Host(guest),
            "guest": SimpleNamespace(
                facts=Facts(guest),
                host=Host(guest),
                boot_facts=SimpleNamespace(**boot),
                boot=SimpleNamespace(watch=SimpleNamespace(tolerating=lambda *_signs: contextlib.nullcontext())),
                power_off=guest.power_off,
            ),
            "booted_from": lambda change: _booted_from(guest, change),
            "boot": SimpleNamespace(**boot, findings=scanner.findings.all),
            "rebooted": Rebooted(
                before=Facts(guest),
                after=Facts(Guest({**guest.answers, **guest.later})),
                new_host_key=guest.new_host_key,
            ),
        }
        function = self.checks[control]
        try:
            function(**{name: offered[name] for name in inspect.signature(function).parameters})
        except NotApplicable as exc:
            return Outcome.NOT_APPLICABLE, str(exc)
        except NotChecked as exc:
            return Outcome.NOT_CHECKED, str(exc)
        except SeatrialError as exc:
            return Outcome.ERROR, str(exc)
        outcome, _expected, _seen, because = judge(check.observations)
        return outcome, because

    def red(self, guest: Guest, kind: str) -> dict[str, str]:
        """Return the controls for ``kind`` of image that do not pass on ``guest``, and why."""
        found = {c.id: self.explained(c.id, guest) for c in self.controls.values() if kind in c.applies_to}
        return {control: f"{outcome}: {why}" for control, (outcome, why) in found.items() if outcome != Outcome.PASS}


@contextlib.contextmanager
def _booted_from(guest: Guest, change: str) -> Iterator[SimpleNamespace]:
    """Give what a boot from a changed disk comes to, which :attr:`Guest.booted_from` may refuse."""
    assert guest.booted_from is not None
    booted = guest.booted_from(change)
    yield SimpleNamespace(facts=Facts(booted), boot_facts=SimpleNamespace(**booted.boot))


def bench(suite: str) -> Bench:
    """Return the bench of ``suite``.

    Every row has exactly one check: ambiguity or a gap fails here.
    """
    folder = data_dir("suites") / suite
    table = parse_controls((folder / "controls.toml").read_text(encoding="utf-8"), where=suite)
    # What is judged by the disk, when the guest has ended, has no check.
    rows = [row for row in table if row.probe_kind != WRITTEN_FROM_OUTSIDE]
    modules = {path.stem: _module(path) for path in sorted(folder.glob("test_*.py"))}
    checks: dict[str, Callable[..., None]] = {}
    for module in modules.values():
        for name, function in vars(module).items():
            marks = getattr(function, "pytestmark", []) if name.startswith("test_") else []
            for mark in (mark for mark in marks if mark.name != "changes_guest"):
                claimed = [mark.args[0]] if mark.name == "control" else []
                if mark.name == "probe":
                    claimed = [row.id for row in rows if row.probe_kind == mark.args[0]]
                assert claimed, f"{name} checks no control"
                for control in claimed:
                    assert control not in checks, f"{control} has two checks"
                    checks[control] = function
    assert checks.keys() == {row.id for row in rows}, checks.keys() ^ {row.id for row in rows}
    return Bench(modules, {row.id: row for row in rows}, checks)


def _module(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location(f"bench_{path.parent.name}_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
