"""Questions to the guest, each asked once a boot; the answers are evidence."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Protocol

from seatrial.errors import ObservationError

__all__ = ["Answer", "Asker", "Facts"]


@dataclass(frozen=True, slots=True)
class Answer:
    """What one command in the guest gave: exit status and both streams, undecodable bytes escaped."""

    command: str
    status: int
    stdout: str
    stderr: str


class Asker(Protocol):
    """Whoever can run a shell command as root in the guest."""

    def run(self, command: str, *, timeout_s: float | None = None) -> tuple[int, bytes, bytes]:
        """Return exit status, stdout and stderr."""
        ...


class Facts:
    """The answers of one boot. Only read-only questions belong here: an answer is kept for the life of the boot."""

    def __init__(self, asker: Asker) -> None:
        self._asker = asker
        self.answers: dict[str, Answer] = {}

    def ask(self, command: str) -> Answer:
        """Return the answer to ``command`` (POSIX sh, as root), asking the guest the first time only."""
        if command not in self.answers:
            status, out, err = self._asker.run(command)
            decoded = (stream.decode("utf-8", "backslashreplace") for stream in (out, err))
            self.answers[command] = Answer(command, status, *decoded)
        return self.answers[command]

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

    def lines(self, command: str, *, allowed: Collection[int] = (0,)) -> list[str]:
        """Return the non-empty lines of :meth:`text`."""
        # Only line feeds part lines: splitlines() would let a hostile file name with other separators forge some.
        return [line for line in self.text(command, allowed=allowed).split("\n") if line.strip()]
