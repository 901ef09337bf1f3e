"""How much there is of the image: sizes, counts, and what should not be there at all. The budgets are the flavour's."""

from __future__ import annotations

import re
from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

import pytest
from seatrial.check import Check
from seatrial.evidence.files import (
    audit_command,
    capabilities_command,
    local_trees,
    parse_audit,
    parse_capabilities,
)
from seatrial.evidence.listeners import LISTENERS, parse_listeners
from seatrial.evidence.mounts import MOUNTINFO, parse_mountinfo
from seatrial.evidence.packages import PACKAGES, parse_packages
from seatrial.evidence.units import UNITS, parse_units
from seatrial.guest.facts import Facts
from seatrial.policy.flavours import Flavour

if TYPE_CHECKING:
    from seatrial.policy.flavours import Quantity

_SET_ID = 0o6000
# Sectors of 512 bytes of every real disk, whatever it is called; memory and mappings have no device.
_DISKS = 'for d in /sys/block/*; do if [ -e $d/device ]; then echo "${d##*/} $(cat $d/size)"; fi; done'
_USED = "df -kP"
_PROGRAMS = (
    "for d in /usr/local/sbin /usr/local/bin /usr/sbin /usr/bin /opt/bin; do if [ ! -h $d ]; then for f in $d/*; do "
    'if [ -e "$f" ]; then echo "${f##*/}"; fi; done; fi; done | sort -u'
)
_INTERPRETERS = re.compile(
    r"(perl|python|pypy|ruby|irb|node|nodejs|lua|luajit|php|tclsh|wish|guile|java|mono|gdb|Rscript|ghci)-?\d*(\.\d+)*"
)
_RUNTIMES = (
    "for f in /usr/lib/python[23]* /usr/lib/*/perl-base /usr/lib/*/perl /usr/share/perl5 /usr/lib/perl5 /usr/lib/ruby "
    "/usr/lib/node_modules /usr/lib/jvm; do if [ -e $f ]; then echo $f; fi; done"
)
_DOCS = (
    "for d in /usr/share/man /usr/share/doc /usr/share/info /usr/share/gtk-doc /usr/lib/debug /usr/src /usr/include; "
    "do if [ -d $d ]; then du -sk $d || exit; fi; done; echo end"
)
_ARCHIVES = "for f in /usr/lib/*.a /usr/lib/*/*.a /usr/lib64/*.a; do if [ -e $f ]; then echo $f; fi; done"
_MEMORY = "cat /proc/meminfo"
# Kernel threads have no program. udev starts workers as there is work, and ends them when there was none for seconds:
# all of it counts as one.
_PROCESSES = (
    "n=0; u=; for p in /proc/[0-9]*; do if [ -e $p/exe ]; then c=; { read -r c < $p/cgroup; } 2>/dev/null; "
    'case $c in */systemd-udevd.service*) if [ -n "$u" ]; then continue; fi; u=1;; esac; n=$((n+1)); fi; done; echo $n'
)
_MODULES = "cat /proc/modules"
_BUS = "for f in /usr/share/dbus-1/system-services/*.service; do if [ -e $f ]; then echo $f; fi; done"


def _within(check: Check, flavour: Flavour, quantity: Quantity, seen: float, *, what: str) -> None:
    """Record whether ``seen`` keeps the flavour's budget for ``quantity``."""
    budget = flavour.budgets.footprint.get(quantity)
    if budget is None:
        check.not_checked(f"flavour {flavour.name!r} has no budget for {quantity} ([budgets.footprint])")
    check.holds(seen <= budget, expected=f"{what}: at most {budget:g}", seen=f"{what}: {seen:g}")


