"""Every control of the footprint suite passes within its budgets, and one number or name too many turns it red."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from seatrial.evidence.files import audit_command, capabilities_command, local_trees
from seatrial.evidence.listeners import LISTENERS
from seatrial.evidence.mounts import MOUNTINFO, parse_mountinfo
from seatrial.evidence.packages import PACKAGES
from seatrial.evidence.units import UNITS
from seatrial.policy.flavours import Budgets
from seatrial.policy.judge import Outcome
from suite_bench import Guest, bench, recorded

SUITE = bench("footprint")
ASKS = SUITE.modules["test_footprint"]
TREES = local_trees(parse_mountinfo(recorded("hardening/mountinfo")))
WALK, CAPABILITIES = audit_command(TREES), capabilities_command(TREES)


def guest(flavour: str = "debian-general") -> Guest:
    return Guest(
        {
            ASKS._DISKS: "vda 4407296\nvdb 2048\n",
            ASKS._USED: recorded("footprint/df"),
            ASKS._PROGRAMS: recorded("footprint/programs"),
            ASKS._RUNTIMES: "",
            ASKS._DOCS: "8\t/usr/share/info\n4\t/usr/src\nend\n",
            ASKS._ARCHIVES: "",
            ASKS._MEMORY: recorded("footprint/meminfo"),
            ASKS._PROCESSES: "14\n",
            ASKS._MODULES: recorded("footprint/modules"),
            ASKS._BUS: "/usr/share/dbus-1/system-services/org.freedesktop.hostname1.service\n",
            PACKAGES: recorded("footprint/packages"),
            LISTENERS: recorded("hardening/listeners"),
            UNITS: recorded("hardening/units"),
            MOUNTINFO: recorded("hardening/mountinfo"),
            WALK: recorded("hardening/walk"),
            CAPABILITIES: "",
        },
        flavour=flavour,
    )


def grown(question: str, lines: str) -> Callable[[Guest], None]:
    def seed(g: Guest) -> None:
        g.answers[question] += lines

    return seed


def instead(question: str, text: str) -> Callable[[Guest], None]:
    def seed(g: Guest) -> None:
        g.answers[question] = text

    return seed


def many(pattern: str, count: int = 1000) -> str:
    return "".join(f"{pattern.format(number)}\n" for number in range(count))


LISTENER = 'tcp LISTEN 0 1 0.0.0.0:{} 0.0.0.0:* users:(("x",pid=9,fd=3))'
DEFECTS = [
    ("fp-image-size", instead(ASKS._DISKS, "vda 99999999\n")),
    ("fp-image-size", grown(ASKS._USED, "/dev/vdc1 9000000 8000000 0 89% /mnt\n")),
    ("fp-package-count", grown(PACKAGES, many("installed extra{} 1.0"))),
    ("fp-package-count", grown(ASKS._PROGRAMS, many("extra{}"))),
    ("fp-denied-packages", grown(PACKAGES, "installed telnetd 1.0\n")),
    ("fp-denied-packages", grown(PACKAGES, "config-files tcpdump 1.0\n")),
    ("fp-denied-packages", grown(ASKS._PROGRAMS, "tcpdump\n")),
    ("fp-idle-memory", instead(ASKS._MEMORY, "MemTotal: 2000000 kB\nMemAvailable: 100000 kB\n")),
    ("fp-listening-count", grown(LISTENERS, many(LISTENER, 50))),
    ("fp-listening-count", grown(WALK, many("89ed root root /opt/a{}"))),
    ("fp-listening-count", grown(CAPABILITIES, many("/opt/c{} cap_net_raw=ep"))),
    ("fp-listening-count", grown(UNITS, many("a{}.service loaded active running x"))),
    ("fp-listening-count", grown(UNITS, many("a{}.timer loaded active waiting x"))),
    ("fp-listening-count", instead(ASKS._PROCESSES, "500\n")),
    ("fp-listening-count", grown(ASKS._MODULES, many("extra{} 1234 0 - Live 0x0"))),
    ("fp-listening-count", grown(ASKS._BUS, many("/usr/share/dbus-1/system-services/a{}.service"))),
]  # fmt: skip


def test_a_healthy_guest_is_within_its_budgets() -> None:
    assert SUITE.red(guest(), "general-purpose") == {}


@pytest.mark.parametrize(("control", "seed"), DEFECTS, ids=[f"{n}-{d[0]}" for n, d in enumerate(DEFECTS)])
def test_what_is_too_much_turns_exactly_its_control_red(control: str, seed: Callable[[Guest], None]) -> None:
    g = guest()
    seed(g)
    red = SUITE.red(g, "general-purpose")
    assert red.keys() == {control}
    assert red[control].startswith("fail")


def container_host() -> Guest:
    g = guest("debian-immutable")
    g.answers[PACKAGES] = "none\n"
    g.answers[ASKS._PROGRAMS] = "awk\nmount\nsh\n"
    g.answers[ASKS._MEMORY] = "MemTotal:       2014432 kB\nMemAvailable:   1900000 kB\n"
    g.answers[ASKS._DISKS] = "vda 1585952\n"
    g.answers[ASKS._USED] = "Filesystem 1024-blocks Used Available Capacity Mounted on\n/dev/vda4 1 1 1 1% /\n"
    return g


@pytest.mark.parametrize(
    ("control", "question", "lines"),
    [
        ("fp-no-interpreters", ASKS._PROGRAMS, "python3.13\n"),
        ("fp-no-interpreters", ASKS._RUNTIMES, "/usr/lib/python3\n"),
        ("fp-no-docs", ASKS._ARCHIVES, "/usr/lib/libx.a\n"),
    ],
)
def test_a_container_host_has_no_interpreters_and_no_libraries_to_build_with(
    control: str, question: str, lines: str
) -> None:
    g = container_host()
    assert SUITE.red(g, "immutable-host") == {}
    g.answers[question] += lines
    assert SUITE.red(g, "immutable-host").keys() == {control}


def test_interpreters_of_the_flavour_may_be_there_in_any_version() -> None:
    g = container_host()
    g.answers[ASKS._PROGRAMS] += "python3\npython3.12\n"
    g.answers[ASKS._RUNTIMES] += "/usr/lib/python3.12\n"
    g.expect["interpreters"] = ("python3*", "/usr/lib/python3*")
    assert SUITE.red(g, "immutable-host") == {}
    g.answers[ASKS._PROGRAMS] += "perl\n"
    assert SUITE.red(g, "immutable-host").keys() == {"fp-no-interpreters"}


def test_manuals_have_a_budget() -> None:
    g = container_host()
    g.replace(ASKS._DOCS, "8\t", "20480\t")
    assert SUITE.red(g, "immutable-host").keys() == {"fp-no-docs"}


@pytest.mark.parametrize("name", ["lua5.4", "ruby", "nodejs", "tclsh8.6", "gdb", "perl5.40.1", "php8.2"])
def test_interpreters_are_known_by_name(name: str) -> None:
    assert ASKS._INTERPRETERS.fullmatch(name)


@pytest.mark.parametrize("name", ["perlbug-not", "nodev", "lualatex", "phpize-x", "javac", "awk", "bash"])
def test_other_names_are_no_interpreters(name: str) -> None:
    assert not ASKS._INTERPRETERS.fullmatch(name)


def test_a_quantity_without_a_budget_is_not_checked_and_not_passed() -> None:
    g = guest()
    g.budgets = Budgets()
    outcomes = {control: SUITE.outcome(control, g) for control in ("fp-image-size", "fp-idle-memory")}
    assert set(outcomes.values()) == {Outcome.NOT_CHECKED}


@pytest.mark.parametrize(
    ("control", "question"),
    [
        ("fp-image-size", ASKS._DISKS),
        ("fp-image-size", ASKS._USED),
        ("fp-package-count", PACKAGES),
        ("fp-package-count", ASKS._PROGRAMS),
        ("fp-denied-packages", PACKAGES),
        ("fp-denied-packages", ASKS._PROGRAMS),
        ("fp-no-interpreters", ASKS._PROGRAMS),
        ("fp-no-docs", ASKS._DOCS),
        ("fp-idle-memory", ASKS._MEMORY),
        ("fp-listening-count", ASKS._PROCESSES),
        ("fp-listening-count", UNITS),
        ("fp-listening-count", WALK),
    ],
)
@pytest.mark.parametrize("text", ["", "\x1b[2Jnonsense\n"])
def test_an_answer_that_says_nothing_is_an_error(control: str, question: str, text: str) -> None:
    g = guest()
    g.answers[question] = text
    assert SUITE.outcome(control, g) is Outcome.ERROR
