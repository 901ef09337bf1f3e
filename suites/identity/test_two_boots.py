"""Two boots from the same untouched disk: what names a machine, and what it makes secrets of, must differ."""

from __future__ import annotations

import re

import pytest
from seatrial.check import Check
from seatrial.guest.facts import Facts

MACHINE_ID = "cat /etc/machine-id"
HOST_KEYS = (
    "sshd -T 2>/dev/null | sed -n 's/^hostkey //p' | while read -r f; do"
    ' [ ! -f "$f.pub" ] || cut -d" " -f1,2 "$f.pub"; done'
)
SEEDS = (
    "for f in /var/lib/systemd/random-seed /var/lib/urandom/random-seed /var/lib/random-seed"
    " /boot/loader/random-seed /boot/efi/loader/random-seed /efi/loader/random-seed; do"
    ' [ ! -f "$f" ] || sha256sum "$f"; done'
)
NUMBERS = "cat /proc/sys/kernel/random/boot_id; head -c 32 /dev/urandom | sha256sum | cut -d' ' -f1"
_HEX = re.compile(r"[0-9a-f]{32}")


@pytest.mark.control("idn-machine-id-differs")
def test_machine_ids_differ(cold_boots: tuple[Facts, Facts], check: Check) -> None:
    """Each boot has a machine id of its own."""
    found = [facts.text(MACHINE_ID).strip() for facts in cold_boots]
    if not all(_HEX.fullmatch(one) for one in found):
        check.cannot_tell(f"expected two machine ids of 32 hexadecimal digits, saw {found!r}")
    check.holds(found[0] != found[1], expected="two machine ids", seen=" and ".join(found))


@pytest.mark.control("idn-host-keys-differ")
def test_host_keys_differ(cold_boots: tuple[Facts, Facts], check: Check) -> None:
    """No SSH host key of one boot is one of the other's."""
    first, second = (facts.lines(HOST_KEYS) for facts in cold_boots)
    if not first or not second:
        check.cannot_tell(f"the SSH server of a boot names no host key (found {len(first)} and {len(second)})")
    shared = sorted(set(first) & set(second))
    check.nothing([key.partition(" ")[0] for key in shared], expected="no host key that both boots have")


@pytest.mark.control("idn-random-seed-differs")
def test_seeds_differ(cold_boots: tuple[Facts, Facts], check: Check) -> None:
    """No file of random seed is the same on both boots."""
    first, second = (dict(_seeds(facts)) for facts in cold_boots)
    shared = [path for path, digest in first.items() if second.get(path) == digest]
    check.nothing(shared, expected="no random seed that both boots have")


@pytest.mark.control("idn-random-numbers-differ")
def test_random_numbers_differ(cold_boots: tuple[Facts, Facts], check: Check) -> None:
    """Boot ids and random numbers are different ones."""
    first, second = (facts.lines(NUMBERS) for facts in cold_boots)
    if not len(first) == len(second) == 2:
        check.cannot_tell(f"expected a boot id and a random number of each boot, saw {first!r} and {second!r}")
    for name, one, other in zip(("boot id", "random number"), first, second, strict=True):
        check.holds(one != other, expected=f"two {name}s", seen=f"{name}s {one} and {other}")


def _seeds(facts: Facts) -> list[tuple[str, str]]:
    rows = (line.split(maxsplit=1) for line in facts.lines(SEEDS))
    return [(row[1], row[0]) for row in rows if len(row) == 2]
