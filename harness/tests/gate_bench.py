"""The plugin on a fake guest, which the local shell answers for: a suite of two controls, judged in this process."""

from __future__ import annotations

import contextlib
import json
import subprocess
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import seatrial.copies
import seatrial.gate
import seatrial.plugin
import seatrial.writes
from seatrial.errors import (
    KernelPanic,
    SessionError,
    SessionLost,
)
from seatrial.guest.backend import new_host
from seatrial.guest.facts import Facts
from seatrial.guest.shell import MOST_OUTPUT
from seatrial.guest.ssh import RunKey
from seatrial.machine.boot import Launch
from seatrial.restore import Restores
from seatrial.session import Candidate, Session, launch_of

TABLE = """
[[control]]
id = "first-control"
title = "The first holds"
severity = "high"
rationale = "Because."
remedy = "Mend it."
refs = []
applies-to = ["general-purpose", "immutable-host"]
[[control]]
id = "second-control"
title = "The second holds"
severity = "low"
rationale = "Because."
remedy = "Mend it."
refs = []
applies-to = ["general-purpose", "immutable-host"]
probe = { invented = "x" }
"""
CHECKS = """
import pytest

@pytest.mark.control("first-control")
def test_first(check, host):
    check.equal(host.run("true").rc, 0, what="status")

@pytest.mark.probe("invented")
def test_second(row, check):
    check.equal(row.probe["invented"], "x", what="probe")
"""
GPT = b"\0" * 510 + b"\x55\xaa" + b"EFI PART" + b"\0" * 5000


def suite(pytester: pytest.Pytester, checks: str = CHECKS, table: str = TABLE) -> Path:
    folder = pytester.path / "my-suite"
    folder.mkdir(exist_ok=True)
    (folder / "controls.toml").write_text(table)
    (folder / "test_mine.py").write_text(checks)
    return folder


def image(pytester: pytest.Pytester) -> str:
    path = pytester.path / "disk.raw"
    path.write_bytes(GPT)
    return f"--image={path}"


def run(pytester: pytest.Pytester, *arguments: str | Path) -> pytest.RunResult:
    return pytester.runpytest_inprocess("-p", "no:cacheprovider", *arguments)


class LocalShell:
    """A guest without a virtual machine: answers from the local sh."""

    def __init__(self, name: str = "ready") -> None:
        self.name = name

    def run(self, command: str, *, timeout_s: float | None = None) -> tuple[int, bytes, bytes]:
        if command == "lose":
            raise SessionLost("the SSH connection broke")
        if command == "who":
            return 0, self.name.encode(), b""
        done = subprocess.run(["sh", "-c", command], capture_output=True, check=False)
        return done.returncode, done.stdout, done.stderr

    def run_all(
        self, commands: Sequence[str], *, most_output: int = MOST_OUTPUT, timeout_s: float | None = None
    ) -> Iterator[tuple[int, bytes, bytes] | SessionError]:
        for command in commands:
            yield self.run(command)


class FakeBoot:
    """A boot whose kernel panics once a file of that name is in the working folder."""

    console = SimpleNamespace(
        path=Path("/dev/null"), text=lambda _most: "Kernel panic" if Path("panicked").exists() else ""
    )
    launch = SimpleNamespace(
        choice=SimpleNamespace(accelerator="tcg"), machine=SimpleNamespace(firmware="uefi", tpm="none")
    )
    watch = SimpleNamespace(findings=())
    overlays = ()
    process = SimpleNamespace(status=0)

    def guard(self) -> None:
        if Path("panicked").exists():
            raise KernelPanic("the kernel panicked")


def fake_boot(error: Exception | None) -> Callable[..., contextlib.AbstractContextManager[Session]]:
    @contextlib.contextmanager
    def booted(
        candidate: Candidate,
        folder: Path,
        *,
        describe: Callable[[Launch], None],
        is_cloneable: bool,
        has_spare_port: bool,
        **_rest: object,
    ) -> Iterator[Session]:
        launch = launch_of(
            candidate, candidate.tries[0], folder, run="r", key=RunKey("seatrial-run"), is_cloneable=is_cloneable
        )
        describe(replace(launch, has_spare_port=has_spare_port))
        if error is not None:
            raise error
        yield fake_session("ready", restorer=FakeRestorer())

    return booted


def fake_session(name: str, **more: Any) -> Session:
    shell: Any = LocalShell(name)
    connection = SimpleNamespace(is_alive=True)
    guest: Any = SimpleNamespace(
        shell=shell,
        banner_s=1.0,
        login_s=2.0,
        ready_s=3.0,
        state="running",
        connection=connection,
        address=SimpleNamespace(host_key=("ssh-ed25519", b"key")),
    )
    boot: Any = FakeBoot()
    return Session(host=new_host(shell, "fake"), facts=Facts(shell), guest=guest, boot=boot, **more)


class FakeRestorer:
    """Gives guests with names: copy-1, copy-2, cold-3; keeps what was asked of it."""

    def __init__(self) -> None:
        self.frozen = False
        self.restores: Restores | None = None
        self.count = 0

    def freeze(self, _session: Session) -> None:
        self.frozen = True

    def _named(self, kind: str) -> contextlib.AbstractContextManager[Session]:
        self.count += 1
        way = "template" if self.frozen else "cold boot"
        self.restores = Restores(method=way, seconds=(0.5,) * self.count, cold_boots=int(kind == "cold"))
        return contextlib.nullcontext(fake_session(f"{kind}-{self.count}", is_restored=True))

    def restored(self, _session: Session) -> contextlib.AbstractContextManager[Session]:
        return self._named("copy")

    def cold_boot(self, _session: Session, *, disk: int | None = None) -> contextlib.AbstractContextManager[Session]:
        return self._named("cold")


class Judged:
    """Judges a suite on the fake guest, in this process; gives pytest's result and the record."""

    def __init__(self, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
        self.pytester = pytester
        self.monkeypatch = monkeypatch

    def __call__(
        self, checks: str, *arguments: str, table: str = TABLE, error: Exception | None = None
    ) -> tuple[pytest.RunResult, dict[str, Any]]:
        self.monkeypatch.setattr(seatrial.gate, "booted", fake_boot(error))
        folder = suite(self.pytester, checks, table)
        out = self.pytester.path / "out"
        fixed = ("-p", "no:cacheprovider", image(self.pytester), "--flavour=debian-general", "--accel=tcg")
        result = self.pytester.runpytest_inprocess(*fixed, f"--out={out}", *arguments, folder)
        (record,) = out.glob("*/record.json")
        return result, json.loads(record.read_text())


def outcomes(record: dict[str, Any]) -> dict[str, str]:
    return {verdict["control"]: verdict["outcome"] for verdict in record["verdicts"]}


def check_body(body: str) -> str:
    return CHECKS.replace('check.equal(host.run("true").rc, 0, what="status")', body)
