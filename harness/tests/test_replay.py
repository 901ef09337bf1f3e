"""Facts of an earlier run are judged again without a guest, by the same suites, and never better than they are."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import fields, is_dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from records import FINDING, faults
from seatrial.errors import ConfigError
from seatrial.evidence.mounts import MOUNTINFO
from seatrial.evidence.os_release import OS_RELEASE
from seatrial.guest.facts import Answer
from seatrial.layout import data_dir
from seatrial.policy.differences import Difference, Kind, Touched
from seatrial.report.facts import (
    FACTS_FORMAT,
    FACTS_VERSION,
    FactsBoot,
    FactsFile,
    FactsImage,
    facts_json,
    read_facts,
    write_facts,
)

SCHEMA = json.loads((data_dir("reports") / "facts.schema.json").read_text(encoding="utf-8"))
FACTS = FactsFile(
    format=FACTS_FORMAT,
    version=FACTS_VERSION,
    seatrial="0.1.0",
    run="20260304T031209Z-demo-ab12",
    taken=datetime(2026, 3, 4, 3, 12, 9, tzinfo=UTC),
    flavour="debian-general",
    user="seatrial",
    image=FactsImage(name="demo.raw", format="raw", size_bytes=4096, sha256="ab" * 32),
    boot=FactsBoot(
        accelerator="tcg",
        firmware="uefi",
        tpm="none",
        banner_s=1.0,
        login_s=2.0,
        ready_s=3.0,
        state="running",
        console="[ 0.0] Linux version 6\n",
        findings=(FINDING,),
    ),
    differences=(Difference(kind=Kind.DEVICE, text="a disk of virtio", touches=(Touched.TPM,)),),
    answers=(Answer("cat /etc/motd", 0, "welcome\n", ""), Answer("sleep 600", -1, "", "", "it was killed")),
)
TABLE = """
[[control]]
id = "motd-there"
title = "There is a message"
severity = "high"
rationale = "Because."
remedy = "Mend it."
refs = []
applies-to = ["general-purpose", "immutable-host"]
[[control]]
id = "live-one"
title = "Something that is tried"
severity = "high"
rationale = "Because."
remedy = "Mend it."
refs = []
applies-to = ["general-purpose", "immutable-host"]
"""
CHECKS = """
import pytest

@pytest.mark.control("motd-there")
def test_motd(check, facts, boot):
    check.equal(facts.text("cat /etc/motd").strip(), "welcome", what=f"motd under {boot.accelerator}")
    check.equal([found.sign for found in boot.findings], ["unit-failed"], what="findings")

@pytest.mark.control("live-one")
def test_live(check, host):
    check.equal(host.run("true").rc, 0, what="status")
"""


@pytest.fixture
def judged(pytester: pytest.Pytester) -> Callable[..., tuple[pytest.RunResult, dict[str, Any]]]:
    def judge(checks: str = CHECKS, facts: FactsFile = FACTS, *options: str) -> tuple[pytest.RunResult, dict[str, Any]]:
        folder = pytester.mkdir("my-suite")
        (folder / "controls.toml").write_text(TABLE)
        (folder / "test_mine.py").write_text(checks)
        write_facts(facts, pytester.path / "facts.json")
        out = pytester.path / "out"
        given_ = (f"--facts={pytester.path / 'facts.json'}", f"--out={out}", *options)
        result = pytester.runpytest_inprocess("-p", "no:cacheprovider", *given_, folder)
        (record,) = out.glob("*/record.json")
        value = json.loads(record.read_text())
        assert faults(value) == []
        return result, value

    return judge


def verdicts(record: dict[str, Any]) -> dict[str, str]:
    return {verdict["control"]: verdict["outcome"] for verdict in record["verdicts"]}


Judge = Callable[..., tuple[pytest.RunResult, dict[str, Any]]]


def test_facts_that_hold_release_and_controls_that_need_a_guest_are_left_out_aloud(judged: Judge) -> None:
    result, record = judged()
    assert (result.ret, record["decision"], verdicts(record)) == (0, "release", {"motd-there": "pass"})
    assert record["replay"]["left_out"] == ["live-one"]
    assert (record["image"]["sha256"], record["image"]["name"]) == ("ab" * 32, "demo.raw")
    assert record["boot"]["ready_s"] == 3.0
    result.stdout.fnmatch_lines(["*nothing was booted*", "*left out *1 control needs a guest: live-one"])
    result.stdout.fnmatch_lines(["decision: release (1 passed of 1 control; from facts: 1 that need a guest left out)"])


PLAIN = """
def test_sums():
    assert 1 == 2
