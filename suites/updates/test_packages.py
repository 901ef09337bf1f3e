"""Where packages come from, whether they are verified, and whether the files are still theirs."""

from __future__ import annotations

import re
from fnmatch import fnmatchcase

import pytest
from seatrial.check import Check
from seatrial.evidence.files import states_command
from seatrial.evidence.packages import PACKAGES, SOURCES, VERIFY, Source, parse_packages, parse_sources, parse_verify
from seatrial.guest.facts import Facts
from seatrial.policy.flavours import Flavour

_APT = "if command -v apt-config >/dev/null 2>&1; then apt-config dump; else echo none; fi"
_DNF = "grep -sHE '^[[:space:]]*[a-z_]+[[:space:]]*=' /etc/dnf/dnf.conf /etc/tdnf/tdnf.conf /etc/yum.conf; true"
# Settings that let packages in which nobody signed; apt reads names without regard to case.
_APT_OPEN = re.compile(
    r"(apt::get::allowunauthenticated|acquire::allow(insecure|weak|downgradetoinsecure)repositories"
    r"|acquire::https::verify-(peer|host)|acquire::check-valid-until)",
    re.IGNORECASE,
)
_TRUE = frozenset({"1", "yes", "true", "with", "on", "enable"})
_KEYS = states_command(
    ["/etc/apt/trusted.gpg", "/etc/apt/trusted.gpg.d/*", "/etc/apt/keyrings/*", "/etc/pki/rpm-gpg/*"], follow=True
)


def _sources(facts: Facts, check: Check) -> tuple[Source, ...]:
    if parse_packages(facts.text(PACKAGES)) is None:
        check.not_applicable("the image has no package manager: updates replace it as a whole")
    return parse_sources(facts.text(SOURCES))


@pytest.mark.control("upd-signatures")
def test_packages_are_verified(facts: Facts, check: Check) -> None:
    sources = _sources(facts, check)
    check.nothing(_apt_faults(facts.text(_APT), check), expected="apt takes nothing unsigned")
    check.nothing(_dnf_faults(facts.lines(_DNF)), expected="gpgcheck in the configuration of dnf, tdnf and yum")
    lax = [f"{one.path}: {one.place} ({why})" for one in sources if (why := _laxity(one))]
    check.nothing(lax, expected=f"{len(sources)} sources, each verified")


def _apt_faults(text: str, check: Check) -> list[str]:
    if text.strip() == "none":
        return []
    settings = dict(re.findall(r'(?m)^(\S+) "([^"\n]*)";$', text))
    if "APT::Architecture" not in settings:
        check.cannot_tell(f"apt-config gave {text[:200]!r}, expected its settings")
    return [f"{key}={value}" for key, value in settings.items() if _is_open(key, value)]


def _is_open(key: str, value: str) -> bool:
    if not _APT_OPEN.fullmatch(key):
        return False
    is_guard = "verify" in key.lower() or "check" in key.lower()
    return (value.lower() in _TRUE) != is_guard


def _dnf_faults(lines: list[str]) -> list[str]:
    switches = (line.partition(":")[::2] for line in lines)
    return [
        f"{path}: {setting}"
        for path, setting in switches
        if re.fullmatch(r"\s*(gpgcheck|pkg_gpgcheck|localpkg_gpgcheck|sslverify)\s*=\s*(0|no|false|off)\s*", setting)
    ]


def _laxity(source: Source) -> str:
    """Return why packages of ``source`` are not verified; nothing when they are."""
    options = source.options
    if source.path.endswith(".repo"):
        lax = [key for key in ("gpgcheck", "sslverify") if options.get(key, "1").lower() in {"0", "no", "false"}]
        return ", ".join(f"{key} off" for key in lax)
    on = [key for key in ("trusted", "allow-insecure", "allow-weak") if options.get(key, "no").lower() in _TRUE]
    return ", ".join(on)


@pytest.mark.control("upd-sources")
def test_sources_are_those_of_the_flavour(facts: Facts, check: Check, flavour: Flavour) -> None:
    sources = _sources(facts, check)
    allowed = flavour.allowed("package-sources")
    if not sources:
        check.holds(False, expected="a source that updates come from", seen="none")
    strange = [f"{one.path}: {one.place}" for one in sources if not any(fnmatchcase(one.place, a) for a in allowed)]
    check.nothing(strange, expected="only sources of expect.package-sources")
    unsafe = [
        f"{one.path}: {one.place}"
        for one in sources
        if not re.match(r"(https|file|cdrom|mirror\+https)[:+]", one.place)
    ]
    check.nothing(unsafe, expected="every source over TLS")
    keys = [line.split(" ", 3)[-1] for line in facts.lines(_KEYS)]
    known = flavour.allowed("package-keys")
    check.nothing(
        (k for k in keys if not any(fnmatchcase(k, a) for a in known)), expected="only keys of expect.package-keys"
    )


@pytest.mark.control("upd-pkgdb-intact")
def test_files_are_as_their_packages_have_them(facts: Facts, check: Check, flavour: Flavour) -> None:
    found = parse_verify(facts.text(VERIFY, allowed=(0, 1)))
    if found is None:
        check.not_applicable("the image has no package manager")
    allowed = flavour.allowed("package-differences")
    check.nothing(
        (one for one in found if not any(fnmatchcase(one, pattern) for pattern in allowed)),
        expected="no file that differs from its package but those of expect.package-differences",
    )
