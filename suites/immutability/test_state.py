"""What may change on an immutable host, what may not be there, and what was made at this boot."""

from __future__ import annotations

import re
from fnmatch import fnmatchcase

import pytest
from seatrial.check import Check
from seatrial.evidence.gpt import TABLES, is_placeholder, parse_promise, parse_tables, strangers, unkept
from seatrial.evidence.instance import INSTANCE_STATE, parse_instance_state
from seatrial.evidence.mounts import MOUNTINFO, SWAPS, Mount, parse_mountinfo, parse_swaps
from seatrial.evidence.trees import differences, parse_tree, tree_command
from seatrial.guest.facts import Facts
from seatrial.policy.flavours import Flavour

_PLACES = (
    "/etc/extensions /run/extensions /var/lib/extensions /usr/local/lib/extensions "
    "/run/confexts /var/lib/confexts /usr/local/lib/confexts"
)
EXTENSIONS = f'for d in {_PLACES}; do if [ -d "$d" ]; then ls -1A "$d"; fi; done'
# An extension below /usr (links are followed) is verified with it, one that leads to /dev/null is switched off; any
# other must bring verity of its own.
UNVERIFIED = (
    f"for d in {_PLACES}; do "
    'for e in "$d"/* "$d"/.[!.]*; do if [ -e "$e" ] || [ -h "$e" ]; then '
    'r=$(readlink -f "$e"); case $r in /usr/?*|/dev/null) ;; *) '
    '[ -f "$r" ] && systemd-dissect --validate --image-policy='
    "'root=verity+signed+absent:usr=verity+signed+absent:=unused+absent' \"$r\" >/dev/null 2>&1 || "
    "printf '%s\\n' \"$e\";; esac; fi; done; done; true"
)
MACHINE_ID = (
    'echo "id $(cat /etc/machine-id)"; echo "written $(stat -c %Y /etc/machine-id)"; '
    # An empty /etc/machine-id is filled from here first, where it is no link (machine-id-setup(1)).
    'd=/var/lib/dbus/machine-id; if [ -f $d ] && [ ! -h $d ]; then echo "dbus $(stat -c %Y $d)"; fi; '
    "grep '^btime ' /proc/stat"
)
PROGRAMS = "ls -l /proc/[0-9]*/exe 2>/dev/null | sed -n 's/.* -> //p' | sort -u; readlink /proc/1/exe"
OS_RELEASE = "readlink -f /etc/os-release; cat /etc/os-release"
# Time of boot and of a file are whole seconds each, and a clock that is set later takes the time of boot along.
_SLACK_S = 3


def _mounts(facts: Facts) -> tuple[Mount, ...]:
    return parse_mountinfo(facts.text(MOUNTINFO))


@pytest.mark.control("imm-writable-set")
def test_only_promised_places_are_writable(facts: Facts, check: Check, flavour: Flavour) -> None:
    """Every writable mount is on the flavour's list of ``path kind``, in which ``*`` stands for anything."""
    allowed = flavour.allowed("writable-mounts")
    writable = [f"{mount.target} {mount.kind}" for mount in _mounts(facts) if mount.is_writable]
    check.nothing(
        [place for place in writable if not any(fnmatchcase(place, pattern) for pattern in allowed)],
        expected="no writable mount outside the flavour's list",
    )


@pytest.mark.control("imm-writable-nosuid")
def test_writable_disks_give_no_privileges(facts: Facts, flavour: Flavour, check: Check) -> None:
    """A file system on a disk that can be written to carries nosuid and nodev, but where the flavour says otherwise."""
    exempt = flavour.allowed("privileged-mounts")
    disks = [
        mount
        for mount in _mounts(facts)
        if mount.is_writable and mount.is_on_disk and not any(fnmatchcase(mount.target, glob) for glob in exempt)
    ]
    lax = [
        f"{mount.target} lacks {' and '.join(sorted(lacking))}"
        for mount in disks
        if (lacking := {"nosuid", "nodev"} - mount.options)
    ]
    check.nothing(lax, expected="nosuid and nodev on every writable disk")


