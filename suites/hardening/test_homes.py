"""Homes of the guest's accounts."""

from __future__ import annotations

import re
import shlex

import pytest
from seatrial.check import Check
from seatrial.evidence.accounts import LOGIN_DEFS, PASSWD, Account, parse_login_defs, parse_passwd, people, uid_min
from seatrial.evidence.files import (
    FileState,
    acls_command,
    lines_by_file,
    parse_acls,
    parse_states,
    read_command,
    states_command,
)
from seatrial.guest.facts import Facts
from seatrial.policy.flavours import Flavour

# From here on systemd gives ids to services that run, and getent names them (systemd, UIDS-GIDS: DynamicUser=).
_FIRST_DYNAMIC = 61184
_TRUST_FILES = (".rhosts", ".shosts", ".netrc", ".forward")
_REMAINS = re.compile(r"\.(?:bash|ash|sh|zsh|python|mysql|psql|sqlite)_history|\.viminfo|\.lesshst|\.wget-hsts")


def _people(facts: Facts, flavour: Flavour) -> tuple[Account, ...]:
    """Return whose homes matter; that a system account has a login shell is not its home's fault."""
    login_defs = facts.text(LOGIN_DEFS)
    first, named = uid_min(parse_login_defs(login_defs)), flavour.allowed("interactive-accounts")
    everybody = people(facts.text(PASSWD), login_defs)
    return tuple(a for a in everybody if a.name in named or a.uid == 0 or first <= a.uid < _FIRST_DYNAMIC)


def _homes(facts: Facts, flavour: Flavour) -> list[str]:
    return list(dict.fromkeys(shlex.quote(account.home) for account in _people(facts, flavour)))


def _dot_files(facts: Facts, *, follow: bool = False) -> dict[str, FileState]:
    """Return the dot files in the homes of all accounts: services trust and remember as people do."""
    homes = dict.fromkeys(a.home.rstrip("/") for a in parse_passwd(facts.text(PASSWD)) if a.home.startswith("/"))
    # '.[!.]*' leaves out the folder itself and the one above.
    files = parse_states(facts.text(states_command([f"{shlex.quote(home)}/.[!.]*" for home in homes], follow=follow)))
    return {file.path: file for file in files}


@pytest.mark.control("acct-home-perms")
def test_homes_are_closed(facts: Facts, check: Check, flavour: Flavour) -> None:
    states = {
        state.path: state for state in parse_states(facts.text(states_command(_homes(facts, flavour), follow=True)))
    }
    wrong = []
    for account in _people(facts, flavour):
        state = states.get(account.home)
        if state is None:
            wrong.append(f"{account.home!r} of {account.name} does not exist")
        elif not state.is_dir or state.owner != account.name or state.permissions & 0o027:
            wrong.append(f"{state} of {account.name}")
    check.nothing(wrong, expected="every home exists, is its account's, and 0750 or tighter")
    lists = parse_acls(facts.text(acls_command(_homes(facts, flavour))))
    check.nothing(lists, expected="no access control list on a home")


@pytest.mark.control("acct-dotfiles")
def test_homes_hold_no_trust_files(facts: Facts, check: Check, flavour: Flavour) -> None:
    files = _dot_files(facts)
    trust = [state for path, state in files.items() if path.rsplit("/", 1)[-1] in _TRUST_FILES]
    check.nothing(trust, expected=f"no {', '.join(_TRUST_FILES)} in homes")
    owners = {account.home: account.name for account in _people(facts, flavour)}
    of_people = {
        path: (state, owners[home])
        for path, state in _dot_files(facts, follow=True).items()
        if (home := path.rpartition("/")[0]) in owners
    }
    writable = [
        f"{state}{' by a link' if path in files and files[path].is_link else ''}"
        for path, (state, owner) in of_people.items()
        # A link to nothing is another control's (fs-dead-links), and one to /dev/null is harmless.
        if (state.is_file or state.is_dir) and (state.permissions & 0o022 or state.owner not in {"root", owner})
    ]
    check.nothing(writable, expected="no dot file in homes that others than the account and root may write")


@pytest.mark.control("fs-no-history")
def test_homes_hold_no_history(facts: Facts, check: Check) -> None:
    remains = [path for path in _dot_files(facts) if _REMAINS.fullmatch(path.rsplit("/", 1)[-1])]
    filled = lines_by_file(facts.text(read_command(remains)), remains) if remains else {}
    check.nothing(filled, expected="no shell history or editor remains in homes, or empty ones")
