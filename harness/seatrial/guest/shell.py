"""One persistent root shell over one SSH channel: a round trip a command, exact answers, nothing ever run twice.

The shell reads one line a command. It runs the command as a child of its own in a session of its own, with no stdin,
and frames both streams with a mark that no output can guess. So the end of an answer is seen on each stream by itself:
a background process that keeps the stream open hangs nothing, and killing a command leaves the
connection usable.
"""

from __future__ import annotations

import contextlib
import re
import secrets
import shlex
from collections.abc import Iterator, Sequence
from typing import Final, Protocol

from seatrial.clock import Deadline
from seatrial.errors import CommandTimeout, OutputTooLarge, SessionError, SessionLost
from seatrial.guest.rights import as_root
from seatrial.guest.ssh import Channel, Guard, await_reason

__all__ = ["MOST_OUTPUT", "Opener", "Shell", "Stream", "root_shell"]

# On both streams together. The largest honest answer is the journal, cut to 8 MB; two copies are held at times.
MOST_OUTPUT: Final = 16 * 1024 * 1024
_SETUP_S: Final = 60.0
_KILL_S: Final = 30.0
# A script is one argument of execve(2), and Linux takes 128 KiB for one (MAX_ARG_STRLEN).
_MOST_SCRIPT: Final = 96 * 1024
_PID = re.compile(rb"(\d{1,10})\n")
_STATUS = re.compile(rb"(\d{1,3})\n")


class Stream(Protocol):
    """A shell's three streams, over an SSH channel or a lifeline."""

    def send(self, data: bytes, *, deadline: Deadline) -> None:
        """Write all of ``data`` to the shell's stdin."""
        ...

    def receive(self, *, deadline: Deadline, guard: Guard) -> tuple[bytes, bytes] | None:
        """Return what came on stdout and stderr; None at the end of both, empty bytes when the deadline is over."""
        ...

    def close(self) -> None:
        """End the streams."""
        ...


class Opener(Protocol):
    """Whoever can start a command in the guest beside the shell: a connection, or one that is made when needed."""

    @property
    def user(self) -> str:
        """Return the user that commands run as before ``sudo``."""
        ...

    @property
    def is_alive(self) -> bool:
        """Return whether a command may still be started."""
        ...

    @property
    def is_connected(self) -> bool:
        """Return whether a command can be started without a new login."""
        ...

    def open(self, command: str, *, deadline: Deadline) -> Channel:
        """Start ``command`` on a channel of its own."""
        ...


