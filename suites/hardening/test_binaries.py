"""What the programs that matter most are built with: those that run, what is loaded into them, and set-id programs."""

from __future__ import annotations

import re

import pytest
from seatrial.check import Check
from seatrial.evidence.elf import LOADED, Program, parse_loaded, read_programs
from seatrial.evidence.environment import ENVIRONMENT, parse_environment
from seatrial.evidence.files import (
    audit_command,
    lines_by_file,
    local_trees,
    parse_audit,
    parse_states,
    states_command,
)
from seatrial.evidence.mounts import MOUNTINFO, parse_mountinfo
from seatrial.evidence.randomness import MAPS, parse_maps, varying_bits
from seatrial.guest.facts import Facts
from seatrial.policy.flavours import Flavour

_SET_ID = 0o6000
_SYSTEM = re.compile(r"/(usr|lib(32|64)?|opt)(/|$)")
# Functions of the C library that have a checked twin.
_CHECKABLE = re.compile(
    r"v?([fsd]|sn|as)?printf|v?syslog|mem(cpy|move|set|pcpy)|st[pr]n?(cpy|cat)|f?gets|f?read|pread(64)?|recv(from)?"
    r"|readlink|realpath|getcwd|gethostname|poll|confstr"
)
_TOOLS = (
    *("cc", "gcc", "g++", "c++", "c89", "c99", "cpp", "gcc-[0-9]*", "g++-[0-9]*", "clang", "clang-[0-9]*", "tcc", "as"),
    *("ld", "ld.bfd", "ld.gold", "ld.lld", "gfortran", "go", "rustc"),
    *("gdb", "lldb", "strace", "ltrace", "perf", "valgrind", "bpftrace"),
)
_FOLDERS = ("/usr/bin", "/usr/sbin", "/usr/local/bin", "/usr/local/sbin", "/bin", "/sbin", "/opt/bin")
# The shell shows that the question was answered at all.
_TOOL_FILES = states_command(["/bin/sh", *(f"{folder}/{tool}" for folder in _FOLDERS for tool in _TOOLS)], follow=True)
_PRELOAD_FILE = states_command(["/etc/ld.so.preload"], follow=True)
# Which folders the loader looks into besides its own (ld.so(8), ldconfig(8)).
_LIBRARY_FOLDERS = "grep -asHEv '^[[:space:]]*(#|hwcap|$)' /etc/ld.so.conf /etc/ld.so.conf.d/*.conf; true"
_OWN_INCLUDE = re.compile(r"include\s+(/etc/)?ld\.so\.conf\.d/\*\.conf")
# A format stays registered only while the file system is mounted somewhere, or in kernels that keep it until a restart:
# where the kernel knows it, it is looked at in a mount namespace that ends with the question.
_FORMATS = (
    "if ! grep -qw binfmt_misc /proc/filesystems; then echo 'not there'; else unshare -m --propagation private sh -c '"
    "mount -t binfmt_misc none /proc/sys/fs/binfmt_misc && cd /proc/sys/fs/binfmt_misc && "
    'echo "status $(cat status)" && for f in *; do case $f in status|register) ;; '
    '*) echo "format $f $(sed -n "s/^interpreter //p" "$f") $(sed -n "s/^flags: //p" "$f")";; esac; done\'; fi'
)
# Fewer bits than any supported kernel gives on 64-bit processors; with no randomness it is none.
_FEWEST_BITS = {"text": 16, "heap": 8, "mmap": 16, "stack": 12, "vdso": 8}


def _set_id(facts: Facts) -> tuple[str, ...]:
    answer = facts.ask(audit_command(local_trees(parse_mountinfo(facts.text(MOUNTINFO)))))
    files = parse_audit(answer.status, answer.stdout, answer.stderr)
    # A name with a line break is given as an inode; the audit of set-id programs fails by it.
    return tuple(sorted(f.path for f in files if f.is_file and f.permissions & _SET_ID and f.path.startswith("/")))


