"""A failing check as a person meets it: the guest is held as the check left it, and there is a way in."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from typing import Final, Literal

from seatrial.errors import SeatrialError
from seatrial.guest.keys import LoginKey
from seatrial.interactive import console_in, shell_in
from seatrial.policy.judge import Verdict
from seatrial.session import Session

__all__ = ["Choice", "hold"]

Choice = Literal["continue", "repeat", "quit"]
_ENDS: Final[dict[str, Choice]] = {"c": "continue", "r": "repeat", "q": "quit"}
_MENU: Final = (
    ("s", "a root shell in the guest; 'exit' comes back here"),
    ("k", "its serial console; Ctrl-] comes back here"),
    ("l", "let it run, and log in from elsewhere with the command above; Enter holds it again"),
    ("r", "repeat the check in a fresh copy of the guest as it was when it was ready"),
    ("c", "continue with the next check"),
    ("q", "end the run: what is left stays not-checked"),
)


def hold(
    session: Session,
    verdict: Verdict,
    *,
    can_repeat: bool,
    say: Callable[[str], None] = print,
    ask: Callable[[str], str] = input,
) -> Choice:
    """Stop the guest's processors, show how to get in, and return what the person wants next.

    The end of the input means to continue: whoever is not there cannot be waited for.

    :raises SeatrialError: the guest was lost meanwhile.
    """
    with _held(session), _key_file(_key_of(session)) as path:
        say(f"\nseatrial: {verdict.outcome}: {verdict.control}: {verdict.title}\n  {verdict.because}")
        say("the guest is held as the check left it; once it runs:")
        guest = session.guest
        options = "-o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null"
        say(f"  ssh -i {path} -p {guest.address.port} {options} {guest.connection.user}@{guest.address.host}")
        say(f"  its console so far: {session.boot.console.path}")
        while True:
            for letter, text in _MENU:
                if letter != "r" or can_repeat:
                    say(f"  [{letter}] {text}")
            try:
                answer = ask("seatrial> ").strip().lower()[:1]
            except EOFError:
                return "continue"
            if answer in _ENDS and (answer != "r" or can_repeat):
                return _ENDS[answer]
            _visit(session, answer, ask)
            session.boot.guard()


def _key_of(session: Session) -> LoginKey:
    way = session.way
    assert way is not None
    return way.key


def _visit(session: Session, answer: str, ask: Callable[[str], str]) -> None:
    visits: dict[str, Callable[[], object]] = {
        "s": lambda: shell_in(session),
        "k": lambda: console_in(session.boot),
        "l": lambda: ask("the guest runs; Enter holds it again "),
    }
    if answer in visits:
        with _running(session), contextlib.suppress(EOFError):
            visits[answer]()


@contextlib.contextmanager
def _held(session: Session) -> Iterator[None]:
    session.boot.monitor.execute("stop")
    try:
        yield
    finally:
        # A guest that was lost meanwhile says so at the next check.
        with contextlib.suppress(SeatrialError):
            session.boot.monitor.execute("cont")


@contextlib.contextmanager
def _running(session: Session) -> Iterator[None]:
    session.boot.monitor.execute("cont")
    try:
        yield
    finally:
        with contextlib.suppress(SeatrialError):
            session.boot.monitor.execute("stop")


@contextlib.contextmanager
def _key_file(key: LoginKey) -> Iterator[str]:
    """Give a path at which ssh finds the run's key while the block lasts: no file that could be left behind."""
    descriptor = os.memfd_create("seatrial-key", os.MFD_CLOEXEC)
    try:
        os.fchmod(descriptor, 0o600)  # ssh refuses keys that others may read
        os.write(descriptor, key.pem.encode())
        yield f"/proc/{os.getpid()}/fd/{descriptor}"
    finally:
        os.close(descriptor)
