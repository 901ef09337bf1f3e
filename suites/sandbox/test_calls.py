"""What an ordinary user can ask of the kernel: each is really tried, by a user without any right of its own."""

from __future__ import annotations

import re
from collections.abc import Sequence

import pytest
from seatrial.check import Check
from seatrial.evidence.accounts import GROUPS, LOGIN_DEFS, PASSWD, parse_groups, people
from seatrial.evidence.attempts import ORDINARY, Attempt, harmless_script, parse_attempts
from seatrial.evidence.kconfig import KCONFIG, parse_kconfig
from seatrial.evidence.syscalls import (
    FILTERED,
    KILLED,
    SYSCALLS,
    Answered,
    landlock_abi_of,
    parse_answers,
    parse_syscalls,
)
from seatrial.evidence.sysctl import SYSCTLS, parse_sysctls
from seatrial.evidence.usermode import USERMODE, parse_usermode
from seatrial.guest.facts import Facts
from seatrial.policy.flavours import Flavour

NAMESPACE = "make a user namespace"
# What nobody may do but root. Opening a setting for writing changes nothing: nothing is written.
_SETTINGS = "/proc/sys/kernel/modprobe /proc/sys/kernel/core_pattern /proc/sys/kernel/hotplug /sys/kernel/uevent_helper"
REDIRECT = "open a helper of the kernel for writing"
# A process is looked at by another of the same user that is no child of it: first what is allowed (its variables),
# so that the refusal of the second, its memory, has no other reason. Opening the memory asks for the right to trace.
TRACE = "open the memory of a process of the same user"
NO_TARGET = 77
_TARGET = (
    f"{ORDINARY} sleep 60 & p=$!; n=0; "
    "until grep -q sleep /proc/$p/comm || [ $n -ge 50 ]; do sleep 0.1; n=$((n+1)); done; "
    f"{ORDINARY} cat /proc/$p/environ >/dev/null 2>&1 || {{ kill $p; exit {NO_TARGET}; }}; "
    f'{ORDINARY} sh -c ": < /proc/$p/mem"; r=$?; kill $p; exit $r'
)
TRIES = harmless_script(
    {
        NAMESPACE: f"{ORDINARY} unshare --user --map-root-user true",
        REDIRECT: (
            f"{ORDINARY} true || exit; for f in {_SETTINGS}; do if [ -e $f ] && "
            f'{ORDINARY} sh -c ": >> $f" 2>/dev/null; then echo $f; exit 0; fi; done; echo refused; exit 1'
        ),
        TRACE: _TARGET,
    }
)
FAULTS = 'if [ -e /dev/userfaultfd ]; then stat -c "%u %a" /dev/userfaultfd; else echo none; fi'
ACTIONS = "cat /proc/sys/kernel/seccomp/actions_avail"
EVERY_ACTION = ("kill_process", "kill_thread", "trap", "errno", "user_notif", "trace", "log", "allow")
_REFUSED = ("Operation not permitted", "Permission denied", "No space left on device", "Invalid argument")


def _tried(facts: Facts, what: str) -> Attempt:
    return next(one for one in parse_attempts(facts.text(TRIES), expected=3) if one.what == what)


@pytest.mark.control("sb-userns-policy")
def test_user_namespaces_are_as_the_flavour_says(facts: Facts, check: Check, flavour: Flavour) -> None:
    """An ordinary user gets a user namespace, or is refused one, as the flavour promises."""
    attempt = _tried(facts, NAMESPACE)
    if not attempt.succeeded and not any(word in attempt.said for word in _REFUSED):
        check.cannot_tell(f"unshare failed, but not because it was refused: {attempt.said!r}")
    check.one_of(
        "allowed" if attempt.succeeded else "refused",
        flavour.allowed("user-namespaces"),
        what="a user namespace for an ordinary user",
    )


@pytest.mark.control("sb-ptrace-cross")
def test_a_process_cannot_trace_its_sibling(facts: Facts, check: Check) -> None:
    """The memory of a process is closed to another process of the same user that did not start it."""
    attempt = _tried(facts, TRACE)
    if not attempt.succeeded and "Permission denied" not in attempt.said:
        check.cannot_tell(
            f"the memory of the other process was not asked for: {attempt.said or 'no process to look at'}"
        )
    seen = "it was opened" if attempt.succeeded else attempt.said
    check.holds(not attempt.succeeded, expected=f"{TRACE}: Permission denied", seen=seen)


@pytest.mark.control("sb-usermode-helper")
def test_helpers_of_the_kernel_are_roots_own(facts: Facts, check: Check) -> None:
    """What the kernel starts by itself lies in /usr and belongs to root; an ordinary user cannot name another."""
    faults = [one.fault for one in parse_usermode(facts.text(USERMODE)) if one.fault]
    check.nothing(faults, expected="helpers of the kernel in /usr, owned and written by root alone")
    attempt = _tried(facts, REDIRECT)
    if not attempt.succeeded and attempt.said != "refused":
        check.cannot_tell(f"the helpers of the kernel could not be tried: {attempt.said!r}")
    seen = f"{attempt.said} was opened for writing" if attempt.succeeded else attempt.said
    check.holds(not attempt.succeeded, expected=f"{REDIRECT}: refused", seen=seen)


