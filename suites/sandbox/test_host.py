"""What the host offers to whoever runs on it: groups and limits, virtual machines, the processor, runtimes."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest
from seatrial.check import Check
from seatrial.evidence.cgroups import CGROUPS, parse_cgroups
from seatrial.evidence.kernel import VULNERABILITIES, is_vulnerable, parse_vulnerabilities
from seatrial.evidence.listeners import LISTENERS, parse_listeners
from seatrial.evidence.mounts import MOUNTINFO, parse_mountinfo
from seatrial.evidence.runtimes import (
    SOCKETS,
    VERSIONS,
    below_floor,
    parse_runtime_versions,
    parse_sockets,
    version_text,
)
from seatrial.evidence.settings import rule_holds, rule_text
from seatrial.evidence.syscalls import MACHINE, parse_answers
from seatrial.evidence.sysctl import SYSCTLS, known_path, parse_sysctls
from seatrial.guest.facts import Facts
from seatrial.policy.controls import Control
from seatrial.policy.flavours import Flavour

if TYPE_CHECKING:
    from seatrial.machine.boot import BootFacts

# What systemd hands down on its own; the others it hands down when a unit asks for them.
ALWAYS_HANDED_DOWN = ("memory", "pids")
SMT = "cat /sys/devices/system/cpu/smt/control /sys/devices/system/cpu/smt/active"
KSM = "if [ -e /sys/kernel/mm/ksm ]; then cat /sys/kernel/mm/ksm/run; else echo none; fi"
NODE = 'if [ -e /dev/kvm ]; then stat -c "%u %a %F" /dev/kvm; else echo none; fi'
NESTED = (
    "for m in kvm_intel kvm_amd; do f=/sys/module/$m/parameters/nested; "
    'if [ -e $f ]; then echo "$m running $(cat $f)"; '
    'elif [ "$(modprobe -n -q $m 2>/dev/null && echo yes)" = yes ]; then '
    'echo "$m configured $(modprobe -c | sed -n "s/^options $m .*nested=\\([^ ]*\\).*/\\1/p" | tail -n 1)"; '
    'else echo "$m missing"; fi; done'
)
LIMITS = (
    "echo \"processes $(sed -n 's/^Max processes *[^ ]* *\\([^ ]*\\).*/\\1/p' /proc/self/limits)\"; "
    'echo "tasks $(systemctl show -p TasksMax --value user-65534.slice)"; '
    'for f in /proc/sys/user/max_*_namespaces; do echo "${f##*/} $(cat $f)"; done; '
    'echo "threads $(cat /proc/sys/kernel/threads-max)"'
)
# An emulated processor offers nothing to switch speculative stores off with.
EMULATION_LACKS = ("spec_store_bypass",)
RUNTIME_PORTS = (2375, 2376)


@pytest.mark.probe("sysctl")
def test_parameter_has_the_value(row: Control, facts: Facts, check: Check) -> None:
    """The key obeys the rule of the row; a kernel that lacks it passes where the row says ``absent = "ok"``."""
    assert row.probe is not None
    key = row.probe["sysctl"]
    rule = {name: wanted for name, wanted in row.probe.items() if name not in {"sysctl", "absent"}}
    value = parse_sysctls(facts.text(SYSCTLS)).get(known_path(key))
    if value is None:
        accepted = row.probe.get("absent") == "ok"
        check.holds(accepted, expected=f"{key} to be there", seen=f"{key} is absent: the kernel has no such feature")
    else:
        check.holds(rule_holds(rule, value), expected=f"{key} = {rule_text(rule)}", seen=f"{key} = {value}")


@pytest.mark.control("sb-cgroup2")
def test_there_is_one_hierarchy_with_all_controllers(facts: Facts, check: Check, flavour: Flavour) -> None:
    """The unified hierarchy alone is mounted, offers what the flavour names, and hands memory and tasks down."""
    groups = parse_cgroups(facts.text(CGROUPS))
    check.equal(groups.filesystem, "cgroup2fs", what="file system at /sys/fs/cgroup")
    old = [mount.target for mount in parse_mountinfo(facts.text(MOUNTINFO)) if mount.kind == "cgroup"]
    check.nothing(old, expected="no hierarchy of the first version mounted")
    wanted = flavour.allowed("cgroup-controllers")
    check.nothing(
        [name for name in wanted if name not in groups.offered], expected=f"{', '.join(wanted)} offered; lacking: none"
    )
    for group in (".", "system.slice"):
        handed = groups.handed_down.get(group, frozenset())
        lacking = [name for name in ALWAYS_HANDED_DOWN if name not in handed]
        check.nothing(lacking, expected=f"{', '.join(ALWAYS_HANDED_DOWN)} handed down by {group}; lacking: none")


@pytest.mark.control("sb-uts-limits")
def test_every_user_has_limits(facts: Facts, check: Check) -> None:
    """A user's processes, tasks and namespaces are bounded, and all of them together leave threads to others."""
    limits = dict(line.split(" ", 1) for line in facts.lines(LIMITS) if " " in line)
    threads = limits.pop("threads", "")
    if not threads.isdecimal() or not {"processes", "tasks"} <= limits.keys() or len(limits) < 5:
        check.cannot_tell(f"the limits of a user are {limits!r} of {threads!r} threads; some are missing")
    for name, value in limits.items():
        check.holds(value.isdecimal(), expected=f"{name}: a number", seen=f"{name}: {value}")
    tasks = limits["tasks"]
    if tasks.isdecimal():
        check.holds(
            int(tasks) < int(threads), expected=f"a user's tasks below the {threads} of all", seen=f"{tasks} tasks"
        )


