"""What PAM asks of a new password and of one that is wrong; and who may use su."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

import pytest
from seatrial.check import Check
from seatrial.evidence.accounts import GROUPS, PASSWD, parse_groups, parse_passwd
from seatrial.evidence.files import lines_by_file
from seatrial.evidence.pam import PAM_STACKS, SECURITY_FILES, Entry, Services, options_of, parse_services
from seatrial.evidence.settings import rule_holds, rule_text
from seatrial.guest.facts import Facts
from seatrial.policy.flavours import Flavour

_FOLDER = "/etc/security"
_CREDITS = ("dcredit", "ucredit", "lcredit", "ocredit")
# Where distributions keep cracklib's dictionary; its index may be packed.
_DICTIONARIES = (
    "/var/cache/cracklib/cracklib_dict /usr/share/cracklib/pw_dict /usr/lib/cracklib_dict /usr/lib64/cracklib_dict"
)
_DICTIONARY = f"for f in {_DICTIONARIES}; do for i in $f.pwd $f.pwd.gz; do if [ -s $i ]; then echo $i; fi; done; done"
# What pam_wheel understands as the opposite of a limit.
_NO_LIMIT = frozenset({"deny", "trust", "root_only"})
Stack = Sequence[Entry]


def _services(facts: Facts) -> Services:
    return parse_services(facts.text(PAM_STACKS))


def _lines(facts: Facts, name: str) -> tuple[str, ...]:
    """Return the lines of the file ``name`` below /etc/security, those of its fragments before it."""
    files = lines_by_file(facts.text(SECURITY_FILES))
    parts = [lines for path, lines in files.items() if path.startswith(f"{_FOLDER}/{name}.d/")]
    return tuple(line for lines in (*parts, files.get(f"{_FOLDER}/{name}", ())) for line in lines)


def _options(entry: Entry, facts: Facts, check: Check, name: str) -> Mapping[str, str]:
    """Return the settings of a module, by the file ``name`` below /etc/security; another file was not read."""
    options = options_of(entry, _lines(facts, name))
    path = options.get("conf", f"{_FOLDER}/{name}")
    check.holds(path == f"{_FOLDER}/{name}", expected=f"settings in {_FOLDER}/{name}", seen=f"{entry.module}: {path}")
    return options


def _stacks(facts: Facts, check: Check, kind: str) -> Iterator[tuple[str, Stack]]:
    """Give the different ``kind`` stacks that ask pam_unix, each with the name of a service that has it."""
    services = _services(facts)
    stacks = {name: services.stack(name, kind) for name in services.names()}
    asking = {name: stack for name, stack in stacks.items() if any(e.module == "pam_unix" for e in stack)}
    if not asking:
        check.cannot_tell(f"no PAM service asks pam_unix for {kind}: how the guest does it is unknown")
    yield from {stack: (name, stack) for name, stack in asking.items()}.values()


def _place(stack: Stack, module: str, word: str = "") -> int | None:
    wanted = (n for n, e in enumerate(stack) if e.module == module and (not word or word in e.arguments))
    return next(wanted, None)


def _guard(stack: Stack, module: str, word: str = "") -> Entry | None:
    """Return the entry of ``module`` that nobody gets past to pam_unix when it refuses."""
    place, unix = _place(stack, module, word), _place(stack, "pam_unix")
    if place is None or unix is None or place > unix or not stack[place].must_succeed:
        return None
    return None if any(entry.may_skip for entry in stack[:place]) else stack[place]


def _is_reached(stack: Stack, unix: int, after: int) -> bool:
    """Return whether the entry ``after`` is asked when pam_unix, at ``unix``, refuses a password."""
    place = unix
    while place < after:
        refuses = stack[place].module in {"pam_unix", "pam_deny"}
        action = stack[place].action("auth_err") if refuses else "ignore"
        if action in {"die", "done"}:
            return False
        place += 1 + (int(action) if action.isdigit() else 0)
    return place == after


def _judge_options(
    check: Check, options: Mapping[str, str], rules: Mapping[str, tuple[str, Mapping[str, object]]]
) -> None:
    for name, (default, rule) in rules.items():
        value = options.get(name, default)
        check.holds(rule_holds(rule, value), expected=f"{name} {rule_text(rule)}", seen=f"{name} = {value}")


@pytest.mark.control("acct-pw-quality")
def test_new_passwords_are_good(facts: Facts, check: Check) -> None:
    for service, stack in _stacks(facts, check, "password"):
        entry = _guard(stack, "pam_pwquality")
        check.holds(
            entry is not None, expected="pam_pwquality before pam_unix, required", seen=f"{_shown(stack)} for {service}"
        )
        if entry is None:
            continue
        options = _options(entry, facts, check, "pwquality.conf")
        _judge_options(
            check,
            options,
            {
                "minlen": ("8", {"min": 14}),
                "difok": ("1", {"min": 2}),
                "maxrepeat": ("0", {"min": 1, "max": 3}),
                "dictcheck": ("1", {"min": 1}),
                "enforcing": ("1", {"min": 1}),
            },
        )
        # Without it every new password is refused, and somebody will turn the check off.
        found = facts.lines(_DICTIONARY)
        check.holds(bool(found), expected="cracklib's dictionary", seen=", ".join(found) or "no dictionary")
        mixed = rule_holds({"min": 4}, options.get("minclass", "0"))
        mixed = mixed or all(re.fullmatch(r"-[1-9]\d*", options.get(name, "0")) for name in _CREDITS)
        seen = ", ".join(f"{name} = {options[name]}" for name in ("minclass", *_CREDITS) if name in options)
        check.holds(
            mixed, expected="minclass 4, or a negative credit for each class", seen=seen or "no class asked for"
        )


@pytest.mark.control("acct-faillock")
def test_wrong_passwords_lock_the_account(facts: Facts, check: Check) -> None:
    for service, stack in _stacks(facts, check, "auth"):
        before, unix, after = (
            _guard(stack, "pam_faillock", "preauth"),
            _place(stack, "pam_unix"),
            _place(stack, "pam_faillock", "authfail"),
        )
        counted = before is not None and unix is not None and after is not None and _is_reached(stack, unix, after)
        check.holds(
            counted,
            expected="pam_faillock preauth, pam_unix, pam_faillock authfail",
            seen=f"{_shown(stack)} for {service}",
        )
        for entry in (before, stack[after]) if counted and before is not None and after is not None else ():
            options = _options(entry, facts, check, "faillock.conf")
            _judge_options(check, options, {"deny": ("3", {"min": 1, "max": 5})})
            wait = options.get("unlock_time", "600")
            long = wait in {"0", "never"} or rule_holds({"min": 900}, wait)
            check.holds(long, expected="unlock_time 0 or at least 900", seen=f"unlock_time = {wait}")
            root = sorted({"even_deny_root", "root_unlock_time"} & options.keys())
            check.holds(
                bool(root),
                expected="even_deny_root or root_unlock_time",
                seen=", ".join(root) or "root is never locked",
            )


@pytest.mark.control("acct-pw-history")
def test_old_passwords_are_refused(facts: Facts, check: Check) -> None:
    for service, stack in _stacks(facts, check, "password"):
        entry = _guard(stack, "pam_pwhistory")
        check.holds(
            entry is not None, expected="pam_pwhistory before pam_unix, required", seen=f"{_shown(stack)} for {service}"
        )
        if entry is None:
            continue
        options = _options(entry, facts, check, "pwhistory.conf")
        _judge_options(check, options, {"remember": ("10", {"min": 24})})
        missing = [name for name in ("enforce_for_root", "use_authtok") if name not in options]
        check.nothing(missing, expected="enforce_for_root and use_authtok; missing: none")


@pytest.mark.control("acct-su-restricted")
def test_su_is_for_one_group(facts: Facts, check: Check, flavour: Flavour) -> None:
    services = _services(facts)
    for service in [name for name in ("su", "su-l") if name in services.lines] or ["su"]:
        stack = services.stack(service, "auth")
        place = next((n for n, e in enumerate(stack) if e.module == "pam_wheel" and e.must_succeed), None)
        wheel = stack[place] if place is not None else None
        earlier = [entry for entry in stack[:place] if entry.may_skip]
        limits = wheel is not None and not earlier and not _NO_LIMIT & set(wheel.arguments)
        check.holds(
            limits and wheel is not None and "use_uid" in wheel.arguments,
            expected="pam_wheel required with use_uid, before anything lets in",
            seen=f"{_shown(stack)} for {service}",
        )
        if wheel is not None:
            _judge_members(_wheel_group(wheel), facts, check, flavour)


def _wheel_group(wheel: Entry) -> str:
    return next((word.removeprefix("group=") for word in wheel.arguments if word.startswith("group=")), "wheel")


def _judge_members(name: str, facts: Facts, check: Check, flavour: Flavour) -> None:
    allowed = set(flavour.allowed("su-members"))
    if flavour.access.route != "existing":
        allowed.add(flavour.access.user)
    groups = [group for group in parse_groups(facts.text(GROUPS)) if group.name == name]
    if not groups:
        # pam_wheel then takes the group with GID 0, which is root's own.
        check.holds(True, expected=f"members of group {name}: none", seen=f"there is no group {name}")
    gids = {group.gid for group in groups}
    members = [member for group in groups for member in group.members]
    members += [account.name for account in parse_passwd(facts.text(PASSWD)) if account.gid in gids]
    strange = sorted(set(members) - allowed - {"root"})
    check.nothing(strange, expected=f"nobody in group {name} but {', '.join(sorted(allowed)) or 'root'}")


def _shown(stack: Stack) -> str:
    return " ".join(f"{entry.module}({' '.join((entry.control, *entry.arguments))})" for entry in stack) or "nothing"