class Shell:
    """Runs commands as root. Not for several threads at once."""

    def __init__(self, connection: Opener, *, guard: Guard, timeout_s: float, channel: Stream | None = None) -> None:
        self._connection = connection
        self._guard = guard
        self._timeout_s = timeout_s
        self._channel: Stream | None = channel

    def beside(self, *, guard: Guard) -> Shell | None:
        """Return another shell on the same connection, which the caller closes; None while this one is not open.

        There is none either where it takes a new login: this one answers by a lifeline.

        :param guard: called beside this shell's own, by whoever uses the other shell.
        """
        if self._channel is None or not self._connection.is_connected:
            return None

        def both() -> None:
            guard()
            self._guard()

        return Shell(self._connection, guard=both, timeout_s=self._timeout_s)

    def run(self, command: str, *, timeout_s: float | None = None) -> tuple[int, bytes, bytes]:
        """Return exit status, stdout and stderr of ``command``, run by ``sh -c`` as root.

        :param timeout_s: seconds until the command and its children are killed; the default is the shell's.
        :raises CommandTimeout: it did not end in time. The next command gets a fresh shell.
        :raises OutputTooLarge: it wrote more than 16 MiB.
        :raises SessionLost: the connection broke; whether the command ran is unknown and it is not repeated.
        """
        if "\0" in command:
            raise ValueError("a command cannot hold a NUL character")
        limit_s = timeout_s if timeout_s is not None else self._timeout_s
        channel = self._channel or self._opened()
        mark = secrets.token_hex(16)
        # The shell is marked usable again only by an answer that was read to its end.
        self._channel = None
        try:
            channel.send(_script(command, mark), deadline=Deadline(limit_s))
            frame = self._answered(channel, _Frame(mark, limit=MOST_OUTPUT), command, limit_s)
        except SessionLost:
            await_reason(self._guard)
            raise
        answer = frame.answer()
        self._channel = channel
        return answer

    def run_all(
        self, commands: Sequence[str], *, most_output: int = MOST_OUTPUT, timeout_s: float | None = None
    ) -> Iterator[tuple[int, bytes, bytes] | SessionError]:
        """Send all ``commands`` as one script and give the answer of each as :meth:`run` does, in their order.

        They must only read: those behind one that ended the script (it was killed, or killed its own shell) are sent
        again. A command that could not answer gives its error in the place of its answer.

        :param most_output: bytes that one command may write on both streams together.
        :param timeout_s: seconds for each command.
        :raises SessionLost: the connection broke; the answers that were given stay good.
        """
        limit_s = timeout_s if timeout_s is not None else self._timeout_s
        todo = list(commands)
        while todo:
            batch = _fitting(todo)
            done = 0
            for answer in self._run_batch(batch, most_output, limit_s):
                done += 1
                yield answer
            todo = todo[done:]

    def _run_batch(
        self, commands: Sequence[str], most_output: int, limit_s: float
    ) -> Iterator[tuple[int, bytes, bytes] | SessionError]:
        """Give answers until all are there, or one ended the script: by a limit, or by killing its own shell."""
        channel = self._channel or self._opened()
        self._channel = None
        marks = [secrets.token_hex(16) for _command in commands]
        whole = _Frame(secrets.token_hex(16), limit=MOST_OUTPUT)
        channel.send(_script(_batch(commands, marks), whole.mark), deadline=Deadline(_SETUP_S))
        rest = (b"", b"")
        for command, mark in zip(commands, marks, strict=True):
            frame = _Frame(mark, limit=most_output, within=whole)
            frame.feed(*rest)
            try:
                self._answered(channel, frame, command, limit_s)
            except SessionLost:
                await_reason(self._guard)
                raise
            except (CommandTimeout, OutputTooLarge, _ScriptEnded) as exc:
                channel.close()
                yield exc
                return
            rest = frame.rest()
            yield frame.answer()
        whole.feed(*rest)
        self._answered(channel, whole, "the end of a script", limit_s)
        self._channel = channel

    def push(self, content: bytes, path: str, *, mode: int = 0o600) -> None:
        """Write ``content`` to the new file ``path`` of the guest; an existing file is refused.

        :raises SessionLost: the guest did not take it.
        """
        quoted = shlex.quote(path)
        # noclobber: O_EXCL, so that no symlink planted by the guest is followed.
        script = f"umask 077 && set -C && cat > {quoted} && chmod {mode:o} {quoted}"
        deadline = Deadline(max(self._timeout_s, _SETUP_S))
        channel = self._open(f"sh -c {shlex.quote(script)}", deadline)
        try:
            channel.send(content, deadline=deadline)
            channel.end_of_input()
            complaint = b""
            while (piece := channel.receive(deadline=deadline, guard=self._guard)) is not None and not deadline.is_over:
                complaint = (complaint + piece[1])[-4096:]
            status = channel.exit_status(deadline=deadline)
        finally:
            channel.close()
        if status != 0:
            text = complaint.decode("utf-8", "backslashreplace").strip()[-300:]
            raise SessionLost(f"the guest did not take the file {path!r}: exit status {status}, {text!r}")

    def close(self) -> None:
        """Close the shell."""
        if self._channel is not None:
            self._channel.close()
            self._channel = None

    def _opened(self) -> Stream:
        return self._open("env LC_ALL=C sh", Deadline(_SETUP_S))

    def _open(self, command: str, deadline: Deadline) -> Channel:
        return self._connection.open(as_root(self._connection.user, command), deadline=deadline)

    def _answered(self, channel: Stream, frame: _Frame, command: str, limit_s: float) -> _Frame:
        """Return ``frame`` when it is complete; a command that exceeds a limit is killed, and its channel closed."""
        try:
            self._collect(channel, frame, command, limit_s)
        except (CommandTimeout, OutputTooLarge):
            self._kill(frame.pid)
            channel.close()
            raise
        return frame

    def _collect(self, channel: Stream, frame: _Frame, command: str, limit_s: float) -> None:
        deadline = Deadline(limit_s)
        while not frame.is_complete:
            if frame.is_cut_off:
                raise _ScriptEnded(f"the guest's shell was killed while it ran {command[:200]!r}")
            piece = channel.receive(deadline=deadline, guard=self._guard)
            if piece is None:
                raise SessionLost(
                    f"the guest's root shell ended while it ran {command[:200]!r}",
                    hint="did the command stop sshd, log the user out, or power the guest off? See the console log",
                )
            if piece == (b"", b""):
                raise CommandTimeout(f"command {command[:200]!r} did not end within {limit_s:.0f} s; it was killed")
            frame.feed(*piece)
            if frame.is_too_large:
                raise OutputTooLarge(
                    f"command {command[:200]!r} wrote more than {frame.limit >> 20} MiB; it was killed"
                )

    def _kill(self, pid: int | None) -> None:
        """Kill the command's whole session from a channel beside the shell; the guest may be too sick for that."""
        if pid is None:
            return
        script = f"kill -s KILL -- -{pid} || kill -s KILL {pid}"
        deadline = Deadline(_KILL_S)
        with contextlib.suppress(SessionLost):
            channel = self._open(f"sh -c {shlex.quote(script)}", deadline)
            channel.end_of_input()
            # Whatever is said is of no interest, however long somebody goes on saying it.
            while not deadline.is_over and channel.receive(deadline=deadline, guard=lambda: None):
                pass
            channel.close()


class _ScriptEnded(SessionError):
    """A script of several commands ended before this one had answered."""


