"""Accounts, groups and passwords of the guest."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import pytest
from seatrial.check import Check
from seatrial.evidence.accounts import (
    ACCOUNT_FILES,
    GROUPS,
    LOGIN_DEFS,
    NEW_ACCOUNTS,
    PASSWD,
    SHADOW,
    SHELL_TIMEOUT,
    SHELLS,
    Account,
    Group,
    Secret,
    is_legacy,
    parse_groups,
    parse_login_defs,
    parse_new_accounts,
    parse_passwd,
    parse_shadow,
    parse_shell_timeout,
    parse_shells,
    uid_min,
)
from seatrial.evidence.cmdline import CMDLINE, parse_cmdline
from seatrial.evidence.credentials import BROUGHT, parse_brought
from seatrial.evidence.files import lines_by_file
from seatrial.evidence.pam import PAM_STACKS, parse_services
from seatrial.evidence.settings import rule_holds, rule_text
from seatrial.guest.facts import Facts
from seatrial.policy.controls import Control
from seatrial.policy.flavours import Flavour

_STRONG_SCHEMES = frozenset({"y", "gy", "6"})
# What pam_unix(8) is told wins over ENCRYPT_METHOD.
_WEAK_WORDS = frozenset({"md5", "bigcrypt", "sha256", "blowfish"})
_UNSHADOWED = frozenset({"x", "*"})


def accounts_of(facts: Facts) -> tuple[Account, ...]:
    return parse_passwd(facts.text(PASSWD))


def groups_of(facts: Facts) -> tuple[Group, ...]:
    return parse_groups(facts.text(GROUPS))


def file_lines(facts: Facts, path: str) -> tuple[str, ...]:
    # grep says 2 when one of the files is missing; gshadow may be.
    return lines_by_file(facts.text(ACCOUNT_FILES, allowed=(0, 2))).get(path, ())


def secrets_of(facts: Facts, check: Check) -> tuple[Secret, ...]:
    """Return what /etc/shadow and the other sources of nss hold, and the passwords that stand in passwd itself."""
    secrets = parse_shadow("\n".join(file_lines(facts, "/etc/shadow")))
    if not secrets:
        check.cannot_tell("/etc/shadow is missing or empty: nothing says whether passwords are locked")
    others = parse_shadow(facts.text(SHADOW))
    unshadowed = [Secret(name=a.name, field=a.password) for a in accounts_of(facts) if a.password not in _UNSHADOWED]
    return tuple(dict.fromkeys((*secrets, *others, *unshadowed)))


def _more_than_once(values: Iterable[object]) -> list[object]:
    return [value for value, number in Counter(values).items() if number > 1]


@pytest.mark.control("acct-uid0-only-root")
def test_only_root_has_uid_0(facts: Facts, check: Check) -> None:
    check.equal([a.name for a in accounts_of(facts) if a.uid == 0], ["root"], what="accounts with UID 0")


@pytest.mark.control("acct-gid0-only-root")
def test_only_root_has_gid_0(facts: Facts, check: Check) -> None:
    accounts = [
        a.name for a in accounts_of(facts) if a.gid == 0 and (a.name == "root" or a.has_login_shell or a.uid >= 100)
    ]
    # Others of RPM systems (sync, shutdown, halt, operator) hold group 0 by design and cannot log in.
    check.equal(accounts, ["root"], what="accounts with the primary group 0")
    groups = [g for g in groups_of(facts) if g.gid == 0]
    check.equal([g.name for g in groups], ["root"], what="groups with GID 0")
    check.nothing((m for g in groups for m in g.members if m != "root"), expected="no members of group root")


@pytest.mark.control("acct-unique-ids")
def test_names_and_ids_are_unique(facts: Facts, check: Check) -> None:
    accounts, groups = accounts_of(facts), groups_of(facts)
    for what, values in (
        ("user name", [a.name for a in accounts]),
        ("UID", [a.uid for a in accounts]),
        ("group name", [g.name for g in groups]),
        ("GID", [g.gid for g in groups]),
    ):
        check.nothing((f"{what} {value}" for value in _more_than_once(values)), expected=f"each {what} once")


@pytest.mark.control("acct-shadowed")
def test_passwords_are_shadowed(facts: Facts, check: Check) -> None:
    accounts = parse_passwd("\n".join(file_lines(facts, "/etc/passwd")))
    if not accounts:
        check.cannot_tell("/etc/passwd is missing or empty")
    open_ones = [a.name for a in accounts if a.password not in _UNSHADOWED]
    check.nothing(open_ones, expected="'x' or '*' in the password field of every line of /etc/passwd")
    others = [a.name for a in accounts_of(facts) if a.password not in _UNSHADOWED and not a.password.startswith("!")]
    check.nothing(others, expected="no password in the entries that other sources add (getent passwd)")


@pytest.mark.control("acct-no-empty-password")
def test_no_password_is_empty(facts: Facts, check: Check) -> None:
    check.nothing((s.name for s in secrets_of(facts, check) if s.is_empty), expected="no empty password field")


@pytest.mark.control("acct-no-default-password")
def test_no_account_has_a_usable_password(facts: Facts, check: Check) -> None:
    usable = [s.name for s in secrets_of(facts, check) if not s.is_empty and not s.is_locked]
    check.nothing(usable, expected="every account locked ('!' or '*')")
    brought = parse_brought(facts.text(BROUGHT), parse_cmdline(facts.text(CMDLINE)))
    check.nothing(
        (one for one in brought if one.is_password), expected="no credential of the image's own with a password"
    )


@pytest.mark.control("acct-root-locked")
def test_root_has_no_password(facts: Facts, check: Check) -> None:
    root = [s for s in secrets_of(facts, check) if s.name == "root"]
    if not root:
        check.cannot_tell("/etc/shadow has no line for root")
    check.holds(
        all(s.is_locked for s in root),
        expected="root locked",
        seen="locked" if root[0].is_locked else "a password or none",
    )


@pytest.mark.control("acct-system-nologin")
def test_system_accounts_cannot_log_in(facts: Facts, check: Check, flavour: Flavour) -> None:
    first = uid_min(parse_login_defs(facts.text(LOGIN_DEFS)))
    # Flatcar's 'core' has UID 500: an account that the flavour names is one of people.
    named = flavour.allowed("interactive-accounts")
    system = [a for a in accounts_of(facts) if (0 < a.uid < first or a.uid == 65534) and a.name not in named]
    open_ones = [f"{a.name} ({a.shell or '/bin/sh'})" for a in system if a.has_login_shell]
    check.nothing(open_ones, expected=f"no login shell for accounts with a UID below {first}")


@pytest.mark.control("acct-interactive-allowlist")
def test_interactive_accounts_are_expected(facts: Facts, check: Check, flavour: Flavour) -> None:
    allowed = set(flavour.allowed("interactive-accounts"))
    if flavour.access.route != "existing":
        allowed.add(flavour.access.user)
    first = uid_min(parse_login_defs(facts.text(LOGIN_DEFS)))
    people = [a for a in accounts_of(facts) if a.has_login_shell and (a.uid == 0 or a.uid >= first)]
    check.nothing(
        (f"{a.name} ({a.shell or '/bin/sh'})" for a in people if a.name not in allowed),
        expected=f"no accounts with a login shell but {', '.join(sorted(allowed))}",
    )


@pytest.mark.control("acct-no-plus-entries")
def test_no_legacy_entries(facts: Facts, check: Check) -> None:
    files = lines_by_file(facts.text(ACCOUNT_FILES, allowed=(0, 2)))
    lines = [(path, line) for path, some in files.items() for line in some]
    # getent knows more sources than the files of /etc.
    lines += [("getent", line) for question in (PASSWD, GROUPS) for line in facts.text(question).split("\n")]
    found = [f"{where}: {line.partition(':')[0]}" for where, line in lines if is_legacy(line)]
    check.nothing(found, expected="no line that begins with + or -")


@pytest.mark.control("acct-groups-consistent")
def test_groups_are_consistent(facts: Facts, check: Check) -> None:
    accounts, groups = accounts_of(facts), groups_of(facts)
    known = {g.gid for g in groups}
    check.nothing(
        (f"{a.name} ({a.gid})" for a in accounts if a.gid not in known), expected="every primary group exists"
    )
    shadow = [g for g in groups if g.name == "shadow"]
    members = [m for g in shadow for m in g.members] + [a.name for a in accounts if a.gid in {g.gid for g in shadow}]
    check.nothing(members, expected="no members of group shadow")


@pytest.mark.control("acct-pw-hash")
def test_hashes_are_strong(facts: Facts, check: Check) -> None:
    method = parse_login_defs(facts.text(LOGIN_DEFS)).get("ENCRYPT_METHOD", "not set (DES)")
    check.one_of(method.upper(), ["YESCRYPT", "SHA512"], what="ENCRYPT_METHOD")
    if stacks := facts.text(PAM_STACKS).strip():
        services = parse_services(stacks)
        named = {
            f"{word} for {name}"
            for name in services.names()
            for entry in services.stack(name, "password")
            if entry.module == "pam_unix"
            for word in _WEAK_WORDS & set(entry.arguments)
        }
        check.nothing(sorted(named), expected=f"none of {', '.join(sorted(_WEAK_WORDS))} for pam_unix")
    weak = [f"{s.name} ({s.scheme})" for s in secrets_of(facts, check) if s.scheme and s.scheme not in _STRONG_SCHEMES]
    check.nothing(weak, expected="no hash but yescrypt ($y$) and SHA-512 ($6$)")


@pytest.mark.probe("login-defs")
def test_login_defs(row: Control, facts: Facts, check: Check) -> None:
    settings = parse_login_defs(facts.text(LOGIN_DEFS))
    for name, rule in (row.probe or {})["login-defs"].items():
        value = settings.get(name, "not set")
        check.holds(rule_holds(rule, value), expected=f"{name} {rule_text(rule)}", seen=f"{name} = {value}")


@pytest.mark.control("acct-invalid-shell-locked")
def test_accounts_without_a_valid_shell_have_no_password(facts: Facts, check: Check) -> None:
    valid = parse_shells(facts.text(SHELLS))
    unlocked = {secret.name for secret in secrets_of(facts, check) if not secret.is_locked}
    odd = [a for a in accounts_of(facts) if (a.shell or "/bin/sh") not in valid and a.name in unlocked]
    check.nothing(
        (f"{a.name} ({a.shell or '/bin/sh'})" for a in odd),
        expected="no password where the shell is not in /etc/shells",
    )


@pytest.mark.control("acct-nologin-not-a-shell")
def test_nologin_is_no_shell(facts: Facts, check: Check) -> None:
    found = [shell for shell in sorted(parse_shells(facts.text(SHELLS))) if shell.endswith(("/nologin", "/false"))]
    check.nothing(found, expected="neither nologin nor false in /etc/shells")


@pytest.mark.control("acct-inactive-lock")
def test_unused_accounts_are_locked(facts: Facts, check: Check) -> None:
    rule = {"min": 1, "max": 45}
    value = parse_new_accounts(facts.text(NEW_ACCOUNTS))["INACTIVE"]
    check.holds(rule_holds(rule, value), expected=f"INACTIVE {rule_text(rule)} days", seen=f"INACTIVE = {value}")


@pytest.mark.control("acct-shell-timeout")
def test_idle_shells_end(facts: Facts, check: Check) -> None:
    timeout = parse_shell_timeout(facts.text(SHELL_TIMEOUT))
    check.holds(
        timeout.seconds is not None and 1 <= timeout.seconds <= 900,
        expected="TMOUT from 1 to 900",
        seen=f"TMOUT = {timeout.seconds if timeout.seconds is not None else 'not a number'}",
    )
    check.holds(
        timeout.is_exported, expected="TMOUT exported", seen="exported" if timeout.is_exported else "not exported"
    )
    check.nothing(timeout.escapes, expected="an ordinary user can neither change nor unset TMOUT")
