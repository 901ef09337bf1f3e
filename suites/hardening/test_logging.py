"""The guest's journal and log files."""

from __future__ import annotations

import re

import pytest
from seatrial.check import Check
from seatrial.evidence.cmdline import CMDLINE, parse_cmdline
from seatrial.evidence.files import FileState, backing_mount, parse_states
from seatrial.evidence.mounts import MOUNTINFO, beneath_extensions, block_number, mount_at, parse_mountinfo
from seatrial.evidence.units import (
    UNIT_FILES,
    UNITS,
    config_command,
    matching_units,
    parse_config,
    parse_unit_files,
    parse_units,
)
from seatrial.evidence.verity import mapped_uuid_command
from seatrial.guest.facts import Facts
from seatrial.policy.controls import Control

# /run/log holds the journal that does not survive; system.journal is named again in case /var/log/journal is a mount.
_LOGS = (
    "for d in /var/log /run/log; do if [ -d $d ]; then "
    "find $d -xdev \\( -type f -o -type d \\) -exec stat -c '%f %U %G %n' {} +; fi; done; "
    "m=$(cat /etc/machine-id) && f=/var/log/journal/$m/system.journal && "
    "if [ -e $f ]; then stat -c '%f %U %G %n' $f; fi"
)
# Login records are written by the group utmp, and read by everybody through who and last.
_LOGIN_RECORDS = frozenset({"/var/log/wtmp", "/var/log/btmp", "/var/log/lastlog"})
_OTHER_LOGGERS = ("rsyslog.service", "syslog-ng.service", "busybox-syslogd.service", "inetutils-syslogd.service")
_RECEIVERS = ("systemd-journal-remote.service", "systemd-journal-remote.socket", "systemd-journal-gatewayd.socket")
# rsyslog's modules and directives; of syslog-ng what a source reads, for a destination is called the same.
_RECEPTION = (
    "grep -asHE '^[^#]*(imp?tcp|imudp|imrelp|InputTCPServerRun|UDPServerRun)' /etc/rsyslog.conf /etc/rsyslog.d/*.conf; "
    "for f in /etc/syslog-ng/syslog-ng.conf /etc/syslog-ng/conf.d/*.conf; do if [ -e $f ]; then "
    # A range's end is looked for from its second line on: a source on one line is none.
    "sed -nE '/^[[:blank:]]*source[[:blank:]].*\\}[[:blank:]]*;/{/^[^#]*(tcp6?|udp6?|network|syslog)\\(/p;d;}; "
    "/^[[:blank:]]*source[[:blank:]]/,/\\}[[:blank:]]*;/{/^[^#]*(tcp6?|udp6?|network|syslog)\\(/p;}' $f | "
    'sed "s,^,$f:,"; fi; done'
)
_ROOM = "df -Pk /var/log | sed -n '$p'"
_FORWARD = "systemd.journald.forward_to_syslog"
_YES = frozenset({"yes", "1", "true", "on", "y", "t"})
_CHECKERS = (
    # aide writes aide.db.new, and checks against what somebody has made aide.db of it.
    "for f in /var/lib/aide/aide.db /var/lib/aide/aide.db.gz /var/lib/tripwire/*.twd /var/lib/samhain/samhain_file; do "
    'if [ -s "$f" ]; then echo "database $f"; fi; done; '
    "grep -lsE '^[^#]*(aide|tripwire)' /etc/crontab /etc/cron.d/* /etc/cron.daily/* /var/spool/cron/root "
    "/var/spool/cron/crontabs/root | sed 's/^/cron /'"
)
_CHECK_TIMER = re.compile(r"(dailyaidecheck|aide-?check|aide|tripwire.*|fapolicyd.*)\.timer")


def _logs(facts: Facts) -> tuple[FileState, ...]:
    return tuple(dict.fromkeys(parse_states(facts.text(_LOGS))))


@pytest.mark.control("log-journal-active")
def test_journal_runs_and_persists(facts: Facts, check: Check) -> None:
    activity = parse_units(facts.text(UNITS)).get("systemd-journald.service", "not there")
    check.equal(activity, "active", what="systemd-journald.service")
    storage = parse_config(facts.text(config_command("systemd/journald.conf"))).get("Journal.Storage", "auto")
    check.one_of(storage, ["auto", "persistent"], what="Storage in journald.conf")
    kept = [
        f.path for f in _logs(facts) if f.path.startswith("/var/log/journal/") and f.path.endswith("/system.journal")
    ]
    check.holds(
        bool(kept), expected="a system.journal below /var/log/journal", seen=", ".join(dict.fromkeys(kept)) or "none"
    )
    kind = backing_mount(parse_mountinfo(facts.text(MOUNTINFO)), "/var/log/journal").kind
    check.holds(kind not in {"tmpfs", "ramfs"}, expected="/var/log/journal on a disk", seen=f"it lies on {kind}")


@pytest.mark.control("log-journal-perms")
def test_journal_is_closed(facts: Facts, check: Check) -> None:
    journals = [f for f in _logs(facts) if f.is_file and "/journal/" in f.path]
    if not journals:
        check.cannot_tell("the guest has no journal file in /var/log/journal or /run/log/journal")
    check.nothing((f for f in journals if f.permissions & 0o027), expected="journal files at most 0640")
    check.nothing(
        (f for f in journals if f.group not in {"root", "adm", "systemd-journal"}), expected="of group systemd-journal"
    )


