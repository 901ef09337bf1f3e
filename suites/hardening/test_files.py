"""Modes and owners of the guest's files, from one walk over all local file systems; and mount options."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from fnmatch import fnmatchcase
from typing import Any

import pytest
from seatrial.check import Check
from seatrial.evidence.accounts import LOGIN_DEFS, PASSWD, parse_login_defs, parse_passwd, uid_min
from seatrial.evidence.files import (
    FileState,
    acls_command,
    audit_command,
    backing_mount,
    capabilities_command,
    local_trees,
    parse_acls,
    parse_audit,
    parse_capabilities,
    parse_states,
    states_command,
)
from seatrial.evidence.mounts import MOUNTINFO, Mount, parse_mountinfo
from seatrial.guest.facts import Facts
from seatrial.policy.controls import Control
from seatrial.policy.flavours import Flavour

_SUID, _SGID, _STICKY = 0o4000, 0o2000, 0o1000
_WORLD_WRITE, _GROUP_WRITE, _OTHERS_WRITE = 0o002, 0o020, 0o022
# A link to nothing is another control's.
_LINKED = "find /etc -xdev -type l -exec stat -L -c '%f %U %G %n' {} + 2>/dev/null; true"


def _mounts(facts: Facts) -> tuple[Mount, ...]:
    return parse_mountinfo(facts.text(MOUNTINFO))


def _audit(facts: Facts, wanted: Callable[[FileState], bool]) -> list[FileState]:
    """Return the files that the one walk found and ``wanted`` takes."""
    answer = facts.ask(audit_command(local_trees(_mounts(facts))))
    return [state for state in parse_audit(answer.status, answer.stdout, answer.stderr) if wanted(state)]


@pytest.mark.control("fs-sticky")
def test_open_folders_are_sticky(facts: Facts, check: Check) -> None:
    open_ones = _audit(facts, lambda f: f.is_dir and f.permissions & (_WORLD_WRITE | _STICKY) == _WORLD_WRITE)
    check.nothing(open_ones, expected="every world-writable folder is sticky")


@pytest.mark.control("fs-world-writable-files")
def test_no_file_is_world_writable(facts: Facts, check: Check) -> None:
    check.nothing(
        _audit(facts, lambda f: f.is_file and bool(f.permissions & _WORLD_WRITE)), expected="no world-writable file"
    )


@pytest.mark.control("fs-unowned")
def test_every_file_has_an_owner(facts: Facts, check: Check) -> None:
    # Of a service with DynamicUser= the owner is there only while it runs; nobody else gets into these folders.
    found = _audit(facts, lambda f: not f.has_owners and not re.match(r"/var/(lib|cache|log)/private/", f.path))
    check.nothing(found, expected="every file has an owner and a group that exist")


@pytest.mark.control("fs-system-dirs-perms")
def test_programs_and_libraries_belong_to_root(facts: Facts, check: Check) -> None:
    foreign = _audit(
        facts, lambda f: f.is_system and not f.is_link and (f.owner != "root" or bool(f.permissions & _OTHERS_WRITE))
    )
    check.nothing(foreign, expected="everything below /usr, /opt, /bin, /sbin and /lib* is writable by root only")
    login_defs = facts.text(LOGIN_DEFS)
    first = uid_min(parse_login_defs(login_defs))
    people = {account.name for account in parse_passwd(facts.text(PASSWD)) if account.uid >= first}
    # The files of a service are its account's own, such as polkit's rules. Those of a person are a way to root.
    below_etc = _audit(facts, lambda f: f.path.startswith("/etc/") and not f.is_link)
    given_away: list[object] = [f for f in below_etc if _is_given_away(f, people)]
    # A link of root's may lead to what is not his.
    linked = [f for f in parse_states(facts.text(_LINKED)) if f.is_file and _is_given_away(f, people)]
    given_away += [f"{f} by a link" for f in linked]
    check.nothing(given_away, expected="nothing below /etc that a person or a group may change")


def _is_given_away(file: FileState, people: set[str]) -> bool:
    return file.owner in people or (file.group != "root" and bool(file.permissions & _GROUP_WRITE))


@pytest.mark.control("fs-suid-allowlist")
def test_suid_programs_are_expected(facts: Facts, check: Check, flavour: Flavour) -> None:
    allowed = flavour.allowed("suid")
    found = _audit(facts, lambda f: f.is_file and bool(f.permissions & _SUID))
    check.nothing(
        (f for f in found if f.path not in allowed or f.owner != "root"),
        expected="no SUID file but those of expect.suid",
    )


@pytest.mark.control("fs-sgid-allowlist")
def test_sgid_programs_are_expected(facts: Facts, check: Check, flavour: Flavour) -> None:
    allowed = flavour.allowed("sgid")
    found = _audit(facts, lambda f: f.is_file and bool(f.permissions & _SGID))
    check.nothing((f for f in found if f.path not in allowed), expected="no SGID file but those of expect.sgid")


@pytest.mark.control("fs-filecaps-allowlist")
def test_file_capabilities_are_expected(facts: Facts, check: Check, flavour: Flavour) -> None:
    answer = facts.ask(capabilities_command(local_trees(_mounts(facts))))
    capabilities = parse_capabilities(answer.status, answer.stdout, answer.stderr)
    found = [f"{path} {held}" for path, held in capabilities.items()]
    allowed = flavour.allowed("file-capabilities")
    check.nothing(
        (one for one in found if one not in allowed),
        expected="no file capability but those of expect.file-capabilities",
    )


@pytest.mark.probe("files")
def test_modes_and_owners(row: Control, facts: Facts, check: Check) -> None:
    entries = (row.probe or {})["files"]
    asked = [pattern for entry in entries for pattern in entry["path"]]
    found = parse_states(facts.text(states_command(asked, follow=True)))
    for entry in entries:
        states = [state for state in found if any(fnmatchcase(state.path, pattern) for pattern in entry["path"])]
        if entry.get("absent"):
            check.nothing(states, expected=f"no {', '.join(entry['path'])}")
        if entry.get("needed"):
            missing = [p for p in entry["path"] if not any(fnmatchcase(state.path, p) for state in states)]
            check.nothing(missing, expected=f"{', '.join(entry['path'])} exist; missing: none")
        for state in states if "mode" in entry else ():
            _judge_state(state, entry, check)
    if any("mode" in entry for entry in entries):
        check.nothing(parse_acls(facts.text(acls_command(asked))), expected="no access control list on any of them")
    if not check.observations:
        check.not_applicable(f"the guest has none of {', '.join(asked)}")


def _judge_state(state: FileState, entry: Mapping[str, Any], check: Check) -> None:
    most = int(entry["mode"], 8)
    owned = state.owner in entry["owners"] and state.group in entry["groups"]
    expected = f"{state.path} at most {most:04o}, of {' or '.join(entry['owners'])}:{' or '.join(entry['groups'])}"
    check.holds(owned and not state.permissions & ~most, expected=expected, seen=state)


@pytest.mark.probe("mount")
def test_mount_options(row: Control, facts: Facts, check: Check) -> None:
    probe = row.probe or {}
    point, wanted = probe["mount"], probe["options"]
    mount = backing_mount(_mounts(facts), point)
    if mount.target != point and not probe["separate"]:
        check.not_applicable(f"{point} is no mount of its own: it lies on {mount.target}")
    if mount.target != point:
        check.holds(False, expected=f"{point} is a mount of its own", seen=f"it lies on {mount.target}")
    missing = [option for option in wanted if option not in mount.options | mount.super_options]
    check.nothing(missing, expected=f"{point} has {', '.join(wanted)}; missing: none")