@pytest.mark.control("imm-programs-from-usr")
def test_running_programs_come_from_usr(facts: Facts, check: Check) -> None:
    """Every running program, the first one included, is a file below /usr."""
    programs = facts.lines(PROGRAMS, allowed=(0,))
    if not programs or not programs[-1].startswith("/"):
        check.cannot_tell("the program of process 1 cannot be seen")
    elsewhere = sorted({program for program in programs if not program.startswith("/usr/")})
    check.nothing(elsewhere, expected="no program that runs from outside of /usr")


@pytest.mark.control("imm-no-package-manager")
def test_no_package_manager_is_there(facts: Facts, check: Check, flavour: Flavour) -> None:
    """None of the programs that the flavour forbids is found on root's path."""
    names = flavour.allowed("package-managers")
    if not names or not all(re.fullmatch(r"[A-Za-z0-9._+-]+", name) for name in names):
        check.cannot_tell(f"expect.package-managers holds {names!r}, expected names of programs")
    path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/opt/bin"
    found = facts.lines(f"{path}; for p in {' '.join(names)}; do command -v $p; done; true")
    check.nothing(found, expected=f"none of {', '.join(names)}")


@pytest.mark.control("imm-os-release")
def test_os_release_lies_in_usr_and_names_the_image(facts: Facts, check: Check, flavour: Flavour) -> None:
    """The file is a part of the verified tree, and holds every line that the flavour expects."""
    lines = facts.lines(OS_RELEASE)
    check.holds(lines[0].startswith("/usr/"), expected="/etc/os-release as a link into /usr", seen=lines[0])
    present = {line.replace('"', "").replace("'", "") for line in lines[1:]}
    names = {line.partition("=")[0] for line in present}
    wanted = flavour.allowed("os-release")
    lacking = [line for line in wanted if line not in (present if "=" in line else names)]
    check.nothing(lacking, expected=f"{', '.join(wanted)} in os-release; lacking: none")


@pytest.mark.control("imm-root-device-uuid")
def test_partitions_are_those_of_the_layout(facts: Facts, check: Check, flavour: Flavour) -> None:
    """Each partition that the flavour names is there with its label, type and GUID, and there is no other."""
    promises = [parse_promise(row) for row in flavour.allowed("partitions")]
    if not promises:
        check.not_applicable(f"flavour {flavour.name!r} says nothing of its partitions (expect.partitions)")
    partitions = [one for disk in parse_tables(facts.text(TABLES)) for one in disk.partitions]
    check.nothing(unkept(promises, partitions), expected=f"each of {len(promises)} partitions; lacking: none")
    check.nothing(strangers(promises, partitions), expected="no partition outside the flavour's list")


@pytest.mark.control("imm-disk-uuid-random")
def test_disk_identifiers_are_no_placeholders(facts: Facts, check: Check) -> None:
    """The GUIDs of disks and of their partitions are random, not written by hand for every instance of the image."""
    disks = parse_tables(facts.text(TABLES))
    if not disks:
        check.not_applicable("no disk has a GUID partition table")
    given = [(f"disk {disk.name}", disk.guid) for disk in disks]
    given += [(f"{disk.name}, partition {one.number}", one.guid) for disk in disks for one in disk.partitions]
    check.nothing(
        [f"{what}: {guid}" for what, guid in given if is_placeholder(guid)],
        expected=f"{len(given)} random GUIDs",
    )


@pytest.mark.control("imm-no-swap")
def test_nothing_is_swapped_to_a_disk(facts: Facts, check: Check) -> None:
    """Only compressed memory may be swap."""
    disks = [swap for swap in parse_swaps(facts.text(SWAPS)) if not re.fullmatch(r"/dev/zram[0-9]+", swap)]
    check.nothing(disks, expected="no swap on a disk")


