"""A first look at a candidate that came without a flavour: booted until somebody can log in, and asked what it is."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import json
import secrets
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, get_args

from seatrial.clock import utc_now
from seatrial.errors import SeatrialError
from seatrial.guest.facts import Facts
from seatrial.guest.ready import first_login
from seatrial.guest.rights import require_root
from seatrial.guest.shell import root_shell
from seatrial.guest.ssh import Address, RunKey
from seatrial.identity import ask_identity, recognised
from seatrial.layout import cache_dir, out_dir
from seatrial.machine.accelerator import Choice
from seatrial.machine.boot import powered_on
from seatrial.machine.digest import sha256_of_all
from seatrial.machine.provision import KEY_COMMENT, every_way
from seatrial.options import Settings
from seatrial.policy.controls import HostKind
from seatrial.progress import Progress
from seatrial.report.atomic import write_atomic
from seatrial.session import Candidate, examine, first_usable, hang_limits, launch_of, patience_for
from seatrial.suites import flavour_names, recognition_rules

__all__ = ["with_flavour"]

# What a candidate is booted as until it has said what it is; only its machine counts.
_PROVISIONAL: Final = "general-purpose"


@dataclass(frozen=True, slots=True)
class _Seen:
    """The flavour that a candidate is of, by what it was recognised, and as whom by which route somebody got in."""

    flavour: str
    because: str
    route: str
    user: str


def with_flavour(settings: Settings, progress: Progress) -> Settings:
    """Return ``settings`` with a flavour: the one given, else what the candidate says of itself, which is said aloud.

    The answer is remembered by the candidate's digest. A boot for it lets the run in by every way at once; a candidate
    that no flavour claims is judged as a general one, and by the way that opened.

    :raises ConfigError: the candidate is not usable, or two flavours claim it.
    :raises SeatrialError: it did not come up, or nobody could log in; the hint is to name the flavour.
    """
    if settings.flavour is not None or settings.facts is not None or not (settings.image or settings.kernel):
        return settings
    candidate = examine(dataclasses.replace(settings, flavour=_PROVISIONAL), progress)
    progress.phase("no flavour was given: taking the candidate's digest, by which it may be known")
    # Other rules may call the same candidate something else.
    rules = hashlib.sha256(json.dumps(recognition_rules(), sort_keys=True, default=list).encode()).hexdigest()
    note = cache_dir("recognised") / f"{_digest(candidate)}-{rules[:16]}.json"
    seen = _remembered(note)
    if seen is None:
        seen = _asked(candidate, progress)
        write_atomic(note, json.dumps(dataclasses.asdict(seen)) + "\n")
    progress.note(f"judged as flavour {seen.flavour!r}: {seen.because}; --flavour NAME says otherwise")
    settings = dataclasses.replace(settings, flavour=seen.flavour)
    if seen.flavour in get_args(HostKind) and _is_free(settings):
        access: Any = seen.route
        return dataclasses.replace(settings, access=access, ssh_user=settings.ssh_user or seen.user)
    return settings


def _digest(candidate: Candidate) -> str:
    image, kernel = candidate.image, candidate.kernel
    if image.digest is not None and kernel is None:
        return image.digest  # taken when it was unpacked
    return sha256_of_all([*dict.fromkeys([image.path, *image.parts, *(kernel.files if kernel else ())])])


def _remembered(note: Path) -> _Seen | None:
    try:
        seen = _Seen(**json.loads(note.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None  # not known yet, or unreadable: find out again
    return seen if seen.flavour in flavour_names() else None


def _asked(candidate: Candidate, progress: Progress) -> _Seen:
    name = f"{utc_now():%Y%m%dT%H%M%SZ}-first-look-{candidate.image.path.stem[:40]}-{secrets.token_hex(2)}"
    folder = (candidate.settings.out or out_dir()) / name
    folder.mkdir(parents=True)
    start = functools.partial(_look, candidate, folder, progress)
    try:
        with first_usable(candidate.tries, start, progress) as seen:
            pass
    except SeatrialError as exc:
        exc.hint = f"--flavour NAME says what it is ({', '.join(flavour_names())}); {exc.hint or ''}".rstrip("; ")
        raise
    shutil.rmtree(folder, ignore_errors=True)
    return seen


@contextlib.contextmanager
def _look(candidate: Candidate, folder: Path, progress: Progress, choice: Choice) -> Iterator[_Seen]:
    key = candidate.key or RunKey(KEY_COMMENT)
    launch = launch_of(candidate, choice, folder, run=folder.name, key=key)
    routes = {launch.provision.user: candidate.flavour.access.route}
    if _is_free(candidate.settings):
        ways = every_way(key.public_line, run_id=folder.name, arch=candidate.machine.arch)
        launch = dataclasses.replace(launch, provision=ways.together)
        routes = dict(ways.routes)
    progress.phase(f"booting under {choice.accelerator} to see what it is ({choice.reason})")
    with powered_on(launch) as boot, boot.watch.explained():
        boot.watch.limits = hang_limits(candidate, choice)
        boot.console.listen(lambda _chunk: progress.detail(boot.console.last_line))
        # A server that refuses may still be waiting for one of the ways.
        patience = dataclasses.replace(patience_for(candidate, choice), refused_s=None)
        with first_login(
            Address(boot.port), list(routes), key, guard=boot.guard, patience=patience, progress=progress
        ) as entry:
            boot.watch.let_in()
            require_root(entry.connection, guard=boot.guard)
            with root_shell(entry.connection, guard=boot.guard, timeout_s=patience.command_s) as shell:
                facts = Facts(shell)
                ask_identity(facts)
                found, user = recognised(facts), entry.connection.user
                yield _Seen(found.flavour, found.because, routes[user], user)


def _is_free(settings: Settings) -> bool:
    """Return whether nobody has said how to get in."""
    return settings.access is None and settings.ssh_key is None and settings.ignition is None
