"""Auditing: whether the kernel records what people do with a host, and whether the records are safe."""

from __future__ import annotations

import re

import pytest
from seatrial.check import Check
from seatrial.evidence.audit import (
    RULES,
    STATUS,
    AuditRule,
    parse_audit_rules,
    parse_auditd,
    parse_status,
    silencers,
    untraced,
    unwatched,
)
from seatrial.evidence.cmdline import CMDLINE, parse_cmdline
from seatrial.evidence.files import audit_command, local_trees, parse_audit
from seatrial.evidence.mounts import MOUNTINFO, parse_mountinfo
from seatrial.evidence.settings import rule_holds, rule_text
from seatrial.evidence.units import UNIT_FILES, UNITS, parse_unit_files, parse_units
from seatrial.guest.facts import Facts
from seatrial.policy.controls import Control

_MACHINE = "uname -m"
_AUDITD = "if [ -e /etc/audit/auditd.conf ]; then cat /etc/audit/auditd.conf; fi"
_SET_ID = 0o6000
_ACCOUNTS = (
    *("/etc/passwd", "/etc/group", "/etc/shadow", "/etc/gshadow", "/etc/security/opasswd"),
    *("/etc/sudoers", "/etc/sudoers.d", "/var/log/wtmp", "/var/log/btmp", "/var/log/lastlog"),
)
_NAMES = ("/etc/localtime", "/etc/hosts", "/etc/issue", "/etc/issue.net")
_CLOCK_CALLS = ("adjtimex", "settimeofday", "clock_settime")
_NAME_CALLS = ("sethostname", "setdomainname")
_MODULE_CALLS = ("init_module", "finit_module", "delete_module")
# Of every family the calls that all architectures have.
_FILE_CALLS = ("fchmodat", "fchownat", "setxattr", "unlinkat", "renameat2", "mount")
_LEAST_BACKLOG = 8192


def _rules(facts: Facts, check: Check) -> tuple[AuditRule, ...]:
    """Return the loaded rules; that there are some, and none that silences them, is an observation of its own."""
    rules = parse_audit_rules(facts.text(RULES))
    check.nothing(
        silencers(facts.text(RULES)), expected="no rule that switches auditing off for all (10-no-audit.rules has it)"
    )
    check.holds(bool(rules), expected="audit rules are loaded", seen=f"{len(rules)} rules")
    return rules


def _architectures(facts: Facts, check: Check) -> tuple[str, ...]:
    machine = facts.text(_MACHINE).strip()
    if not re.fullmatch(r"\w+", machine):
        check.cannot_tell(f"uname gave {machine[:100]!r} as the machine")
    return ("b64", "b32") if machine == "x86_64" else ("b64",)


@pytest.mark.control("log-audit-active")
def test_the_kernel_audits_and_a_daemon_records(facts: Facts, check: Check) -> None:
    facts.ask_all([UNITS, UNIT_FILES, STATUS, _AUDITD])
    activity = parse_units(facts.text(UNITS)).get("auditd.service", "not there")
    check.equal(activity, "active", what="auditd.service")
    state = parse_unit_files(facts.text(UNIT_FILES)).get("auditd.service", "not installed")
    check.one_of(state, ("enabled", "wanted"), what="auditd.service at the next boot")
    status = parse_status(facts.text(STATUS))
    check.one_of(status.get("enabled", "not said"), ["1", "2"], what="the kernel's auditing, enabled")
    settings = parse_auditd(facts.text(_AUDITD))
    off = [f"{name} = no" for name in ("write_logs", "local_events") if settings.get(name) == "no"]
    check.nothing(off, expected="a daemon that takes the kernel's records and writes them (auditd.conf(5))")
    check.holds(status.get("pid", "0") != "0", expected="a daemon that takes records", seen=f"pid {status.get('pid')}")


@pytest.mark.control("log-audit-boot")
def test_auditing_begins_with_the_boot(facts: Facts, check: Check) -> None:
    words = parse_cmdline(facts.text(CMDLINE))
    check.one_of(words.last("audit") or "not there", ("1", "on"), what="audit= on the command line")
    backlog = words.last("audit_backlog_limit") or "not there"
    enough = backlog.isascii() and backlog.isdigit() and int(backlog) >= _LEAST_BACKLOG
    check.holds(enough, expected=f"audit_backlog_limit of {_LEAST_BACKLOG} or more", seen=backlog)


@pytest.mark.control("log-audit-rules-identity")
def test_changes_to_accounts_are_recorded(facts: Facts, check: Check) -> None:
    rules = _rules(facts, check)
    check.nothing(unwatched(rules, _ACCOUNTS, "wa"), expected="a rule for each file of accounts, sudo and logins")


@pytest.mark.control("log-audit-rules-time-net")
def test_changes_to_clock_and_names_are_recorded(facts: Facts, check: Check) -> None:
    facts.ask_all([RULES, _MACHINE])
    rules = _rules(facts, check)
    calls = untraced(rules, (*_CLOCK_CALLS, *_NAME_CALLS), _architectures(facts, check))
    check.nothing(calls, expected="a rule for each call that sets clock or name")
    check.nothing(unwatched(rules, _NAMES, "wa"), expected="a rule for each file of time zone and names")


@pytest.mark.control("log-audit-rules-modules")
def test_loading_of_modules_is_recorded(facts: Facts, check: Check) -> None:
    facts.ask_all([RULES, _MACHINE])
    rules = _rules(facts, check)
    check.nothing(
        untraced(rules, _MODULE_CALLS, _architectures(facts, check)),
        expected="a rule for each call that changes modules",
    )
    check.nothing(unwatched(rules, ["/usr/bin/kmod"], "x"), expected="a rule for kmod")


@pytest.mark.control("log-audit-rules-priv")
def test_use_of_rights_is_recorded(facts: Facts, check: Check) -> None:
    facts.ask_all([RULES, _MACHINE, MOUNTINFO])
    rules, architectures = _rules(facts, check), _architectures(facts, check)
    answer = facts.ask(audit_command(local_trees(parse_mountinfo(facts.text(MOUNTINFO)))))
    files = parse_audit(answer.status, answer.stdout, answer.stderr)
    set_id = sorted(file.path for file in files if file.is_file and file.permissions & _SET_ID)
    check.nothing(unwatched(rules, set_id, "x"), expected=f"a rule for each of {len(set_id)} set-id programs")
    check.nothing(untraced(rules, _FILE_CALLS, architectures), expected="a rule for each family of calls")
    refused = [
        call
        for error in ("EACCES", "EPERM")
        for call in untraced(rules, ["openat"], architectures, with_field=f"exit=-{error}")
    ]
    check.nothing(refused, expected="a rule for files that are refused")


@pytest.mark.control("log-audit-immutable")
def test_rules_are_locked(facts: Facts, check: Check) -> None:
    check.equal(parse_status(facts.text(STATUS)).get("enabled", "not said"), "2", what="auditing, enabled (2: locked)")


@pytest.mark.probe("auditd")
def test_daemon_is_configured(row: Control, facts: Facts, check: Check) -> None:
    settings = parse_auditd(facts.text(_AUDITD))
    for key, rule in (row.probe or {})["auditd"].items():
        value = settings.get(key, "not set")
        if value.startswith("exec "):  # the path of a script follows (auditd.conf(5))
            value = "exec"
        check.holds(rule_holds(rule, value), expected=f"{key} {rule_text(rule)}", seen=f"{key} {value}")