@pytest.mark.control("imm-no-extensions")
def test_no_extension_is_merged_or_waiting(facts: Facts, check: Check, flavour: Flavour) -> None:
    """No overlay lies over /usr, /opt or /etc, and no extension image waits to be merged, but those of the flavour."""
    merged = [
        f"overlay on {mount.target}"
        for mount in _mounts(facts)
        if mount.kind == "overlay" and re.match(r"/(usr|opt|etc)(/|$)", mount.target)
    ]
    allowed = flavour.allowed("system-extensions")
    check.nothing(merged if not allowed else [], expected="no overlay on /usr, /opt or /etc")
    waiting = [name for name in facts.lines(EXTENSIONS) if not any(fnmatchcase(name, pattern) for pattern in allowed)]
    check.nothing(waiting, expected="no extension image outside the flavour's list")


@pytest.mark.control("imm-sysext-verified")
def test_every_extension_is_verified(facts: Facts, check: Check) -> None:
    """An extension lies in the verified /usr, or is an image whose file systems are under dm-verity."""
    check.nothing(facts.lines(UNVERIFIED), expected="no extension without dm-verity")


@pytest.mark.control("imm-etc-default-drift")
def test_etc_is_as_the_image_has_it(facts: Facts, check: Check, flavour: Flavour) -> None:
    """/etc is what its pristine copy below /usr says, but for what the flavour lets a first boot make."""
    places = flavour.allowed("etc-defaults")
    if not places:
        check.not_applicable(f"flavour {flavour.name!r} names no pristine copy of /etc (expect.etc-defaults)")
    for place in places:
        if not re.fullmatch(r"/usr(/[A-Za-z0-9._-]+)+", place):
            check.cannot_tell(f"expect.etc-defaults holds {place!r}, expected a folder below /usr")
    facts.ask_all([tree_command(top) for top in ("/etc", *places)])
    etc, *defaults = (parse_tree(facts.text(tree_command(top))) for top in ("/etc", *places))
    for pristine in defaults:
        drift = differences(etc, pristine, allowed=flavour.allowed("etc-made-here"))
        check.nothing(drift, expected="/etc as its pristine copy is; drift: none")


@pytest.mark.control("imm-no-instance-state")
def test_image_has_nothing_of_an_instance(facts: Facts, check: Check) -> None:
    """What one machine calls its own was made at this boot, or is not there."""
    shipped = parse_instance_state(facts.text(INSTANCE_STATE)).older_than(_SLACK_S)
    check.nothing(shipped, expected="no state of an instance from before this boot")


@pytest.mark.control("imm-machine-id-empty")
def test_machine_id_was_made_at_this_boot(facts: Facts, check: Check) -> None:
    """The id is valid and was written after the kernel started: the image brought none along."""
    lines = facts.lines(MACHINE_ID)
    fields = dict(line.split(" ", 1) for line in lines if " " in line)
    written, booted = (fields.get(name, "").strip() for name in ("written", "btime"))
    if not all(re.fullmatch(r"[0-9]{1,15}", stamp) for stamp in (written, booted)):
        check.cannot_tell(f"the guest gave {lines!r}, expected the machine id's time and the time of boot")
    shown = fields.get("id", "").strip()
    valid = bool(re.fullmatch(r"[0-9a-f]{32}", shown)) and len(set(shown)) > 4
    check.holds(valid, expected="32 hexadecimal digits in /etc/machine-id", seen=shown or "nothing")
    age = int(booted) - int(written)
    seen = f"{age} s before the boot" if age > 0 else f"{-age} s after the boot"
    check.holds(age <= _SLACK_S, expected="/etc/machine-id written at this boot", seen=f"written {seen}")
    copied = fields.get("dbus", booted).strip()
    if not copied.isdecimal():
        check.cannot_tell(f"the guest gave {lines!r}, expected the time of /var/lib/dbus/machine-id")
    before = int(booted) - int(copied)
    check.holds(
        before <= _SLACK_S,
        expected="no /var/lib/dbus/machine-id from before the boot",
        seen=f"written {before} s before the boot" if before > _SLACK_S else "none",
    )
