"""Where packages come from, whether they are verified, and whether the files are still theirs."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase

import pytest
from seatrial.check import Check
from seatrial.evidence.files import states_command
from seatrial.evidence.packages import (
    PACKAGES,
    REPOSITORY_FOLDERS,
    RPM_SETTINGS,
    SOURCES,
    VERIFY,
    Source,
    parse_packages,
    parse_rpm_settings,
    parse_sources,
    parse_verify,
)
from seatrial.guest.facts import Facts
from seatrial.policy.flavours import Flavour

_APT = "if command -v apt-config >/dev/null 2>&1; then apt-config dump; else echo none; fi"
# Settings that let packages in which nobody signed; apt reads names without regard to case.
_APT_OPEN = re.compile(
    r"(apt::get::allowunauthenticated|acquire::allow(insecure|weak|downgradetoinsecure)repositories"
    r"|acquire::https(::[^:]+)?::verify-(peer|host)|acquire::check-valid-until)",
    re.IGNORECASE,
)
# Where apt looks for sources and keys, with the folders that apt.conf may move (apt.conf(5), Dir::Etc).
_APT_PLACES = (
    "if command -v apt-config >/dev/null 2>&1; then apt-config shell sources Dir::Etc::sourcelist/f "
    "parts Dir::Etc::sourceparts/d keys Dir::Etc::trusted/f keyrings Dir::Etc::trustedparts/d; fi"
)
_APT_OWN_PLACES = frozenset(
    {
        "sources='/etc/apt/sources.list'",
        "parts='/etc/apt/sources.list.d/'",
        "keys='/etc/apt/trusted.gpg'",
        "keyrings='/etc/apt/trusted.gpg.d/'",
    }
)
# dpkg verifies what was put aside, and not what somebody put in its place (dpkg-divert(1)).
_DIVERTED = "if command -v dpkg-divert >/dev/null 2>&1; then dpkg-divert --list | grep '^local'; fi; true"
_TRUE = frozenset({"1", "yes", "true", "with", "on", "enable"})
_FALSE = frozenset({"0", "no", "false", "off"})
_TDNF = "/etc/tdnf/tdnf.conf"
_DNF = "/etc/dnf/dnf.conf"
Settings = Mapping[str, Mapping[str, str]]
_KEYS = states_command(
    ["/etc/apt/trusted.gpg", "/etc/apt/trusted.gpg.d/*", "/etc/apt/keyrings/*", "/etc/pki/rpm-gpg/*"], follow=True
)


def _sources(facts: Facts, check: Check) -> tuple[Source, ...]:
    if parse_packages(facts.text(PACKAGES)) is None:
        check.not_applicable("the image has no package manager: updates replace it as a whole")
    facts.ask_all([SOURCES, RPM_SETTINGS, _APT_PLACES])
    elsewhere = [f"{path}: {name}" for path, name in _folders(parse_rpm_settings(facts.text(RPM_SETTINGS)))]
    elsewhere += [f"apt: {line}" for line in facts.lines(_APT_PLACES) if line not in _APT_OWN_PLACES]
    if elsewhere:
        check.cannot_tell(f"repositories are looked for in another folder, which is not read: {', '.join(elsewhere)}")
    return parse_sources(facts.text(SOURCES))


def _folders(settings: Settings) -> Iterator[tuple[str, str]]:
    """Give each folder of repositories that settings name (reposdir= of dnf, repodir= of tdnf) and nobody reads."""
    for path, values in settings.items():
        for name in ("reposdir", "repodir"):
            for folder in re.split(r"[\s,]+", values.get(name, "")):
                if folder and folder.rstrip("/") not in REPOSITORY_FOLDERS:
                    yield path, f"{name}={folder}"


@pytest.mark.control("upd-signatures")
def test_packages_are_verified(facts: Facts, check: Check) -> None:
    sources = _sources(facts, check)
    check.nothing(_apt_faults(facts.text(_APT), check), expected="apt takes nothing unsigned")
    settings = parse_rpm_settings(facts.text(RPM_SETTINGS))
    check.nothing(_switched_off(settings), expected="gpgcheck in the configuration of dnf, tdnf and yum")
    lax = [f"{one.path}: {one.place} ({why})" for one in sources if (why := _laxity(one, settings))]
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


def _switched_off(settings: Settings) -> list[str]:
    names = ("gpgcheck", "pkg_gpgcheck", "localpkg_gpgcheck", "sslverify")
    return [
        f"{path}: {name}={values[name]}"
        for path, values in settings.items()
        for name in names
        if values.get(name, "").lower() in _FALSE
    ]


def _laxity(source: Source, settings: Settings) -> str:
    """Return why packages of ``source`` are not verified; nothing when they are."""
    options = source.options
    if source.path.endswith(".repo"):
        switches = ("gpgcheck", "pkg_gpgcheck", "sslverify")
        lax = [f"{key} off" for key in switches if options.get(key, "1").lower() in _FALSE]
        return ", ".join(lax) or _unverified(options, settings)
    doors = ("trusted", "allow-insecure", "allow-weak", "allow-downgrade-to-insecure")
    on = [key for key in doors if options.get(key, "no").lower() in _TRUE]
    return ", ".join(on)


def _unverified(options: Mapping[str, str], settings: Settings) -> str:
    """Return which program takes unsigned packages of a repository because nobody switches gpgcheck on.

    For dnf and yum the repository's word counts, then theirs, and no word is off (dnf.conf(5)). tdnf wants its own word
    as well.
    """
    if _TDNF in settings and not _is_checked(settings[_TDNF]):
        return f"gpgcheck is not on in {_TDNF}"
    others = [values for path, values in settings.items() if path != _TDNF]
    if not others and _TDNF in settings:
        return ""
    merged = {name: value for values in (*others, options) for name, value in values.items()}
    return "" if _is_checked(merged) else f"gpgcheck is not on, neither here nor in {_DNF}"


def _is_checked(values: Mapping[str, str]) -> bool:
    return any(values.get(name, "").lower() in _TRUE for name in ("gpgcheck", "pkg_gpgcheck"))


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
    # rpm trusts what was imported into its database, for every repository.
    imported = [p for p in parse_packages(facts.text(PACKAGES)) or () if p.name == "gpg-pubkey"]
    keys = [line.split(" ", 3)[-1] for line in facts.lines(_KEYS)]
    keys += [f"{package.name} {package.version}" for package in imported]
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
        (one for one in (*found, *facts.lines(_DIVERTED)) if not any(fnmatchcase(one, pattern) for pattern in allowed)),
        expected="no file that differs from its package but those of expect.package-differences",
    )
