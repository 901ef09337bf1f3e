"""The SSH server as it would treat root, an ordinary user, and whomever a Match block names; its keys; its unit."""

from __future__ import annotations

import re
import shlex
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase

import pytest
from seatrial.check import Check
from seatrial.errors import NotRecorded, ObservationError
from seatrial.evidence.accounts import GROUPS, LOGIN_DEFS, PASSWD, Account, parse_groups, parse_passwd, people
from seatrial.evidence.cmdline import CMDLINE, parse_cmdline
from seatrial.evidence.credentials import BROUGHT, parse_brought
from seatrial.evidence.files import (
    acls_command,
    audit_command,
    lines_by_file,
    local_trees,
    parse_acls,
    parse_audit,
    parse_states,
    read_command,
    states_command,
)
from seatrial.evidence.first_start import OWN_KEY_FILES, first_start_s, started_command
from seatrial.evidence.greeting import KERNEL_RELEASE, leaks
from seatrial.evidence.mounts import MOUNTINFO, parse_mountinfo
from seatrial.evidence.os_release import OS_RELEASE, parse_os_release
from seatrial.evidence.settings import rule_holds, rule_text
from seatrial.evidence.sshd import (
    CONFIG_LINES,
    Caller,
    HostKey,
    callers,
    expand_keys_file,
    host_key_paths,
    host_keys_command,
    moduli_command,
    parse_host_keys,
    parse_moduli,
    parse_settings,
    settings_command,
    validate_command,
)
from seatrial.evidence.sshd_start import (
    INSTANCES,
    LISTENERS,
    environment_command,
    options_of_instances,
    options_of_listeners,
)
from seatrial.evidence.units import UNIT_FILES, UNITS, parse_unit_files, parse_units
from seatrial.guest.facts import Facts
from seatrial.policy.controls import Control
from seatrial.policy.flavours import Flavour

_RUN_KEY = "seatrial-run"
_KEY = re.compile(r"(?:.*\s)?(?:ssh-|ecdsa-|sk-)\S+ [A-Za-z0-9+/=]+(?: (?P<comment>.*))?")
# What systemd's drop-in for sshd asks: the keys of user records, which most accounts do not have.
_RECORDS = re.compile(r"(/usr)?/bin/userdbctl ssh-authorized-keys %u")
_LEAST_BITS = {"RSA": 3072, "RSA-CERT": 3072, "ECDSA": 256, "ED25519": 256, "ECDSA-SK": 256, "ED25519-SK": 256}
_LEAST_MODULUS = 3071  # the file counts from 0
# Who can listen for SSH; a unit of one connection ('sshd@...') comes from its socket.
_LISTENING_UNITS = ("ssh.service", "sshd.service", "ssh*.socket")
_ON = frozenset({"enabled", "wanted", "enabled-runtime", "linked", "linked-runtime"})
_RUNNING = frozenset({"active", "activating", "reloading"})


def _settings(facts: Facts, flavour: Flavour) -> dict[Caller, Mapping[str, tuple[str, ...]]]:
    """Return the effective settings for everybody whom sshd may treat in a way of its own."""
    accounts, groups, config, *_ = facts.texts([PASSWD, GROUPS, CONFIG_LINES, LISTENERS, INSTANCES])
    lines = [line for line in config.split("\n") if line.strip()]
    ordinary = flavour.access.user if flavour.access.user != "root" else "nobody"
    each = callers(lines, ordinary, parse_passwd(accounts), parse_groups(groups))
    asked = [replace(caller, options=options) for options in _starts(facts) for caller in each]
    facts.ask_all(settings_command(caller) for caller in asked)
    return {caller: parse_settings(facts.text(settings_command(caller))) for caller in asked}


def _starts(facts: Facts) -> tuple[tuple[str, ...], ...]:
    """Return the options of each SSH server that runs: they win over its configuration.

    :raises ObservationError: none shows its options.
    """
    listeners, instances = facts.texts([LISTENERS, INSTANCES])
    found = options_of_listeners(listeners)
    if instances.strip():
        found += options_of_instances(instances, facts.text(environment_command(instances)))
    if not found:
        raise ObservationError(
            "no SSH server of the guest shows the options that it was started with, which win over its configuration",
            hint="no process shows '/path/sshd' as its command, and no unit 'ssh*@*.service' that starts it is loaded",
        )
    return tuple(dict.fromkeys(found))


