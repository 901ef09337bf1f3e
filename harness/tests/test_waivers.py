"""A waiver accepts a failure for a time and nothing else; everything odd about one is said."""

from __future__ import annotations

from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from records import record, verdict
from seatrial.errors import ConfigError
from seatrial.policy.flavours import WaiverLimits
from seatrial.policy.judge import Decision, Outcome, Waived, decide
from seatrial.policy.waivers import State, Waivers, parse_waivers
from seatrial.report.html import html_page
from seatrial.report.junit import junit_xml
from seatrial.report.record import from_json, to_json
from seatrial.report.terminal import summary_lines
from seatrial.suites import read_flavour
from seatrial.waiver_file import read_waivers

TODAY = date(2026, 6, 15)
FLAVOURS = ("debian-general", "debian-immutable")


def row(**changed: object) -> str:
    """Return one waiver as TOML; ``None`` leaves a key out."""
    fields: dict[str, object] = {
        "control": '"ssh-no-password-auth"',
        "flavour": '"debian-general"',
        "reason": '"the installer needs it"',
        "owner": '"release team"',
        "tracker": '"https://example.org/issues/7"',
        "expires": "2026-07-01",
        **changed,
    }
    return "[[waiver]]\n" + "".join(f"{key} = {value}\n" for key, value in fields.items() if value is not None)


def waivers(*rows: str, limits: WaiverLimits | None = None) -> Waivers:
    items = parse_waivers(
        "".join(rows), where="w.toml", flavours=FLAVOURS, limits=limits or WaiverLimits(), today=TODAY
    )
    return Waivers(items=items, flavour="debian-general", today=TODAY, file="w.toml")


def failed(control: str = "ssh-no-password-auth") -> Any:
    return verdict(control, Outcome.FAIL)


def test_a_waived_failure_stays_a_failure_and_does_not_reject() -> None:
    found = waivers(row()).on(failed())
    assert found.outcome is Outcome.FAIL
    assert found.waived == Waived(
        reason="the installer needs it",
        owner="release team",
        tracker="https://example.org/issues/7",
        expires="2026-07-01",
        extensions=0,
    )
    assert decide([found, verdict()]) is Decision.RELEASE


def test_waived_failures_alone_release_nothing() -> None:
    assert decide([waivers(row()).on(failed())]) is Decision.REJECT


@pytest.mark.parametrize("outcome", [o for o in Outcome if o is not Outcome.FAIL])
def test_nothing_but_a_failure_is_ever_waived(outcome: Outcome) -> None:
    seen = verdict("ssh-no-password-auth", outcome)
    assert waivers(row()).on(seen) == seen
    with pytest.raises(ValueError, match="a waiver accepts failures only"):
        verdict("x", outcome, waived=waivers(row()).on(failed()).waived)


@pytest.mark.parametrize(
    ("changed", "covers"),
    [
        ({"control": '"ssh-*"'}, True),
        ({"control": '"ssh-no-password"'}, False),
        ({"flavour": '"debian-immutable"'}, False),
        ({"expires": "2026-06-15"}, True),
        ({"expires": "2026-06-14"}, False),
    ],
)
def test_a_waiver_covers_its_controls_flavour_and_days(changed: dict[str, str], covers: bool) -> None:
    assert (waivers(row(**changed)).on(failed()).waived is not None) is covers


@pytest.mark.parametrize(
    ("changed", "outcome", "state", "controls"),
    [
        ({}, Outcome.FAIL, State.USED, ("ssh-no-password-auth",)),
        ({"expires": "2026-06-01"}, Outcome.FAIL, State.EXPIRED, ("ssh-no-password-auth",)),
        ({"expires": "2026-06-01"}, Outcome.PASS, State.EXPIRED, ()),
        ({}, Outcome.PASS, State.NOT_NEEDED, ("ssh-no-password-auth",)),
        ({}, Outcome.ERROR, State.UNUSED, ()),
        ({}, Outcome.NOT_APPLICABLE, State.UNUSED, ()),
        ({"control": '"acct-*"'}, Outcome.FAIL, State.UNUSED, ()),
    ],
)
def test_what_became_of_a_waiver_is_said(
    changed: dict[str, str], outcome: Outcome, state: State, controls: tuple[str, ...]
) -> None:
    (note,) = waivers(row(**changed)).review([verdict("ssh-no-password-auth", outcome)])
    assert (note.state, note.controls) == (state, controls)


def test_waivers_of_other_flavours_are_not_this_runs_concern() -> None:
    assert waivers(row(flavour='"debian-immutable"')).review([failed()]) == ()


def test_extensions_are_counted() -> None:
    found = waivers(row(extended="[2026-01-01, 2026-04-01]")).on(failed())
    assert found.waived is not None
    assert found.waived.extensions == 2


