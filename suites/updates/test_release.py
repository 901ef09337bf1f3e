"""What the release promises: support, one kernel, and an update mechanism in a known state."""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import UTC, date, datetime
from fnmatch import fnmatchcase

import pytest
from seatrial.check import Check
from seatrial.evidence.os_release import OS_RELEASE, parse_os_release
from seatrial.evidence.packages import PACKAGES, Package, parse_packages
from seatrial.evidence.units import UNIT_FILES, parse_unit_files
from seatrial.guest.facts import Facts
from seatrial.policy.flavours import Flavour

_NOW = "date +%s"
_LEAST_DAYS = 90
# dpkg has a package for each version, rpm has versions of one package, and sometimes several packages of one version.
_KERNEL_PACKAGE = re.compile(r"(linux-image-(?:unsigned-)?\d.*)|kernel(?:-core|-image.*)?")
# The look into /boot mounts the ESP where it is mounted on demand.
_KERNELS = (
    "uname -r; for f in /usr/lib/modules/*/ /boot/vmlinuz-* /boot/EFI/Linux/*.efi /efi/EFI/Linux/*.efi "
    '/boot/efi/EFI/Linux/*.efi /boot/flatcar/vmlinuz-*; do if [ -e "$f" ]; then echo "$f"; fi; done'
)
_MECHANISMS = (
    "apt-daily.timer",
    "apt-daily-upgrade.timer",
    "unattended-upgrades.service",
    "dnf-automatic*.timer",
    "dnf5-automatic.timer",
    "tdnf-automatic*.timer",
    "yum-cron.service",
    "packagekit.service",
    "update-engine.service",
    "locksmithd.service",
    "systemd-sysupdate*.timer",
    "systemd-boot-update.service",
    "trident*.service",
    "kured.service",
    "zincati.service",
    "rpm-ostreed-automatic.timer",
    "bootc-fetch-apply-updates.timer",
    "transactional-update.timer",
    "snapd.service",
)


@pytest.mark.control("upd-mechanism-state")
def test_update_mechanisms_are_as_promised(facts: Facts, check: Check, flavour: Flavour) -> None:
    states = parse_unit_files(facts.text(UNIT_FILES))
    found = {unit: state for unit, state in states.items() if any(fnmatchcase(unit, name) for name in _MECHANISMS)}
    entries = [entry.split(" ") for entry in flavour.allowed("update-mechanisms")]
    accepted = [entry[1:] for entry in entries if entry[0] == "?"]
    promised = [entry for entry in entries if entry[0] != "?"]
    if any(len(entry) != 2 for entry in (*accepted, *promised)):
        check.cannot_tell(f"expect.update-mechanisms holds {entries!r}, expected 'unit state' or '? unit state'")
    strange = [
        f"{unit} {state}"
        for unit, state in found.items()
        if state in {"enabled", "wanted"} and [unit, state] not in (*promised, *accepted)
    ]
    check.nothing(strange, expected="no update mechanism is enabled but those of expect.update-mechanisms")
    other = [
        f"{unit} is {states.get(unit, 'absent')}" for unit, state in promised if states.get(unit, "absent") != state
    ]
    check.nothing(other, expected="every unit of expect.update-mechanisms in its state")


@pytest.mark.control("upd-supported")
def test_release_is_supported(facts: Facts, check: Check, flavour: Flavour) -> None:
    release = parse_os_release(facts.text(OS_RELEASE))
    version = release.get("VERSION_ID", "")
    today = _today(facts.text(_NOW), check)
    ends = dict(entry.split(" ") for entry in flavour.allowed("support-ends"))
    own = release.get("SUPPORT_END")
    end = next((when for pattern, when in ends.items() if fnmatchcase(version, pattern)), own)
    if end is None:
        check.cannot_tell(f"neither expect.support-ends nor SUPPORT_END says until when {version!r} is supported")
    try:
        left = (date.fromisoformat(end) - today).days
    except ValueError:
        check.cannot_tell(f"the end of support is {end[:100]!r}, expected a date")
    check.holds(left >= _LEAST_DAYS, expected=f"support for {_LEAST_DAYS} days more", seen=f"{version}: until {end}")


def _today(text: str, check: Check) -> date:
    if not re.fullmatch(r"[0-9]{1,11}\s*", text):
        check.cannot_tell(f"the guest gave {text[:200]!r} as its time, expected seconds")
    return datetime.fromtimestamp(int(text), UTC).date()


@pytest.mark.control("upd-single-kernel")
def test_one_kernel_and_no_leftovers(facts: Facts, check: Check) -> None:
    running, *places = facts.lines(_KERNELS) or ["?"]
    if not re.fullmatch(r"\d+\.\S+", running):
        check.cannot_tell(f"uname gave {running[:200]!r} as the running kernel")
    modules = [one for one in places if one.startswith("/usr/lib/modules/")]
    check.equal(modules, [f"/usr/lib/modules/{running}/"], what="folders of modules")
    images = [one for one in places if one not in modules]
    others = [one for one in images if one.startswith("/boot/vmlinuz-") and running not in one]
    check.nothing(others, expected="no other kernel in /boot")
    unified = {one.rsplit("/", 1)[-1] for one in images if one.endswith(".efi")}
    check.holds(
        len(unified) <= 1, expected="at most one unified kernel image", seen=", ".join(sorted(unified)) or "none"
    )
    packages = parse_packages(facts.text(PACKAGES)) or ()
    kernels = _kernels(packages)
    check.holds(len(kernels) <= 1, expected="one kernel package", seen=", ".join(kernels) or "none")
    check.nothing(
        (f"{p.name} ({p.state})" for p in packages if p.state != "installed"), expected="no leftovers of packages"
    )


def _kernels(packages: Iterable[Package]) -> list[str]:
    """Return the kernels that are installed as packages, each once."""
    found = {
        match[1] or f"kernel {package.version}"
        for package in packages
        if package.state == "installed" and (match := _KERNEL_PACKAGE.fullmatch(package.name))
    }
    return sorted(found)