@pytest.mark.control("ssh-effective-config-parses")
def test_configuration_is_valid(facts: Facts, check: Check, flavour: Flavour) -> None:
    for options in _starts(facts):
        answer = facts.ask(validate_command(options))
        if answer.status in {126, 127}:
            check.cannot_tell(f"sshd cannot be run in the guest: {answer.stderr.strip()[-200:]!r}")
        check.holds(
            answer.status == 0,
            expected=f"'{' '.join(['sshd -t', *options])}' accepts the configuration",
            seen=answer.stderr.strip() or f"exit status {answer.status}",
        )
        if answer.status != 0:
            return
    check.holds(
        True, expected="settings for all callers", seen=f"settings for {len(_settings(facts, flavour))} callers"
    )


@pytest.mark.probe("sshd")
def test_setting(row: Control, facts: Facts, check: Check, flavour: Flavour) -> None:
    probe = dict(row.probe or {})
    what, absent = probe.pop("sshd"), probe.pop("absent", None)
    rules = {what: probe} if isinstance(what, str) else what
    for caller, settings in _settings(facts, flavour).items():
        for keyword, rule in rules.items():
            if keyword not in settings and absent != "ok":
                check.cannot_tell(f"'sshd -T' says nothing of {keyword!r} for {caller}")
            if keyword not in settings:
                check.holds(True, expected=f"{keyword} {rule_text(rule)}", seen=f"sshd was built without {keyword}")
            for value in settings.get(keyword, ()):
                check.holds(
                    rule_holds(rule, value),
                    expected=f"{keyword} {rule_text(rule)}",
                    seen=f"{keyword} {value} for {caller}",
                )


@pytest.mark.control("ssh-max-startups")
def test_startups_are_throttled(facts: Facts, check: Check, flavour: Flavour) -> None:
    for caller, settings in _settings(facts, flavour).items():
        value = settings.get("maxstartups", ("not set",))[0]
        numbers = (
            [int(n) for n in value.split(":")] if re.fullmatch(r"\d{1,6}:\d{1,3}:\d{1,6}", value) else [10**6, 0, 10**6]
        )
        start, rate, full = numbers
        check.holds(
            start <= 10 and rate >= 30 and full <= 60,
            expected="maxstartups 10:30:60 or tighter",
            seen=f"maxstartups {value} for {caller}",
        )


@pytest.mark.control("ssh-forwarding")
def test_forwarding_is_off(facts: Facts, check: Check, flavour: Flavour) -> None:
    """Each kind is off; one switch for all counts for ports and sockets only.

    Before OpenSSH 10.0 DisableForwarding left X11 and the agent alone (CVE-2025-32728), and it never meant tunnels.
    """
    ports = ("allowtcpforwarding", "allowstreamlocalforwarding", "gatewayports")
    for caller, settings in _settings(facts, flavour).items():
        others = () if settings.get("disableforwarding") == ("yes",) else ports
        switches = ("allowagentforwarding", "x11forwarding", "permittunnel", *others)
        on = [f"{name} {settings[name][0]}" for name in switches if settings.get(name, ("no",)) != ("no",)]
        seen = f"of {', '.join(switches)}: {', '.join(on) or 'none'}"
        check.holds(not on, expected=f"forwarding and tunnels off for {caller}", seen=seen)


def _host_key_patterns(facts: Facts, flavour: Flavour) -> tuple[str, ...]:
    try:
        settings = _settings(facts, flavour)
    except NotRecorded:
        raise
    except ObservationError:
        # Open keys are a reason why sshd says nothing; that it does is ssh-effective-config-parses.
        return host_key_paths([])
    return host_key_paths(path for one in settings.values() for path in one.get("hostkey", ()))


def _host_keys(facts: Facts, check: Check, flavour: Flavour) -> tuple[HostKey, ...]:
    patterns = _host_key_patterns(facts, flavour)
    keys = parse_host_keys(facts.text(host_keys_command(patterns)))
    return keys or check.cannot_tell(f"none of the host keys {' '.join(patterns)} was found, though sshd answers")


@pytest.mark.control("ssh-hostkey-perms")
def test_host_keys_are_for_root_alone(facts: Facts, check: Check, flavour: Flavour) -> None:
    patterns = _host_key_patterns(facts, flavour)
    private = parse_states(facts.text(states_command(patterns, follow=True)))
    public = parse_states(facts.text(states_command([f"{pattern}.pub" for pattern in patterns], follow=True)))
    if not private:
        check.cannot_tell(f"none of the host keys {' '.join(patterns)} was found, though sshd answers")
    for states, most, groups in ((private, 0o640, ("root", "ssh_keys")), (public, 0o644, ("root",))):
        check.nothing(
            (s for s in states if s.permissions & ~most or s.owner != "root" or s.group not in groups),
            expected=f"{len(states)} {'private' if states is private else 'public'} keys, at most {most:04o}, of root",
        )
    check.nothing(parse_acls(facts.text(acls_command(patterns))), expected="no access control list on a private key")


