"""dm-verity under /usr."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

import pytest
from seatrial.check import Check
from seatrial.errors import BootError, SessionLost
from seatrial.evidence.attempts import BOOT_ID, Attempt, attempts_script, parse_attempts
from seatrial.evidence.cmdline import CMDLINE, parse_cmdline
from seatrial.evidence.flipped import (
    Flipped,
    ReadBack,
    flip_script,
    parse_flipped,
    parse_read_back,
    read_back_script,
)
from seatrial.evidence.mounts import MOUNTINFO, Mount, beneath_extensions, block_number, mount_at, parse_mountinfo
from seatrial.evidence.verity import Verity, device_command, parse_device, root_hashes
from seatrial.guest.facts import Facts

if TYPE_CHECKING:
    from seatrial.restore import Session
    from testinfra.host import Host

# Who names the root hash: systemd's generator, the one of Flatcar; roothash= where /usr is a part of the root.
HASH_NAMES = ("usrhash", "verity.usrhash", "roothash")
STRONG = ("sha256", "sha384", "sha512", "sha3-256", "sha3-512", "blake2b-256", "blake2b-512")
# Blocks that read as garbage, or that are believed after the first look.
WEAK_OPTIONS = ("ignore_corruption", "check_at_most_once")
WEAK_WORDS = (
    "systemd.verity=0",
    "systemd.verity=no",
    "rd.systemd.verity=0",
    "rd.systemd.verity=no",
    "systemd.verity_usr_options=ignore-corruption",
    "systemd.verity_root_options=ignore-corruption",
    "systemd.verity_usr_options=check-at-most-once",
)


def _usr_mount(facts: Facts) -> Mount:
    mounts = parse_mountinfo(facts.text(MOUNTINFO))
    found = beneath_extensions(mounts, "/usr") or mount_at(mounts, "/")
    assert found is not None, "no system is without a mount at /"
    return found


def _tried(host: Host, facts: Facts, commands: Mapping[str, str]) -> tuple[Attempt, ...]:
    script = attempts_script(commands, boot_id=facts.text(BOOT_ID))
    return parse_attempts(host.run(script).stdout, expected=len(commands))


def _device(facts: Facts, check: Check) -> Verity:
    mount = _usr_mount(facts)
    if not mount.is_on_disk:
        check.holds(False, expected="/usr on a block device", seen=f"{mount.kind} at {mount.target} has none")
        return _NO_DEVICE
    return parse_device(facts.text(device_command(_number(facts))))


def _number(facts: Facts) -> str:
    return block_number(_usr_mount(facts), facts.text)


_NO_DEVICE = Verity(
    name="",
    sectors=0,
    read_only=False,
    targets=(),
    mapped_sectors=0,
    status="",
    algorithm="",
    root_hash="",
    salt="",
    options=(),
    data_device="",
    block_bytes=0,
    blocks=0,
)


@pytest.mark.control("imm-verity-active")
def test_usr_comes_from_verity_without_corruption(facts: Facts, check: Check) -> None:
    """Verity is the only target behind the device of /usr, and has found no corruption."""
    device = _device(facts, check)
    targets = ", ".join(device.targets) or "no mapped device"
    check.holds(
        device.is_verity, expected="dm-verity behind /usr", seen=f"{device.name or _usr_mount(facts).source}: {targets}"
    )
    if device.is_verity:
        check.equal(device.status, "V", what="status of verity")


@pytest.mark.control("imm-verity-hash-matches")
def test_root_hash_is_the_one_on_the_command_line(facts: Facts, check: Check) -> None:
    """The hash that the loader handed over is the hash that blocks are checked against."""
    line = parse_cmdline(facts.text(CMDLINE))
    named = [value for name in HASH_NAMES for value in [line.last(name)] if value is not None]
    device = _device(facts, check)
    if not named:
        check.holds(False, expected=f"one of {', '.join(HASH_NAMES)} on the command line", seen="none")
        return
    check.holds(
        device.root_hash in root_hashes(named),
        expected=f"root hash of the command line: {', '.join(named)}",
        seen=f"root hash of the device: {device.root_hash or 'none'}",
    )


@pytest.mark.control("imm-verity-hash-algorithm")
def test_hash_is_strong(facts: Facts, check: Check) -> None:
    """The digest is one without known collisions, and the tree is salted."""
    device = _device(facts, check)
    check.one_of(device.algorithm, STRONG, what="digest of verity")
    check.holds(device.salt not in ("", "-"), expected="a salt", seen=f"salt {device.salt or 'none'}")


@pytest.mark.control("imm-verity-corruption-mode")
def test_corruption_is_never_ignored(facts: Facts, check: Check) -> None:
    """Neither the device nor the command line tells verity to look away."""
    device = _device(facts, check)
    check.holds(
        device.is_verity, expected="dm-verity behind /usr", seen=", ".join(device.targets) or "no mapped device"
    )
    weak = [option for option in device.options if option in WEAK_OPTIONS]
    check.nothing(weak, expected=f"a device without {', '.join(WEAK_OPTIONS)}")
    said = parse_cmdline(facts.text(CMDLINE)).matching(WEAK_WORDS)
    check.nothing(said, expected="a command line that does not weaken verity")


@pytest.mark.control("imm-verity-whole-device")
def test_verity_covers_the_whole_device(facts: Facts, check: Check) -> None:
    """One target, verity, spans every sector."""
    device = _device(facts, check)
    check.equal(", ".join(device.targets) or "none", "verity", what="targets")
    check.holds(
        0 < device.sectors == device.mapped_sectors,
        expected=f"{device.sectors} sectors checked",
        seen=f"{device.mapped_sectors} of {device.sectors} sectors checked",
    )


@pytest.mark.control("imm-device-readonly")
def test_device_is_read_only(facts: Facts, check: Check) -> None:
    """The kernel holds the block device of /usr as read-only."""
    device = _device(facts, check)
    check.holds(
        device.read_only, expected="a read-only device", seen=f"{device.name or 'the device'}: ro = {device.read_only}"
    )


def device_attempts(device: str) -> dict[str, str]:
    """Return commands that write to block device ``device`` what it already holds; the second unlocks it first.

    ``nocreat`` because dd would otherwise leave a plain file where there is no device.
    """
    at = f"/dev/block/{device}"
    same = f"dd if={at} bs=4096 count=1 2>/dev/null | dd of={at} bs=4096 count=1 conv=notrunc,nocreat"
    return {
        "write to the device": same,
        "write to the device after unlocking it": (
            f"blockdev --setrw {at}; {same}; rc=$?; blockdev --setro {at}; exit $rc"
        ),
    }


@pytest.mark.control("imm-device-write-refused")
def test_root_cannot_write_to_the_device(host: Host, facts: Facts, check: Check) -> None:
    """Writing to the mapped device is refused, also after root tried to unlock it; verity still finds no corruption."""
    mount = _usr_mount(facts)
    device = _device(facts, check)
    if not device.name:
        check.holds(False, expected="a mapped device behind /usr", seen=f"{mount.source}: not mapped, so not tried")
        return
    attempts = _tried(host, facts, device_attempts(_number(facts)))
    for attempt in attempts:
        refused = not attempt.succeeded and any(
            word in attempt.said for word in ("Operation not permitted", "Read-only", "Permission denied")
        )
        seen = "it worked (with the same bytes)" if attempt.succeeded else attempt.said
        check.holds(refused, expected=f"{attempt.what}: not permitted", seen=f"{attempt.what}: {seen}")
    after = parse_device(host.run(device_command(_number(facts))).stdout)
    check.holds(after == device, expected="the device as it was before", seen=f"after the attempts: {after}")


@pytest.mark.control("imm-lower-device-claimed")
def test_partition_under_verity_cannot_be_mounted(host: Host, facts: Facts, check: Check) -> None:
    """The data partition belongs to verity alone: a mount beside it is refused.

    btrfs before Linux 6.7 refuses one that it knows as mounted, whoever holds the device: asked for as another file
    system, it is the device that refuses.
    """
    device = _device(facts, check)
    if not device.is_verity:
        check.holds(False, expected="verity over a partition", seen="no verity behind /usr")
        return
    # Where it works, the private namespace forgets it.
    mount = f"unshare -m --propagation private mount -o rw %s /dev/block/{device.data_device} /tmp"
    what = "mount the partition under verity"
    attempt, other = _tried(host, facts, {what: mount % "", f"{what} as ext4": mount % "-t ext4"})
    if not attempt.succeeded and "File exists" in attempt.said:
        attempt = other
    refused = not attempt.succeeded and bool(re.search("busy|already mounted|Can't open blockdev", attempt.said))
    check.holds(
        refused,
        expected="mounting the partition under verity is refused: busy",
        seen="it was mounted" if attempt.succeeded else attempt.said,
    )


# What the kernel says when verity stops the system, by restart_on_corruption or panic_on_corruption.
STOPPED = "dm-verity device corrupted"


@pytest.mark.changes_guest
@pytest.mark.control("imm-verity-corruption-detected")
def test_changed_block_is_noticed(guest: Session, check: Check) -> None:
    """A block that was changed on the disk, past verity, cannot be read through verity any more."""
    device = _device(guest.facts, check)
    if not device.is_verity:
        check.holds(False, expected="verity, which notices a changed block", seen="no verity behind /usr")
        return
    mapped, boot_id = _number(guest.facts), guest.facts.text(BOOT_ID)
    flipped = parse_flipped(_said(guest.host, flip_script(device, mapped, boot_id=boot_id), check))
    if _is_impossible(flipped, check):
        return
    try:
        with guest.boot.watch.tolerating("verity-corruption"):
            said = _said(guest.host, read_back_script(device, mapped, flipped.block, boot_id=boot_id), check)
    except (BootError, SessionLost) as exc:
        if STOPPED not in guest.boot_facts.console:
            raise
        check.holds(True, expected="the changed block noticed", seen=f"verity stopped the system: {exc.message}")
        return
    _judge_read(flipped, parse_read_back(said), device, check)


def _said(host: Host, script: str, check: Check) -> str:
    done = host.run(script)
    if done.rc != 0:
        check.cannot_tell(f"the script for a changed block ended with status {done.rc}: {done.stderr.strip()[:200]}")
    return str(done.stdout)


def _is_impossible(flipped: Flipped, check: Check) -> bool:
    """Return whether the guest refused to have the block changed, which is noted; end the check if that is unclear."""
    if flipped.below != flipped.old:
        check.cannot_tell(f"block {flipped.block} is not where verity reads it: the partition holds {flipped.below}")
    if flipped.kept == flipped.new != flipped.old:
        return False
    if flipped.kept == flipped.old and flipped.was_refused:
        seen = f"the write was refused: {'; '.join(flipped.refusals)}"
        check.holds(True, expected=f"block {flipped.block} cannot be changed, or is noticed", seen=seen)
        return True
    return check.cannot_tell(
        f"block {flipped.block} was not changed as it should: "
        f"{'; '.join(flipped.refusals) or 'the write worked'}, and the partition now holds {flipped.kept}"
    )


def _judge_read(flipped: Flipped, back: ReadBack, device: Verity, check: Check) -> None:
    expected = f"reading the changed block {flipped.block} fails: Input/output error, and verity says so (C)"
    if not back.succeeded:
        if not back.is_io_error or back.status != "C":
            check.cannot_tell(f"the changed block was not read, but not by verity's word {back.status!r}: {back.said}")
        check.holds(True, expected=expected, seen=f"{back.said}; status {back.status}")
        return
    if back.size != device.block_bytes:
        check.cannot_tell(f"reading the changed block gave {back.size} of {device.block_bytes} bytes")
    if back.digest == flipped.old:
        check.cannot_tell("the bytes of before came back: from a cache, or mended (use_fec_from_device)")
    what = "the changed bytes" if back.digest == flipped.new else "other bytes"
    check.holds(False, expected=expected, seen=f"{what} came back; status {back.status}")