@pytest.mark.parametrize(
    ("changed", "text"),
    [
        ({"reason": None}, "waiver 1 (ssh-no-password-auth): reason: Field required"),
        ({"owner": '""'}, "owner: String should have at least 1 character"),
        ({"reason": '" "'}, "reason: String should have at least 1 character"),
        ({"tracker": '"JIRA-7"'}, "tracker: String should match pattern"),
        ({"expires": '"2026-07-01"'}, "expires: expected a date such as 2027-01-31"),
        ({"expires": "2026-07-01T12:00:00Z"}, "expires: expected a date such as 2027-01-31"),
        ({"expires": None}, "expires: Field required"),
        ({"severity": '"low"'}, "severity: Extra inputs are not permitted"),
        ({"flavour": '"debain"'}, "unknown flavour 'debain'; known: debian-general, debian-immutable"),
        ({"control": '"*"'}, "the glob names no control: it would accept every failure"),
        ({"control": '"?*-*"'}, "the glob names no control"),
        ({"control": '"[a-z0-9]*"'}, "the glob names no control"),
        ({"granted": "2026-06-30"}, "it was granted on 2026-06-30, and today is 2026-"),
        ({"extended": "[2026-08-01]"}, "one of them is not before 2026-07-01"),
        ({"extended": "[2026-01-01, 2026-01-01]"}, "extended holds one expiry twice"),
        ({"granted": "2026-08-01"}, "it was granted on 2026-08-01, after it expired"),
    ],
)
def test_a_faulty_waiver_is_refused(changed: dict[str, str], text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        waivers(row(**changed))
    assert text in caught.value.message


def test_all_faults_come_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        waivers(row(reason=None), row(owner=None, control='"acct-*"'))
    assert "waiver 1 (ssh-no-password-auth): reason" in caught.value.message
    assert "waiver 2 (acct-*): owner" in caught.value.message


@pytest.mark.parametrize(
    ("limits", "rows", "text"),
    [
        ({"most": 1}, [row(), row(control='"acct-*"')], "there are 2 waivers; the policy allows 1"),
        ({"longest-days": 15}, [row()], "it expires on 2026-07-01; the policy allows 15 days from today (2026-06-15)"),
        ({"most-extensions": 0}, [row(extended="[2026-05-01]")], "it was extended 1 times; the policy allows 0"),
        ({"oldest-days": 90}, [row()], "needs 'granted = DATE'"),
        ({"oldest-days": 90}, [row(granted="2026-01-01")], "longer than the 90 days"),
        ({}, [row(), row()], "there is another one for the same control and flavour"),
    ],
)
def test_the_policy_limits_number_and_age(limits: dict[str, int], rows: list[str], text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        waivers(*rows, limits=WaiverLimits.model_validate(limits))
    assert text in caught.value.message


def test_within_the_limits_nothing_is_refused() -> None:
    limits = {"most": 1, "longest-days": 16, "most-extensions": 1, "oldest-days": 90}
    rows = row(extended="[2026-05-01]", granted="2026-04-10")
    assert len(waivers(rows, limits=WaiverLimits.model_validate(limits)).items) == 1


@given(st.dates(date(2026, 1, 1), date(2027, 1, 1)))
def test_no_expired_waiver_ever_accepts_anything(expires: date) -> None:
    found = waivers(row(expires=expires.isoformat())).on(failed())
    assert (found.waived is None) is (expires < TODAY)


def test_the_file_beside_the_image_counts_and_a_named_one_goes_before_it(tmp_path: Path) -> None:
    flavour, image = read_flavour("debian-general"), tmp_path / "disk.raw"
    assert read_waivers(None, image, flavour, TODAY).items == ()
    (tmp_path / "disk.raw.waivers.toml").write_text(row())
    (tmp_path / "other.toml").write_text(row(control='"acct-*"'))
    assert read_waivers(None, image, flavour, TODAY).items[0].control == "ssh-no-password-auth"
    assert read_waivers(tmp_path / "other.toml", image, flavour, TODAY).items[0].control == "acct-*"
    (tmp_path / "disk.waivers.toml").write_text(row())
    with pytest.raises(ConfigError, match="two waivers files lie beside the image"):
        read_waivers(None, image, flavour, TODAY)


def test_a_named_file_that_is_missing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nothing\.toml' cannot be read"):
        read_waivers(tmp_path / "nothing.toml", tmp_path / "disk.raw", read_flavour("debian-general"), TODAY)


def test_every_report_shows_the_accepted_failure_and_what_needs_attention() -> None:
    held = waivers(row(extended="[2026-05-01]"), row(control='"acct-*"', expires="2026-06-01"))
    verdicts = [verdict(), held.on(failed())]
    done = record(*verdicts, waivers=held.review(verdicts))
    assert done.decision is Decision.RELEASE
    assert from_json(to_json(done)) == done
    lines = "\n".join(summary_lines(done, Path("/out"), width=120))
    assert "waived: ssh-no-password-auth [high]" in lines
    assert "release team, until 2026-07-01, extended once: the installer needs it" in lines
    assert "acct-* is expired: it expired on 2026-06-01" in lines
    assert "decision: release (1 passed, 1 failed and waived of 2 controls)" in lines
    page = html_page(done)
    assert "Failures that somebody has accepted" in page
    assert "Waivers that need attention" in page
    xml = junit_xml(done).decode()
    assert 'failures="0" errors="0" skipped="1"' in xml
    assert "waived: release team, until 2026-07-01" in xml


def test_a_failure_beside_a_waived_one_still_rejects() -> None:
    verdicts = [verdict(), waivers(row()).on(failed()), verdict("other-one", Outcome.FAIL)]
    lines = "\n".join(summary_lines(record(*verdicts), Path("/out"), width=120))
    assert "decision: reject (1 failed, 1 failed and waived of 3 controls)" in lines


def test_a_waiver_for_tomorrow_counts_today() -> None:
    assert waivers(row(expires=(TODAY + timedelta(days=1)).isoformat())).on(failed()).waived is not None