class _Frame:
    """One answer as it comes: ``MARK pid LF`` at the head of stderr, ``MARK`` at the head of stdout, a tail on both.

    ``within`` is the frame of the script that the command is a part of.
    """

    def __init__(self, mark: str, *, limit: int, within: _Frame | None = None) -> None:
        self.mark = mark
        self.limit = limit
        self._within = within
        self._begin = f"<{mark}>".encode()
        self._end = f"</{mark}>".encode()
        self._streams = [bytearray(), bytearray()]
        self._ends = [-1, -1]

    @property
    def is_cut_off(self) -> bool:
        """Return whether the script around has ended, so that no more will come."""
        return self._within is not None and self._ends[0] < 0 and self._within._end in self._streams[0]

    @property
    def is_too_large(self) -> bool:
        # What follows the end of an answer belongs to the next one, which is bounded too.
        lengths = [len(stream) if end < 0 else end for stream, end in zip(self._streams, self._ends, strict=True)]
        return sum(lengths) > self.limit or sum(map(len, self._streams)) > self.limit + MOST_OUTPUT

    @property
    def is_complete(self) -> bool:
        return all(end >= 0 and self._streams[n].find(b"\n", end) >= 0 for n, end in enumerate(self._ends))

    @property
    def pid(self) -> int | None:
        start = self._streams[1].find(self._begin)
        match = _PID.match(self._streams[1], start + len(self._begin)) if start >= 0 else None
        return int(match[1]) if match else None

    def feed(self, out: bytes, err: bytes) -> None:
        for number, piece in enumerate((out, err)):
            stream = self._streams[number]
            before = len(stream)
            stream += piece
            if self._ends[number] < 0:
                self._ends[number] = stream.find(self._end, max(0, before - len(self._end)))

    def answer(self) -> tuple[int, bytes, bytes]:
        """Return status and streams.

        :raises SessionLost: a frame that our shell did not write; only a guest that reads its own commands could.
        """
        out, err = self._streams
        status = _STATUS.match(out, self._ends[0] + len(self._end))
        begins = out.find(self._begin, 0, self._ends[0]), err.find(self._begin, 0, self._ends[1])
        pid = _PID.match(err, begins[1] + len(self._begin))
        if status is None or pid is None or min(begins) < 0 or pid.end() > self._ends[1]:
            raise SessionLost(
                "the guest's answer is no frame of our shell: something in the guest writes into it",
                hint="can the guest start programs at all? Does a hostile one write into the answers of others?",
            )
        return (
            int(status[1]),
            bytes(out[begins[0] + len(self._begin) : self._ends[0]]),
            bytes(err[pid.end() : self._ends[1]]),
        )

    def rest(self) -> tuple[bytes, bytes]:
        """Return what came behind a complete answer on each stream."""
        out, err = (bytes(s[s.find(b"\n", end) + 1 :]) for s, end in zip(self._streams, self._ends, strict=True))
        return out, err


def _fitting(commands: Sequence[str]) -> list[str]:
    """Return the first of ``commands`` that fit into one script; at least one."""
    batch: list[str] = []
    size = 0
    for command in commands:
        size += len(_batch([command], ["0" * 32]).encode("utf-8", "surrogateescape"))
        if batch and size > _MOST_SCRIPT:
            break
        batch.append(command)
    return batch


def _batch(commands: Sequence[str], marks: Sequence[str]) -> str:
    """Return ``commands`` as one script for ``sh``: each in a subshell, framed like a command that is run alone.

    No shell, no session and no program is started for each but what the command itself starts: in an emulated guest
    that costs more than most questions do. eval keeps a syntax error inside its subshell.
    """
    return "".join(
        f"printf '<{mark}>%d\\n' $$ >&2; printf '<{mark}>'; (eval {shlex.quote(command)}); "
        f"printf '</{mark}>%d\\n' $?; printf '</{mark}>\\n' >&2\n"
        for command, mark in zip(commands, marks, strict=True)
    )


def _script(command: str, mark: str) -> bytes:
    # setsid: a session of its own, so that the whole command can be killed by one process group. The command is
    # quoted, not fed to the shell's stdin, and has no stdin: it can neither eat the next command nor wait for us.
    child = f'printf "<{mark}>%d\\n" $$ >&2; printf "<{mark}>"; exec sh -c "$1"'
    started = f"sh -c {shlex.quote(child)} sh {shlex.quote(command)} </dev/null"
    line = (
        f"if command -v setsid >/dev/null 2>&1; then setsid {started}; else {started}; fi;"
        f' printf "</{mark}>%d\\n" $?; printf "</{mark}>\\n" >&2\n'
    )
    return line.encode("utf-8", "surrogateescape")


@contextlib.contextmanager
def root_shell(connection: Opener, *, guard: Guard, timeout_s: float, channel: Stream | None = None) -> Iterator[Shell]:
    """Give a root shell on ``connection``; ``timeout_s`` is the default limit of a command.

    :param channel: the streams of a root shell that is there already.
    """
    shell = Shell(connection, guard=guard, timeout_s=timeout_s, channel=channel)
    try:
        yield shell
    finally:
        shell.close()
