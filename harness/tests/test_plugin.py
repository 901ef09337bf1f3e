"""The plugin inside pytest: refusals before anything boots, verdicts from checks, and never the local machine."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
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
    BootFatal,
    BootTimeout,
    ConfigError,
    HostError,
    KernelPanic,
    ObservationError,
    SeatrialError,
    SessionError,
    SessionLost,
)
from seatrial.evidence.disk.partitions import Region
from seatrial.evidence.disk.writes import Change
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


def test_without_an_image_the_suites_refuse_to_run(pytester: pytest.Pytester) -> None:
    result = run(pytester, suite(pytester))
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*judge a booted image and never this computer: 2 check(s) need --image*"])
    result.stderr.fnmatch_lines(["*hint: pytest --image FILE --flavour NAME*"])


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--image=/nowhere/disk.raw"], "image '/nowhere/disk.raw' does not exist"),
        (["--image=/"], "image '/' is a directory"),
        (["GPT", "--flavour=debain"], "unknown flavour 'debain'"),
        (["GPT", "--flavour=base"], "flavour 'base' is a base for others and no image's flavour"),
        (["GPT", "--flavour=debian-general", "--accel=hvf"], "--accel is 'hvf'; expected one of auto, kvm, tcg"),
        (["GPT", "--flavour=debian-general", "--machine=z80"], "unknown machine 'z80'"),
        (["GPT", "--flavour=debian-general", "--boot-timeout=never"], "--boot-timeout is 'never'"),
    ],
)
def test_bad_input_is_a_usage_error_before_anything_boots(
    pytester: pytest.Pytester, arguments: list[str], text: str
) -> None:
    given = [image(pytester) if argument == "GPT" else argument for argument in arguments]
    result = run(pytester, *given, suite(pytester))
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    pytest.LineMatcher([result.stderr.str().replace("\n", " ")]).fnmatch_lines([f"*{text}*"])
    assert not (pytester.path / "reports").exists()


def test_without_qemu_the_run_cannot_judge(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    bin_folder = pytester.path / "bin"
    bin_folder.mkdir()
    monkeypatch.setenv("PATH", str(bin_folder))
    monkeypatch.setattr("seatrial.process._path_with_sbin", lambda: str(bin_folder))
    result = pytester.runpytest_inprocess(
        "-p", "no:cacheprovider", image(pytester), "--flavour=debian-general", suite(pytester)
    )
    assert result.ret == 2
    text = result.stderr.str() + result.stdout.str()
    assert "program 'qemu-system-x86_64' is not installed; it is needed to boot images" in text
    assert "'seatrial doctor' names every missing program" in text


@pytest.mark.parametrize(
    ("checks", "table", "text"),
    [
        (CHECKS.replace('"first-control"', '"thrid"'), TABLE, "checks control 'thrid', which is not in *controls.toml"),
        (
            CHECKS + '\n@pytest.mark.control("first-control")\ndef test_again(check): ...\n',
            TABLE,
            "control 'first-control' is checked twice: by *test_first and by *test_again",
        ),
        (
            CHECKS,
            TABLE.replace('severity = "low"', 'severity = "lowish"'),
            "second-control: severity: Input should be*",
        ),
        (CHECKS, TABLE.replace("invented", "other"), "no row of *controls.toml has such a probe"),
    ],
)
def test_a_faulty_suite_is_a_usage_error(pytester: pytest.Pytester, checks: str, table: str, text: str) -> None:
    result = run(pytester, image(pytester), "--flavour=debian-general", suite(pytester, checks, table))
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    pytest.LineMatcher([result.stderr.str().replace("\n", " ")]).fnmatch_lines([f"*{text}*"])


def test_a_folder_of_plain_tests_is_left_alone(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("def test_own(): assert True\n")
    run(pytester).assert_outcomes(passed=1)


def test_a_session_without_an_image_imports_nothing_heavy(pytester: pytest.Pytester) -> None:
    code = (
        "import sys, pytest; sys.argv = ['pytest', '--version']; pytest.main(['--version', '-p', 'seatrial.plugin']);"
        "heavy = {'paramiko', 'pydantic', 'qemu', 'lxml', 'rich', 'jinja2', 'seatrial.gate'} & set(sys.modules);"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_collect_only_boots_nothing(pytester: pytest.Pytester) -> None:
    result = run(pytester, "--collect-only", "-q", image(pytester), "--flavour=debian-general", suite(pytester))
    assert result.ret == 0
    result.stdout.fnmatch_lines(["*test_second?second-control?*"])
    assert not list(pytester.path.glob("**/record.json"))


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


@pytest.fixture
def judged(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Judged:
    return Judged(pytester, monkeypatch)


def outcomes(record: dict[str, Any]) -> dict[str, str]:
    return {verdict["control"]: verdict["outcome"] for verdict in record["verdicts"]}


def test_checks_that_hold_release_the_image(judged: Judged) -> None:
    result, record = judged(CHECKS)
    assert result.ret == 0
    assert (record["decision"], record["complete"], record["problem"]) == ("release", True, None)
    assert outcomes(record) == {"first-control": "pass", "second-control": "pass"}
    assert record["image"]["sha256"] == record["image"]["sha256_after"]
    result.stdout.fnmatch_lines(["decision: release*"])


def check_body(body: str) -> str:
    return CHECKS.replace('check.equal(host.run("true").rc, 0, what="status")', body)


@pytest.mark.parametrize(
    ("body", "outcome", "because"),
    [
        ('check.equal(1, 2, what="n")', "fail", "expected n = 2, saw n = 1"),
        ('check.equal(1, 1, what="n"); check.equal(3, 4, what="m")', "fail", "expected m = 4, saw m = 3"),
        ("pass", "error", "the check ended without observing anything"),
        ("assert 1 == 2", "fail", "assert 1 == 2"),
        ('check.equal(1, 1, what="n"); assert 1 == 2', "fail", "assert 1 == 2"),
        ("raise KeyError('gone')", "error", "the check broke: KeyError: 'gone'"),
        ('check.cannot_tell("no such program")', "error", "could not tell: no such program"),
        ('check.not_checked("needs KVM")', "not-checked", "needs KVM"),
        ('pytest.skip("later")', "not-checked", "the check was skipped: Skipped: later"),
        ('pytest.xfail("known")', "not-checked", "the check was skipped: *"),
        ('pytest.fail("my words")', "fail", "my words"),
    ],
)
def test_nothing_but_an_observation_that_holds_is_a_pass(judged: Judged, body: str, outcome: str, because: str) -> None:
    result, record = judged(check_body(body))
    verdict = next(v for v in record["verdicts"] if v["control"] == "first-control")
    assert verdict["outcome"] == outcome
    pytest.LineMatcher([verdict["because"]]).fnmatch_lines([f"*{because}*"])
    assert (result.ret, record["decision"]) == (1, "reject")


def test_not_applicable_does_not_reject(judged: Judged) -> None:
    result, record = judged(check_body('check.not_applicable("no such thing here")'))
    assert outcomes(record)["first-control"] == "not-applicable"
    assert (result.ret, record["decision"]) == (0, "release")


def test_a_deselected_control_is_not_checked_and_rejects(judged: Judged) -> None:
    result, record = judged(CHECKS, "-k", "first")
    assert outcomes(record) == {"first-control": "pass", "second-control": "not-checked"}
    assert (result.ret, record["decision"]) == (1, "reject")


def test_a_control_for_another_kind_of_image_is_not_applicable_and_not_run(judged: Judged) -> None:
    table = TABLE.replace('applies-to = ["general-purpose", "immutable-host"]', 'applies-to = ["immutable-host"]', 1)
    _result, record = judged(check_body("raise SystemError('ran')"), table=table)
    assert outcomes(record) == {"first-control": "not-applicable", "second-control": "pass"}
    assert record["decision"] == "release"


@pytest.mark.parametrize("named", ["seed", "run-user", "accelerator"])
def test_what_the_run_itself_falsifies_is_not_asked_not_checked_and_rejects(judged: Judged, named: str) -> None:
    table = TABLE.replace("refs = []", f'refs = []\nfalsified-by = ["clock", "{named}"]', 1)
    result, record = judged(check_body("raise SystemError('ran')"), table=table)
    assert outcomes(record) == {"first-control": "not-checked", "second-control": "pass"}
    assert record["verdicts"][0]["because"].startswith("it would judge what this run brought: ")
    assert (result.ret, record["decision"]) == (1, "reject")


def test_what_touches_nothing_that_a_control_asks_for_falsifies_nothing(judged: Judged) -> None:
    table = TABLE.replace("refs = []", 'refs = []\nfalsified-by = ["host-name", "command-line"]')
    result, record = judged(CHECKS, table=table)
    assert {difference["kind"] for difference in record["differences"]} >= {"seed", "network", "cpu"}
    assert (result.ret, record["decision"]) == (0, "release")


def test_a_control_falsified_by_nobody_knows_what_is_a_fault_of_the_table(
    pytester: pytest.Pytester,
) -> None:
    table = TABLE.replace("refs = []", 'refs = []\nfalsified-by = ["moonlight"]', 1)
    result = run(pytester, image(pytester), "--flavour=debian-general", suite(pytester, table=table))
    assert result.ret != 0
    assert "first-control: falsified-by" in result.stderr.str() + result.stdout.str()


OUTSIDE = """
[[control]]
id = "written-outside"
title = "Nothing was written"
severity = "high"
rationale = "Because."
remedy = "Mend it."
refs = []
applies-to = ["general-purpose", "immutable-host"]
probe = { written-from-outside = "immutable-partitions" }
"""


def test_a_disk_that_cannot_be_read_is_an_error_of_the_control_that_has_no_check(judged: Judged) -> None:
    result, record = judged(CHECKS, table=TABLE + OUTSIDE)
    (verdict,) = (v for v in record["verdicts"] if v["control"] == "written-outside")
    assert (result.ret, record["decision"], verdict["outcome"]) == (1, "reject", "error")
    assert verdict["because"].startswith("what the guest wrote to the disk cannot be told: it is not a chain")
    assert record["disk_writes"] == []


def test_the_disk_is_judged_when_the_guest_has_ended(judged: Judged, monkeypatch: pytest.MonkeyPatch) -> None:
    region = Region(number=1, label="\x1b[2Jroot", kind="", start=0, end=512)
    found = (Change(region=region, written_bytes=512, changed_bytes=512, runs=((0, 512),)),)
    monkeypatch.setattr(seatrial.writes, "written_to", lambda _image, _overlays: found)
    result, record = judged(CHECKS, table=TABLE + OUTSIDE)
    assert outcomes(record)["written-outside"] == "not-applicable"
    assert [(row["label"], row["changed_bytes"]) for row in record["disk_writes"]] == [("\x1b[2Jroot", 512)]
    assert record["evidence"]["disk-writes"] == "disk-writes.json"
    result.stdout.fnmatch_lines(["*disk *changed: 1 ?x1b*2Jroot 512 B*"])
    assert "\x1b[2J" not in result.stdout.str()


def test_a_plain_test_beside_the_controls_counts(judged: Judged) -> None:
    result, record = judged(CHECKS + "\ndef test_own(host):\n    assert host.run('false').rc == 0\n")
    verdict = next(v for v in record["verdicts"] if v["suite"] == "other")
    assert (verdict["outcome"], result.ret) == ("fail", 1)


def test_an_image_that_does_not_come_up_is_rejected_with_everything_not_checked(judged: Judged) -> None:
    result, record = judged(CHECKS, error=BootFatal("the kernel panicked", hint="look above"))
    assert set(outcomes(record).values()) == {"not-checked"}
    assert (result.ret, record["decision"], record["problem"]["kind"]) == (1, "reject", "BootFatal")
    result.stdout.fnmatch_lines(["*the kernel panicked*", "*look above*", "decision: reject*"])


def test_workers_have_nothing_to_do_without_a_guest(judged: Judged) -> None:
    result, record = judged(CHECKS, "-n2", error=BootFatal("the kernel panicked"))
    assert set(outcomes(record).values()) == {"not-checked"}
    assert (result.ret, record["decision"], record["problem"]["kind"]) == (1, "reject", "BootFatal")


def test_a_host_that_cannot_boot_cannot_judge(judged: Judged) -> None:
    result, record = judged(CHECKS, error=HostError("no space"))
    assert (result.ret, record["decision"]) == (2, "reject")


def test_a_lost_guest_ends_the_run_and_leaves_the_rest_not_checked(judged: Judged) -> None:
    result, record = judged(check_body('host.run("lose")'))
    assert outcomes(record) == {"first-control": "error", "second-control": "not-checked"}
    assert (result.ret, record["problem"]["kind"]) == (2, "SessionLost")


def test_a_panic_that_no_check_waited_for_ends_the_run_before_the_next_check(judged: Judged) -> None:
    body = 'check.equal(1, 1, what="n"); import pathlib; pathlib.Path("panicked").touch()'
    result, record = judged(check_body(body))
    assert outcomes(record) == {"first-control": "pass", "second-control": "error"}
    assert (result.ret, record["problem"]["kind"]) == (1, "KernelPanic")


ON_CONSOLE = """
import pathlib
import pytest

