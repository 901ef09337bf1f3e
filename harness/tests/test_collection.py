"""Facts in few round trips: many commands as one script, and checks that say by themselves what they will ask."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from seatrial.check import Check
from seatrial.errors import CommandTimeout, NotRecorded, OutputTooLarge, SessionError, SessionLost
from seatrial.guest.facts import Answer, Facts, Recorded
from seatrial.guest.shell import MOST_OUTPUT, Shell
from seatrial.rehearsal import Rehearsal, collect
from ssh_server import Served


def test_many_commands_give_what_each_gives_alone(shell: Shell) -> None:
    commands = [
        "printf out; printf err >&2; exit 77",
        r"printf '\000\377\n\n'",
        "cat",
        "exec false",
        "exit 3",
        "sleep 3 & echo started",
        "cd /; X=1; export X; umask 0; printf x",
        'printf "$X"; pwd >/dev/null',
        "head -c 300000 /dev/zero; head -c 300000 /dev/zero >&2",
    ]
    alone = [shell.run(command) for command in commands]
    assert list(shell.run_all(commands)) == alone
    assert alone[0] == (77, b"out", b"err")


def test_a_syntax_error_stays_inside_its_command_of_a_batch(shell: Shell) -> None:
    first, second = shell.run_all(["if then (", "echo 2"])
    assert not isinstance(first, SessionError)
    assert first[0] != 0
    assert b"yntax error" in first[2]
    assert second == (0, b"2\n", b"")


def test_many_commands_are_one_round_trip_on_one_channel(shell: Shell, server: Served) -> None:
    assert [a[1] for a in shell.run_all([f"echo {n}" for n in range(200)]) if not isinstance(a, SessionError)] == [
        f"{n}\n".encode() for n in range(200)
    ]
    assert len(server.commands) == 1


def test_a_command_that_never_ends_is_killed_and_those_behind_it_still_answer(shell: Shell) -> None:
    first, second, third = shell.run_all(["echo 1", "sleep 600", "echo 3"], timeout_s=1)
    assert (first, third) == ((0, b"1\n", b""), (0, b"3\n", b""))
    assert isinstance(second, CommandTimeout)
    assert "'sleep 600' did not end within 1 s; it was killed" in second.message


def test_a_command_that_writes_without_end_is_killed_and_those_behind_it_still_answer(shell: Shell) -> None:
    first, second = shell.run_all(["yes", "echo 2"], most_output=2 << 20)
    assert isinstance(first, OutputTooLarge)
    assert "wrote more than 2 MiB" in first.message
    assert second == (0, b"2\n", b"")


def test_a_command_that_kills_its_own_shell_stops_none_behind_it(shell: Shell) -> None:
    answers = list(shell.run_all(["echo 1", "kill -s KILL $$", "echo 3"]))
    assert isinstance(answers[1], SessionError)
    assert "the guest's shell was killed while it ran 'kill -s KILL $$'" in answers[1].message
    assert (answers[0], answers[2]) == ((0, b"1\n", b""), (0, b"3\n", b""))


def test_the_shell_answers_single_commands_after_a_batch(shell: Shell, server: Served) -> None:
    list(shell.run_all(["echo 1", "echo 2"]))
    assert shell.run("echo 3") == (0, b"3\n", b"")
    assert len(server.commands) == 1


def test_a_lost_connection_ends_a_batch_with_the_answers_until_then(shell: Shell, server: Served) -> None:
    answers = shell.run_all(["echo 1", "sleep 600"])
    assert next(answers) == (0, b"1\n", b"")
    server.cut()
    with pytest.raises(SessionLost):
        next(answers)


def test_more_commands_than_can_be_sent_ahead_are_sent_in_parts(shell: Shell) -> None:
    commands = [f": {'x' * 100_000}; echo {n}" for n in range(8)]
    assert [a[1] for a in shell.run_all(commands) if not isinstance(a, SessionError)] == [
        f"{n}\n".encode() for n in range(8)
    ]


class Scripted:
    """A guest that answers ``text N`` with N, and counts how it is asked."""

    def __init__(self, *, dies_at: str = "", hangs_at: str = "") -> None:
        self.batches: list[list[str]] = []
        self.single: list[str] = []
        self.dies_at = dies_at
        self.hangs_at = hangs_at

    def run(self, command: str, *, timeout_s: float | None = None) -> tuple[int, bytes, bytes]:
        self.single.append(command)
        return 0, command.encode(), b""

    def run_all(
        self, commands: Sequence[str], *, most_output: int = MOST_OUTPUT, timeout_s: float | None = None
    ) -> Iterator[tuple[int, bytes, bytes] | SessionError]:
        self.batches.append(list(commands))
        for command in commands:
            if command == self.dies_at:
                raise SessionLost("gone")
            yield CommandTimeout("too slow") if command == self.hangs_at else (0, command.encode(), b"")


def test_what_the_loader_says_of_a_preloaded_file_is_no_part_of_an_answer() -> None:
    noise = "ERROR: ld.so: object '/x.so' from /etc/ld.so.preload cannot be preloaded (cannot open): ignored."

    class Noisy:
        def run(self, command: str, *, timeout_s: float | None = None) -> tuple[int, bytes, bytes]:
            return (
                1,
                f"stop as nobody: {noise} refused\nstart\t1\t{noise}\nend\n".encode(),
                f"{noise}\nERROR: no such file\n{noise}".encode(),
            )

    answer = Facts(Noisy()).ask("try")
    assert (answer.stdout, answer.stderr) == ("stop as nobody: refused\nstart\t1\t\nend\n", "ERROR: no such file\n")


def rehearsal(function: Callable[..., object], *needs: str, row: object = None) -> Rehearsal:
    return Rehearsal(function, frozenset({"facts", *needs}), row)


def collected(guest: Scripted, *checks: Rehearsal) -> Facts:
    facts = Facts(guest)
    collect(facts, checks, flavour=None, boot=None)
    return facts


def test_questions_of_all_checks_come_in_one_round_trip_and_derived_ones_in_a_second() -> None:
    guest = Scripted()

    def derived(facts: Facts) -> None:
        facts.text(f"second of {facts.text('first')}")

    def constant(facts: Facts) -> None:
        facts.text("first")

    facts = collected(guest, rehearsal(derived), rehearsal(constant), rehearsal(lambda facts: facts.text("other")))
    assert guest.batches == [["first", "other"], ["second of first"]]
    assert (guest.single, facts.rounds) == ([], 2)


def test_no_question_is_asked_twice() -> None:
    guest = Scripted()
    facts = collected(guest, rehearsal(lambda facts: facts.text("one")))
    facts.text("one")
    facts.ask_all(["one"])
    assert (guest.batches, guest.single) == ([["one"]], [])


def test_a_question_that_no_rehearsal_met_is_still_asked() -> None:
    guest = Scripted()
    assert collected(guest).text("late") == "late"
    assert guest.single == ["late"]


def test_a_rehearsal_touches_no_guest_and_its_observations_are_lost() -> None:
    guest = Scripted()
    seen = []

    def check_it(facts: Facts, host: object, check: Check) -> None:
        check.equal(facts.text("q"), "q", what="q")
        seen.append(check)
        host.run("rm -rf /")  # type: ignore[attr-defined]  # a testinfra host
        raise AssertionError("went on without a guest")

    collected(guest, rehearsal(check_it, "host", "check"))
    assert (guest.batches, guest.single) == ([["q"]], [])
    assert len(seen) == 1


@pytest.mark.parametrize("error", [ValueError("x"), SessionError("x"), AssertionError("x")])
def test_a_check_that_breaks_in_rehearsal_disturbs_nothing(error: Exception) -> None:
    def breaks(facts: Facts) -> None:
        raise error

    def skips(facts: Facts) -> None:
        pytest.skip("not today")

    guest = Scripted()
    collected(guest, rehearsal(breaks), rehearsal(skips), rehearsal(lambda facts: facts.text("q")))
    assert guest.batches == [["q"]]


def test_a_check_that_asks_without_end_stops_the_rehearsals_in_time() -> None:
    def endless(facts: Facts) -> None:
        number = 0
        while True:
            number += 1
            facts.text(f"question {number}")

    guest = Scripted()
    collected(guest, rehearsal(endless))
    assert len(guest.batches) == 12


def test_a_question_that_failed_is_not_asked_again_and_says_why_each_time() -> None:
    guest = Scripted(hangs_at="slow")
    facts = collected(guest, rehearsal(lambda facts: facts.text("slow")), rehearsal(lambda facts: facts.text("fast")))
    for _time in range(2):
        with pytest.raises(SessionError, match="too slow"):
            facts.text("slow")
    assert facts.text("fast") == "fast"
    assert guest.single == []
    assert facts.answers["slow"] == Answer("slow", -1, "", "", "too slow")


def test_answers_from_before_a_lost_connection_are_kept() -> None:
    guest = Scripted(dies_at="two")
    facts = Facts(guest)
    with pytest.raises(SessionLost):
        facts.ask_all(["one", "two", "three"])
    assert list(facts.answers) == ["one"]


def test_recorded_facts_answer_what_they_hold_and_nothing_else() -> None:
    facts = Recorded([Answer("cat x", 0, "y\n", "")])
    assert facts.text("cat x") == "y\n"
    with pytest.raises(NotRecorded, match="do not hold the answer to 'cat z'"):
        facts.text("cat z")


@given(st.lists(st.tuples(st.integers(0, 3), st.binary(max_size=40), st.binary(max_size=40)), min_size=1, max_size=6))
def test_answers_are_exact_however_the_streams_are_cut(answers: list[tuple[int, bytes, bytes]]) -> None:
    """All streams of a batch at once, as a fast guest sends them, part in the same way as byte by byte."""
    from seatrial.guest.shell import _Frame

    marks = [f"{n:032x}" for n in range(len(answers))]
    out = b"".join(
        f"<{m}>".encode() + o + f"</{m}>{s}\n".encode() for m, (s, o, _e) in zip(marks, answers, strict=True)
    )
    err = b"".join(
        f"<{m}>7\n".encode() + e + f"</{m}>\n".encode() for m, (_s, _o, e) in zip(marks, answers, strict=True)
    )
    rest = (out, err)
    for mark, answer in zip(marks, answers, strict=True):
        frame = _Frame(mark, limit=1000)
        frame.feed(*rest)
        assert frame.is_complete
        assert frame.answer() == answer
        rest = frame.rest()
    assert rest == (b"", b"")


def test_the_frame_of_one_answer_does_not_count_what_follows_it(tmp_path: Path) -> None:
    from seatrial.guest.shell import _Frame

    frame = _Frame("a", limit=10)
    frame.feed(b"<a>x</a>0\n" + b"y" * 100, b"<a>7\n</a>\n")
    assert not frame.is_too_large
    frame = _Frame("a", limit=10)
    frame.feed(b"<a>" + b"x" * 11, b"")
    assert frame.is_too_large
