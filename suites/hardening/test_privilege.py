"""Ways to more privilege: sudo, PAM, root's environment, consoles that log in by themselves."""

from __future__ import annotations

import re
import shlex
from pathlib import PurePosixPath

import pytest
from seatrial.check import Check
from seatrial.evidence.accounts import (
    GROUPS,
    LOGIN_DEFS,
    LOGIN_SHELL,
    PASSWD,
    Account,
    parse_groups,
    parse_login_defs,
    parse_login_shell,
    parse_passwd,
    user_shell_command,
)
from seatrial.evidence.cmdline import CMDLINE, parse_cmdline
from seatrial.evidence.credentials import BROUGHT, Credential, parse_brought
from seatrial.evidence.files import lines_by_file, parse_states, states_command
from seatrial.evidence.pam import PAM_STACKS, parse_services
from seatrial.evidence.sudoers import SUDOERS, Sudoers, parse_sudoers
from seatrial.evidence.units import UNIT_FOLDERS
from seatrial.guest.facts import Facts
from seatrial.policy.flavours import Flavour

_AUTOLOGIN = (
    "grep -arsE -- '^[^#;]*(--autologin|agetty (.* )?(-a|-n|--skip-login)( |$)|login (.* )?-f( |$))'"
    f" {UNIT_FOLDERS} /etc/inittab;"
    " grep -arsiE '^[[:space:]]*(automaticloginenable[[:space:]]*=[[:space:]]*(true|1)|autologin-user[[:space:]]*=)'"
    " /etc/gdm /etc/gdm3 /etc/lightdm; true"
)
_AUTOLOGIN_WORD = re.compile(r"([\w.]*\.)?autologin\b")
# What the system was given (systemd.exec(5)), beside what the image brings.
_GIVEN = "/run/credentials/@system"
_CREDENTIALS = f"if [ -d {_GIVEN} ]; then ls -1A {_GIVEN}; fi"
_OTHERS_PASSWORD = frozenset({"targetpw", "rootpw", "runaspw"})
# What cloud-init writes for the users of its user-data, and what the other ways in write; the run's own user is there.
_RUN_SUDOERS = ("/etc/sudoers.d/90-cloud-init-users", "/etc/sudoers.d/90-seatrial-run")
_SYSTEM_FOLDER = re.compile(r"(/usr(/local)?|/opt(/[\w-]+)?|/snap|/var/lib/snapd/snap)?/s?bin|/usr/libexec")


def _sudoers(facts: Facts, check: Check) -> Sudoers:
    files = dict(lines_by_file(facts.text(SUDOERS)))
    if not files:
        check.not_applicable("the image has neither sudo nor a sudoers file")
    files.pop("/", None)
    return parse_sudoers(files)


def _command_line(facts: Facts, check: Check) -> list[str]:
    words = facts.text(CMDLINE).split()
    return words or check.cannot_tell("/proc/cmdline is empty")


@pytest.mark.control("acct-sudo-auth")
def test_sudo_asks_for_a_password(facts: Facts, check: Check, flavour: Flavour) -> None:
    sudoers = _sudoers(facts, check)
    own = flavour.access.user if flavour.access.route != "existing" else None
    free = [
        f"{path}: {rule}"
        for path, rule in sudoers.rules
        if re.search(r"\bNOPASSWD\s*:", rule) and not (path in _RUN_SUDOERS and rule.split()[0] == own)
    ]
    check.nothing(free, expected="no NOPASSWD but for the run's own user")
    check.holds(
        sudoers.default("authenticate") is not False,
        expected="no '!authenticate'",
        seen=f"authenticate = {sudoers.default('authenticate')}",
    )
    spared = [scope for scope, value in sudoers.exceptions("authenticate") if value is False]
    check.nothing(spared, expected="no '!authenticate' in Defaults for somebody alone")
    groups = [word for _scope, word in sudoers.defaults if re.match(r"exempt_group\s*=", word)]
    check.nothing(groups, expected="no exempt_group, whose members are never asked")


def _is_safe(path: object) -> bool:
    """Return whether a search path names folders of the system alone, which nobody else may write to."""
    folders = path.strip('"').split(":") if isinstance(path, str) else []
    return bool(folders) and all(_SYSTEM_FOLDER.fullmatch(folder) for folder in folders)


@pytest.mark.control("acct-sudo-hygiene")
def test_sudo_is_careful(facts: Facts, check: Check) -> None:
    sudoers = _sudoers(facts, check)
    check.equal(sudoers.default("use_pty"), True, what="sudo's use_pty")
    paths = [("", sudoers.default("secure_path")), *sudoers.exceptions("secure_path")]
    unsafe = [f"secure_path = {path}{f' for {scope}' if scope else ''}" for scope, path in paths if not _is_safe(path)]
    check.nothing(unsafe, expected="sudo's secure_path set, to folders of the system alone")
    check.holds(
        sudoers.default("env_reset") is not False,
        expected="env_reset",
        seen=f"env_reset = {sudoers.default('env_reset')}",
    )
    weaker = [f"{name} off for {s}" for name in ("use_pty", "env_reset") for s, v in sudoers.exceptions(name) if not v]
    check.nothing(weaker, expected="use_pty and env_reset off for nobody alone")
    for scope, timeout in (("", sudoers.default("timestamp_timeout")), *sudoers.exceptions("timestamp_timeout")):
        minutes = "5" if timeout is None else "0" if timeout is False else str(timeout)
        in_time = re.fullmatch(r"\d{1,3}(\.\d+)?", minutes) is not None and float(minutes) <= 15
        seen = f"timestamp_timeout = {minutes}{f' for {scope}' if scope else ''}"
        check.holds(in_time, expected="sudo forgets within 15 minutes", seen=seen)
    logs = sudoers.default("syslog") is not False or bool(sudoers.default("logfile"))
    check.holds(logs, expected="sudo logs", seen="it does" if logs else "!syslog and no logfile")


