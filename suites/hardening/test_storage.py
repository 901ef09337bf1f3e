"""File systems as they are mounted, and what lies on them that nobody put there on purpose."""

from __future__ import annotations

import re
from fnmatch import fnmatchcase

import pytest
from seatrial.check import Check
from seatrial.evidence.files import backing_mount, lines_by_file, parse_states, states_command
from seatrial.evidence.greeting import KERNEL_RELEASE, leaks
from seatrial.evidence.kernel import SYMBOLS, shown_symbols
from seatrial.evidence.leftovers import (
    Names,
    disk_trees,
    names_command,
    parse_names,
    parse_residue,
    residue_command,
)
from seatrial.evidence.mounts import BOOT_PLACES, MOUNTINFO, SWAPS, Mount, mount_at, parse_mountinfo, parse_swaps
from seatrial.evidence.os_release import OS_RELEASE, parse_os_release
from seatrial.evidence.units import UNIT_FILES, UNITS, matching_units, parse_unit_files, parse_units
from seatrial.guest.facts import Facts
from seatrial.policy.controls import Control
from seatrial.policy.flavours import Flavour

_NOBODY = "setpriv --reuid=65534 --regid=65534 --clear-groups"
_CLOSED = frozenset({"nodev", "nosuid", "noexec"})
_HIDDEN = re.compile(r"hidepid=(invisible|2|ptraceable|4)")
# An ordinary user is always there himself.
_OWNERS_SEEN = f"{_NOBODY} sh -c 'stat -c %u /proc/[0-9]* 2>/dev/null | sort -un'"
# What programs of update-motd.d said at the last login is in motd.dynamic (update-motd(5)).
_GREETINGS = (
    *("/etc/motd", "/etc/issue", "/etc/issue.net", "/etc/issue.d/*", "/etc/motd.d/*"),
    *("/run/motd.dynamic", "/run/motd.d/*", "/run/issue.d/*"),
)
_GREETING_LINES = f"grep -asH '' {' '.join(_GREETINGS)} /dev/null; true"
# /proc/version is for everybody: an attempt that does not read it reads nothing.
_READABLE = "/proc/version"
_KERNEL_FILES = (
    "/boot/System.map* /boot/vmlinu[xz]* /boot/*/vmlinu[xz]* /boot/EFI/Linux/*.efi /efi/EFI/Linux/*.efi "
    "/boot/efi/EFI/Linux/*.efi "
    "/usr/lib/modules/*/System.map* /usr/lib/modules/*/vmlinu[xz]* /lib/modules/*/vmlinu[xz]* "
    "/proc/slabinfo /proc/kcore /proc/vmallocinfo /dev/mem"
)
_KERNEL_READS = (
    f"{_NOBODY} sh -c 'for f in {_READABLE} {_KERNEL_FILES}; do "
    'if head -c 1 "$f" >/dev/null 2>&1; then echo "$f"; fi; done\''
)
_MOUNTING_UNITS = ("autofs.service", "udisks2.service", "udevil.service", "devmon@*.service", "usbmount@*.service")
_ON = frozenset(
    {"enabled", "wanted", "enabled-runtime", "linked", "linked-runtime", "active", "activating", "reloading"}
)
_MOUNTING_RULES = (
    'grep -arsE \'^[^#]*(systemd-mount|udisksctl|RUN[^#]*([/ "]mount[ "]|[a-z]*mount[a-z]*@|/usb-?mount)|'
    "SYSTEMD_WANTS[^#]*mount[a-z]*@)' "
    "/etc/udev/rules.d /run/udev/rules.d /usr/lib/udev/rules.d; true"
)


def _mounts(facts: Facts) -> tuple[Mount, ...]:
    return parse_mountinfo(facts.text(MOUNTINFO))


@pytest.mark.probe("mounts")
def test_options_of_what_holds_a_path(row: Control, facts: Facts, check: Check) -> None:
    for entry in (row.probe or {})["mounts"]:
        mount = backing_mount(_mounts(facts), entry["path"])
        missing = [option for option in entry["options"] if option not in mount.options | mount.super_options]
        where = entry["path"] if mount.target == entry["path"] else f"{entry['path']} (on {mount.target})"
        check.holds(
            not missing,
            expected=f"{entry['path']} has {', '.join(entry['options'])}",
            seen=f"{where} lacks {', '.join(missing)}" if missing else f"{where} has them",
        )


@pytest.mark.control("fs-boot-opts")
def test_boot_partitions_are_closed(facts: Facts, check: Check) -> None:
    mounts = parse_mountinfo(facts.text(MOUNTINFO))
    found = [mount for place in BOOT_PLACES if (mount := mount_at(mounts, place)) and mount.kind != "autofs"]
    if not found:
        check.not_applicable(f"none of {', '.join(BOOT_PLACES)} is a mount of its own")
    for mount in found:
        options = mount.options | mount.super_options
        missing = sorted(_CLOSED - options)
        masks = ("fmask", "dmask") if mount.kind == "vfat" else ()
        missing += [f"{mask}=0077" for mask in masks if not any(_closes(option, mask) for option in options)]
        wanted = ", ".join((*sorted(_CLOSED), *(f"{mask}=0077" for mask in masks)))
        check.nothing(missing, expected=f"{mount.target} has {wanted}; missing: none")


