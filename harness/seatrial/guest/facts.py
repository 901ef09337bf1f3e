"""Questions to the guest, each asked once a boot; the answers are evidence."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Protocol, runtime_checkable

from seatrial.errors import NotRecorded, ObservationError, SessionError
from seatrial.guest.lanes import Lanes, turn

__all__ = ["Answer", "Asker", "BatchAsker", "Facts", "Recorded"]

# What glibc's loader writes to every program's stderr when /etc/ld.so.preload names a file that cannot be loaded
# (ld.so(8)). It is no part of any answer; the file itself is asked for by a question of its own.
_LOADER: Final = re.compile(
    r"(^)?ERROR: ld\.so: object '[^'\n]*' from /etc/ld\.so\.preload cannot be preloaded \([^)\n]*\): ignored\."
    r"(?(1)\n?| ?)",
    re.MULTILINE,
)
# One fact; the largest that a real guest gave are its kernel configuration and sysctls, well below one MiB.
_MOST_FACT: Final = 16 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Answer:
    """What one command in the guest gave: exit status and both streams, undecodable bytes escaped.

    ``error`` says why there is no answer (killed after its time or for the size of its output); the rest is empty then.
    """

    command: str
    status: int
    stdout: str
    stderr: str
    error: str = ""


class Asker(Protocol):
    """Whoever can run a shell command as root in the guest."""

    def run(self, command: str, *, timeout_s: float | None = None) -> tuple[int, bytes, bytes]:
        """Return exit status, stdout and stderr."""
        ...


@runtime_checkable
class BatchAsker(Protocol):
    """An :class:`Asker` that takes many commands in one round trip; see :meth:`seatrial.guest.shell.Shell.run_all`."""

    def run_all(
        self, commands: Sequence[str], *, most_output: int = ..., timeout_s: float | None = None
    ) -> Iterator[tuple[int, bytes, bytes] | SessionError]:
        """Give the answers in order."""
        ...


class Facts:
    """The answers of one boot. Only read-only questions belong here: an answer is kept for the life of the boot."""

    def __init__(self, asker: Asker) -> None:
        self._asker = asker
        self.answers: dict[str, Answer] = {}
        self.rounds = 0

    def ask(self, command: str) -> Answer:
        """Return the answer to ``command`` (POSIX sh, as root), asking the guest the first time only.

        :raises SessionError: the guest gave no answer, now or when it was asked before.
        """
        if command not in self.answers:
            self.rounds += 1
            try:
                self._keep(command, self._asker.run(command))
            except SessionError as exc:
                self._keep(command, exc)
                raise
        answer = self.answers[command]
        if answer.error:
            raise SessionError(answer.error, hint="the answer was asked for once; facts.json keeps what came of it")
        return answer

    def ask_all(self, commands: Iterable[str]) -> None:
        """Ask all of ``commands`` that are still open in one round trip.

        :raises SessionLost: the connection broke; the answers until then are kept.
        """
        open_ones = [command for command in dict.fromkeys(commands) if command not in self.answers]
        open_ones.sort(key=turn)
        if open_ones and isinstance(self._asker, BatchAsker):
            self.rounds += 1
            answers = self._asker.run_all(open_ones, most_output=_MOST_FACT)
            for command, answer in zip(open_ones, answers, strict=True):
                self._keep(command, answer)

    def in_rounds(self) -> contextlib.AbstractContextManager[None]:
        """Return what is entered around several :meth:`ask_all`, which then need not prepare for each anew."""
        return self._asker.kept() if isinstance(self._asker, Lanes) else contextlib.nullcontext()

    def text(self, command: str, *, allowed: Collection[int] = (0,)) -> str:
        """Return what ``command`` wrote to stdout.

        :raises ObservationError: its exit status is not in ``allowed``: we could not tell.
        """
        answer = self.ask(command)
        if answer.status not in allowed:
            complaint = answer.stderr.strip().splitlines()
            raise ObservationError(
                f"the guest could not answer {command!r}: exit status {answer.status}"
                + (f", {complaint[-1][:200]!r}" if complaint else ", nothing on stderr"),
                hint="the image may lack the program; the console log and facts.json hold what was seen",
            )
        return answer.stdout

    def texts(self, commands: Sequence[str]) -> list[str]:
        """Return the :meth:`text` of each of ``commands``, those that are still open asked in one round trip."""
        self.ask_all(commands)
        return [self.text(command) for command in commands]

    def lines(self, command: str, *, allowed: Collection[int] = (0,)) -> list[str]:
        """Return the non-empty lines of :meth:`text`."""
        # Only line feeds part lines: splitlines() would let a hostile file name with other separators forge some.
        return [line for line in self.text(command, allowed=allowed).split("\n") if line.strip()]

    def _keep(self, command: str, answer: tuple[int, bytes, bytes] | SessionError) -> None:
        if isinstance(answer, SessionError):
            self.answers[command] = Answer(command, -1, "", "", answer.message)
        else:
            status, *streams = answer
            texts = (_LOADER.sub("", stream.decode("utf-8", "backslashreplace")) for stream in streams)
            self.answers[command] = Answer(command, status, *texts)


class _Nobody:
    """Stands where the guest was: everything that can be known is recorded."""

    def run(self, command: str, *, timeout_s: float | None = None) -> tuple[int, bytes, bytes]:  # noqa: ARG002 -- an Asker
        raise NotRecorded(
            f"the recorded facts do not hold the answer to {command!r}",
            hint="gate the image again with this version of the suites; its run folder has the new facts.json",
        )


class Recorded(Facts):
    """The answers of an earlier boot; there is no guest.

    :meth:`ask` raises :class:`~seatrial.errors.NotRecorded` for a question that was not asked then.
    """

    def __init__(self, answers: Iterable[Answer]) -> None:
        super().__init__(_Nobody())
        self.answers = {answer.command: answer for answer in answers}
