"""Services and programs that a hardened guest does not have, and what becomes of core dumps."""

from __future__ import annotations

import re

import pytest
from seatrial.check import Check
from seatrial.evidence.cmdline import CMDLINE
from seatrial.evidence.sysctl import parse_sysctls, sysctls_command
from seatrial.evidence.systemd import MANAGER, parse_show
from seatrial.evidence.units import (
    UNIT_FILES,
    UNITS,
    config_command,
    matching_units,
    parse_config,
    parse_unit_files,
    parse_units,
)
from seatrial.guest.facts import Facts
from seatrial.policy.controls import Control

_LEGACY = (
    "telnet telnetd in.telnetd rsh rlogin rexec rcp rshd in.rshd in.rlogind in.rexecd talk ntalk talkd in.talkd "
    "in.ntalkd tftp in.tftpd tftpd atftpd ypserv ypbind inetd inetutils-inetd xinetd "
    "rwho rwhod rusersd finger fingerd in.fingerd"
)
# A link of an old name to OpenSSH is no legacy program.
_LEGACY_PROGRAMS = (
    "for d in /usr/local/sbin /usr/local/bin /usr/sbin /usr/bin /sbin /bin /usr/libexec; do "
    f"for p in {_LEGACY}; do if [ -e $d/$p ]; then echo $d/$p is $(readlink -f $d/$p); fi; done; done; "
    "for f in /etc/inetd.conf /etc/xinetd.conf; do if [ -e $f ]; then echo $f; fi; done"
)
_KERNELS_OWN = sysctls_command(["kernel/ctrl-alt-del"])
_CORE = "cat /proc/sys/kernel/core_pattern; ulimit -H -c; systemctl show -p DefaultLimitCORE"


def _command_line(facts: Facts, check: Check) -> list[str]:
    words = facts.text(CMDLINE).split()
    return words or check.cannot_tell("/proc/cmdline is empty")


@pytest.mark.probe("units")
def test_units(row: Control, facts: Facts, check: Check) -> None:
    probe = row.probe or {}
    names = tuple(probe["units"])
    files = parse_unit_files(facts.text(UNIT_FILES))
    refused = frozenset(probe["not"])
    found = matching_units(files, names, refused) + matching_units(parse_units(facts.text(UNITS)), names, refused)
    check.nothing(found, expected=f"none of {len(names)} kinds of servers enabled or running")


@pytest.mark.control("svc-ctrl-alt-del")
def test_ctrl_alt_del_does_nothing(facts: Facts, check: Check) -> None:
    """Neither once nor seven times within two seconds, for which systemd has an action of its own.

    The kernel does not restart by itself either: CtrlAltDelBurstAction= in systemd-system.conf(5), ctrlaltdel(8).
    """
    facts.ask_all([UNIT_FILES, MANAGER, _KERNELS_OWN])
    state = parse_unit_files(facts.text(UNIT_FILES)).get("ctrl-alt-del.target", "not installed")
    check.one_of(state, ["masked", "not installed"], what="ctrl-alt-del.target")
    check.equal(parse_sysctls(facts.text(_KERNELS_OWN)).get("kernel/ctrl-alt-del"), "0", what="kernel.ctrl-alt-del")
    action = parse_show(facts.text(MANAGER)).get("CtrlAltDelBurstAction")
    if action is None:
        check.cannot_tell("systemd does not tell its CtrlAltDelBurstAction=")
    check.equal(action, "none", what="CtrlAltDelBurstAction= (seven times within two seconds)")


@pytest.mark.control("svc-no-legacy-servers")
def test_no_legacy_programs(facts: Facts, check: Check) -> None:
    lines = facts.lines(_LEGACY_PROGRAMS)
    found = {line.replace(" is ", ": ") for line in lines if line.rsplit("/", 1)[-1] not in {"ssh", "scp", "sftp"}}
    check.nothing(sorted(found), expected="no telnet, rsh, talk, tftp, NIS, finger or inetd")


@pytest.mark.control("svc-no-debug-shell")
def test_no_debug_shell(facts: Facts, check: Check) -> None:
    state = parse_unit_files(facts.text(UNIT_FILES)).get("debug-shell.service", "not installed")
    check.one_of(state, ["disabled", "masked", "not installed"], what="debug-shell.service")
    activity = parse_units(facts.text(UNITS)).get("debug-shell.service", "inactive")
    check.one_of(activity, ["inactive", "failed"], what="debug-shell.service")
    words = [word for word in _command_line(facts, check) if re.match(r"(rd\.)?systemd\.debug[_-]shell(=|$)", word)]
    check.nothing(
        (word for word in words if not re.search(r"=(0|no|off|false|n|f)$", word)),
        expected="no debug shell on the command line",
    )


@pytest.mark.control("svc-coredump")
def test_core_dumps_are_not_kept(facts: Facts, check: Check) -> None:
    lines = facts.text(_CORE).rstrip("\n").split("\n")
    if len(lines) != 3 or not lines[2].startswith("DefaultLimitCORE="):
        check.cannot_tell(f"core pattern and limits are not as expected: {lines!r}")
    pattern, limit, default = lines[0], lines[1], lines[2].partition("=")[2]
    if re.match(r"\|(/usr)?/bin/false( |$)", pattern):
        check.holds(True, expected="no core dumps", seen=f"core_pattern {pattern}")
    elif re.match(r"\|(/usr)?/lib/systemd/systemd-coredump( |$)", pattern):
        settings = parse_config(facts.text(config_command("systemd/coredump.conf")))
        check.equal(settings.get("Coredump.Storage", "external"), "none", what="Storage in coredump.conf")
        check.equal(settings.get("Coredump.ProcessSizeMax", "not set"), "0", what="ProcessSizeMax in coredump.conf")
    elif pattern.startswith("|"):
        check.holds(False, expected="no program that takes core dumps", seen=f"core_pattern {pattern}")
    else:
        check.equal(limit, "0", what="hard limit of core dumps in a session")
        check.equal(default, "0", what="DefaultLimitCORE of services")
