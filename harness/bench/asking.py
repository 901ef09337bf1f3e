"""How long it takes to ask a ready guest everything and to judge it, against testinfra's own paramiko backend.

Both sides ask the same questions of copies of one frozen guest, logged in before the clock starts, one after the other.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import testinfra
from rows import Row
from seatrial.again import called
from seatrial.guest.facts import Facts
from seatrial.guest.ssh import OnDemand
from seatrial.mutation import Probe
from seatrial.mutation_run import Ready, on_ready_guest
from seatrial.rehearsal import collect
from seatrial.restore import Session

__all__ = ["asking"]


class ByTestinfra:
    """Asks through a testinfra host; takes no batches and keeps nothing, as a testinfra test does."""

    def __init__(self, host: Any) -> None:
        self._host = host
        self.asked = 0

    def run(self, command: str, *, timeout_s: float | None = None) -> tuple[int, bytes, bytes]:  # noqa: ARG002 -- an Asker
        """Return exit status, stdout and stderr."""
        self.asked += 1
        done = self._host.run(command)
        return done.rc, done.stdout_bytes, done.stderr_bytes


def asking(image: Path, flavour: str = "debian-immutable") -> list[Row]:
    """Return the ratio that has a goal, and the one where testinfra asks each question once only."""
    rows: list[Row] = []
    status = on_ready_guest(
        lambda ready: rows.extend(_compared(ready)), [f"--image={image}", f"--flavour={flavour}"], []
    )
    assert status is None, f"pytest ended with {status}"
    return rows


def _compared(ready: Ready) -> list[Row]:
    probes = [p for p in ready.probes if not {"guest", "host"} & p.check.needs and "facts" in p.check.needs]
    _ours(ready, ready.session, probes)  # both sides find what they read in the guest's memory
    with ready.session.restored() as copy:
        _log_in(copy)
        ours_s = _ours(ready, copy, probes)
        questions, trips = list(copy.facts.answers), copy.facts.rounds
    with ready.session.restored() as copy:
        asker = ByTestinfra(_host(ready, copy))
        start = time.perf_counter()
        for question in questions:
            asker.run(question)
        once_s, asker.asked = time.perf_counter() - start, 0
        start = time.perf_counter()
        for probe in probes:
            called(probe.check, replace(copy, facts=Facts(asker)), ready.candidate.flavour)
        each_s = time.perf_counter() - start
    print(f"{len(probes)} read-only controls, {len(questions)} questions in {trips} rounds: {ours_s:.1f} s")
    print(f"testinfra: each question once {once_s:.1f} s, the {asker.asked} questions of all controls {each_s:.1f} s")
    return [
        Row.at_least("testinfra's paramiko backend, each control asking, against collecting", each_s / ours_s, 10),
        Row(
            name="testinfra's paramiko backend, each question once, against collecting",
            value=round(once_s / ours_s, 4),
            goal="none",
            holds=True,
        ),
    ]


def _ours(ready: Ready, session: Session, probes: Sequence[Probe]) -> float:
    start = time.perf_counter()
    collect(session.facts, [p.check for p in probes], flavour=ready.candidate.flavour, boot=session.boot_facts)
    for probe in probes:
        called(probe.check, session, ready.candidate.flavour)
    return time.perf_counter() - start


def _log_in(copy: Session) -> None:
    """Have a root shell and an SSH connection in ``copy``, as a guest that has just booted has."""
    assert isinstance(copy.guest.connection, OnDemand)
    assert copy.guest.connection.connection.is_alive
    assert copy.shell.run("true")[0] == 0


def _host(ready: Ready, copy: Session) -> Any:
    """Return a testinfra host on ``copy``, logged in."""
    assert copy.way is not None
    key = Path(tempfile.mkstemp(dir=ready.place)[1])
    key.write_text(copy.way.key.pem)
    os.chmod(key, 0o600)
    user, port = copy.way.user, copy.guest.address.port
    host = testinfra.get_host(
        f"paramiko://{user}@127.0.0.1:{port}", ssh_identity_file=str(key), sudo=user != "root", timeout=600
    )
    assert host.run("true").rc == 0
    return host
