"""The pytest plugin: translates between pytest and a gate run. Nothing heavy is imported until an image is judged."""

from __future__ import annotations

import contextlib
import os
import sys
import types
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from seatrial.check import Check
    from seatrial.errors import SeatrialError
    from seatrial.guest.facts import Facts
    from seatrial.hooks import Gate, Judging
    from seatrial.machine.boot import BootFacts
    from seatrial.policy.controls import Control
    from seatrial.policy.flavours import Flavour
    from seatrial.session import Session
    from seatrial.suites import Suites

# Whoever is registered by this name judges in another way than a gate does.
MUTANTS = "seatrial-mutants"
GATE: pytest.StashKey[Gate] = pytest.StashKey()
JUDGING: pytest.StashKey[Judging] = pytest.StashKey()
CHECK = pytest.StashKey["Check"]()
_FAULTS = pytest.StashKey[list["SeatrialError"]]()
_TABLES = pytest.StashKey["Suites"]()
_REFUSED = "seatrial_refused"
_REFUSAL = (
    "these suites judge a booted image and never this computer: {count} check(s) need --image, such as {first}\n"
    "  hint: pytest --image FILE --flavour NAME {folder}; 'seatrial gate' judges the demo image"
)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options of :mod:`seatrial.options`."""
    from seatrial.options import add_options

    add_options(parser)


@pytest.hookimpl(trylast=True)
def pytest_configure(config: pytest.Config) -> None:
    """Check the input and, with an image, take the ``host`` fixture over from testinfra."""
    config.addinivalue_line("markers", "control(id): the check of one control of the folder's controls.toml")
    config.addinivalue_line("markers", "changes_guest: the check gets an isolated copy of the ready guest of its own")
    config.addinivalue_line("markers", "probe(kind): the check of every control whose probe is of this kind")
    asked = any(
        config.getoption(f"seatrial_{name}")
        or os.environ.get(f"SEATRIAL_{name.upper()}")
        or config.getini(f"seatrial_{name}")
        for name in ("image", "kernel", "facts")
    )
    if asked and not (config.option.help or config.option.version):
        if (other := config.pluginmanager.getplugin(MUTANTS)) is not None:
            other.prepare(config)
            return
        # Registered last, so that the fixtures win over testinfra's in whatever order plugins were loaded.
        from seatrial.hooks import Gate

        config.stash[GATE] = config.stash[JUDGING] = Gate(config)
        from seatrial.copies import copy_fixtures

        gate = config.stash[GATE]
        config.pluginmanager.register(gate, "seatrial-gate")
        copies = copy_fixtures(lambda: guest_of(config), gate.own_guest, gate.rebooted)
        config.pluginmanager.register(copies, "seatrial-copies")
        config.pluginmanager.register(_guest_fixtures(), "seatrial-guest")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Give a probe function one row a control of its folder's table."""
    marker = metafunc.definition.get_closest_marker("probe")
    if marker is not None:
        from seatrial.errors import ConfigError
        from seatrial.plan import probe_rows

        rows: tuple[Control, ...] = ()
        try:
            judging = metafunc.config.stash.get(JUDGING, None)
            deviations = judging.candidate.flavour.deviations if judging is not None else {}
            rows = probe_rows(tables_of(metafunc.config), metafunc.definition.path, str(marker.args[0]), deviations)
        except ConfigError as exc:
            # Raised here it would be one collection error of many; it is the user's, and said once at the end.
            metafunc.config.stash.setdefault(_FAULTS, []).append(exc)
        metafunc.parametrize("row", [pytest.param(row, id=row.id, marks=pytest.mark.control(row.id)) for row in rows])


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Refuse to run checks with faulty tables, or without a guest."""
    if not (refusal := _refusal(config, items)):
        return
    if (told := getattr(config, "workeroutput", None)) is not None:
        # A worker of pytest-xdist that ends on a usage error looks as if it had crashed: its controller refuses.
        told[_REFUSED] = refusal
        items.clear()
        return
    raise pytest.UsageError(refusal)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Refuse what a worker of pytest-xdist has refused."""
    if refusal := getattr(node, "workeroutput", {}).get(_REFUSED):
        raise pytest.UsageError(refusal)


