"""The record: it releases nothing by accident, is whole at every moment, and is read as strictly as it is written."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from records import DIGEST, HOSTILE, PANIC, SCHEMA, boot_failure, faults, record, reject, release, verdict
from seatrial.errors import ConfigError, HostError
from seatrial.policy.judge import Decision, Outcome, Severity, Verdict, Waived
from seatrial.policy.waivers import WaiverNote
from seatrial.report.record import (
    BootTimes,
    FlavourFacts,
    ImageFacts,
    MachineFacts,
    Problem,
    Record,
    RecordWriter,
    Replay,
    decision_of,
    from_json,
    read_record,
    reasons_to_reject,
    to_json,
)

SPOILERS: dict[str, Callable[[Record], Record]] = {
    "the run did not end": lambda r: replace(r, complete=False, decision=Decision.REJECT),
    "the run met a problem": lambda r: replace(r, problem=PANIC, decision=Decision.REJECT),
    "the image's digest was not taken again": lambda r: replace(
        r, image=replace(r.image, sha256_after=None), decision=Decision.REJECT
    ),
    "the image changed during the run": lambda r: replace(
        r, image=replace(r.image, sha256_after="cd" * 32), decision=Decision.REJECT
    ),
    "the verdicts do not allow it": lambda r: replace(
        r, verdicts=(*r.verdicts, verdict("other", Outcome.NOT_CHECKED)), decision=Decision.REJECT
    ),
}


def test_a_complete_run_with_passes_only_is_a_release() -> None:
    assert (release().decision, reasons_to_reject(release())) == (Decision.RELEASE, ())


@pytest.mark.parametrize("reason", SPOILERS)
def test_one_reason_is_enough_to_reject(reason: str) -> None:
    spoiled = SPOILERS[reason](release())
    assert (decision_of(spoiled), reasons_to_reject(spoiled)) == (Decision.REJECT, (reason,))


@pytest.mark.parametrize("reason", SPOILERS)
def test_no_record_says_release_against_a_reason_to_reject(reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        replace(SPOILERS[reason](release()), decision=Decision.RELEASE)


@pytest.mark.parametrize("reason", SPOILERS)
def test_a_record_forged_into_a_release_is_not_read(reason: str) -> None:
    forged = to_json(SPOILERS[reason](release())).replace('"decision": "reject"', '"decision": "release"')
    with pytest.raises(ConfigError, match=reason):
        from_json(forged)


def test_a_record_that_rejects_without_a_reason_is_not_read() -> None:
    forged = to_json(release()).replace('"decision": "release"', '"decision": "reject"')
    with pytest.raises(ConfigError, match="says reject, but its verdicts say release"):
        from_json(forged)


def test_a_record_without_verdicts_rejects() -> None:
    assert record().decision is Decision.REJECT


@pytest.mark.parametrize(
    "made", [release(), reject(), boot_failure(), record(machine=None, complete=False, finished=None)]
)
def test_a_record_comes_back_as_it_was(made: Record) -> None:
    assert from_json(to_json(made)) == made


@settings(deadline=None)  # a busy computer is no fault
@given(
    text=st.text(),
    outcome=st.sampled_from(Outcome),
    severity=st.sampled_from(Severity),
    seconds=st.none() | st.floats(0, 1e6),
    refs=st.lists(st.text(min_size=1)).map(tuple),
)
def test_any_text_comes_back_as_it_was(
    text: str, outcome: Outcome, severity: Severity, seconds: float | None, refs: tuple[str, ...]
) -> None:
    made = record(verdict("a", outcome, seen=text, because=text, severity=severity, seconds=seconds, refs=refs))
    assert from_json(to_json(made)) == made


@settings(deadline=None)  # a busy computer is no fault
@given(st.text(st.characters()))
def test_the_file_holds_nothing_that_moves_a_terminal(text: str) -> None:
    written = to_json(record(verdict(seen=text)))
    assert written.isascii()
    assert written.replace("\n", "").isprintable()


def test_half_a_surrogate_pair_becomes_text_that_every_reader_takes() -> None:
    assert from_json(to_json(record(verdict(seen="\udcff")))).verdicts[0].seen == r"\udcff"


def faulty(change: Callable[[dict[str, Any]], object]) -> str:
    value = json.loads(to_json(reject()))
    change(value)
    return json.dumps(value)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda r: r.pop("suites"), r"\$: missing suites"),
        (lambda r: r.update(extra=1), r"\$: unknown 'extra'"),
        (lambda r: r["image"].update(size_bytes="12"), r"\$\.image\.size_bytes: expected int, found str '12'"),
        (lambda r: r["machine"].update(cpus=True), r"\$\.machine\.cpus: expected int, found bool"),
        (lambda r: r["verdicts"][0].update(outcome="ok"), r"\$\.verdicts\[0\]\.outcome: expected one of error, fail"),
        (lambda r: r["verdicts"][0].update(seen=None), r"\$\.verdicts\[0\]\.seen: expected str, found NoneType"),
        (lambda r: r["verdicts"][0].update(seconds=float("nan")), "expected a finite number, found nan"),
        (lambda r: r.update(verdicts={}), r"\$\.verdicts: expected list, found dict"),
        (lambda r: r.update(started="yesterday"), "expected a time as in RFC 3339, found 'yesterday'"),
        (lambda r: r.update(started="2026-03-04T03:12:09"), "expected a time with its zone"),
        (lambda r: r["evidence"].update(console=3), r"\$\.evidence\.console: expected str, found int"),
        (lambda r: r.update(schema_version=1), "has schema_version 1; this seatrial reads version 2"),
    ],
)
def test_a_record_that_does_not_fit_is_refused_with_its_place(change: Callable[[Any], object], complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        from_json(faulty(change))


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "[" * 100_000])
def test_what_is_no_record_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"is not valid JSON|has schema_version None"):
        from_json(text)


def test_a_missing_file_is_the_users_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot read record"):
        read_record(tmp_path / "record.json")


def test_the_writer_leaves_the_newest_record_and_nothing_else(tmp_path: Path) -> None:
    writer = RecordWriter(tmp_path)
    writer.write(boot_failure())
    writer.write(release())
    assert read_record(writer.path) == release()
    assert list(tmp_path.iterdir()) == [writer.path]


def test_a_write_that_fails_leaves_the_old_record_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = RecordWriter(tmp_path)
    writer.write(boot_failure())

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(HostError, match=r"cannot write '.*record\.json': No space left on device") as caught:
        writer.write(release())
    assert "--out DIR" in caught.value.hint
    assert read_record(writer.path) == boot_failure()
    assert list(tmp_path.iterdir()) == [writer.path]


def test_the_schema_is_valid_and_describes_every_key() -> None:
    Draft202012Validator.check_schema(SCHEMA)
    objects = [SCHEMA, *SCHEMA["$defs"].values()]
    assert [o for o in objects if o["additionalProperties"] is not False or not o["description"]] == []
    assert [
        name
        for o in objects
        for name, rule in o["properties"].items()
        if "description" not in rule and "$ref" not in rule
    ] == []


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        (Record, None),
        (ImageFacts, "image"),
        (FlavourFacts, "flavour"),
        (MachineFacts, "machine"),
        (BootTimes, "boot"),
        (Problem, "problem"),
        (Replay, "replay"),
        (Waived, "waived"),
        (WaiverNote, "waiver"),
        (Verdict, "verdict"),
    ],
)
def test_the_schema_has_the_keys_of_the_code(kind: type, name: str | None) -> None:
    assert is_dataclass(kind)
    described = SCHEMA["$defs"][name] if name else SCHEMA
    keys = {field.name for field in fields(kind)}
    assert (set(described["properties"]), set(described["required"])) == (keys, keys)


@pytest.mark.parametrize(
    "change",
    [
        lambda r: r.update(decision="release"),
        lambda r: r.update(extra=1),
        lambda r: r["image"].update(sha256="short"),
        lambda r: r["evidence"].update(console="/etc/passwd"),
        lambda r: r["verdicts"][0].update(outcome="waived"),
    ],
)
def test_the_schema_refuses_what_the_code_refuses(change: Callable[[Any], object]) -> None:
    assert faults(json.loads(faulty(change))) != []


def test_the_schema_takes_hostile_text() -> None:
    assert faults(json.loads(to_json(record(verdict(seen=HOSTILE))))) == []
    assert release().image.sha256 == DIGEST