@pytest.mark.control("log-var-log-perms")
def test_logs_are_closed(facts: Facts, check: Check) -> None:
    logs = [f for f in _logs(facts) if f.path.startswith("/var/log") and "/journal/" not in f.path]
    if not any(f.path == "/var/log" for f in logs):
        check.cannot_tell("the state of /var/log itself is unknown")
    check.nothing(
        (f for f in logs if f.is_dir and f.permissions & 0o022), expected="folders below /var/log at most 0755"
    )
    check.nothing((f for f in logs if f.is_file and f.permissions & ~_most(f)), expected="log files at most 0640")


def _most(state: FileState) -> int:
    return 0o664 if state.path in _LOGIN_RECORDS and state.group == "utmp" else 0o640


@pytest.mark.probe("config")
def test_setting(row: Control, facts: Facts, check: Check) -> None:
    probe = row.probe or {}
    settings = parse_config(facts.text(config_command(probe["config"])))
    for key in probe["needed"]:
        value = settings.get(key, "")
        limit = _octets(value)
        room = _room(facts.text(_ROOM), check) if limit else 0
        seen = f"{key}={value}" + (f", where {room >> 20} MiB are in all" if limit and limit >= room else "")
        expected = f"{key} set in {probe['config']}, to a size such as 200M that the disk has"
        check.holds(0 < limit < room, expected=expected, seen=seen)


def _octets(text: str) -> int:
    """Return the size that systemd reads in ``text``; 0 for what it cannot read: such as 200MB (systemd.syntax(7))."""
    if not re.fullmatch(r"(?:[0-9]{1,18}(?:\.[0-9]{1,9})?[KMGTPEB]?)++", text):
        return 0
    parts = re.findall(r"([0-9]+)(?:\.[0-9]+)?([KMGTPEB]?)", text)
    return sum(int(number) << (10 * "BKMGTPE".index(unit or "B")) for number, unit in parts)


def _room(text: str, check: Check) -> int:
    """Return the size in octets of the file system that ``df -Pk`` describes."""
    match = re.fullmatch(r".*?\s(\d{1,18})\s+\d+\s+-?\d+\s+\d+%\s+/.*", text.strip())
    if match is None:
        check.cannot_tell(f"df says of /var/log {text[:200]!r}, which is no size")
    return int(match[1]) << 10


@pytest.mark.control("log-single-system")
def test_one_system_logs_and_takes_nothing_from_elsewhere(facts: Facts, check: Check) -> None:
    facts.ask_all([UNITS, UNIT_FILES, config_command("systemd/journald.conf"), CMDLINE, _RECEPTION])
    activity = parse_units(facts.text(UNITS))
    others = [unit for unit in _OTHER_LOGGERS if activity.get(unit) == "active"]
    check.holds(len(others) <= 1, expected="at most one logger beside the journal", seen=", ".join(others) or "none")
    forwards = parse_config(facts.text(config_command("systemd/journald.conf"))).get("Journal.ForwardToSyslog", "no")
    # The last such word on the command line wins over all files (journald.conf(5)).
    for word in parse_cmdline(facts.text(CMDLINE)).matching([_FORWARD]):
        forwards = word.partition("=")[2] or "yes"
    has_reader = bool(others) or forwards.lower() not in _YES
    check.holds(
        has_reader, expected="nothing forwarded to a logger that is not there", seen=f"ForwardToSyslog={forwards}"
    )
    receivers = matching_units(
        {**parse_unit_files(facts.text(UNIT_FILES)), **activity},
        _RECEIVERS,
        frozenset({"enabled", "enabled-runtime", "wanted", "active"}),
    )
    check.nothing(receivers, expected="no journal taken from other hosts")
    check.nothing(facts.lines(_RECEPTION), expected="no messages taken from the network")


@pytest.mark.control("log-file-integrity-tool")
def test_changed_files_are_noticed(facts: Facts, check: Check) -> None:
    facts.ask_all([MOUNTINFO, _CHECKERS, UNIT_FILES])
    mounts = parse_mountinfo(facts.text(MOUNTINFO))
    usr = beneath_extensions(mounts, "/usr") or mount_at(mounts, "/")
    on_disk = usr is not None and usr.is_on_disk
    verity = facts.text(mapped_uuid_command(block_number(usr, facts.text))).strip() if usr and on_disk else ""
    if verity.startswith("CRYPT-VERITY-"):
        check.holds(True, expected="a mechanism that notices changed files", seen="dm-verity covers /usr")
        return
    found = facts.lines(_CHECKERS)
    databases = [line for line in found if line.startswith("database ")]
    states = parse_unit_files(facts.text(UNIT_FILES))
    timers = [unit for unit, state in states.items() if state in {"enabled", "wanted"} and _CHECK_TIMER.fullmatch(unit)]
    scheduled = timers + [line for line in found if line.startswith("cron ")]
    seen = ", ".join((*found, *timers)) or f"neither a checker nor verity (/usr lies on {verity or 'a plain device'})"
    check.holds(bool(databases and scheduled), expected="verity under /usr, or a database and a timer", seen=seen)
