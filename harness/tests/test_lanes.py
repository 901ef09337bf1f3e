"""Questions over several shells at a time: the same answers, what must be alone is, and no lane can lose one."""

from __future__ import annotations

import re
import threading
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import cast

import pytest
from seatrial.clock import Deadline
from seatrial.errors import SessionError, SessionLost
from seatrial.evidence.listeners import LISTENERS
from seatrial.guest.keys import RunKey
from seatrial.guest.lanes import Lanes, is_asked_alone, turn
from seatrial.guest.shell import MOST_OUTPUT, Shell, root_shell
from seatrial.guest.ssh import Address, Connection, OnDemand
from seatrial.report.facts import read_facts
from ssh_server import Served

FACTS = Path(__file__).parents[2] / "fixtures" / "facts"
MANY = [f"echo {number}" for number in range(60)]


@pytest.fixture
def shell(shell: Shell) -> Shell:
    """Return a shell that is open, as a ready guest's is."""
    shell.run("true")
    return shell


def texts(answers: Iterator[tuple[int, bytes, bytes] | SessionError]) -> list[bytes]:
    return [answer[1] for answer in answers if not isinstance(answer, SessionError)]


def test_two_lanes_give_the_answers_of_one_in_order(shell: Shell, server: Served) -> None:
    commands = [*MANY, "printf err >&2; exit 7", "if then (", "kill -s KILL $$", "exit 3"]
    alone = list(shell.run_all(commands))
    both = list(Lanes(shell, most=2).run_all(commands))
    assert [answer for answer in both if not isinstance(answer, SessionError)] == [
        answer for answer in alone if not isinstance(answer, SessionError)
    ]
    assert [isinstance(answer, SessionError) for answer in both] == [
        command == "kill -s KILL $$" for command in commands
    ]
    assert len(server.commands) > 1


def test_two_questions_are_answered_at_the_same_time(shell: Shell, tmp_path: Path) -> None:
    def meet(mine: str, other: str) -> str:
        wait = f"n=0; while [ ! -e {other} ] && [ $n -lt 200 ]; do n=$((n+1)); sleep 0.05; done"
        return f"cd {tmp_path}; : > {mine}; {wait}; ls"

    # The first lane takes five of the front, the other one five or four of the end.
    commands = [meet("a", "b"), *MANY[:15], meet("b", "a"), *MANY[:3]]
    answers = texts(Lanes(shell, most=2).run_all(commands))
    assert (answers[0], answers[16]) == (b"a\nb\n", b"a\nb\n")


def test_nothing_else_runs_beside_what_is_asked_alone(shell: Shell, tmp_path: Path) -> None:
    def note(what: str) -> str:
        return f"echo {what} >> {tmp_path}/log; sleep 0.01; echo {what} >> {tmp_path}/log"

    commands = [f"{note(f'alone{number}')} # /proc/[0-9]*" for number in range(4)] + [note("x")] * 20
    assert len(texts(Lanes(shell, most=2).run_all(commands))) == len(commands)
    assert (tmp_path / "log").read_text().split()[:8] == [f"alone{number // 2}" for number in range(8)]


def test_few_questions_open_no_second_shell(shell: Shell, server: Served) -> None:
    assert texts(Lanes(shell, most=2).run_all(MANY[:8])) == [f"{n}\n".encode() for n in range(8)]
    assert len(server.commands) == 1


def test_shells_are_kept_from_round_to_round_but_for_what_is_asked_alone(shell: Shell, server: Served) -> None:
    lanes = Lanes(shell, most=2)
    with lanes.kept():
        for commands in (MANY, MANY[:3], MANY):
            assert len(texts(lanes.run_all(commands))) == len(commands)
        assert len(server.commands) == 2
        assert texts(lanes.run_all(["echo /proc/[0-9]* | grep -c /proc"])) == [b"1\n"]
        assert len(texts(lanes.run_all(MANY))) == len(MANY)
        assert len(server.commands) == 3
    assert len(texts(lanes.run_all(MANY))) == len(MANY)
    assert len(server.commands) == 4


def test_shells_are_not_kept_when_a_round_has_failed(shell: Shell, server: Served) -> None:
    lanes = Lanes(shell, most=2)
    with lanes.kept():
        answers = lanes.run_all(["echo 0", *["sleep 600"] * 40])
        next(answers)
        cast(Generator[object], answers).close()
        assert len(texts(lanes.run_all(MANY))) == len(MANY)
    assert len(server.commands) == 3  # the first one anew, and nobody asks the one that still sleeps