@pytest.mark.control("sb-kvm-available")
def test_virtual_machines_are_for_those_to_whom_they_are_promised(facts: Facts, check: Check, flavour: Flavour) -> None:
    """Where the flavour promises KVM a machine can be made; everywhere its device is root's and closed to others."""
    shown = facts.text(NODE).strip()
    node = re.fullmatch(r"([0-9]+) ([0-7]{1,5}) (.+)", shown)
    if node is None and shown != "none":
        check.cannot_tell(f"/dev/kvm is shown as {shown[:200]!r}")
    if "kvm" in flavour.allowed("virtual-machines"):
        made = parse_answers(facts.text(MACHINE), expected=3)
        check.holds(
            len(made) == 3 and min(made) > 0, expected="a machine with one processor is made", seen=f"answers {made}"
        )
    elif node is None:
        check.equal(shown, "none", what="/dev/kvm")
    if node is not None:
        closed = node[1] == "0" and int(node[2], 8) & 0o007 == 0
        check.holds(closed, expected="/dev/kvm: owner 0, closed to others", seen=f"owner {node[1]}, mode {node[2]}")


@pytest.mark.control("sb-nested-off")
def test_no_machine_within_a_machine(facts: Facts, check: Check, flavour: Flavour) -> None:
    """Nested virtualisation is off, in a module that is loaded and in one that could be; unless it is promised."""
    if "nested" in flavour.allowed("virtual-machines"):
        check.not_applicable("the flavour promises nested virtual machines")
    lines = facts.lines(NESTED)
    states = [re.fullmatch(r"(kvm_intel|kvm_amd) (?:missing|(running|configured) ?(\S*))", line) for line in lines]
    if len(states) != 2 or None in states:
        check.cannot_tell(f"the KVM modules gave {lines!r}, expected a line for each of two")
    on = [line for line, state in zip(lines, states, strict=True) if state and state[2] and state[3] not in ("0", "N")]
    check.nothing(on, expected="kvm_intel and kvm_amd missing, or with nested=0")


@pytest.mark.control("sb-vulnerabilities")
def test_no_flaw_of_the_processor_is_open(facts: Facts, check: Check, boot: BootFacts) -> None:
    """The kernel reports nothing as vulnerable; but for what an emulated processor lacks the means for."""
    found = parse_vulnerabilities(facts.text(VULNERABILITIES))
    lacks = () if boot.accelerator == "kvm" else EMULATION_LACKS
    open_ones = [f"{n}: {state}" for n, state in found.items() if n not in lacks and is_vulnerable(state)]
    beside = f" beside {', '.join(lacks)}, which is the emulated processor's" if lacks else ""
    check.nothing(open_ones, expected=f"no flaw reported as vulnerable{beside}")


@pytest.mark.control("sb-smt")
def test_tenants_do_not_share_a_core(facts: Facts, check: Check, flavour: Flavour) -> None:
    """Threads of one core are off or not there, unless the flavour says otherwise."""
    lines = facts.lines(SMT)
    if len(lines) != 2 or lines[1] not in ("0", "1"):
        check.cannot_tell(f"the kernel says {lines!r} of threads of a core, expected their control and 0 or 1")
    control, active = lines
    accepted = active == "0" or control in flavour.allowed("smt")
    check.holds(accepted, expected="threads of a core off or not there", seen=f"control = {control}, active = {active}")


@pytest.mark.control("sb-ksm-off")
def test_equal_pages_are_not_merged(facts: Facts, check: Check) -> None:
    """The kernel merges no pages; one that cannot has nothing to switch off."""
    run = facts.text(KSM).strip()
    if run not in {"none", "0", "1", "2"}:
        check.cannot_tell(f"/sys/kernel/mm/ksm/run holds {run[:200]!r}")
    check.one_of(run, ("0", "none"), what="/sys/kernel/mm/ksm/run")


@pytest.mark.control("sb-runtime-socket-perms")
def test_sockets_of_container_runtimes_are_roots(facts: Facts, check: Check) -> None:
    """No socket of a runtime is open to others, and none is on the network."""
    open_ones = [socket for socket in parse_sockets(facts.text(SOCKETS)) if not socket.is_closed]
    check.nothing(open_ones, expected="no socket of a container runtime that others than root's own group can open")
    listeners = [one for one in parse_listeners(facts.text(LISTENERS)) if one.port in RUNTIME_PORTS]
    check.nothing(listeners, expected=f"nothing on the runtimes' ports {', '.join(map(str, RUNTIME_PORTS))}")


@pytest.mark.control("sb-runtime-version")
def test_container_runtimes_are_mended(facts: Facts, check: Check, flavour: Flavour) -> None:
    """Every runtime is at or above the version in which known ways out were closed."""
    found = parse_runtime_versions(facts.text(VERSIONS))
    if not found:
        check.not_applicable("the image has no container runtime")
    for name, version in found.items():
        floor = below_floor(name, version, flavour.allowed("runtime-floors"))
        shown = version_text(version)
        check.holds(not floor, expected=f"{name} {floor or shown} or newer", seen=f"{name} {shown}")
