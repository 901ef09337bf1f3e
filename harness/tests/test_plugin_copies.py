"""Guests of their own for checks: copies, cold boots, changed disks, one reboot for all."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
import seatrial.copies
import seatrial.gate
import seatrial.plugin
import seatrial.writes
from gate_bench import CHECKS, TABLE, Judged, LocalShell, fake_session, outcomes
from seatrial.errors import (
    BootTimeout,
    ObservationError,
    SeatrialError,
    SessionLost,
)
from seatrial.guest.facts import Facts
from seatrial.session import Session


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