@pytest.mark.control("sb-io-uring")
def test_io_uring_is_closed_to_ordinary_users(facts: Facts, check: Check) -> None:
    """The kernel was told to refuse it, or has none, and does refuse it."""
    disabled = _sysctl(facts, "kernel/io_uring_disabled")
    if disabled is None:
        built = parse_kconfig(facts.text(KCONFIG)).value("IO_URING")
        check.equal(built, "n", what="CONFIG_IO_URING (there is no kernel.io_uring_disabled)")
    else:
        check.one_of(disabled, ("1", "2"), what="kernel.io_uring_disabled")
        if disabled == "1" and (group := _sysctl(facts, "kernel/io_uring_group") or "-1") != "-1":
            members = _people_of(group, facts)
            check.nothing(members, expected=f"no person in group {group} (kernel.io_uring_group), which may use it")
    _refused(facts, check, "io_uring_setup")


@pytest.mark.control("sb-bpf-unpriv-behaviour")
def test_bpf_is_closed_to_ordinary_users(facts: Facts, check: Check) -> None:
    """Loading the smallest program is refused; without anything to make the call with, the setting decides."""
    _refused(facts, check, "bpf", otherwise=("kernel/unprivileged_bpf_disabled", ("1", "2")))


@pytest.mark.control("sb-userfaultfd-behaviour")
def test_faults_of_the_kernel_are_closed_to_ordinary_users(facts: Facts, check: Check) -> None:
    """Handling page faults of the kernel is refused; without anything to make the call with, the setting decides.

    The device asks for nothing but its mode (kernel, admin-guide/mm/userfaultfd).
    """
    device = facts.text(FAULTS).strip()
    if not re.fullmatch(r"none|[0-9]{1,10} [0-7]{1,5}", device):
        check.cannot_tell(f"/dev/userfaultfd is shown as {device[:200]!r}")
    is_closed = device == "none" or (device.startswith("0 ") and int(device.split()[1], 8) & 0o007 == 0)
    check.holds(is_closed, expected="/dev/userfaultfd: root's, closed to others", seen=f"owner and mode {device}")
    _refused(facts, check, "userfaultfd", otherwise=("vm/unprivileged_userfaultfd", ("0",)))


@pytest.mark.control("sb-seccomp-works")
def test_a_program_can_take_calls_from_itself(facts: Facts, check: Check) -> None:
    """The kernel knows every action; a filter of an ordinary user has a call refused, another ends the program."""
    facts.ask_all([ACTIONS, FILTERED, KILLED])
    known = facts.text(ACTIONS).split()
    check.nothing([a for a in EVERY_ACTION if a not in known], expected=f"{', '.join(EVERY_ACTION)}; lacking: none")
    refused = parse_answers(facts.text(FILTERED), expected=5)
    killed = parse_answers(facts.text(KILLED), expected=5)
    if not refused or refused[0] <= 0:
        check.cannot_tell(f"the program that filters its own calls could not be started: answers {refused!r}")
    installed = refused[1:4] == (0, 0, 0)
    check.holds(installed, expected="an ordinary user installs a filter", seen=f"prctl and seccomp gave {refused[1:4]}")
    check.equal(refused[4], -1, what="a call that the filter refuses")
    check.holds(
        not killed, expected="a call that the filter kills ends the program", seen=f"answers {killed or 'none'}"
    )


@pytest.mark.control("sb-landlock-abi")
def test_landlock_is_there_for_programs_that_confine_themselves(facts: Facts, check: Check, flavour: Flavour) -> None:
    """Landlock is active, with at least the interface that the flavour promises."""
    active = facts.text("cat /sys/kernel/security/lsm").strip().split(",")
    check.holds("landlock" in active, expected="landlock among the active security modules", seen=",".join(active))
    least = int(flavour.allowed("landlock-abi")[0])
    calls = parse_syscalls(facts.text(SYSCALLS))
    answer = calls.answers.get("landlock_create_ruleset")
    # Nothing in the image can ask: what came with which release is documented, and the list above says that it is on.
    abi = landlock_abi_of(calls.release) if answer is None else max(answer.result, 0)
    seen = f"ABI {abi} by the release {calls.release}" if answer is None else f"ABI {abi}: the call {answer}"
    check.holds(abi >= least, expected=f"Landlock ABI {least} or newer", seen=seen)


def _people_of(gid: str, facts: Facts) -> list[str]:
    """Return the people and whoever else can log in that belong to the group ``gid``."""
    named = {member for group in parse_groups(facts.text(GROUPS)) if str(group.gid) == gid for member in group.members}
    everybody = people(facts.text(PASSWD), facts.text(LOGIN_DEFS))
    return [a.name for a in everybody if a.uid and (str(a.gid) == gid or a.name in named)]


def _refused(facts: Facts, check: Check, call: str, *, otherwise: tuple[str, Sequence[str]] | None = None) -> None:
    """Record whether ``call`` is refused; where the image has nothing to make it with, whether a setting says so."""
    calls = parse_syscalls(facts.text(SYSCALLS))
    answer: Answered | None = calls.answers.get(call)
    if answer is not None:
        if answer.result < 0 and not answer.is_refused:
            check.cannot_tell(f"{call} by an ordinary user failed for another reason than that it is refused: {answer}")
        check.holds(answer.is_refused, expected=f"{call} by an ordinary user is refused", seen=f"{call} {answer}")
    elif otherwise is not None:
        path, allowed = otherwise
        check.one_of(_sysctl(facts, path), allowed, what=f"{path.replace('/', '.')} (nothing here can call {call})")


def _sysctl(facts: Facts, path: str) -> str | None:
    return parse_sysctls(facts.text(SYSCTLS)).get(path)
