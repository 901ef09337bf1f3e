"""Reading audit rules, and what they leave out."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from seatrial.errors import ObservationError
from seatrial.evidence.audit import parse_audit_rules, parse_auditd, parse_status, silencers, untraced, unwatched

WATCH = "-w /etc/shadow -p wa -k identity\n"
CALLS = "-a always,exit -F arch=b64 -S openat,creat -F exit=-EACCES -F auid>=1000 -F key=refused\n"


@pytest.mark.parametrize(
    ("rule", "path", "access", "is_watched"),
    [
        (WATCH, "/etc/shadow", "wa", True),
        (WATCH, "/etc/shadow", "x", False),
        (WATCH, "/etc/shadow-", "wa", False),
        ("-w /etc/ -p wa -k all\n", "/etc/shadow", "wa", True),
        ("-a always,exit -S all -F dir=/etc -F perm=wa -F key=x\n", "/etc/shadow", "wa", True),
        ("-a always,exit -S all -F path=/etc/shadow -F perm=wa\n", "/etc/shadow", "wa", True),
        ("-a always,exit -S all -F path=/etc/shadow -F perm=wa -F uid=5\n", "/etc/shadow", "wa", False),
        ("-a never,exit -S all -F path=/etc/shadow -F perm=wa\n", "/etc/shadow", "wa", False),
        ("-a always,exit -F path=/etc -F perm=wa\n", "/etc/shadow", "wa", False),
        ("-a always,exit -F arch=b32 -F path=/etc/shadow -F perm=wa\n", "/etc/shadow", "wa", False),
        ("-a always,exit -F arch=b64 -F path=/etc/shadow -F perm=wa\n", "/etc/shadow", "wa", True),
        ("-a always,exit -S chmod -F path=/etc/shadow -F perm=wa\n", "/etc/shadow", "wa", False),
        ("-a always,exit -F path=/etc/shadow -F perm=wa -C auid!=obj_uid\n", "/etc/shadow", "wa", False),
        ("-a always,exit -F path=/usr/bin/su -F perm=x -F auid>=1000 -F auid!=-1 -F key=p\n", "/usr/bin/su", "x", True),
    ],
)
def test_a_watch_counts_for_what_it_covers(rule: str, path: str, access: str, is_watched: bool) -> None:
    assert unwatched(parse_audit_rules(rule), [path], access) == ([] if is_watched else [path])


@pytest.mark.parametrize(
    ("rules", "found"),
    [
        (f"-a never,task\n{WATCH}", ["-a never,task"]),
        (f"{WATCH}-a never,task\n", ["-a never,task"]),
        (f"-a never,exit -S all\n{WATCH}", ["-a never,exit -S all"]),
        (f"{WATCH}-a never,exit -S all\n", []),
        (f"-a never,exit -S all -F path=/usr/bin/x\n{WATCH}", []),
        (f"-a never,task -F key=off\n{WATCH}", ["-a never,task -F key=off"]),
        (f"-a never,exit -F arch=b64 -S all\n{WATCH}", ["-a never,exit -F arch=b64 -S all"]),
        (f"-a never,exit -F arch=b64 -S adjtimex\n{WATCH}", []),
        (WATCH, []),
    ],
)
def test_a_rule_that_keeps_everything_out_is_told(rules: str, found: list[str]) -> None:
    assert silencers(rules) == found


@pytest.mark.parametrize(
    ("rule", "wanted", "field", "left"),
    [
        (CALLS, "openat", "exit=-EACCES", []),
        (CALLS, "openat", "exit=-EPERM", ["b64 openat exit=-EPERM"]),
        (CALLS, "openat", "", ["b64 openat"]),
        (CALLS, "mount", "", ["b64 mount"]),
        ("-a always,exit -F arch=b32 -S mount\n", "mount", "", ["b64 mount"]),
        ("-a always,exit -S mount\n", "mount", "", []),
        ("-a always,exit -F arch=b64 -S all\n", "mount", "", []),
        ("-a always,exit -F arch=b64 -S mount -F success=0\n", "mount", "", ["b64 mount"]),
        ("-a never,exit -F arch=b64 -S mount\n", "mount", "", ["b64 mount"]),
        ("-a always,exit -F arch=b64 -S clock_settime -F a0=0x0 -k t\n", "clock_settime", "", []),
        ("-a always,exit -F arch=b64 -S mount -F a0=0x0\n", "mount", "", ["b64 mount"]),
    ],
)
def test_a_rule_for_calls_counts_for_what_it_records(rule: str, wanted: str, field: str, left: list[str]) -> None:
    assert untraced(parse_audit_rules(rule), [wanted], ["b64"], with_field=field) == left


@pytest.mark.parametrize("text", ["none\n", "No rules\n", ""])
def test_no_rules_are_no_rules(text: str) -> None:
    assert parse_audit_rules(text) == ()


@pytest.mark.parametrize("text", ["rubbish\n", "-w\n", "-w /etc -p\n", "auditctl: not permitted\n"])
def test_what_is_no_rule_is_an_error(text: str) -> None:
    with pytest.raises(ObservationError):
        parse_audit_rules(text)


def test_status_and_settings_are_read() -> None:
    assert parse_status("enabled 2\nloginuid_immutable 0 unlocked\n")["enabled"] == "2"
    assert parse_status("none\n") == {}
    assert parse_auditd("# comment\nMax_Log_File = 8\ndisk_full_action = HALT\n") == {
        "max_log_file": "8",
        "disk_full_action": "halt",
    }


@given(st.text())
def test_any_text_gives_an_answer_or_our_error(text: str) -> None:
    for parse in (parse_audit_rules, parse_status, parse_auditd):
        with contextlib.suppress(ObservationError):
            parse(text)