@pytest.mark.control("ssh-hostkey-strong")
def test_host_keys_are_strong(facts: Facts, check: Check, flavour: Flavour) -> None:
    keys = _host_keys(facts, check, flavour)
    weak = [f"{k.path} ({k.kind}, {k.bits} bits)" for k in keys if k.bits < _LEAST_BITS.get(k.kind, 10**6)]
    check.nothing(weak, expected="no host key but Ed25519, ECDSA, and RSA of 3072 bits and more")
    twice = [digest for digest, count in Counter(k.digest for k in keys).items() if count > 1]
    check.nothing(twice, expected="each host key once")


@pytest.mark.control("ssh-hostkeys-per-instance")
def test_host_keys_were_made_by_this_guest(facts: Facts, check: Check, flavour: Flavour) -> None:
    keys = _host_keys(facts, check, flavour)
    home = next((a.home for a in parse_passwd(facts.text(PASSWD)) if a.name == flavour.access.user), "/root")
    route = flavour.access.route
    started = facts.text(started_command(home, by_ignition=route == "ignition"))
    first = first_start_s(started, is_shipped=route == "existing")
    shipped = [f"{k.path} (made {first - k.made_s} s before)" for k in keys if k.made_s < first - 5]
    check.nothing(shipped, expected="no host key older than the guest's first boot")


@pytest.mark.control("acct-no-baked-keys")
def test_only_the_runs_key_opens_accounts(facts: Facts, check: Check, flavour: Flavour) -> None:
    everybody = people(facts.text(PASSWD), facts.text(LOGIN_DEFS))
    settings = _settings(facts, flavour).values()
    patterns = {
        p for one in settings for value in one.get("authorizedkeysfile", ()) for p in value.split() if p != "none"
    }
    paths = list(
        dict.fromkeys([*_key_files(facts), *(expand_keys_file(p, a) for a in everybody for p in sorted(patterns))])
    )
    keys = lines_by_file(facts.text(read_command(paths)), paths)
    own = [path for a in everybody if a.name == flavour.access.user for path in _own_files(a)]
    if flavour.access.route == "existing":
        own = []  # the image's own key is what is asked for
    check.nothing(_foreign_keys(keys.items(), own), expected=f"no key but this run's in {', '.join(own) or 'none'}")
    commands = {value for one in settings for value in one.get("authorizedkeyscommand", ())} - {"none"}
    if records := [command for command in commands if _RECORDS.fullmatch(command)]:
        asked = {a.name: f"userdbctl ssh-authorized-keys -- {shlex.quote(a.name)} || [ $? = 1 ]" for a in everybody}
        facts.ask_all(asked.values())
        given = [name for name, question in asked.items() if facts.text(question).strip()]
        check.nothing(given, expected="no account with keys in a user record (userdbctl)")
    check.nothing(commands - set(records), expected="no AuthorizedKeysCommand but userdbctl's")
    authorities = {value for one in settings for value in one.get("trustedusercakeys", ())}
    check.nothing(authorities - {"none"}, expected="no TrustedUserCAKeys")
    brought = parse_brought(facts.text(BROUGHT), parse_cmdline(facts.text(CMDLINE)))
    check.nothing((one for one in brought if one.is_ssh_key), expected="no credential of the image's own with keys")


def _own_files(account: Account) -> list[str]:
    return [f"{account.home.rstrip('/')}/.ssh/{name}" for name in OWN_KEY_FILES]


def _key_files(facts: Facts) -> list[str]:
    answer = facts.ask(audit_command(local_trees(parse_mountinfo(facts.text(MOUNTINFO)))))
    found = parse_audit(answer.status, answer.stdout, answer.stderr)
    return [file.path for file in found if file.is_file and "/authorized_keys" in file.path]


def _foreign_keys(files: Iterable[tuple[str, Sequence[str]]], own: Sequence[str]) -> list[str]:
    foreign = []
    for path, lines in files:
        spared = 1 if path in own else 0
        for line in (line.strip() for line in lines):
            if not line or line.startswith("#"):
                continue
            match = _KEY.fullmatch(line)
            comment = (match["comment"] or "no comment") if match else "no key that we know"
            if spared and comment == _RUN_KEY:
                spared -= 1
            else:
                foreign.append(f"{path} ({comment})")
    return foreign