@pytest.mark.control("{console}")
def test_console(check, boot):
    check.equal(boot.console, "", what="console")

@pytest.mark.control("{panic}")
def test_end(check, facts):
    check.equal(facts.text("echo panicked > panicked; cat panicked"), "panicked\\n", what="what the guest wrote")

@pytest.mark.control("third-control")
def test_third(check, facts):
    check.equal(facts.text("true"), "", what="nothing")
"""


@pytest.mark.parametrize(("first", "second"), [("console", "panic"), ("panic", "console")])
def test_what_was_seen_from_outside_is_judged_once_more_when_the_guest_is_lost(
    judged: Judged, first: str, second: str
) -> None:
    names = {first: "first-control", second: "second-control"}
    checks = ON_CONSOLE.format(**names)
    if first == "panic":
        console = checks[checks.index('@pytest.mark.control("second') : checks.index('@pytest.mark.control("first')]
        checks = checks.replace(console, "") + console
    table = TABLE.replace('probe = { invented = "x" }', "") + TABLE[: TABLE.index("[[control]]", 5)].replace(
        "first-control", "third-control"
    )
    result, record = judged(checks, table=table)
    assert outcomes(record)[names["console"]] == "fail"
    assert outcomes(record)["third-control"] in ("error", "not-checked")
    assert (result.ret, record["problem"]["kind"]) == (1, "KernelPanic")


def test_a_panic_after_the_last_check_is_the_run_s_problem(judged: Judged) -> None:
    seen = 'check.equal(row.probe["invented"], "x", what="probe")'
    assert seen in CHECKS
    last = CHECKS.replace(seen, f'{seen}; import pathlib; pathlib.Path("panicked").touch()')
    result, record = judged(last)
    assert set(outcomes(record).values()) == {"pass"}
    assert (result.ret, record["problem"]["kind"], record["decision"]) == (1, "KernelPanic", "reject")


def test_an_image_that_changes_during_the_run_is_rejected(judged: Judged, pytester: pytest.Pytester) -> None:
    disk = str(pytester.path / "disk.raw")
    body = f'check.equal(1, 1, what="n"); import pathlib; pathlib.Path({disk!r}).write_bytes(b"other")'
    result, record = judged(check_body(body))
    assert set(outcomes(record).values()) == {"pass"}
    assert (result.ret, record["decision"]) == (2, "reject")
    assert "the image changed during the run" in record["problem"]["message"]


def test_the_record_says_reject_at_every_moment_before_the_end(judged: Judged) -> None:
    body = (
        "import json, pathlib; (r,) = pathlib.Path(request.config.rootpath).glob('out/*/record.json');"
        " seen = json.loads(r.read_text()); check.equal(seen['decision'], 'reject', what='r')"
    )
    checks = check_body(body).replace("def test_first(check, host)", "def test_first(check, host, request)")
    result, record = judged(checks)
    assert result.ret == 0, record["verdicts"]


@pytest.mark.parametrize(
    "order",
    [(), ("-p", "testinfra"), ("-p", "seatrial", "-p", "testinfra"), ("-p", "testinfra", "-p", "seatrial")],
)
def test_host_is_the_guest_whatever_the_order_of_plugins(judged: Judged, order: tuple[str, ...]) -> None:
    result, _record = judged(check_body('check.equal(host.backend.NAME, "seatrial", what="backend")'), *order)
    assert result.ret == 0


WAIVER = """
[[waiver]]
control = "first-control"
flavour = "debian-general"
reason = "known"
owner = "me"
tracker = "https://example.org/1"
expires = 2999-01-01
"""


def test_a_waived_failure_runs_is_shown_and_does_not_reject(judged: Judged, pytester: pytest.Pytester) -> None:
    (pytester.path / "disk.raw.waivers.toml").write_text(WAIVER)
    result, record = judged(check_body('check.equal(1, 2, what="n")'))
    assert (result.ret, record["decision"]) == (0, "release")
    first = next(v for v in record["verdicts"] if v["control"] == "first-control")
    assert (first["outcome"], first["waived"]["owner"]) == ("fail", "me")
    result.assert_outcomes(passed=1, xfailed=1)
    result.stdout.fnmatch_lines(["waived: first-control*", "*me, until 2999-01-01: known (https://example.org/1)*"])


def test_a_faulty_waivers_file_is_a_usage_error_before_anything_boots(pytester: pytest.Pytester) -> None:
    (pytester.path / "disk.raw.waivers.toml").write_text(WAIVER.replace("me", ""))
    result = run(pytester, image(pytester), "--flavour=debian-general", suite(pytester))
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*disk.raw.waivers.toml' is not a valid table of waivers:*", "*owner: String should*"])


def who(*lines: str, mark: str = "@pytest.mark.changes_guest", takes: str = "check, host, facts") -> str:
    """Return checks whose first one has a guest of its own."""
    body = "".join(f"    {line}\n" for line in lines)
    first = CHECKS.replace(
        'def test_first(check, host):\n    check.equal(host.run("true").rc, 0, what="status")\n',
        f"{mark}\ndef test_first({takes}):\n{body}",
    )
    return first.replace(
        'def test_second(row, check):\n    check.equal(row.probe["invented"], "x", what="probe")',
        "def test_second(row, check, facts, host):\n"
        '    check.equal(facts.text("who") + host.run("who").stdout, "readyready", what="guest")',
    )


OWN = 'check.equal((facts.text("who"), host.run("who").stdout), ("copy-1", "copy-1"), what="guest")'


def test_a_check_that_changes_the_guest_gets_a_copy_and_the_others_keep_theirs(judged: Judged) -> None:
    result, record = judged(who(OWN))
    assert outcomes(record) == {"first-control": "pass", "second-control": "pass"}
    assert result.ret == 0
    assert record["restores"]["method"] == "template"
    assert "vm generation id" in str(record["differences"]).lower()


def test_a_whole_class_or_module_can_be_marked(judged: Judged) -> None:
    result, record = judged("import pytest\npytestmark = pytest.mark.changes_guest\n" + who(OWN, mark=""))
    assert outcomes(record)["first-control"] == "pass"
    assert record["restores"]["seconds"] == [0.5, 0.5]
    assert result.ret == 1  # the second check saw a copy as well, and says so
    verdict = next(v for v in record["verdicts"] if v["control"] == "second-control")
    assert "copy-2copy-2" in verdict["because"]


def test_every_fixture_that_such_a_check_uses_means_its_own_guest(judged: Judged) -> None:
    fixture = "@pytest.fixture\ndef named(host):\n    return host.run('who').stdout\n\n"
    checks = who('check.equal(named, "copy-1", what="guest")', takes="check, named")
    result, _record = judged(checks.replace("\n@pytest.mark.control", f"\n{fixture}@pytest.mark.control", 1))
    assert result.ret == 0


def test_a_wider_fixture_that_would_leak_the_shared_guest_into_such_a_check_is_refused(judged: Judged) -> None:
    fixture = "@pytest.fixture(scope='module')\ndef named(host):\n    return host.run('who').stdout\n\n"
    checks = who('check.equal(named, "copy-1", what="guest")', takes="check, named")
    _result, record = judged(checks.replace("\n@pytest.mark.control", f"\n{fixture}@pytest.mark.control", 1))
    verdict = next(v for v in record["verdicts"] if v["control"] == "first-control")
    assert verdict["outcome"] != "pass"
    assert "ScopeMismatch" in verdict["because"]


def test_any_number_of_copies_can_be_asked_for(judged: Judged) -> None:
    lines = (
        "with restored() as one, restored() as two:",
        '    check.equal((one.facts.text("who"), two.host.run("who").stdout), ("copy-1", "copy-2"), what="guests")',
    )
    result, record = judged(who(*lines, mark="", takes="check, restored"))
    assert (result.ret, record["restores"]["seconds"]) == (0, [0.5, 0.5])


def test_two_cold_boots_can_be_compared_and_nothing_is_frozen_for_them(judged: Judged) -> None:
    line = 'check.equal([f.text("who") for f in cold_boots], ["ready", "cold-1"], what="guests")'
    result, record = judged(who(line, mark="", takes="check, cold_boots"))
    assert (result.ret, record["restores"]["cold_boots"]) == (0, 1)
    assert "made to be copied" not in str(record["differences"]).lower()


def test_a_boot_from_a_changed_disk_is_offered_and_is_on_record(
    judged: Judged, monkeypatch: pytest.MonkeyPatch
) -> None:
    def booted_from(session: Session, change: str) -> contextlib.AbstractContextManager[Session]:
        return contextlib.nullcontext(fake_session(f"{change} after {session.host.run('who').stdout}"))

    monkeypatch.setattr(seatrial.copies, "booted", booted_from)
    lines = (
        'with booted_from("emptied") as changed:',
        '    check.equal(changed.facts.text("who"), "emptied after ready", what="guest")',
    )
    result, record = judged(who(*lines, mark="", takes="check, booted_from"))
    assert result.ret == 0
    told = str(record["differences"])
    assert "an empty PCI Express port" in told
    assert "made to be copied" in told


REBOOTED = """
import pytest

