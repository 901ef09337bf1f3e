"""The summary on a terminal: enough to act on, nothing that a guest can abuse."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from records import FINDING, HOSTILE, PANIC, boot_failure, disk_writes, record, reject, release, verdict
from seatrial.policy.judge import Outcome
from seatrial.report.record import Record
from seatrial.report.summary import headline
from seatrial.report.terminal import summary_lines

FOLDER = Path("out/run")


@pytest.mark.parametrize(
    ("made", "line"),
    [
        (release(), "release (1 passed, 1 not applicable of 2 controls)"),
        (reject(), "reject (1 failed, 1 in error, 1 not checked of 5 controls)"),
        (boot_failure(97), "reject (could not judge: BootFatal; 97 not checked of 97 controls)"),
        (record(verdict(), complete=False, finished=None), "reject (the run did not end; 1 passed of 1 control)"),
        (record(), "reject (no control was selected)"),
        (record(verdict("a", Outcome.NOT_APPLICABLE)), "reject (no control applies; 1 not applicable of 1 control)"),
    ],
)
def test_the_last_line_is_the_decision_and_its_reason(made: Record, line: str) -> None:
    assert headline(made) == line
    assert summary_lines(made, FOLDER)[-1] == f"decision: {line}"


def test_the_summary_names_what_was_judged_and_where_the_evidence_is() -> None:
    told = "\n".join(summary_lines(release(), FOLDER))
    for part in (
        "/images/demo.qcow2",
        "abababababababab",
        "debian-general",
        "tcg: /dev/kvm does not exist",
        "out/run",
        "console.log",
    ):
        assert part in told


@pytest.mark.parametrize("outcome", [Outcome.FAIL, Outcome.ERROR, Outcome.NOT_CHECKED])
def test_what_rejects_is_told_with_its_remedy(outcome: Outcome) -> None:
    told = "\n".join(summary_lines(record(verdict("the-control", outcome)), FOLDER))
    for part in (
        f"{outcome}: the-control [high]",
        "lockdown = integrity",
        "lockdown = none",
        "Boot with lockdown=integrity.",
    ):
        assert part in told


def test_passes_are_counted_and_not_listed() -> None:
    told = "\n".join(summary_lines(release(), FOLDER))
    assert "kernel-lockdown" not in told


def test_many_not_checked_for_one_reason_are_one_line() -> None:
    lines = summary_lines(boot_failure(97), FOLDER)
    assert len([line for line in lines if line.startswith("not-checked")]) == 1
    assert "not-checked: 97 controls for one reason (97 high)" in lines
    assert len(lines) < 30


def test_few_not_checked_for_one_reason_are_named() -> None:
    assert "control-8" in "\n".join(summary_lines(boot_failure(9), FOLDER))


def test_a_failed_boot_shows_the_problem_and_the_console_without_its_colours() -> None:
    lines = summary_lines(boot_failure(), FOLDER)
    assert "could not judge: BootFatal" in lines
    assert "    | [1.0] starting" in lines
    assert "  hint      compare with the last image that booted" in lines


def test_a_changed_image_is_told() -> None:
    changed = replace(release().image, sha256_after="cd" * 32)
    told = "\n".join(summary_lines(record(verdict(), image=changed), FOLDER))
    assert "CHANGED during the run" in told
    assert "reject (the image changed during the run; 1 passed of 1 control)" in told


@settings(deadline=None)  # a busy computer is no fault
@given(st.text(st.characters()), st.integers(20, 200))
def test_no_text_escapes_or_outgrows_the_width(guest: str, width: int) -> None:
    fields = dict.fromkeys(["title", "seen", "because", "suite", "control"], f"x{guest}")
    made = record(
        verdict(outcome=Outcome.FAIL, **fields),
        problem=replace(PANIC, message=guest, console_tail=(guest,)),
        evidence={},
    )
    lines = summary_lines(made, FOLDER, width=width)
    assert all(line.isprintable() for line in lines)
    free = ("could not judge", "decision:", "suite", "x", "all", "kernel")
    assert [line for line in lines if len(line) > max(40, width) and not line.startswith(free)] == []


def test_hostile_text_is_shown_as_escapes() -> None:
    told = "".join(summary_lines(record(verdict("a", Outcome.FAIL, seen=HOSTILE)), FOLDER))
    assert r"\x1b[31m\u202egnp.exe\x00" in told


def test_colour_is_only_there_when_asked_for() -> None:
    plain, coloured = summary_lines(reject(), FOLDER), summary_lines(reject(), FOLDER, colour=True)
    assert coloured[-1] == f"\x1b[1;31m{plain[-1]}\x1b[0m"
    assert "\x1b" not in "".join(plain)


@pytest.mark.parametrize("colour", [False, True])
def test_a_guest_cannot_colour_anything(colour: bool) -> None:
    lines = summary_lines(record(verdict("a", Outcome.FAIL, seen="\x1b[2J")), FOLDER, colour=colour)
    assert "\x1b[2J" not in "".join(lines)


def test_findings_are_shown_with_phase_time_and_count() -> None:
    told = "\n".join(summary_lines(record(verdict(), findings=(FINDING,)), FOLDER))
    assert "seen on the console and in QEMU's events: 1 suspicious" in told
    assert "a unit failed (31.2 s, userspace, 3 times): [FAILED] Failed to start agent.service." in told


def test_an_accepted_finding_is_not_shown_as_open() -> None:
    told = "\n".join(summary_lines(record(verdict(), findings=(replace(FINDING, accepted="known"),)), FOLDER))
    assert "suspicious" not in told


def test_a_boot_that_failed_says_when() -> None:
    assert any("12.5 s after power-on, phase initrd" in line for line in summary_lines(boot_failure(), FOLDER))


def test_a_hostile_finding_is_shown_as_escapes() -> None:
    told = "".join(summary_lines(record(findings=(replace(FINDING, line=HOSTILE, title=HOSTILE),)), FOLDER))
    assert "\x1b" not in told
    assert "\u202e" not in told


def test_what_was_written_to_the_disk_is_one_line() -> None:
    parts = (
        disk_writes(number=1, label="esp"),
        disk_writes(number=2, label="usr", immutable=True, changed_bytes=0),
        disk_writes(number=3, label="root", changed_bytes=3 << 20),
    )
    shown = "\n".join(summary_lines(record(verdict(), disk_writes=parts), Path("out"), width=120))
    assert "disk      changed: 3 root 3.0 MiB, 1 esp 512 B; unchanged as it must be: 2 usr" in shown
