"""Records to test reports with; every one is checked against the published schema when it is made."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from jsonschema import Draft202012Validator
from seatrial.evidence.console import Finding, Gravity, Phase
from seatrial.evidence.console import Kind as SignKind
from seatrial.layout import data_dir
from seatrial.policy.differences import Difference, Kind, Touched
from seatrial.policy.judge import Decision, Outcome, Severity, Verdict
from seatrial.report.record import (
    SCHEMA_VERSION,
    BootTimes,
    DiskWrites,
    FlavourFacts,
    ImageFacts,
    MachineFacts,
    Problem,
    Record,
    RestoreFacts,
    decision_of,
    to_json,
)

DIGEST: Final = "ab" * 32
STARTED: Final = datetime(2026, 3, 4, 3, 12, 9, tzinfo=UTC)
PANIC: Final = Problem(
    kind="BootFatal",
    message="the kernel panicked: the console said 'Kernel panic - not syncing'",
    hint="compare with the last image that booted",
    evidence="console.log",
    exit_status=1,
    phase="initrd",
    at_s=12.5,
    console_tail=("[1.0] \x1b[32mstarting\x1b[0m", "[2.0] Kernel panic - not syncing"),
)
SCHEMA: Final = json.loads((data_dir("reports") / "record.schema.json").read_text(encoding="utf-8"))
FINDING: Final = Finding(
    sign="unit-failed",
    title="a unit failed",
    kind=SignKind.UNIT,
    severity=Gravity.SUSPICIOUS,
    phase=Phase.USERSPACE,
    at_s=31.25,
    line="[FAILED] Failed to start agent.service.",
    hint="journal.txt of the run has the unit's own words",
    count=3,
)
HOSTILE: Final = "<script>alert('x')</script>\x1b[31m\u202egnp.exe\x00\x9b2J\ud800\ufffe]]>&amp;"


def faults(value: object) -> list[str]:
    """Return what the published schema has against ``value``."""
    checked = Draft202012Validator(SCHEMA, format_checker=Draft202012Validator.FORMAT_CHECKER)
    return [f"{fault.json_path}: {fault.message}" for fault in checked.iter_errors(value)]


def verdict(control: str = "kernel-lockdown", outcome: Outcome = Outcome.PASS, **other: Any) -> Verdict:
    """Return a verdict of suite ``kernel`` with all its texts."""
    texts: dict[str, Any] = {
        "suite": "kernel",
        "title": f"Title of {control}",
        "severity": Severity.HIGH,
        "expected": "lockdown = integrity",
        "seen": "lockdown = none",
        "because": "expected lockdown = integrity, saw lockdown = none",
        "rationale": "Root must not change the kernel.",
        "remedy": "Boot with lockdown=integrity.",
        "refs": ("https://example.org/lockdown", "KSPP"),
        "seconds": 0.25,
    }
    return Verdict(control=control, outcome=outcome, **{**texts, **other})


def disk_writes(**other: Any) -> DiskWrites:
    given: dict[str, Any] = {
        "number": 1,
        "label": "root",
        "type": "0x83",
        "size_bytes": 1 << 20,
        "written_bytes": 65536,
        "changed_bytes": 512,
        "immutable": False,
    }
    return DiskWrites(**{**given, **other})


def record(*verdicts: Verdict, **other: Any) -> Record:
    """Return a complete record with the decision that follows from it."""
    given: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "seatrial": "0.1.0",
        "run": "20260304T031209Z-demo-ab12",
        "decision": Decision.REJECT,
        "complete": True,
        "started": STARTED,
        "finished": STARTED + timedelta(seconds=143),
        "image": ImageFacts(
            path="/images/demo.qcow2",
            name="demo.qcow2",
            format="qcow2",
            size_bytes=1 << 30,
            sha256=DIGEST,
            sha256_after=DIGEST,
        ),
        "flavour": FlavourFacts(name="debian-general", title="Debian 12", kind="general-purpose"),
        "machine": MachineFacts(
            definition="q35",
            accelerator="tcg",
            accelerator_reason="/dev/kvm does not exist",
            qemu="10.0.2",
            firmware="OVMF",
            cpus=2,
            memory_mib=2048,
        ),
        "boot": BootTimes(
            banner_s=21.2, login_s=23.9, ready_s=41.6, state="running", phases={"kernel": 6.4, "userspace": 19.4}
        ),
        "restores": RestoreFacts(
            method="template", reason="", freeze_s=0.36, lifeline=True, reseeded=True, seconds=(0.5, 0.4), cold_boots=1
        ),
        "suites": ("kernel",),
        "differences": (
            Difference(kind=Kind.CREDENTIAL, text="credential ssh.authorized_keys.root", touches=(Touched.RUN_USER,)),
            Difference(kind=Kind.ACCELERATOR, text="tcg"),
        ),
        "verdicts": verdicts,
        "findings": (),
        "problem": None,
        "evidence": {"console": "console.log"},
    }
    made = Record(**{**given, **other})
    made = replace(made, decision=decision_of(made))
    assert faults(json.loads(to_json(made))) == []
    return made


def release() -> Record:
    """Return a record that says release."""
    return record(verdict(), verdict("kernel-modules", Outcome.NOT_APPLICABLE))


def reject() -> Record:
    """Return a record with one verdict of every outcome."""
    return record(*(verdict(f"control-{outcome}", outcome) for outcome in Outcome))


def boot_failure(controls: int = 9) -> Record:
    """Return a record of a boot that failed, with nothing judged."""
    unchecked = {"because": "the run ended before it was checked", "expected": "", "seen": "", "seconds": None}
    verdicts = [verdict(f"control-{number}", Outcome.NOT_CHECKED, **unchecked) for number in range(controls)]
    return record(*verdicts, problem=PANIC, boot=None)