"""
MISTYPED = """
@pytest.mark.control("live-one")
def test_live(chek, facts):
    pass
"""
OWN_FIXTURE = """
@pytest.fixture
def motd(facts):
    return facts.text("cat /etc/motd")

@pytest.mark.control("live-one")
def test_live(check, motd):
    check.equal(motd, "bye", what="motd")
"""
OWN_GUEST = """
@pytest.fixture
def kernel(host):
    return host.run("uname -r").stdout

@pytest.mark.control("live-one")
def test_live(check, kernel):
    check.equal(kernel, "6", what="kernel")
"""


@pytest.mark.parametrize(
    ("more", "outcome"),
    [(MISTYPED, "error"), (OWN_FIXTURE, "fail"), (OWN_FIXTURE.replace("bye", "welcome\\n"), "pass")],
)
def test_a_check_that_reaches_for_no_guest_is_judged_whatever_it_asks_for(
    judged: Judge, more: str, outcome: str
) -> None:
    checks, mark, _rest = CHECKS.partition('@pytest.mark.control("live-one")')
    assert mark
    _result, record = judged(checks + more)
    assert verdicts(record) == {"motd-there": "pass", "live-one": outcome}
    assert record["replay"]["left_out"] == []
    assert record["decision"] == ("release" if outcome == "pass" else "reject")


def test_a_plain_test_that_fails_rejects_without_a_guest_as_well(judged: Judge) -> None:
    _result, record = judged(CHECKS + PLAIN)
    assert sorted(verdicts(record).values()) == ["fail", "pass"]
    assert record["decision"] == "reject"


def test_a_check_whose_fixture_asks_the_guest_is_left_out(judged: Judge) -> None:
    checks, _mark, _rest = CHECKS.partition('@pytest.mark.control("live-one")')
    _result, record = judged(checks + OWN_GUEST)
    assert record["replay"]["left_out"] == ["live-one"]


def with_identity(os_release: str) -> FactsFile:
    mounts = "22 1 253:2 / / rw,relatime - ext4 /dev/vda2 rw\n"
    said = (Answer(OS_RELEASE, 0, os_release, ""), Answer(MOUNTINFO, 0, mounts, ""))
    return replace(FACTS, answers=(*FACTS.answers, *said))


def test_without_a_flavour_the_system_says_what_it_is(judged: Judge) -> None:
    _result, record = judged(CHECKS, with_identity("ID=azurelinux\nVERSION_ID=3.0\n"))
    assert record["flavour"]["name"] == "azurelinux-3"
    assert record["flavour"]["recognised_by"] == "ID=azurelinux VERSION_ID=3.0"


def test_a_flavour_that_the_system_is_not_is_said_aloud(judged: Judge) -> None:
    result, record = judged(CHECKS, with_identity("ID=flatcar\n"), "--flavour=debian-general")
    assert (record["flavour"]["name"], record["flavour"]["recognised"]) == ("debian-general", "flatcar")
    result.stdout.fnmatch_lines(["*BUT *the system looks like 'flatcar' (ID=flatcar); it was judged as*"])


def test_facts_that_break_a_control_reject(judged: Judge) -> None:
    facts = replace(FACTS, answers=(Answer("cat /etc/motd", 0, "go away\n", ""),))
    result, record = judged(CHECKS, facts)
    assert (result.ret, record["decision"], verdicts(record)) == (1, "reject", {"motd-there": "fail"})


def test_a_question_that_was_never_asked_leaves_its_control_not_checked(judged: Judge) -> None:
    result, record = judged(CHECKS.replace("cat /etc/motd", "cat /etc/other"))
    assert (result.ret, verdicts(record)) == (1, {"motd-there": "not-checked"})
    assert "do not hold the answer to 'cat /etc/other'" in record["verdicts"][0]["because"]


def test_a_question_that_was_never_answered_is_an_error_again(judged: Judge) -> None:
    result, record = judged(CHECKS.replace("cat /etc/motd", "sleep 600"))
    assert (result.ret, verdicts(record)) == (1, {"motd-there": "error"})
    assert record["verdicts"][0]["because"] == "could not tell: it was killed"


def test_a_suite_that_only_a_guest_can_answer_releases_nothing(judged: Judge) -> None:
    only_live = CHECKS.replace("def test_motd(check, facts, boot)", "def test_motd(check, facts, boot, host)")
    result, record = judged(only_live)
    assert (result.ret, record["decision"], record["verdicts"]) == (1, "reject", [])


def test_what_the_earlier_run_brought_along_still_falsifies(judged: Judge, pytester: pytest.Pytester) -> None:
    table = TABLE.replace("refs = []", 'refs = []\nfalsified-by = ["tpm"]', 1)
    folder = pytester.path / "tables"
    folder.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(globals(), "TABLE", table)
        _result, record = judged()
    assert verdicts(record) == {"motd-there": "not-checked"}
    assert "a disk of virtio" in record["verdicts"][0]["because"]


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (["--image=/x.raw"], "--image and --facts do not go together"),
        (["--lynis"], "--lynis needs a guest, and --facts has none"),
        (["--flavour=nonesuch"], "unknown flavour 'nonesuch'"),
    ],
)
def test_options_that_do_not_fit_are_refused(pytester: pytest.Pytester, options: list[str], text: str) -> None:
    write_facts(FACTS, pytester.path / "facts.json")
    pytester.makepyfile("def test_x(): ...")
    result = pytester.runpytest_inprocess("-p", "no:cacheprovider", f"--facts={pytester.path}/facts.json", *options)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert text in result.stderr.str()


def test_the_facts_file_is_read_as_it_was_written_and_fits_its_schema(tmp_path: Path) -> None:
    write_facts(FACTS, tmp_path / "facts.json")
    assert read_facts(tmp_path / "facts.json") == FACTS
    Draft202012Validator.check_schema(SCHEMA)
    Draft202012Validator(SCHEMA).validate(json.loads(facts_json(FACTS)))


@pytest.mark.parametrize(
    ("kind", "name"),
    [(FactsFile, None), (FactsImage, "image"), (FactsBoot, "boot"), (Difference, "difference"), (Answer, "answer")],
)
def test_the_schema_has_the_keys_of_the_code(kind: type, name: str | None) -> None:
    assert is_dataclass(kind)
    described = SCHEMA["$defs"][name] if name else SCHEMA
    keys = {field.name for field in fields(kind)}
    assert (set(described["properties"]), set(described["required"])) == (keys, keys)


def test_the_difference_is_described_as_in_the_record() -> None:
    record = json.loads((data_dir("reports") / "record.schema.json").read_text(encoding="utf-8"))
    assert SCHEMA["$defs"]["difference"] == record["$defs"]["difference"]


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda f: f.update(version=2), "has format and version ('seatrial-facts', 2)"),
        (lambda f: f.update(extra=1), "unknown 'extra'"),
        (lambda f: f.pop("user"), "missing user"),
        (lambda f: f["answers"][0].update(status="0"), "$.answers[0].status: expected int"),
        (lambda f: f["answers"].append(f["answers"][0]), "holds two answers to 'cat /etc/motd'"),
    ],
)
def test_a_faulty_facts_file_is_refused(tmp_path: Path, change: Callable[[Any], object], text: str) -> None:
    value = json.loads(facts_json(FACTS))
    change(value)
    path = tmp_path / "facts.json"
    path.write_text(json.dumps(value))
    with pytest.raises(ConfigError) as caught:
        read_facts(path)
    assert text in caught.value.message


@pytest.mark.parametrize("content", [b"[]", b"", b"\xff", b"{", b"[" * 100_000, b'"x"'])
def test_what_is_no_facts_file_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "facts.json"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"facts\.json"):
        read_facts(path)


def test_a_missing_facts_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        read_facts(tmp_path / "nothing.json")


@given(st.text(), st.text(), st.integers(-1, 255))
def test_whatever_a_guest_wrote_is_ascii_and_comes_back(out: str, err: str, status: int) -> None:
    facts = replace(FACTS, answers=(Answer("q", status, out, err),))
    text = facts_json(facts)
    assert text.isascii()
    assert json.loads(text)["answers"][0]["stdout"] == out