@pytest.mark.control("fp-image-size")
def test_size_is_in_budget(facts: Facts, check: Check, flavour: Flavour) -> None:
    disks = [line.split(" ") for line in facts.lines(_DISKS)]
    if not disks or not all(len(disk) == 2 and disk[1].isdigit() for disk in disks):
        check.cannot_tell(f"the kernel names the disks {disks!r}, expected name and sectors")
    _within(check, flavour, "disk_mib", sum(int(size) for _name, size in disks) // 2048, what="MiB of disk")
    _within(check, flavour, "used_mib", _used_mib(facts.lines(_USED), check), what="MiB of files on disk")


def _used_mib(lines: list[str], check: Check) -> int:
    """Return what is used on block devices, each counted once."""
    used: dict[str, int] = {}
    for line in lines[1:]:
        match = re.fullmatch(r"(/dev/\S+|/\S+)\s+\d+\s+(\d+)\s+\d+\s+\S+\s+/.*", line)
        if match:
            used[match[1]] = int(match[2])
    if not used:
        check.cannot_tell(f"df names no file system on a device: {lines[:3]!r}")
    return sum(used.values()) // 1024


@pytest.mark.control("fp-package-count")
def test_numbers_of_packages_and_programs(facts: Facts, check: Check, flavour: Flavour) -> None:
    facts.ask_all([PACKAGES, _PROGRAMS])
    packages = parse_packages(facts.text(PACKAGES))
    if packages is not None:
        installed = [one for one in packages if one.state == "installed"]
        _within(check, flavour, "packages", len(installed), what="packages")
    _within(check, flavour, "programs", len(_programs(facts, check)), what="programs")


def _programs(facts: Facts, check: Check) -> list[str]:
    programs = facts.lines(_PROGRAMS)
    if not {"sh", "mount"} <= set(programs):
        check.cannot_tell(f"{len(programs)} programs were seen, and sh and mount are not among them")
    return programs


@pytest.mark.control("fp-denied-packages")
def test_nothing_denied_is_installed(facts: Facts, check: Check, flavour: Flavour) -> None:
    facts.ask_all([PACKAGES, _PROGRAMS])
    packages = parse_packages(facts.text(PACKAGES)) or ()
    names = sorted({p.name for p in packages if p.state != "not-installed"} | set(_programs(facts, check)))
    denied = flavour.allowed("denied-packages")
    found = [name for name in names if any(fnmatchcase(name, pattern) for pattern in denied)]
    check.nothing(found, expected=f"none of expect.denied-packages among {len(names)} packages and programs")


@pytest.mark.control("fp-no-interpreters")
def test_there_are_no_interpreters(facts: Facts, check: Check, flavour: Flavour) -> None:
    facts.ask_all([_PROGRAMS, _RUNTIMES])
    found = [name for name in _programs(facts, check) if _INTERPRETERS.fullmatch(name)]
    allowed = flavour.allowed("interpreters")
    check.nothing(
        (one for one in (*found, *facts.lines(_RUNTIMES)) if not any(fnmatchcase(one, glob) for glob in allowed)),
        expected="no interpreter but those of expect.interpreters",
    )


@pytest.mark.control("fp-no-docs")
def test_there_is_no_documentation(facts: Facts, check: Check, flavour: Flavour) -> None:
    facts.ask_all([_DOCS, _ARCHIVES])
    *lines, end = facts.lines(_DOCS) or [""]
    sizes = [re.fullmatch(r"(\d+)\s+/.*", line) for line in lines]
    if end != "end" or None in sizes:
        check.cannot_tell(f"du answered {lines[:3]!r}, expected sizes and paths")
    total = sum(int(match[1]) for match in sizes if match)
    _within(check, flavour, "docs_kib", total, what="KiB of documentation, sources and debug symbols")
    check.nothing(facts.lines(_ARCHIVES), expected="no static libraries")


@pytest.mark.control("fp-idle-memory")
def test_memory_in_use_is_in_budget(facts: Facts, check: Check, flavour: Flavour) -> None:
    memory = _meminfo(facts.text(_MEMORY))
    if not {"MemTotal", "MemAvailable"} <= memory.keys():
        check.cannot_tell(f"/proc/meminfo holds {', '.join(memory) or 'nothing'}: neither total nor available memory")
    used = (memory["MemTotal"] - memory["MemAvailable"]) // 1024
    _within(check, flavour, "idle_memory_mib", used, what="MiB of memory in use")


def _meminfo(text: str) -> Mapping[str, int]:
    return {name: int(size) for name, size in re.findall(r"(?m)^(\w+):\s+(\d{1,12}) kB$", text)}


@pytest.mark.control("fp-listening-count")
def test_attack_surface_is_in_budget(facts: Facts, check: Check, flavour: Flavour) -> None:
    facts.ask_all([MOUNTINFO, LISTENERS, UNITS, _PROCESSES, _MODULES, _BUS])
    trees = local_trees(parse_mountinfo(facts.text(MOUNTINFO)))
    facts.ask_all([audit_command(trees), capabilities_command(trees)])
    answer, capable = facts.ask(audit_command(trees)), facts.ask(capabilities_command(trees))
    files = parse_audit(answer.status, answer.stdout, answer.stderr)
    activity = parse_units(facts.text(UNITS))
    processes, modules = facts.text(_PROCESSES).strip(), facts.lines(_MODULES)
    if not processes.isdigit() or not all(re.match(r"\w+ \d+ ", line) for line in modules):
        check.cannot_tell(f"processes and modules are counted as {processes[:50]!r} and {modules[:1]!r}")
    active = [unit.rpartition(".")[2] for unit, state in activity.items() if state == "active"]
    counts: dict[Quantity, int] = {
        "listeners": len([one for one in parse_listeners(facts.text(LISTENERS)) if not one.is_local]),
        "set_id_programs": len([one for one in files if one.is_file and one.permissions & _SET_ID]),
        "file_capabilities": len(parse_capabilities(capable.status, capable.stdout, capable.stderr)),
        "services": active.count("service"),
        "timers": active.count("timer"),
        "processes": int(processes),
        "modules": len(modules),
        "bus_services": len(facts.lines(_BUS)),
    }
    for quantity, seen in counts.items():
        _within(check, flavour, quantity, seen, what=quantity.replace("_", " "))
