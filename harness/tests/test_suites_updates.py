"""Every control of the updates suite passes on a healthy guest, and one defect each turns it red."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from seatrial.evidence.os_release import OS_RELEASE
from seatrial.evidence.packages import PACKAGES, RPM_SETTINGS, SOURCES, VERIFY
from seatrial.evidence.units import UNIT_FILES
from seatrial.policy.judge import Outcome
from suite_bench import Guest, bench, recorded

SUITE = bench("updates")
PACKAGE = SUITE.modules["test_packages"]
RELEASE = SUITE.modules["test_release"]


def guest(flavour: str = "debian-general") -> Guest:
    return Guest(
        {
            PACKAGE._APT: recorded("updates/apt-config"),
            PACKAGE._APT_PLACES: recorded("updates/apt-places"),
            PACKAGE._DIVERTED: "",
            RPM_SETTINGS: "",
            PACKAGE._KEYS: "",
            PACKAGES: recorded("footprint/packages"),
            SOURCES: recorded("updates/sources"),
            VERIFY: recorded("updates/verify"),
            OS_RELEASE: 'ID=debian\nVERSION_ID="13"\n',
            UNIT_FILES: recorded("hardening/unit-files"),
            RELEASE._NOW: "1795480000\n",
            RELEASE._KERNELS: recorded("updates/kernels"),
        },
        flavour=flavour,
    )


def more(question: str, lines: str) -> Callable[[Guest], None]:
    def seed(g: Guest) -> None:
        g.answers[question] += lines

    return seed


def edit(question: str, old: str, new: str) -> Callable[[Guest], None]:
    return lambda g: g.replace(question, old, new)


LIST = "file /etc/apt/sources.list\n "
DEFECTS = [
    ("upd-signatures", more(PACKAGE._APT, 'APT::Get::AllowUnauthenticated "true";\n')),
    ("upd-signatures", edit(PACKAGE._APT, 'AllowInsecureRepositories "0"', 'AllowInsecureRepositories "yes"')),
    ("upd-signatures", more(PACKAGE._APT, 'Acquire::https::Verify-Peer "false";\n')),
    ("upd-signatures", more(PACKAGE._APT, 'Acquire::https::packages.example::Verify-Peer "false";\n')),
    ("upd-signatures", more(RPM_SETTINGS, "file /etc/dnf/dnf.conf\n [main]\n gpgcheck=0\n")),
    ("upd-signatures", edit(SOURCES, " Signed-By", " Trusted: yes\n Signed-By")),
    ("upd-signatures", more(SOURCES, f"{LIST}deb [trusted=yes] https://packages.example/debian trixie main\n")),
    ("upd-sources", more(SOURCES, f"{LIST}deb https://mirror.example/debian trixie main\n")),
    ("upd-sources", edit(SOURCES, "https://packages", "http://packages")),
    ("upd-sources", more(PACKAGE._KEYS, "81a4 root root /etc/apt/trusted.gpg.d/vendor.asc\n")),
    (
        "upd-pkgdb-intact",
        more(PACKAGE._DIVERTED, "local diversion of /usr/bin/ldd to /usr/bin/ldd.distrib\n"),
    ),
    ("upd-mechanism-state", more(UNIT_FILES, "apt-daily-upgrade.timer enabled enabled\n")),
    ("upd-pkgdb-intact", more(VERIFY, "??5??????   /usr/bin/su\n")),
    ("upd-pkgdb-intact", more(VERIFY, "missing     /usr/bin/su\n")),
    ("upd-supported", edit(OS_RELEASE, "13", "11")),
    ("upd-supported", edit(RELEASE._NOW, "1795480000", "1849000000")),
    ("upd-single-kernel", more(RELEASE._KERNELS, "/usr/lib/modules/6.1.0-old/\n")),
    ("upd-single-kernel", more(RELEASE._KERNELS, "/boot/vmlinuz-6.1.0-old\n")),
    ("upd-single-kernel", more(RELEASE._KERNELS, "/boot/EFI/Linux/old.efi\n")),
    ("upd-single-kernel", more(PACKAGES, "installed linux-image-6.1.0-old 1\n")),
    ("upd-single-kernel", more(PACKAGES, "config-files grub-pc 1\n")),
]


def test_a_healthy_guest_passes() -> None:
    assert SUITE.red(guest(), "general-purpose") == {}


@pytest.mark.parametrize(("control", "seed"), DEFECTS, ids=[f"{n}-{d[0]}" for n, d in enumerate(DEFECTS)])
def test_a_defect_turns_exactly_its_control_red(control: str, seed: Callable[[Guest], None]) -> None:
    g = guest()
    seed(g)
    red = SUITE.red(g, "general-purpose")
    assert red.keys() == {control}


def test_a_package_manager_without_sources_has_no_updates() -> None:
    g = guest()
    g.answers[SOURCES] = ""
    assert SUITE.outcome("upd-sources", g) is Outcome.FAIL


def test_an_image_without_package_manager_is_not_judged_by_packages() -> None:
    g = guest("debian-immutable")
    g.answers[PACKAGES] = g.answers[VERIFY] = g.answers[PACKAGE._APT] = "none\n"
    assert SUITE.red(g, "immutable-host") == {}
    assert SUITE.outcome("upd-sources", g) is Outcome.NOT_APPLICABLE
    assert SUITE.outcome("upd-pkgdb-intact", g) is Outcome.NOT_APPLICABLE


def test_a_repository_of_dnf_is_judged_too() -> None:
    g = guest()
    repository = "file /etc/yum.repos.d/x.repo\n [x]\n baseurl=https://packages.example/rpm\n gpgcheck={}\n"
    g.expect["package-sources"] = ("https://packages.example/rpm",)
    g.answers[SOURCES] = repository.format(1)
    assert SUITE.red(g, "general-purpose") == {}
    for more in (
        " baseurl=https://packages.example/rpm\n   http://other.example/rpm\n",
        " mirrorlist=http://m.example\n",
    ):
        g.answers[SOURCES] = f"{repository.format(1)}{more}"
        assert SUITE.red(g, "general-purpose").keys() == {"upd-sources"}
    g.answers[SOURCES] = repository.format(0)
    assert SUITE.red(g, "general-purpose").keys() == {"upd-signatures"}


@pytest.mark.parametrize(
    ("setting", "outcome"),
    [
        ("reposdir=/etc/yum.repos.d, /etc/distro.repos.d/", Outcome.PASS),
        ("repodir=/etc/yum.repos.d", Outcome.PASS),
        ("reposdir=/opt/vendor/repos.d", Outcome.ERROR),
        ("repodir=/opt/vendor/repos.d", Outcome.ERROR),
    ],
)
def test_repositories_of_a_folder_that_nobody_reads_cannot_be_judged(setting: str, outcome: Outcome) -> None:
    g = guest()
    g.answers[SOURCES] = f"{REPOSITORY} gpgcheck=1\n"
    g.answers[RPM_SETTINGS] = f"{DNF} {setting}\n"
    assert SUITE.outcome("upd-signatures", g) is outcome


REPOSITORY = "file /etc/yum.repos.d/x.repo\n [x]\n baseurl=https://packages.example/debian trixie main\n"
DNF, TDNF = "file /etc/dnf/dnf.conf\n [main]\n", "file /etc/tdnf/tdnf.conf\n [main]\n"
DNF5 = "file /usr/share/dnf5/libdnf.conf.d/20-vendor.conf\n [main]\n"


@pytest.mark.parametrize(
    ("settings", "own", "outcome"),
    [
        ("", "", Outcome.FAIL),
        ("", "gpgcheck=1", Outcome.PASS),
        (DNF, "", Outcome.FAIL),
        (DNF, "gpgcheck=1", Outcome.PASS),
        (f"{DNF} gpgcheck = True\n", "", Outcome.PASS),
        (f"{DNF5} pkg_gpgcheck=True\n{DNF}", "", Outcome.PASS),
        (f"{DNF5} best=False\n{DNF}", "", Outcome.FAIL),
        (TDNF, "gpgcheck=1", Outcome.FAIL),
        (f"{TDNF} gpgcheck=1\n", "", Outcome.PASS),
        (f"{TDNF} gpgcheck=1\n", "gpgcheck=off", Outcome.FAIL),
        (f"{DNF}{TDNF} gpgcheck=1\n", "", Outcome.FAIL),
        (f"{DNF} gpgcheck=1\n{TDNF} gpgcheck=1\n", "", Outcome.PASS),
    ],
)
def test_a_repository_that_says_nothing_takes_the_word_of_the_program(
    settings: str, own: str, outcome: Outcome
) -> None:
    g = guest()
    g.answers[SOURCES] = f"{REPOSITORY} {own}\n"
    g.answers[RPM_SETTINGS] = settings
    assert SUITE.outcome("upd-signatures", g) is outcome


@pytest.mark.parametrize(
    ("packages", "outcome"),
    [
        ("installed kernel 6.18-1\ninstalled kernel-core 6.18-1\n", Outcome.PASS),
        ("installed kernel 6.18-1\ninstalled kernel 6.18-2\n", Outcome.FAIL),
        ("installed kernel-core 6.18-1\ninstalled kernel 6.18-2\n", Outcome.FAIL),
    ],
)
def test_packages_of_one_kernel_are_one(packages: str, outcome: Outcome) -> None:
    g = guest()
    g.answers[PACKAGES] = packages
    assert SUITE.outcome("upd-single-kernel", g) is outcome


@pytest.mark.parametrize(
    ("flavour", "units", "outcome"),
    [
        ("flatcar", "update-engine.service disabled enabled\nlocksmithd.service disabled enabled\n", Outcome.PASS),
        ("flatcar", "update-engine.service masked enabled\n", Outcome.PASS),
        ("flatcar", "update-engine.service disabled enabled\nsnapd.service enabled enabled\n", Outcome.FAIL),
        ("azure-container-linux", "update-engine.service disabled enabled\n", Outcome.FAIL),
    ],
)
def test_a_mechanism_that_the_vendors_links_start_may_be_there_where_the_flavour_says_so(
    flavour: str, units: str, outcome: Outcome
) -> None:
    g = guest(flavour)
    wants = "pulled-in /usr/lib/systemd/system/multi-user.target.wants"
    g.answers[UNIT_FILES] = f"{units}{wants}/update-engine.service\n{wants}/locksmithd.service\n"
    assert SUITE.outcome("upd-mechanism-state", g) is outcome


@pytest.mark.parametrize(
    ("control", "question"),
    [
        ("upd-signatures", PACKAGE._APT),
        ("upd-signatures", PACKAGES),
        ("upd-signatures", RPM_SETTINGS),
        ("upd-sources", PACKAGE._APT_PLACES),
        ("upd-pkgdb-intact", VERIFY),
        ("upd-mechanism-state", UNIT_FILES),
        ("upd-supported", RELEASE._NOW),
        ("upd-supported", OS_RELEASE),
        ("upd-single-kernel", RELEASE._KERNELS),
    ],
)
def test_an_answer_that_cannot_be_read_is_an_error(control: str, question: str) -> None:
    g = guest()
    g.answers[question] = "\x1b[2Jnonsense\n"
    assert SUITE.outcome(control, g) is Outcome.ERROR


@pytest.mark.parametrize("control", ["upd-sources", "upd-signatures"])
def test_sources_that_apt_looks_for_elsewhere_are_no_answer(control: str) -> None:
    g = guest()
    g.replace(PACKAGE._APT_PLACES, "/etc/apt/sources.list.d/", "/opt/apt/")
    assert SUITE.outcome(control, g) is Outcome.ERROR


def test_an_end_of_support_that_the_image_names_counts_where_the_flavour_has_none() -> None:
    g = guest()
    g.answers[OS_RELEASE] = "ID=x\nVERSION_ID=40\nSUPPORT_END=2027-11-30\n"
    assert SUITE.outcome("upd-supported", g) is Outcome.PASS
    g.answers[OS_RELEASE] = "ID=x\nVERSION_ID=40\nSUPPORT_END=2026-12-24\n"
    assert SUITE.outcome("upd-supported", g) is Outcome.FAIL
