"""The plugin inside pytest: refusals before anything boots, verdicts from checks, and never the local machine."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import seatrial.copies
import seatrial.gate
import seatrial.plugin
import seatrial.writes
from gate_bench import CHECKS, TABLE, Judged, check_body, image, outcomes, run, suite
from seatrial.errors import (
    BootFatal,
    ConfigError,
    HostError,
)
from seatrial.evidence.disk.partitions import Region
from seatrial.evidence.disk.writes import Change
from seatrial.layout import data_dir
from seatrial.plan import make_plan
from seatrial.suites import Suites, named_suites, read_flavour


def test_without_an_image_the_suites_refuse_to_run(pytester: pytest.Pytester) -> None:
    result = run(pytester, suite(pytester))
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*judge a booted image and never this computer: 2 check(s) need --image*"])
    result.stderr.fnmatch_lines(["*hint: pytest --image FILE --flavour NAME*"])


def test_without_an_image_workers_refuse_to_run_too(pytester: pytest.Pytester) -> None:
    result = pytester.runpytest_subprocess("-p", "no:cacheprovider", "-n", "2", suite(pytester))
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*judge a booted image and never this computer: 2 check(s) need --image*"])
    assert "INTERNALERROR" not in result.stdout.str() + result.stderr.str()


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


def test_a_suite_whose_checks_pytest_does_not_find_is_not_forgotten(tmp_path: Path) -> None:
    for name in ("found", "misnamed"):
        (tmp_path / "all" / name).mkdir(parents=True)
        (tmp_path / "all" / name / "controls.toml").write_text(TABLE.replace("-control", f"-{name}"))
    tables = Suites()
    named = named_suites(["all", str(tmp_path / "all" / "found"), "all/found/test_x.py"], tmp_path, tables)
    assert {suite.name for suite in named} == {"found", "misnamed"}
    plan = make_plan(tables, [], read_flavour("debian-general"), root=tmp_path, named=named)
    assert {"first-found", "first-misnamed"} <= plan.unchecked.keys()
    assert named_suites([str(data_dir("suites"))], tmp_path, tables) == ()


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


def test_checks_that_hold_release_the_image(judged: Judged) -> None:
    result, record = judged(CHECKS)
    assert result.ret == 0
    assert (record["decision"], record["complete"], record["problem"]) == ("release", True, None)
    assert outcomes(record) == {"first-control": "pass", "second-control": "pass"}
    assert record["image"]["sha256"] == record["image"]["sha256_after"]
    result.stdout.fnmatch_lines(["decision: release*"])


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


def test_an_image_that_does_not_come_up_fails_the_control_that_is_about_that(judged: Judged) -> None:
    table = TABLE.replace('severity = "high"', 'severity = "high"\nfails-without-boot = true')
    _result, record = judged(CHECKS, error=BootFatal("the kernel panicked"), table=table)
    assert outcomes(record) == {"first-control": "fail", "second-control": "not-checked"}
    first = record["verdicts"][0]
    assert (first["because"], first["seen"]) == (
        "the image did not come up: the kernel panicked",
        "the kernel panicked",
    )
    assert (record["decision"], record["problem"]["kind"]) == ("reject", "BootFatal")


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


def test_a_second_interrupt_says_that_nothing_was_judged(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(_arguments: list[str], **_plugins: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(pytest, "main", interrupted)
    assert seatrial.plugin.gate("--image=x", ["/tmp"], [], quiet=True) == 2
    assert "interrupted again" in capsys.readouterr().err


def test_a_file_of_checks_that_cannot_be_read_says_why(pytester: pytest.Pytester) -> None:
    folder = suite(pytester, "import what_is_not_there\n")
    facts = data_dir("suites").parent / "fixtures" / "facts" / "demo-general" / "facts.json"
    done = pytester.run(sys.executable, "-m", "seatrial", "judge", facts, f"--suite={folder}")
    assert done.ret == pytest.ExitCode.INTERRUPTED
    done.stdout.fnmatch_lines(["test_mine.py cannot be read:", "*No module named 'what_is_not_there'"])


@pytest.mark.parametrize("place", ["file", "file/below"])
def test_a_place_for_results_that_is_no_folder_is_the_users_to_change(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"the folder for results '.*' cannot be used: Not a directory") as caught:
        seatrial.gate.made_folder(tmp_path / place, "run")
    assert "--out DIR" in caught.value.hint
