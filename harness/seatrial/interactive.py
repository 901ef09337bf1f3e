"""A candidate for a person: a shell over SSH or the serial console, the terminal in raw mode, nothing kept."""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import sys
import tempfile
import termios
import tty
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from seatrial.clock import Deadline, utc_now
from seatrial.errors import ConfigError
from seatrial.first_look import with_flavour
from seatrial.guest.rights import as_root
from seatrial.guest.ssh import Channel, RunKey, await_reason
from seatrial.machine.accelerator import Choice
from seatrial.machine.boot import Boot, powered_on
from seatrial.machine.provision import KEY_COMMENT
from seatrial.options import Settings
from seatrial.progress import Silent, progress_for
from seatrial.session import Candidate, Session, booted, examine, first_usable, launch_of

__all__ = ["boot_for_a_person", "console_in", "shell_in"]

_LEAVE: Final = b"\x1d"  # Ctrl-]
_LOOK_S: Final = 0.2
_OPEN_S: Final = 60.0
_SPEAK_S: Final = 20.0


def boot_for_a_person(settings: Settings, *, console: bool) -> int:
    """Boot the image, connect the terminal to it, and throw away what was changed; return the exit status.

    :raises ConfigError: no terminal, or the image is not usable.
    :raises SeatrialError: the image did not come up.
    """
    with progress_for() as progress:
        candidate = examine(with_flavour(settings, progress), progress)
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise ConfigError("'seatrial boot' needs a terminal on stdin and stdout", hint="scripts use 'seatrial gate'")
    with tempfile.TemporaryDirectory(prefix="seatrial-boot-") as place:
        folder = Path(place)
        return _at_console(candidate, folder) if console else _in_shell(candidate, folder)


def _in_shell(candidate: Candidate, folder: Path) -> int:
    with contextlib.ExitStack() as stack:
        with progress_for() as progress:
            session = stack.enter_context(booted(candidate, folder, run=_run_id(), progress=progress))
        print("seatrial: a root shell in the candidate; 'exit' ends it, and everything is thrown away", flush=True)
        return shell_in(session)


def shell_in(session: Session) -> int:
    """Connect the terminal to a root shell in the guest until it ends, and return its exit status.

    :raises SeatrialError: the guest was lost.
    """
    size = shutil.get_terminal_size()
    guest = session.guest
    command = as_root(guest.connection.user, "exec ${SHELL:-/bin/sh} -l")
    channel = guest.connection.open_terminal(
        os.environ.get("TERM", "vt100"), size.columns, size.lines, command=command, deadline=Deadline(_OPEN_S)
    )
    with _raw_terminal():
        _relay(channel, session)
    status = channel.exit_status(deadline=Deadline(1))
    if not guest.connection.is_alive:
        await_reason(session.boot.guard)  # the connection may break a moment before QEMU says that the guest is gone
    return max(0, status)


def _at_console(candidate: Candidate, folder: Path) -> int:
    print("seatrial: the candidate's serial console; Ctrl-] leaves, and everything is thrown away", flush=True)
    key = candidate.key or RunKey(KEY_COMMENT)

    @contextlib.contextmanager
    def start(choice: Choice) -> Iterator[Boot]:
        with powered_on(launch_of(candidate, choice, folder, run=_run_id(), key=key)) as boot:
            _let_speak(boot)
            yield boot

    with first_usable(candidate.tries, start, Silent()) as boot:
        console_in(boot)
    return 0


def console_in(boot: Boot) -> None:
    """Connect the terminal to the guest's serial console until Ctrl-] is typed or QEMU ends."""
    watching = [True]
    boot.console.listen(lambda chunk: _write(chunk) if watching else None)
    with _raw_terminal():
        while boot.process.status is None:
            typed = _typed()
            if _LEAVE in typed:
                break
            boot.console.type(typed)
    watching.clear()


def _let_speak(boot: Boot) -> None:
    """Wait until the guest has said something, or the accelerator has shown that it runs nothing."""
    deadline = Deadline(_SPEAK_S)
    while boot.console.byte_count == 0 and not deadline.is_over:
        boot.guard()
        deadline.pause(_LOOK_S)
    _write(boot.console.path.read_bytes())


def _relay(channel: Channel, session: Session) -> None:
    """Pass bytes between the terminal and the channel until the shell ends."""
    size = shutil.get_terminal_size()
    while True:
        piece = channel.receive(deadline=Deadline(0), guard=lambda: None)
        if piece is None:
            return
        if piece == (b"", b""):
            session.boot.guard()
            typed = _typed()
            if typed:
                channel.send(typed, deadline=Deadline(_OPEN_S))
        else:
            _write(piece[0] + piece[1])
        if size != (size := shutil.get_terminal_size()):
            channel.resize(size.columns, size.lines)


def _typed() -> bytes:
    ready, _, _ = select.select([sys.stdin], [], [], _LOOK_S / 10)
    return os.read(sys.stdin.fileno(), 4096) if ready else b""


@contextlib.contextmanager
def _raw_terminal() -> Iterator[None]:
    before = termios.tcgetattr(sys.stdin)
    tty.setraw(sys.stdin, termios.TCSADRAIN)  # what was typed ahead is kept
    try:
        yield
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)


def _write(data: bytes) -> None:
    os.write(sys.stdout.fileno(), data)


def _run_id() -> str:
    return f"boot-{utc_now():%Y%m%dT%H%M%S}-{os.getpid()}"
