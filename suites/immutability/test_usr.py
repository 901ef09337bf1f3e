"""/usr as it is mounted, and what root can do to it."""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

import pytest
from seatrial.check import Check
from seatrial.evidence.attempts import BOOT_ID, Attempt, attempts_script, parse_attempts
from seatrial.evidence.mounts import MOUNTINFO, Mount, beneath_extensions, mount_at, parse_mountinfo
from seatrial.guest.facts import Facts
from seatrial.policy.flavours import Flavour

if TYPE_CHECKING:
    from testinfra.host import Host

# Every attempt undoes itself at once when it works, and changes nothing when it does not. What is tried on existing
# files sets the value that they already have.
FOLDERS = ("/usr", "/usr/bin", "/usr/lib", "/usr/share")
_NAME = ".seatrial-attempt"
WRITES = {
    **{f"create a file in {folder}": f": > {folder}/{_NAME} && rm -f {folder}/{_NAME}" for folder in FOLDERS},
    **{f"make a folder in {folder}": f"mkdir {folder}/{_NAME} && rmdir {folder}/{_NAME}" for folder in FOLDERS},
    "change the mode of /usr/bin": "chmod $(stat -c %a /usr/bin) /usr/bin",
    "change the time of /usr/bin": "touch -r /usr/bin /usr/bin",
    "link a file in /usr/lib": f"ln /usr/lib/os-release /usr/lib/{_NAME} && rm -f /usr/lib/{_NAME}",
}
# Nothing outlives the private mount namespace but a remount of the file system itself, which is undone.
REMOUNTS = {
    "remount /usr writable": "mount -o remount,rw /usr && mount -o remount,ro /usr",
    "write through /usr with a writable mount": (
        f"mount -o remount,bind,rw /usr; : > /usr/{_NAME} && rm -f /usr/{_NAME}"
    ),
    "write through /usr bound elsewhere": (
        f"mount --bind /usr /tmp && mount -o remount,bind,rw /tmp && : > /tmp/{_NAME} && rm -f /tmp/{_NAME}"
    ),
    "remount /usr writable where it is bound": (
        "mount --bind /usr /tmp && mount -o remount,rw /tmp && mount -o remount,ro /tmp"
    ),
}


def _in_a_namespace(command: str) -> str:
    return f'unshare -m --propagation private sh -c "{command}"'


def _tried(host: Host, facts: Facts, commands: Mapping[str, str]) -> tuple[Attempt, ...]:
    script = attempts_script(commands, boot_id=facts.text(BOOT_ID))
    return parse_attempts(host.run(script).stdout, expected=len(commands))


def _usr(facts: Facts) -> Mount:
    found = mount_at(parse_mountinfo(facts.text(MOUNTINFO)), "/usr")
    return found or _root(facts)


def _root(facts: Facts) -> Mount:
    root = mount_at(parse_mountinfo(facts.text(MOUNTINFO)), "/")
    assert root is not None, "no system is without a mount at /"
    return root


@pytest.mark.control("imm-usr-readonly")
def test_usr_is_mounted_read_only(facts: Facts, check: Check) -> None:
    """Both the mount and the file system under it are read-only."""
    usr = _usr(facts)
    check.holds("ro" in usr.options, expected=f"{usr.target} mounted ro", seen=",".join(sorted(usr.options)))
    shown = f"{usr.kind} {','.join(sorted(usr.super_options))}"
    check.holds("ro" in usr.super_options, expected=f"the file system of {usr.target} ro", seen=shown)


@pytest.mark.control("imm-usr-write-fails")
def test_root_cannot_write_below_usr(host: Host, facts: Facts, check: Check) -> None:
    """Every attempt to change /usr is refused because the file system is read-only."""
    attempts = _tried(host, facts, WRITES)
    for attempt in attempts:
        refused = not attempt.succeeded and "Read-only file system" in attempt.said
        seen = "it worked (and was undone)" if attempt.succeeded else attempt.said or "it failed without a reason"
        check.holds(refused, expected=f"{attempt.what}: Read-only file system", seen=f"{attempt.what}: {seen}")


@pytest.mark.control("imm-remount-fails")
def test_root_cannot_make_usr_writable(host: Host, facts: Facts, check: Check) -> None:
    """No kind of remount makes /usr writable, and /usr is afterwards what it was before."""
    before = _usr(facts)
    attempts = _tried(host, facts, {what: _in_a_namespace(how) for what, how in REMOUNTS.items()})
    for attempt in attempts:
        refused = not attempt.succeeded and any(
            word in attempt.said
            # An overlay without an upper layer has no other word for it.
            for word in ("Read-only file system", "write-protected", "read-only", "No changes allowed in reconfigure")
        )
        seen = "it worked (and was undone)" if attempt.succeeded else attempt.said or "it failed without a reason"
        check.holds(refused, expected=f"{attempt.what}: refused, read-only", seen=f"{attempt.what}: {seen}")
    after = mount_at(parse_mountinfo(host.run(MOUNTINFO).stdout), before.target)
    check.holds(after == before, expected=f"{before.target} as it was before", seen=f"after the attempts: {after}")


@pytest.mark.control("imm-usr-filesystem")
def test_usr_has_a_file_system_of_the_flavour(facts: Facts, check: Check, flavour: Flavour) -> None:
    """The file system is of a kind that the flavour names; extensions may lie over it."""
    usr = beneath_extensions(parse_mountinfo(facts.text(MOUNTINFO)), "/usr") or _root(facts)
    check.one_of(usr.kind, flavour.allowed("usr-filesystems"), what="file system of /usr")


@pytest.mark.control("imm-usr-not-shadowed")
def test_nothing_hides_a_part_of_usr(facts: Facts, check: Check, flavour: Flavour) -> None:
    """/usr is mounted once, as a whole, and nothing lies over it or below it but what the flavour names."""
    allowed = set(flavour.allowed("mounts-below-usr"))
    places = [mount for mount in parse_mountinfo(facts.text(MOUNTINFO)) if f"{mount.target}/".startswith("/usr/")]
    hidden = [f"{m.kind} at {m.target}" for m in places if m.target != "/usr" and m.target not in allowed]
    check.nothing(hidden, expected="nothing mounted below /usr")
    extensions = flavour.allowed("system-extensions")
    on_usr = [
        f"{m.kind}{m.root}"
        for m in places
        if m.target == "/usr"
        and not (m.extensions and all(any(fnmatchcase(n, e) for e in extensions) for n in m.extensions))
    ]
    check.holds(len(on_usr) <= 1, expected="one mount at /usr", seen=f"mounts at /usr: {', '.join(on_usr) or 'none'}")
    check.equal(_usr(facts).root, "/", what="the part of the file system that is mounted at /usr")


@pytest.mark.control("imm-merged-usr")
def test_programs_and_libraries_lie_below_usr(facts: Facts, check: Check) -> None:
    """The old folders at the top are links into /usr."""
    question = (
        'for f in /bin /sbin /lib /lib64; do if [ -e $f ] || [ -h $f ]; then echo "$f $(readlink -f $f)"; fi; done'
    )
    links = dict(line.split(" ", 1) for line in facts.lines(question) if " " in line)
    if not {"/bin", "/lib"} <= links.keys():
        check.cannot_tell(f"/bin and /lib are on every system, but the guest has {links!r}")
    outside = [f"{folder} -> {target}" for folder, target in links.items() if not target.startswith("/usr/")]
    check.nothing(outside, expected="/bin, /sbin, /lib and /lib64 below /usr")
