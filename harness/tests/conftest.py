"""Fixtures that several test modules use."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

# The tests' own helper modules (ssh_server, ...) live beside this file; importlib mode does not add the folder.
sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "bench"))

from gate_bench import Judged
from seatrial.clock import Deadline
from seatrial.guest.shell import Shell, root_shell
from seatrial.guest.ssh import Address, Connection, RunKey, connect
from ssh_server import Served, ssh_server

# How long an example takes says more about who else uses this computer than about the code.
settings.register_profile("house", deadline=None)
settings.load_profile("house")

pytest_plugins = ["pytester"]


@pytest.fixture(scope="session")
def run_key() -> RunKey:
    return RunKey("test")


@pytest.fixture
def server(run_key: RunKey) -> Iterator[Served]:
    with ssh_server(run_key.public_line) as served:
        yield served


@pytest.fixture
def connection(server: Served, run_key: RunKey) -> Iterator[Connection]:
    with connect(Address(server.port), "root", run_key, deadline=Deadline(20)) as connected:
        yield connected


@pytest.fixture
def shell(connection: Connection) -> Iterator[Shell]:
    with root_shell(connection, guard=lambda: None, timeout_s=20) as opened:
        yield opened


@pytest.fixture
def judged(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Judged:
    return Judged(pytester, monkeypatch)