def _closes(option: str, mask: str) -> bool:
    """Return whether ``option`` sets ``mask`` of vfat, and leaves others nothing (mount(8))."""
    value = re.fullmatch(rf"{mask}=([0-7]{{1,5}})", option)
    return value is not None and int(value[1], 8) & 0o077 == 0o077


@pytest.mark.control("fs-proc-hidepid")
def test_users_see_their_own_processes_alone(facts: Facts, check: Check) -> None:
    mounts = _mounts(facts)
    # Another instance shows what the first one hides.
    others = [mount for mount in mounts if (mount.kind, mount.root) == ("proc", "/")]
    for proc in dict.fromkeys((backing_mount(mounts, "/proc"), *others)):
        hidden = [option for option in proc.super_options | proc.options if _HIDDEN.fullmatch(option)]
        seen = f"{', '.join(hidden) or 'no hidepid'} on {proc.target}"
        check.holds(bool(hidden), expected=f"hidepid=invisible on {proc.target}", seen=seen)
    owners = facts.lines(_OWNERS_SEEN)
    if "65534" not in owners:
        check.cannot_tell(f"an ordinary user does not even see himself in /proc, but {owners[:20]!r}")
    check.nothing([uid for uid in owners if uid != "65534"], expected="no processes of other UIDs seen by UID 65534")


@pytest.mark.control("fs-issue-motd")
def test_greetings_say_nothing_of_the_system(facts: Facts, check: Check) -> None:
    os_release, kernel = parse_os_release(facts.text(OS_RELEASE)), facts.text(KERNEL_RELEASE).strip()
    if "ID" not in os_release or not re.fullmatch(r"\S+", kernel):
        check.cannot_tell(f"the guest names neither itself nor its kernel in a way that we know: {kernel[:100]!r}")
    files = lines_by_file(facts.text(_GREETING_LINES))
    told = [f"{path}: {word}" for path, lines in files.items() for word in leaks("\n".join(lines), os_release, kernel)]
    check.nothing(told, expected="no greeting that names the system, its version or its kernel")
    states = parse_states(facts.text(states_command(_GREETINGS, follow=True)))
    check.nothing(
        (s for s in states if s.permissions & ~0o644 or (s.owner, s.group) != ("root", "root")),
        expected="greetings at most 0644, of root:root",
    )


@pytest.mark.control("fs-kernel-symbols-perms")
def test_users_cannot_read_the_kernel(facts: Facts, check: Check) -> None:
    read = facts.lines(_KERNEL_READS)
    if _READABLE not in read:
        check.cannot_tell(f"an ordinary user cannot even read {_READABLE}: the attempt did not work")
    check.nothing(sorted(set(read) - {_READABLE}), expected="UID 65534 reads no kernel image, no symbols and no memory")
    shown = shown_symbols(facts.text(SYMBOLS, allowed=(0, 1)), facts.ask(SYMBOLS).stderr)
    check.nothing(shown, expected="zeros for addresses in /proc/kallsyms")


def _names(facts: Facts) -> Names:
    answer = facts.ask(names_command(disk_trees(_mounts(facts))))
    return parse_names(answer.stdout, answer.stderr)


def _but(found: tuple[str, ...], allowed: tuple[str, ...]) -> list[str]:
    return [path for path in found if not any(fnmatchcase(path, pattern) for pattern in allowed)]


@pytest.mark.control("fs-dead-links")
def test_no_link_leads_nowhere(facts: Facts, check: Check, flavour: Flavour) -> None:
    allowed = flavour.allowed("dangling-links")
    check.nothing(_but(_names(facts).dangling, allowed), expected="no dangling link but those of expect.dangling-links")


@pytest.mark.control("fs-odd-names")
def test_names_are_plain(facts: Facts, check: Check, flavour: Flavour) -> None:
    found = _but(_names(facts).odd, flavour.allowed("odd-names"))
    check.nothing(found, expected="no name with control characters, a blank at an end, or a backup's suffix")


@pytest.mark.control("fs-no-build-residue")
def test_nothing_of_the_build_is_left(facts: Facts, check: Check, flavour: Flavour) -> None:
    answer = facts.ask(residue_command(disk_trees(_mounts(facts))))
    found = _but(parse_residue(answer.stdout, answer.stderr), flavour.allowed("residue"))
    check.nothing(found, expected="no private key, credentials, repository, package or log of the build")


@pytest.mark.control("fs-no-os-disk-swap")
def test_nothing_is_swapped_to_the_systems_disk(facts: Facts, check: Check) -> None:
    # The guest has no disk but the candidate's: whatever is not in memory is on it.
    disks = [swap for swap in parse_swaps(facts.text(SWAPS)) if not re.fullmatch(r"/dev/zram[0-9]+", swap)]
    check.nothing(disks, expected="no swap but zram")


@pytest.mark.control("fs-no-automount")
def test_removable_media_are_left_alone(facts: Facts, check: Check) -> None:
    files, units = parse_unit_files(facts.text(UNIT_FILES)), parse_units(facts.text(UNITS))
    found = matching_units(files, _MOUNTING_UNITS, _ON) + matching_units(units, _MOUNTING_UNITS, _ON)
    check.nothing(found, expected=f"none of {', '.join(_MOUNTING_UNITS)} enabled or running")
    check.nothing(facts.lines(_MOUNTING_RULES), expected="no udev rule that mounts")
