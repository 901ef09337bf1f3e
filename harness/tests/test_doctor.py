"""The diagnosis and its remedy, on invented computers of every family."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from seatrial.doctor import (
    AptSource,
    Finding,
    Host,
    Need,
    State,
    Step,
    examine,
    exit_status,
    install,
    main,
    plan,
    report,
)
from seatrial.doctor.findings import manager_of
from seatrial.doctor.requirements import REQUIREMENTS, Manager
from seatrial.errors import HostError
from seatrial.process import Finished

MIRROR = "http://mirror.example/debian/"
BOOKWORM = AptSource(MIRROR, "bookworm", "main")
COMPLETE = {row.name: row.preferred or row.minimum for row in REQUIREMENTS}
# Every installation has these; what else is missing is the point of each test.
FRESH = {name: COMPLETE[name] for name in ("setpriv", "debugfs", "dpkg-deb")}
APT_FRESH = {**FRESH, "apt-get": (), "Debian archive keyring": ()}

DEBIAN_12 = Host(
    os_id="debian",
    os_name="Debian GNU/Linux 12 (bookworm)",
    codename="bookworm",
    managers=(Manager.APT,),
    present=APT_FRESH,
    apt_sources=(AptSource("http://mirror.example/debian-security/", "bookworm-security", "main"), BOOKWORM),
)
DEBIAN_13 = replace(DEBIAN_12, codename="trixie", apt_sources=(AptSource(MIRROR, "trixie", "main"),))
FEDORA = Host(os_id="fedora", managers=(Manager.DNF,), present={**FRESH, "python venv": ()})
AZURE_3 = replace(FEDORA, os_id="azurelinux", os_like=("mariner",), managers=(Manager.TDNF, Manager.DNF))
OPENSUSE = replace(FEDORA, os_id="opensuse-tumbleweed", os_like=("opensuse", "suse"), managers=(Manager.ZYPPER,))
ARCH = replace(FEDORA, os_id="arch", managers=(Manager.PACMAN,))

BACKPORTS = f"""\
tee /etc/apt/sources.list.d/seatrial-backports.sources <<'END'
Types: deb
URIs: {MIRROR}
Suites: bookworm-backports
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg
END"""


def commands(host: Host, prefix: str = "") -> list[str]:
    return [step.as_typed(prefix) for step in plan(host, examine(host)).steps]


def finding(host: Host, name: str) -> Finding:
    return next(found for found in examine(host) if found.name == name)


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        pytest.param(
            DEBIAN_12,
            [
                BACKPORTS,
                "apt-get update",
                "apt-get install -y --no-install-recommends -t bookworm-backports"
                " qemu-system-x86 qemu-utils ovmf python3-venv",
                "apt-get install -y --no-install-recommends -t bookworm-backports mkosi openssh-client",
                "apt-get install -y --no-install-recommends swtpm lynis",
            ],
            id="debian-12",
        ),
        pytest.param(
            DEBIAN_13,
            [
                "apt-get update",
                "apt-get install -y --no-install-recommends qemu-system-x86 qemu-utils ovmf python3-venv",
                "apt-get install -y --no-install-recommends mkosi openssh-client",
                "apt-get install -y --no-install-recommends swtpm lynis",
            ],
            id="debian-13",
        ),
        pytest.param(
            FEDORA,
            [
                "dnf install -y --setopt=install_weak_deps=False qemu-system-x86-core qemu-img edk2-ovmf",
                "dnf install -y --setopt=install_weak_deps=False mkosi apt debian-keyring openssh-clients",
                "dnf install -y --setopt=install_weak_deps=False swtpm lynis",
            ],
            id="fedora",
        ),
        pytest.param(
            AZURE_3,
            [
                "tdnf install -y qemu-system-x86-core qemu-img edk2-ovmf",
                "tdnf install -y apt openssh-clients",
                "tdnf install -y swtpm",
            ],
            id="azurelinux-3",
        ),
        pytest.param(
            OPENSUSE,
            [
                "zypper --non-interactive install --no-recommends qemu-x86 qemu-tools qemu-ovmf-x86_64",
                "zypper --non-interactive install --no-recommends mkosi openssh-clients",
                "zypper --non-interactive install --no-recommends swtpm lynis",
            ],
            id="opensuse",
        ),
        pytest.param(
            ARCH,
            [
                "pacman -S --needed --noconfirm qemu-system-x86 qemu-img edk2-ovmf",
                "pacman -S --needed --noconfirm mkosi apt debian-archive-keyring openssh",
                "pacman -S --needed --noconfirm swtpm lynis",
            ],
            id="arch",
        ),
    ],
)
def test_each_distribution_gets_its_own_exact_commands(host: Host, expected: list[str]) -> None:
    assert commands(host) == expected


def test_backports_that_are_configured_are_not_configured_again() -> None:
    host = replace(DEBIAN_12, apt_sources=(BOOKWORM, AptSource(MIRROR, "bookworm-backports", "main")))
    assert commands(host)[0] == "apt-get update"
    assert "-t bookworm-backports" in commands(host)[1]


def test_backports_wait_for_the_package_lists_when_the_mirror_is_not_known_yet() -> None:
    remedy = plan(host := replace(DEBIAN_12, apt_sources=()), examine(host))
    assert [step.argv for step in remedy.steps] == [("apt-get", "update")]
    assert "run the doctor again" in remedy.notes[-1]


def test_backports_stay_out_when_nothing_missing_comes_from_them() -> None:
    host = replace(DEBIAN_12, present={name: version for name, version in COMPLETE.items() if name != "swtpm"})
    assert commands(host) == ["apt-get update", "apt-get install -y --no-install-recommends swtpm"]


def test_the_newer_systemd_that_backports_bring_is_announced() -> None:
    assert any("systemd" in note for note in plan(DEBIAN_12, examine(DEBIAN_12)).notes)


def test_mkosi_of_the_release_is_too_old() -> None:
    found = finding(replace(DEBIAN_12, present={**COMPLETE, "mkosi": (14,)}), "mkosi")
    assert (found.state, found.package) == (State.TOO_OLD, "mkosi")
    assert "14 is installed, 24 or newer is needed" in found.detail


def test_qemu_between_minimum_and_preferred_is_good_enough() -> None:
    found = finding(replace(DEBIAN_12, present={**COMPLETE, "qemu-system-x86_64": (7, 2, 15)}), "qemu-system-x86_64")
    assert (found.state, found.detail) == (State.OK, "7.2.15; 10.0 or newer is better")


def test_qemu_that_tells_no_version_is_too_old() -> None:
    assert (
        finding(replace(DEBIAN_12, present={"qemu-system-x86_64": (0,)}), "qemu-system-x86_64").state is State.TOO_OLD
    )


def test_a_distribution_without_the_package_is_told_where_to_get_the_program() -> None:
    found = finding(AZURE_3, "mkosi")
    assert found.package == ""
    assert "no package of this distribution brings it: mkosi is one Python program" in found.detail


def test_azure_linux_without_tdnf_is_given_dnf_but_only_packages_that_it_has() -> None:
    assert commands(replace(AZURE_3, managers=(Manager.DNF,)))[1].endswith(
        "install_weak_deps=False apt openssh-clients"
    )


def test_a_derivative_is_recognised_by_what_it_is_like() -> None:
    assert manager_of(Host(os_id="linuxmint", os_like=("ubuntu", "debian"), managers=(Manager.APT,))) is Manager.APT


def test_the_distribution_decides_when_a_foreign_package_manager_is_installed_too() -> None:
    assert manager_of(replace(FEDORA, managers=(Manager.APT, Manager.DNF))) is Manager.DNF


def test_an_unknown_distribution_gets_the_commands_of_the_manager_it_has() -> None:
    assert commands(Host(os_id="homemade", managers=(Manager.PACMAN,)))[0].startswith("pacman -S")


def test_without_any_package_manager_there_is_a_diagnosis_but_no_command() -> None:
    host = Host(os_id="homemade")
    assert commands(host) == []
    assert exit_status(examine(host)) == 2


def test_only_required_things_decide_the_exit_status() -> None:
    required = {row.name: COMPLETE[row.name] for row in REQUIREMENTS if row.need is Need.REQUIRED}
    assert exit_status(examine(Host(os_id="homemade", present=required))) == 0
    for name in required:
        lacking = {other: version for other, version in required.items() if other != name}
        assert exit_status(examine(Host(os_id="homemade", present=lacking))) == 2


def test_newuidmap_concerns_only_those_who_are_not_root() -> None:
    assert "newuidmap" not in {found.name for found in examine(DEBIAN_13)}
    assert finding(replace(DEBIAN_13, is_root=False), "newuidmap").package == "uidmap"


def test_missing_kvm_is_a_warning_with_its_reason() -> None:
    found = finding(replace(DEBIAN_13, kvm="user 'ada' may not open /dev/kvm"), "KVM")
    assert (found.state, found.detail) == (State.WARNING, "user 'ada' may not open /dev/kvm")


def test_little_disk_space_is_a_warning_that_names_the_way_out() -> None:
    found = finding(replace(DEBIAN_13, free_gib=3.2), "disk space")
    assert found.state is State.WARNING
    assert "SEATRIAL_CACHE" in found.detail


class PackageManager:
    """Plays the package manager: keeps what it is told to run and ends with the statuses it was given."""

    def __init__(self, statuses: dict[str, int] | None = None) -> None:
        self.ran: list[tuple[str, ...]] = []
        self.statuses = statuses or {}

    def __call__(self, step: Step, prefix: tuple[str, ...]) -> Finished:
        self.ran.append((*prefix, *step.argv))
        status = max((self.statuses.get(word, 0) for word in step.argv), default=0)
        return Finished(step.argv, status, b"", b"E: Unable to locate package\n" if status else b"")


def after(*hosts: Host) -> Callable[[], Host]:
    following = iter(hosts)
    return lambda: next(following)


def test_install_says_what_changes_before_it_runs_it() -> None:
    said: list[str] = []
    manager = PackageManager()

    def run_step(step: Step, prefix: tuple[str, ...]) -> Finished:
        assert said[-1].startswith(step.as_typed(""))
        assert step.changes in said[-1]
        return manager(step, prefix)

    done = install(
        DEBIAN_12, say=said.append, run_step=run_step, look_again=after(replace(DEBIAN_12, present=COMPLETE))
    )
    assert done.present == COMPLETE
    assert [argv[:2] for argv in manager.ran] == [
        ("tee", "/etc/apt/sources.list.d/seatrial-backports.sources"),
        ("apt-get", "update"),
        ("apt-get", "install"),
        ("apt-get", "install"),
        ("apt-get", "install"),
    ]


def test_install_updates_again_once_the_backports_are_known() -> None:
    manager = PackageManager()
    install(
        replace(DEBIAN_12, apt_sources=()),
        say=lambda _: None,
        run_step=manager,
        look_again=after(DEBIAN_12, replace(DEBIAN_12, present=COMPLETE)),
    )
    assert [argv[:2] for argv in manager.ran][:3] == [
        ("apt-get", "update"),
        ("tee", "/etc/apt/sources.list.d/seatrial-backports.sources"),
        ("apt-get", "update"),
    ]


def test_install_does_not_go_round_when_a_package_stays_too_old() -> None:
    stuck = replace(DEBIAN_13, os_id="ubuntu", codename="noble", present={**COMPLETE, "mkosi": (20, 2)})
    manager = PackageManager()
    assert install(stuck, say=lambda _: None, run_step=manager, look_again=lambda: stuck) is stuck
    assert len(manager.ran) == 2


def test_install_uses_sudo_when_not_root() -> None:
    manager = PackageManager()
    host = replace(ARCH, is_root=False, has_sudo=True)
    install(host, say=lambda _: None, run_step=manager, look_again=lambda: replace(host, present=COMPLETE))
    assert {argv[0] for argv in manager.ran} == {"sudo"}


def test_install_without_root_and_sudo_gives_the_commands_for_root() -> None:
    manager = PackageManager()
    with pytest.raises(HostError, match="this is not root, and there is no sudo") as caught:
        install(replace(ARCH, is_root=False), say=lambda _: None, run_step=manager)
    assert "pacman -S --needed --noconfirm qemu-system-x86" in caught.value.hint
    assert manager.ran == []


def test_install_stops_when_a_required_package_cannot_be_had() -> None:
    with pytest.raises(HostError, match=r"ended with status 100, not 0:\nE: Unable to locate package"):
        install(DEBIAN_13, say=lambda _: None, run_step=PackageManager({"ovmf": 100}))


def test_install_goes_on_without_an_optional_package() -> None:
    said: list[str] = []
    manager = PackageManager({"lynis": 104})
    complete = replace(OPENSUSE, present=COMPLETE)
    assert install(OPENSUSE, say=said.append, run_step=manager, look_again=lambda: complete) is complete
    assert said[-1].endswith("going on without (optional)")


def test_the_report_lists_every_requirement_and_the_commands() -> None:
    text = report(DEBIAN_12, examine(DEBIAN_12))
    for row in REQUIREMENTS:
        assert row.rootless_only or row.name in text
    assert BACKPORTS in text
    assert text.endswith("doctor: something required is not there")


def test_a_brief_report_is_silent_about_what_is_there() -> None:
    host = replace(DEBIAN_12, present=COMPLETE)
    assert report(host, examine(host), say_all=False) == "doctor: everything required is there"


def test_the_report_names_what_a_complete_gate_goes_without() -> None:
    host = replace(DEBIAN_13, present={name: version for name, version in COMPLETE.items() if name != "swtpm"})
    assert report(host, examine(host)).endswith("doctor: everything required is there; without: swtpm")


def test_the_commands_of_a_report_carry_sudo_for_an_ordinary_user() -> None:
    host = replace(DEBIAN_13, is_root=False, has_sudo=True)
    assert "\nsudo apt-get update\n" in report(host, examine(host))


def test_what_some_distribution_does_not_package_comes_with_other_advice() -> None:
    everywhere = len(Manager)
    without = [row for row in REQUIREMENTS if len(row.packages) < everywhere and not row.elsewhere]
    assert [row.name for row in without] == [], "say in 'elsewhere' what to do where there is no package"


def test_the_doctor_ends_with_the_state_after_installing(capsys: pytest.CaptureFixture[str]) -> None:
    cured = replace(DEBIAN_13, present=COMPLETE)
    assert main(install_missing=True, look_at=lambda: DEBIAN_13, install_on=lambda _: cured) == 0
    assert capsys.readouterr().out.endswith("doctor: everything required is there\n")


def test_without_the_order_to_install_nothing_is_installed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(look_at=lambda: DEBIAN_13, install_on=_refused) == 2
    assert "apt-get install -y" in capsys.readouterr().out


def test_a_failed_installation_is_an_error_when_something_required_is_missing() -> None:
    with pytest.raises(HostError, match="no sudo"):
        main(install_missing=True, look_at=lambda: DEBIAN_13, install_on=_refused)


def test_a_failed_installation_of_extras_is_told_but_is_no_error(capsys: pytest.CaptureFixture[str]) -> None:
    host = replace(DEBIAN_13, present={name: version for name, version in COMPLETE.items() if name != "swtpm"})
    assert main(install_missing=True, look_at=lambda: host, install_on=_refused) == 0
    assert "no sudo" in capsys.readouterr().out


def _refused(_: Host) -> Host:
    raise HostError("no sudo")