def _refusal(config: pytest.Config, items: Sequence[pytest.Item]) -> str:
    if faults := config.stash.get(_FAULTS, []):
        return "\n".join(dict.fromkeys(str(fault) for fault in faults))
    judges = any(config.pluginmanager.has_plugin(name) for name in ("seatrial-gate", MUTANTS))
    ours = [item for item in items if item.get_closest_marker("control") or item.get_closest_marker("probe")]
    if judges or config.option.collectonly or not ours:
        return ""
    return _REFUSAL.format(count=len(ours), first=ours[0].nodeid, folder=ours[0].nodeid.partition("/test_")[0])


def tables_of(config: pytest.Config) -> Suites:
    from seatrial.suites import Suites

    return config.stash.setdefault(_TABLES, Suites())


@contextlib.contextmanager
def user_errors() -> Iterator[None]:
    """Turn our errors into pytest's: usage for what the user must change, exit status 2 for what this host lacks."""
    from seatrial.errors import ConfigError, SeatrialError

    try:
        yield
    except ConfigError as exc:
        raise pytest.UsageError(str(exc)) from exc
    except SeatrialError as exc:
        pytest.exit(f"cannot judge: {exc}", returncode=exc.exit_status)


class _Unreadable:
    """Says why a file of checks cannot be read: a gate shows no tracebacks of checks."""

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Write what collecting met."""
        for report in terminalreporter.stats.get("error", []):
            if isinstance(report, pytest.CollectReport):
                terminalreporter.write_line(f"{report.nodeid} cannot be read:\n{report.longreprtext}")


def gate(subject: Sequence[str], folders: Sequence[str], options: Sequence[str], *, quiet: bool) -> int:
    """Judge ``subject`` by the suites in ``folders`` in this process and return the exit status of the gate.

    :param subject: the option that names what is judged, ``--image=FILE`` or ``--facts=FILE``, where no other does.
    """
    # No configuration file and no cache: the verdict must not depend on the folder that the command is started in.
    arguments = [
        "-c",
        os.devnull,
        "--rootdir",
        os.path.commonpath(folders),
        "-p",
        "no:cacheprovider",
        "--strict-markers",
    ]
    arguments += [
        "--import-mode=importlib",
        "--tb=no",
        "-rN",
        "--no-header",
        *(["-q"] if quiet else []),
        *subject,
    ]
    try:
        return int(pytest.main([*arguments, *options, *folders], plugins=[_Unreadable()]))
    except KeyboardInterrupt:
        # A second Ctrl-C, while the first one's end was written down: what is on disk says reject.
        sys.stderr.write("seatrial: interrupted again; the record so far says reject, and nothing is left running\n")
        return int(pytest.ExitCode.INTERRUPTED)


def _guest_fixtures() -> object:
    """Return what checks ask for, as an object to register: at module level they would hide others' fixtures always."""

    @pytest.fixture(scope="session")
    def host(pytestconfig: pytest.Config) -> Any:
        """The booted guest as a testinfra host; never this computer."""
        return guest_of(pytestconfig).host

    @pytest.fixture(scope="session")
    def facts(pytestconfig: pytest.Config) -> Facts:
        """Read-only questions to the guest, each asked once."""
        return guest_of(pytestconfig).facts

    @pytest.fixture(scope="session")
    def flavour(pytestconfig: pytest.Config) -> Flavour:
        """The policy that the image is judged by."""
        return pytestconfig.stash[GATE].candidate.flavour

    @pytest.fixture(scope="session")
    def boot(pytestconfig: pytest.Config) -> BootFacts:
        """What is known of the boot from outside the guest."""
        return guest_of(pytestconfig).boot_facts

    @pytest.fixture
    def check(request: pytest.FixtureRequest) -> Check:
        """Where a check says what it saw."""
        from seatrial.check import Check

        return request.node.stash.setdefault(CHECK, Check())  # type: ignore[no-any-return]  # the node is untyped

    holder = types.ModuleType("seatrial_guest_fixtures")
    holder.__dict__.update(host=host, facts=facts, flavour=flavour, boot=boot, check=check)
    return holder


def guest_of(config: pytest.Config) -> Session:
    session = config.stash[GATE].session
    if session is None:
        pytest.fail("no guest is up", pytrace=False)
    return session