def _programs(facts: Facts, check: Check) -> tuple[list[Program], list[Program], frozenset[str]]:
    """Return the programs, the libraries that are loaded, and which of the programs are set-id."""
    facts.ask_all([MOUNTINFO, LOADED])
    set_id = _set_id(facts)
    loaded = parse_loaded(facts.text(LOADED))
    programs = tuple(dict.fromkeys((*set_id, *loaded["program"])))
    found = read_programs(facts.texts, (*programs, *loaded["library"]), named=programs)
    ours = [one for one in found if one.path in programs]
    libraries = [one for one in found if one.path not in programs]
    if not ours or not libraries:
        check.cannot_tell(f"{len(ours)} programs and {len(libraries)} libraries were read: there are some of both")
    return ours, libraries, frozenset(set_id)


def _nothing(check: Check, found: list[str], allowed: tuple[str, ...], *, expected: str, of: int) -> None:
    check.nothing((path for path in found if path not in allowed), expected=f"{expected} ({of} files looked at)")


@pytest.mark.control("bin-no-preload")
def test_nothing_is_preloaded(facts: Facts, check: Check) -> None:
    facts.ask_all([_PRELOAD_FILE, ENVIRONMENT])
    check.nothing(parse_states(facts.text(_PRELOAD_FILE)), expected="no /etc/ld.so.preload")
    lines = parse_environment(facts.text(ENVIRONMENT), ("LD_PRELOAD", "LD_AUDIT"))
    check.nothing(lines, expected="no LD_PRELOAD and no LD_AUDIT in what people and services are given")


@pytest.mark.control("bin-pie")
def test_programs_are_position_independent(facts: Facts, check: Check, flavour: Flavour) -> None:
    programs, _libraries, _set_ids = _programs(facts, check)
    fixed = [one.path for one in programs if not one.is_position_independent]
    allowed = flavour.allowed("programs-at-fixed-addresses")
    _nothing(check, fixed, allowed, expected="no program at a fixed address", of=len(programs))


@pytest.mark.control("bin-relro-now")
def test_tables_are_read_only_after_the_start(facts: Facts, check: Check, flavour: Flavour) -> None:
    programs, _libraries, _set_ids = _programs(facts, check)
    lazy = [one.path for one in programs if not (one.has_relro and (one.binds_now or not one.is_dynamic))]
    _nothing(check, lazy, flavour.allowed("programs-without-relro"), expected="full RELRO", of=len(programs))


@pytest.mark.control("bin-nx-stack")
def test_no_stack_is_executable(facts: Facts, check: Check) -> None:
    programs, libraries, _set_ids = _programs(facts, check)
    everything = [*programs, *libraries]
    _nothing(
        check,
        [f"{one.path} ({one.stack})" for one in everything if one.stack != "rw"],
        (),
        expected="every program and library asks for a stack without code",
        of=len(everything),
    )


@pytest.mark.control("bin-canary")
def test_programs_check_their_stack(facts: Facts, check: Check, flavour: Flavour) -> None:
    programs, _libraries, _set_ids = _programs(facts, check)
    found = [one.path for one in programs if not {"__stack_chk_fail", "__stack_chk_guard"} & one.names]
    allowed = flavour.allowed("programs-without-canary")
    _nothing(check, found, allowed, expected="every program refers to __stack_chk_fail", of=len(programs))


@pytest.mark.control("bin-fortify")
def test_programs_use_checked_functions(facts: Facts, check: Check, flavour: Flavour) -> None:
    programs, _libraries, _set_ids = _programs(facts, check)
    found = [one.path for one in programs if any(map(_CHECKABLE.fullmatch, one.names)) and not _is_fortified(one)]
    allowed = flavour.allowed("programs-without-fortify")
    _nothing(check, found, allowed, expected="a checked twin where a function has one", of=len(programs))