@pytest.mark.control("acct-sudo-no-targetpw")
def test_sudo_asks_for_the_callers_password(facts: Facts, check: Check) -> None:
    words = [f"{word}{scope}" for scope, word in _sudoers(facts, check).defaults if word in _OTHERS_PASSWORD]
    check.nothing(words, expected=f"no {', '.join(sorted(_OTHERS_PASSWORD))} in Defaults")


@pytest.mark.control("acct-pam-no-nullok")
def test_pam_refuses_empty_passwords(facts: Facts, check: Check) -> None:
    services = parse_services(facts.text(PAM_STACKS))
    if not any(entry.module == "pam_unix" for entries in services.lines.values() for entry in entries):
        check.cannot_tell("no PAM stack names pam_unix: how the guest checks passwords is unknown")
    found = [
        name
        for name, entries in services.lines.items()
        if any(word.startswith("nullok") for entry in entries for word in entry.arguments)
    ]
    check.nothing(sorted(found), expected="no nullok in the stack of any PAM service")


@pytest.mark.control("acct-umask")
def test_umask_is_tight(facts: Facts, check: Check, flavour: Flavour) -> None:
    value = parse_login_defs(facts.text(LOGIN_DEFS)).get("UMASK", "not set")
    tight = re.fullmatch(r"[0-7]{1,4}", value) is not None and int(value, 8) & 0o027 == 0o027
    check.holds(tight, expected="UMASK 027 or tighter in login.defs", seen=f"UMASK {value}")
    umask = parse_login_shell(facts.text(LOGIN_SHELL)).umask
    check.holds(
        umask & 0o027 == 0o027, expected="umask 0027 or tighter in a login shell of root", seen=f"umask {umask:04o}"
    )
    if (user := _ordinary(facts, flavour)) is not None:
        # With a group of one's own (USERGROUPS_ENAB, login.defs(5)) the group's bits harm nobody.
        needed = 0o007 if (user.name, user.gid) in _groups(facts) else 0o027
        umask = parse_login_shell(facts.text(user_shell_command(user))).umask
        expected = f"umask {needed:04o} or tighter in a login shell of {user.name}"
        check.holds(umask & needed == needed, expected=expected, seen=f"umask {umask:04o}")


def _groups(facts: Facts) -> set[tuple[str, int]]:
    return {(group.name, group.gid) for group in parse_groups(facts.text(GROUPS))}


def _ordinary(facts: Facts, flavour: Flavour) -> Account | None:
    """Return the login user, or, where that is root, an account with a group of its own name: profiles ask for that."""
    accounts, own = parse_passwd(facts.text(PASSWD)), _groups(facts)
    found = [a for a in accounts if a.name == flavour.access.user and a.uid]
    found += [a for a in accounts if 100 <= a.uid < 65534 and (a.name, a.gid) in own]
    return found[0] if found else None


@pytest.mark.control("acct-root-path")
def test_roots_path_is_clean(facts: Facts, check: Check) -> None:
    path = parse_login_shell(facts.text(LOGIN_SHELL)).path
    check.nothing(
        (repr(one) for one in path if not one.startswith("/")), expected="no empty or relative folder in root's PATH"
    )
    # Whoever may write to a folder above puts another in its place.
    folders = [one for one in path if one.startswith("/")]
    above = {str(parent) for one in folders for parent in PurePosixPath(one).parents} - set(folders)
    asked = [shlex.quote(one) for one in (*dict.fromkeys(folders), *sorted(above))]
    states = parse_states(facts.text(states_command(asked, follow=True)))
    open_ones = [state for state in states if state.owner != "root" or state.permissions & 0o022]
    check.nothing(open_ones, expected="folders of root's PATH, and those above, are writable by root only")


@pytest.mark.control("acct-no-autologin")
def test_nobody_is_logged_in_by_itself(facts: Facts, check: Check) -> None:
    check.nothing(facts.lines(_AUTOLOGIN), expected="no autologin in getty units or display managers")
    words = [word for word in _command_line(facts, check) if _AUTOLOGIN_WORD.match(word)]
    check.nothing(words, expected="no autologin on the command line")
    given = [Credential(name=name, where=_GIVEN) for name in facts.lines(_CREDENTIALS)]
    brought = parse_brought(facts.text(BROUGHT), parse_cmdline(facts.text(CMDLINE)))
    check.nothing((one for one in (*given, *brought) if one.is_login), expected="no credential that logs in")
