"""The only module that starts programs: an argument list, a fresh environment, an owner that ends it."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from seatrial.clock import Deadline
from seatrial.errors import HostError

__all__ = [
    "Child",
    "Confinement",
    "Finished",
    "bound",
    "clean_environment",
    "require_program",
    "run",
    "running",
    "sigterm_as_interrupt",
]

_KEPT = ("HOME", "LANG", "PATH", "TMPDIR", "USER", "LOGNAME", "XDG_CACHE_HOME", "XDG_RUNTIME_DIR")
_GRACE_S = 5.0


@dataclass(frozen=True, slots=True)
class Finished:
    """A program that ended: its arguments, exit status and what it wrote."""

    argv: tuple[str, ...]
    status: int
    stdout: bytes
    stderr: bytes

    @property
    def text(self) -> str:
        """Return stdout as text, undecodable bytes escaped."""
        return self.stdout.decode("utf-8", "backslashreplace")

    @property
    def complaint(self) -> str:
        """Return the last lines of stderr as text, for an error message."""
        return "\n".join(self.stderr.decode("utf-8", "backslashreplace").strip().splitlines()[-5:])


def clean_environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the environment children get: what they need, in the C.UTF-8 locale, plus ``extra``."""
    kept = {name: os.environ[name] for name in _KEPT if name in os.environ}
    return {**kept, "LC_ALL": "C.UTF-8", "PATH": _path_with_sbin(), **(extra or {})}


def _path_with_sbin() -> str:
    # An ordinary user's PATH lacks sbin on Debian, where losetup, mkfs and friends live.
    parts = os.environ.get("PATH", os.defpath).split(os.pathsep)
    return os.pathsep.join([*parts, *(p for p in ("/usr/sbin", "/sbin") if p not in parts)])


def require_program(name: str, *, why: str) -> Path:
    """Return the path of program ``name``.

    :raises HostError: it is not installed.
    """
    found = shutil.which(name, path=_path_with_sbin())
    if found is None:
        raise HostError(
            f"program {name!r} is not installed; it is needed to {why}",
            hint="'seatrial doctor' names every missing program and the command that installs it",
        )
    return Path(found)


def run(
    argv: Sequence[str | Path],
    *,
    deadline: Deadline,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    stdin: bytes = b"",
) -> Finished:
    """Run a short program to its end and return what it wrote; its exit status is the caller's to judge.

    :raises HostError: the program is missing, or did not end in time (it is killed then).
    """
    words = tuple(os.fspath(word) for word in argv)
    try:
        done = subprocess.run(
            words,
            input=stdin,
            capture_output=True,
            cwd=cwd,
            env=clean_environment(env),
            timeout=deadline.remaining_s,
            check=False,
        )
    except FileNotFoundError as exc:
        raise HostError(f"cannot start {words[0]!r}: {exc.strerror}", hint="run 'seatrial doctor'") from exc
    except subprocess.TimeoutExpired as exc:
        raise HostError(f"{words[0]!r} did not end within {deadline.total_s:.0f} s: {' '.join(words)}") from exc
    return Finished(words, done.returncode, done.stdout, done.stderr)


@dataclass(frozen=True, slots=True, kw_only=True)
class Confinement:
    """What a program that reads hostile input must do without: privileges, core dumps, files of any size.

    ``user``: numeric user and group id to run as (the caller is root then), None to stay who we are; ``groups``:
    supplementary group ids. A write beyond ``file_bytes`` of one file fails as an I/O error (setrlimit(2)).
    """

    file_bytes: int
    user: tuple[int, int] | None = None
    groups: tuple[int, ...] = ()


class Child:
    """A program that runs in the background, as its starter sees it."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process

    @property
    def pid(self) -> int:
        """Return its process id, which is also its process group's."""
        return self._process.pid

    @property
    def status(self) -> int | None:
        """Return its exit status, or None while it runs; a signal's number negated when one killed it."""
        return self._process.poll()

    def ends_within(self, seconds: float) -> bool:
        """Wait for its end; return whether it came in time."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=seconds)
        return self._process.poll() is not None


@contextlib.contextmanager
def running(
    argv: Sequence[str | Path],
    *,
    log: Path,
    pass_fds: Sequence[int] = (),
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    confined: Confinement | None = None,
) -> Iterator[Child]:
    """Run a long-lived program in a process group of its own; its output goes to ``log``.

    The kernel kills it when the thread that started it dies, a SIGKILL of us included (``setpriv --pdeathsig``,
    prctl(2) PR_SET_PDEATHSIG). At the end of the block it is terminated, then killed, and always waited for.

    :raises HostError: the program cannot be started.
    """
    words = [*bound(confined), *(os.fspath(word) for word in argv)]
    with log.open("ab") as sink:
        try:
            process = subprocess.Popen(
                words,
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=subprocess.STDOUT,
                cwd=cwd,
                env=clean_environment(env),
                pass_fds=tuple(pass_fds),
                start_new_session=True,
                # Python ignores SIGXFSZ. A confined child inherits that: a file that grows too large is an error to it.
                restore_signals=confined is None,
            )
        except OSError as exc:
            raise HostError(
                f"cannot start {os.fspath(argv[0])!r}: {exc.strerror}", hint="run 'seatrial doctor'"
            ) from exc
    try:
        yield Child(process)
    finally:
        _end(process)


def bound(confined: Confinement | None) -> list[str]:
    """Return the words that, put before a program's, bind it to our life and take from it what ``confined`` says.

    :raises HostError: util-linux is not installed.
    """
    setpriv = os.fspath(require_program("setpriv", why="bind child processes to the life of this one (util-linux)"))
    if confined is None:
        return [setpriv, "--pdeathsig", "KILL", "--"]
    prlimit = os.fspath(require_program("prlimit", why="bound what child processes may use (util-linux)"))
    size = confined.file_bytes
    return [
        *(setpriv, "--pdeathsig", "KILL", "--no-new-privs"),
        *(_as_user(*confined.user, confined.groups) if confined.user else ()),
        *("--", prlimit, "--core=0:0", f"--fsize={size}:{size}", "--"),
    ]


def _as_user(user: int, group: int, groups: tuple[int, ...]) -> list[str]:
    more = ["--groups", ",".join(map(str, groups))] if groups else ["--clear-groups"]
    return ["--reuid", str(user), "--regid", str(group), "--inh-caps=-all", *more]


def _end(process: subprocess.Popen[bytes]) -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        if process.poll() is not None:
            break
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=_GRACE_S)
    process.wait()


@contextlib.contextmanager
def sigterm_as_interrupt() -> Iterator[None]:
    """Let a termination request end the run in order, as Ctrl-C does."""

    def interrupt(_number: int, _frame: object) -> None:
        raise KeyboardInterrupt("SIGTERM")

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