@pytest.mark.control("ssh-access-limited")
def test_logins_are_limited_by_name(facts: Facts, check: Check, flavour: Flavour) -> None:
    names = ("allowusers", "allowgroups", "denyusers", "denygroups")
    for caller, settings in _settings(facts, flavour).items():
        limits = [f"{name} {value}" for name in names for value in settings.get(name, ()) if _limits(name, value)]
        check.holds(
            bool(limits),
            expected="AllowUsers, AllowGroups, DenyUsers or DenyGroups",
            seen=f"{', '.join(limits[:8]) or 'no limit'} for {caller}",
        )


def _limits(name: str, value: str) -> bool:
    """Return whether the list leaves somebody out: everybody allowed is no limit."""
    return not (name.startswith("allow") and "*" in value.split())


@pytest.mark.control("ssh-moduli")
def test_groups_for_the_key_exchange_are_long(facts: Facts, check: Check, flavour: Flavour) -> None:
    for caller, settings in _settings(facts, flavour).items():
        path = settings.get("modulifile", ("/etc/ssh/moduli",))[0]
        groups = parse_moduli(facts.text(moduli_command(path)))
        if groups is None:
            # Without the file sshd takes groups of its own, the shortest of 2048 bits, when it is asked for one.
            exchanges = ",".join(settings.get("kexalgorithms", ("not told",)))
            asked = "group-exchange" in exchanges or exchanges == "not told"
            seen = f"none in {path}, and {'group exchange is' if asked else 'nobody can ask for one:'} {exchanges}"
            check.holds(not asked, expected=f"long groups in {path}", seen=f"{seen} for {caller}")
            continue
        check.holds(bool(groups), expected=f"groups in {path}", seen=f"an empty {path}: sshd's own have 2048 bits")
        short = [f"{number} groups of {size} bits" for size, number in groups.items() if size < _LEAST_MODULUS]
        check.nothing(short, expected=f"no group shorter than {_LEAST_MODULUS} bits in {path}")


@pytest.mark.control("ssh-banner")
def test_banner_says_nothing_of_the_system(facts: Facts, check: Check, flavour: Flavour) -> None:
    os_release, kernel = parse_os_release(facts.text(OS_RELEASE)), facts.text(KERNEL_RELEASE).strip()
    if "ID" not in os_release or not re.fullmatch(r"\S+", kernel):
        check.cannot_tell(f"the guest names neither itself nor its kernel in a way that we know: {kernel[:100]!r}")
    for caller, settings in _settings(facts, flavour).items():
        path = settings.get("banner", ("none",))[0]
        lines = lines_by_file(facts.text(read_command([path])), [path]).get(path, ()) if path != "none" else ()
        text = "\n".join(lines)
        check.holds(bool(text.strip()), expected="a banner with a text", seen=f"banner {path} for {caller}")
        check.nothing(leaks(text, os_release, kernel), expected=f"nothing about the system in {path}")
        # Debian's sshd adds its version to the protocol's greeting; others have no such setting.
        version = settings.get("debianbanner", ("no",))[0]
        check.holds(version == "no", expected="debianbanner no", seen=f"debianbanner {version} for {caller}")


@pytest.mark.control("ssh-service-state")
def test_sshd_is_started_as_the_flavour_says(facts: Facts, check: Check, flavour: Flavour) -> None:
    wanted = flavour.allowed("ssh-units")
    on = _listening(parse_unit_files(facts.text(UNIT_FILES)), _ON)
    running = _listening(parse_units(facts.text(UNITS)), _RUNNING)
    strange = sorted((on | running) - set(wanted))
    check.nothing(strange, expected=f"nothing that starts sshd but {' or '.join(wanted)}")
    both = sorted(on & running & set(wanted))
    seen = f"enabled: {', '.join(sorted(on)) or 'none'}; running: {', '.join(sorted(running)) or 'none'}"
    check.holds(bool(both), expected=f"{' or '.join(wanted)} enabled and running", seen=seen)


def _listening(units: Mapping[str, str], states: frozenset[str]) -> set[str]:
    named = {unit for unit, state in units.items() if state in states and "@" not in unit}
    return {unit for unit in named if any(fnmatchcase(unit, pattern) for pattern in _LISTENING_UNITS)}