def test_a_guest_that_opens_no_second_channel_answers_by_one(shell: Shell, server: Served) -> None:
    server.most_channels = 1
    assert texts(Lanes(shell, most=2).run_all(MANY)) == [f"{n}\n".encode() for n in range(60)]
    assert len(server.commands) == 1


def test_a_lost_connection_ends_all_lanes_with_the_answers_until_then(shell: Shell, server: Served) -> None:
    answers = Lanes(shell, most=2).run_all([*MANY[:20], "sleep 600", *MANY])
    assert next(answers) == (0, b"0\n", b"")
    server.cut()
    with pytest.raises(SessionLost):
        list(answers)
    assert [thread.name for thread in threading.enumerate() if thread.name == "lane"] == []


def test_whoever_takes_no_more_answers_ends_all_lanes(shell: Shell) -> None:
    answers = Lanes(shell, most=2).run_all(["echo 0", *["sleep 600"] * 40])
    assert next(answers) == (0, b"0\n", b"")
    assert isinstance(answers, Generator)
    answers.close()
    assert [thread.name for thread in threading.enumerate() if thread.name == "lane"] == []


class Loses:
    """A shell whose second lane answers three questions, and is gone."""

    def __init__(self, *, first: bool = True) -> None:
        self.first = first
        self.second_began = threading.Event()

    def beside(self, *, guard: object) -> Loses:
        other = Loses(first=False)
        other.second_began = self.second_began
        return other

    def run_all(
        self,
        commands: list[str],
        *,
        most_output: int = MOST_OUTPUT,
        timeout_s: float | None = None,
    ) -> Iterator[tuple[int, bytes, bytes]]:
        if not self.first:
            self.second_began.set()
        elif commands:
            assert self.second_began.wait(20)
        for number, command in enumerate(commands):
            if not self.first and number == 3:
                raise SessionLost("gone")
            yield 0, command.encode(), b""

    def close(self) -> None:
        pass


def test_what_a_lost_lane_leaves_is_asked_by_the_first() -> None:
    shell = Loses()
    assert texts(Lanes(cast(Shell, shell), most=2).run_all(MANY)) == [c.encode() for c in MANY]
    assert shell.second_began.is_set()


def test_a_copy_that_nobody_has_logged_in_to_gets_no_second_shell(
    connection: Connection, server: Served, run_key: RunKey
) -> None:
    later = OnDemand(Address(server.port), "root", run_key, patience_s=20)
    with root_shell(connection, guard=lambda: None, timeout_s=20) as shell:
        assert shell.beside(guard=lambda: None) is None
        shell.run("true")
        assert shell.beside(guard=lambda: None) is not None
        with root_shell(
            later, guard=lambda: None, timeout_s=20, channel=connection.open("sh", deadline=Deadline(9))
        ) as one:
            assert one.beside(guard=lambda: None) is None


@pytest.mark.parametrize(
    "command",
    [
        "ps aux",
        "pgrep -c sshd",
        "free -m",
        "cat /proc/meminfo",
        "grep x /proc/*/status",
        "cat /proc/net/udp",
        LISTENERS,
    ],
)
def test_what_users_look_at_processes_sockets_and_memory_with_is_asked_alone(command: str) -> None:
    assert is_asked_alone(command)


@pytest.mark.parametrize("command", ["cat /etc/passwd", "ls /usr/share/ps2pdf", "sshd -T", "cat /proc/mounts"])
def test_whatever_else_is_asked_beside_others(command: str) -> None:
    assert not is_asked_alone(command)


def test_what_the_service_manager_answers_is_asked_by_one_lane_while_the_others_ask_the_rest() -> None:
    files, bus = "systemctl --root=/ list-unit-files", "SYSTEMD_BUS_TIMEOUT=9s systemd-analyze security"
    commands = ["cat /etc/passwd", "systemctl show a", "ps aux", files, bus, "systemctl show b; ps"]
    assert sorted(commands, key=turn) == [commands[number] for number in (2, 5, 1, 4, 0, 3)]


@pytest.mark.parametrize("image", ["demo-general", "demo-immutable"])
def test_questions_that_write_a_file_or_look_at_all_processes_are_asked_alone(image: str) -> None:
    recorded = read_facts(FACTS / image / "facts.json")
    writes = re.compile(r"(?<![0-9&>=-])>+ *(?!/dev/null|&|\")[\"'$/a-z]")
    sensitive = [
        command
        for command in (answer.command for answer in recorded.answers)
        if writes.search(command) or re.search(r"/proc/(\[0-9\]|\*)|/proc/meminfo|\bps\b|list-jobs", command)
    ]
    assert len(sensitive) > 5
    assert [command for command in sensitive if not is_asked_alone(command)] == []