@pytest.mark.control("first-control")
def test_first(check, rebooted):
    check.equal((rebooted.before.text("who"), rebooted.after.text("who")), ("copy-1", "copy-1 again"), what="guests")

@pytest.mark.probe("invented")
def test_second(row, check, rebooted):
    check.equal((rebooted.before.text("echo 1"), rebooted.after.text("echo 2")), ("1\\n", "2\\n"), what="answers")
"""


def rebooting(monkeypatch: pytest.MonkeyPatch, error: Exception | None = None) -> list[str]:
    """Let a fake guest reboot, or fail to; return the names of those that did."""
    names: list[str] = []

    def reboot(session: Session, *, key_may_change: bool = False) -> None:
        shell: Any = session.guest.shell
        names.append(shell.name)
        if error is not None:
            raise error
        again: Any = LocalShell(f"{shell.name} again")
        session.facts = Facts(again)

    monkeypatch.setattr(Session, "reboot", reboot)
    return names


def test_one_reboot_of_one_copy_answers_all_checks_that_look_at_one(
    judged: Judged, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = rebooting(monkeypatch)
    result, record = judged(REBOOTED)
    assert (result.ret, names) == (0, ["copy-1"])
    assert record["restores"]["seconds"] == [0.5]
    assert "made to be copied" in str(record["differences"]).lower()


@pytest.mark.parametrize("error", [BootTimeout("the guest did not come back"), SessionLost("the connection broke")])
def test_a_copy_that_does_not_come_back_is_waited_for_once_and_is_nobody_elses_loss(
    judged: Judged, monkeypatch: pytest.MonkeyPatch, error: SeatrialError
) -> None:
    names = rebooting(monkeypatch, error)
    result, record = judged(REBOOTED)
    assert names == ["copy-1"]
    assert outcomes(record) == {"first-control": "error", "second-control": "error"}
    assert {verdict["because"] for verdict in record["verdicts"]} == {f"could not tell: {error.message}"}
    assert (result.ret, record["problem"]) == (1, None)


def test_what_a_copy_would_falsify_is_asked_on_a_cold_boot(judged: Judged) -> None:
    table = TABLE.replace('title = "The first', 'falsified-by = ["machine-id"]\ntitle = "The first')
    result, _record = judged(who('check.equal(facts.text("who"), "cold-1", what="guest")'), table=table)
    assert result.ret == 0


def test_the_loss_of_a_copy_is_an_error_of_its_check_only(judged: Judged) -> None:
    result, record = judged(who('host.run("lose")'))
    assert outcomes(record) == {"first-control": "error", "second-control": "pass"}
    assert (result.ret, record["problem"]) == (1, None)


def test_the_guest_of_others_is_not_handed_out_for_changes(judged: Judged) -> None:
    _result, record = judged(who("guest.reboot()", mark="", takes="check, guest"))
    verdict = next(v for v in record["verdicts"] if v["control"] == "first-control")
    assert verdict["outcome"] != "pass"
    assert "is for checks marked 'changes_guest'" in verdict["because"]


def test_the_guest_that_all_look_at_is_never_restarted() -> None:
    with pytest.raises(ObservationError, match="may not be restarted"):
        fake_session("ready").reboot()
    with pytest.raises(ObservationError, match="a copy of a copy"):
        fake_session("copy").restored()


def test_a_run_without_such_checks_freezes_nothing(judged: Judged) -> None:
    _result, record = judged(CHECKS)
    assert record["restores"] is None


def test_a_second_interrupt_says_that_nothing_was_judged(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(_arguments: list[str]) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(pytest, "main", interrupted)
    assert seatrial.plugin.gate("--image=x", ["/tmp"], [], quiet=True) == 2
    assert "interrupted again" in capsys.readouterr().err


@pytest.mark.parametrize("place", ["file", "file/below"])
def test_a_place_for_results_that_is_no_folder_is_the_users_to_change(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"the folder for results '.*' cannot be used: Not a directory") as caught:
        seatrial.gate.made_folder(tmp_path / place, "run")
    assert "--out DIR" in caught.value.hint