def _is_fortified(program: Program) -> bool:
    return any(re.fullmatch(r"__\w+_chk", name) for name in program.names)


@pytest.mark.control("bin-no-rpath")
def test_no_library_comes_from_an_odd_place(facts: Facts, check: Check) -> None:
    programs, libraries, set_ids = _programs(facts, check)
    odd = [
        f"{one.path}: {element or 'an empty element'}"
        for one in (*programs, *libraries)
        for path in one.search_paths
        for element in path.split(":")
        if not _is_safe(element, is_set_id=one.path in set_ids)
    ]
    _nothing(check, odd, (), expected="libraries from system folders only", of=len(programs) + len(libraries))
    named = [
        f"{path}: {element}"
        for path, lines in lines_by_file(facts.text(_LIBRARY_FOLDERS)).items()
        for line in lines
        if not _OWN_INCLUDE.fullmatch(line.strip())
        for element in re.split(r"[\s:,]+", line.strip())
        if not _is_safe(element.partition("=")[0], is_set_id=True)
    ]
    check.nothing(named, expected="no folder for libraries in ld.so.conf but those of the system")


def _is_safe(element: str, *, is_set_id: bool) -> bool:
    if re.match(r"\$(ORIGIN|\{ORIGIN\})(/|$)", element):
        return not is_set_id
    return bool(_SYSTEM.match(element)) and ".." not in element.split("/")


@pytest.mark.control("bin-cet-bti")
def test_programs_say_that_they_guard_their_branches(facts: Facts, check: Check, flavour: Flavour) -> None:
    promised = set(flavour.allowed("control-flow-markers"))
    if not promised:
        check.not_applicable("the flavour promises no markers: its programs are built without them")
    programs, libraries, _set_ids = _programs(facts, check)
    everything = [*programs, *libraries]
    lacking = [one.path for one in everything if not promised <= one.markers]
    _nothing(check, lacking, (), expected=f"{', '.join(sorted(promised))} everywhere", of=len(everything))


@pytest.mark.control("bin-aslr-behaviour")
def test_addresses_differ_between_starts(facts: Facts, check: Check) -> None:
    for region, addresses in parse_maps(facts.text(MAPS)).items():
        bits = varying_bits(addresses)
        check.holds(
            bits >= _FEWEST_BITS[region],
            expected=f"{region}: at least {_FEWEST_BITS[region]} random bits in {len(addresses)} starts",
            seen=f"{region}: {bits} bits, {len(set(addresses))} addresses",
        )


@pytest.mark.control("bin-compilers-absent")
def test_compilers_and_debuggers_are_out_of_reach(facts: Facts, check: Check, flavour: Flavour) -> None:
    shell, *tools = parse_states(facts.text(_TOOL_FILES)) or (None,)
    if shell is None or shell.path != "/bin/sh":
        check.cannot_tell("the guest has no /bin/sh, which every system has: its programs were not seen")
    if flavour.kind == "immutable-host":
        check.nothing((tool.path for tool in tools), expected="no compiler and no debugger")
    else:
        check.nothing((t for t in tools if t.permissions & 0o001), expected="no compiler or debugger for everybody")


@pytest.mark.control("bin-binfmt")
def test_no_foreign_format_is_registered(facts: Facts, check: Check, flavour: Flavour) -> None:
    lines = facts.lines(_FORMATS)
    if lines == ["not there"]:
        check.holds(True, expected="no foreign formats", seen="the kernel has no binfmt_misc loaded")
        return
    if not lines or not re.fullmatch(r"status (enabled|disabled)", lines[0]):
        check.cannot_tell(f"binfmt_misc answered {lines[:2]!r}, expected its status")
    found = [line.removeprefix("format ") for line in lines[1:]]
    allowed = flavour.allowed("binary-formats")
    check.nothing((one for one in found if one.split(" ")[0] not in allowed), expected="no foreign binary format")
