"""Run lynis in the guest, the image's own or one that is brought along, and leave nothing of it behind.

lynis is a program under the GPL; it is run as a program, and nothing of it is part of Seatrial.
"""

from __future__ import annotations

import contextlib
import re
import secrets
import shlex
from collections.abc import Callable, Iterator
from typing import Final, Protocol

from seatrial.clock import Deadline
from seatrial.errors import CommandTimeout, HostError, ObservationError, SeatrialError
from seatrial.evidence.lynis.report import MAX_BYTES
from seatrial.evidence.lynis.text import decode, escape, shorten
from seatrial.guest.lynis_tree import LynisTree, packed

__all__ = ["Shell", "run_lynis"]

Say = Callable[[str], None]

_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_MARK: Final = "SEATRIAL_LYNIS"
_NEEDED_KIB: Final = 24 * 1024  # the tree needs 1.5 MiB, a report at most 32; a usual report and log half a MiB
_SHORT_S: Final = 120.0
_CANDIDATES: Final = 6
_LIKED: Final = ("/run", "/dev/shm", "/tmp")  # noqa: S108 -- of the guest; a fresh folder of root's is made there
_FINE: Final = (0, 78)  # 78: a profile says error-on-warnings
_SAFE_PATH: Final = re.compile(r"/[A-Za-z0-9_./@-]*")
_OPTIONS: Final = ("audit", "system", "--quick", "--cronjob", "--no-colors", "--no-plugins")


class Shell(Protocol):
    """Whoever can run commands as root in the guest and put files there."""

    def run(self, command: str, *, timeout_s: float | None = None) -> tuple[int, bytes, bytes]:
        """Return exit status, stdout and stderr of ``command``, run by ``sh -c``."""
        ...

    def push(self, content: bytes, path: str, *, mode: int) -> None:
        """Write ``content`` to the new file ``path``."""
        ...


def run_lynis(shell: Shell, *, tree: LynisTree | None, deadline_s: float, say: Say) -> bytes:
    """Return the report of a whole ``lynis audit system`` run in the guest.

    :param tree: the lynis to bring along when the image has none, or in any case when the user chose it.
    :param deadline_s: seconds for everything; a run without KVM takes three minutes on an idle computer.
    :raises HostError: the image has no lynis, and there is none to bring along.
    :raises ObservationError: the guest has no place for it, or lynis failed, or its report cannot be had.
    :raises CommandTimeout: lynis did not end in time; it was killed.
    """
    deadline = Deadline(deadline_s)
    own = _own_lynis(shell)
    if tree is None and own is None:
        raise HostError(
            "no lynis: the image has none, and neither has this computer",
            hint="'seatrial doctor' names the command that installs it here; or name the folder of an unpacked lynis",
        )
    with _scratch(shell, say) as folder:
        if tree is not None and (tree.is_chosen or own is None):
            say(f"bringing {tree.origin} to the guest ({len(tree.files)} files, sha256 {tree.digest[:12]})")
            _bring(shell, tree, folder)
            start = ["sh", "./lynis", *_OPTIONS, "--usecwd", "--plugindir", f"{folder}/tree/plugins"]
            where = f"{folder}/tree"
        else:
            say(f"running the image's own lynis, {_shown(own or b'')}")
            start = ["lynis", *_OPTIONS]
            where = folder  # an empty folder: lynis would take ./include and ./plugins
        _audit(shell, start, where, folder, timeout_s=deadline.remaining_s)
        return _report(shell, f"{folder}/report.dat", timeout_s=max(_SHORT_S, deadline.remaining_s))


def _own_lynis(shell: Shell) -> bytes | None:
    status, out, _ = shell.run(f"PATH={_PATH}; command -v lynis", timeout_s=_SHORT_S)
    return out if status == 0 else None


def _shown(raw: bytes) -> str:
    return shorten(escape(decode(raw.strip())), 300)


@contextlib.contextmanager
def _scratch(shell: Shell, say: Say) -> Iterator[str]:
    """Give a fresh folder on a tmpfs that only root can enter; at the end it is gone, and with it what ran from it."""
    folder = f"{_tmpfs(shell).rstrip('/')}/seatrial-lynis-{secrets.token_hex(8)}"
    # mkdir follows no symlink and takes no existing folder: whatever another process planted there is refused.
    status, _, err = shell.run(f"mkdir -m 0700 -- {folder}", timeout_s=_SHORT_S)
    if status != 0:
        raise ObservationError(f"cannot make the folder {folder!r} in the guest: {_shown(err)}")
    try:
        yield folder
    finally:
        try:
            status, _, err = shell.run(_removal(folder), timeout_s=_SHORT_S)
            if status != 0:
                say(f"could not remove {folder} from the guest: {_shown(err)}")
        except SeatrialError as exc:
            # What happened inside the block matters more; the guest is thrown away at the end of the run anyway.
            say(f"could not remove {folder} from the guest: {exc.message}")


def _removal(folder: str) -> str:
    # Every process of the run carries the mark in its environment, wherever it went; TERM lets lynis tidy up itself.
    return f"""
        ours() {{ for p in /proc/[0-9]*; do grep -qs {_MARK}={folder} "$p/environ" && echo "${{p#/proc/}}"; done; }}
        left=$(ours); n=0
        [ -z "$left" ] || kill -s TERM $left 2>/dev/null
        while [ -n "$left" ] && [ $n -lt 10 ]; do sleep 1; n=$((n + 1)); left=$(ours); done
        [ -z "$left" ] || kill -s KILL $left 2>/dev/null
        if [ -f {folder}/pid ]; then
            for f in /run/lynis.pid /var/run/lynis.pid; do
                if [ -f "$f" ] && [ "$(cat "$f")" = "$(cat {folder}/pid)" ]; then rm -f "$f"; fi
            done
            find /tmp -maxdepth 1 -xdev -type f -user 0 -name 'lynis.*' -newer {folder}/pid \\
                -exec rm -f {{}} \\; 2>/dev/null
        fi
        rm -rf -- {folder} && [ ! -e {folder} ]
    """


def _tmpfs(shell: Shell) -> str:
    status, out, err = shell.run("cat /proc/mounts", timeout_s=_SHORT_S)
    if status != 0:
        raise ObservationError(f"the guest's mounts cannot be read: {_shown(err)}")
    seen = []
    for path in _tmpfs_mounts(decode(out))[:_CANDIDATES]:
        status, out, _ = shell.run(f"ls -ldn {path} && df -Pk {path}", timeout_s=_SHORT_S)
        free_kib = _free_kib(decode(out)) if status == 0 else None
        if free_kib is not None and free_kib >= _NEEDED_KIB:
            return path
        seen.append(f"{path}: {'not safe' if free_kib is None else f'{free_kib} KiB free'}")
    raise ObservationError(
        f"the guest has no tmpfs with {_NEEDED_KIB} KiB free for lynis (seen: {', '.join(seen) or 'none'})",
        hint="give the machine more memory, or install lynis in the image and give /run more room",
    )


def _tmpfs_mounts(mounts: str) -> list[str]:
    """Return the writable tmpfs mount points of ``/proc/mounts``, the usual ones first."""
    rows = [line.split(" ") for line in mounts.splitlines()]
    found = {
        row[1]
        for row in rows
        if len(row) >= 4 and row[2] == "tmpfs" and "rw" in row[3].split(",") and _SAFE_PATH.fullmatch(row[1])
    }
    return [path for path in _LIKED if path in found] + sorted(found.difference(_LIKED), key=lambda p: (len(p), p))


def _free_kib(answer: str) -> int | None:
    """Return the free space that ``df`` tells, or None when ``ls`` shows a folder that others can tamper with."""
    lines = answer.splitlines()
    if len(lines) < 3:
        return None
    listed, told = lines[0].split(), lines[-1].split()
    if len(listed) < 4 or len(told) < 6 or not told[3].isascii() or not told[3].isdigit():
        return None
    mode, owner = listed[0], listed[2]
    others_write = "w" in (mode[5:6], mode[8:9])
    is_sticky = mode[9:10] in ("t", "T")
    return int(told[3]) if owner == "0" and mode.startswith("d") and (is_sticky or not others_write) else None


def _bring(shell: Shell, tree: LynisTree, folder: str) -> None:
    has_tar, _, _ = shell.run(f"PATH={_PATH}; command -v tar", timeout_s=_SHORT_S)
    if has_tar == 0:
        shell.push(packed(tree), f"{folder}/tree.tar", mode=0o600)
        _do(
            shell,
            f"umask 077; mkdir {folder}/tree && tar -xf {folder}/tree.tar -C {folder}/tree && rm {folder}/tree.tar",
        )
        return
    # One round trip a file: slow, but it needs nothing of the guest.
    folders = " ".join(shlex.quote(f"{folder}/tree/{name}") for name in tree.folders)
    _do(shell, f"umask 077; mkdir -p {folder}/tree {folders}")
    for name, content in tree.files.items():
        shell.push(content, f"{folder}/tree/{name}", mode=0o600)


def _do(shell: Shell, command: str) -> None:
    status, _, err = shell.run(command, timeout_s=_SHORT_S)
    if status != 0:
        raise ObservationError(f"cannot unpack lynis in the guest: exit status {status}, {_shown(err)!r}")


def _audit(shell: Shell, start: list[str], where: str, folder: str, *, timeout_s: float) -> None:
    environment = [f"PATH={_PATH}", "HOME=/root", "TERM=dumb", "LANG=C", "LC_ALL=C", f"{_MARK}={folder}"]
    files = ["--report-file", f"{folder}/report.dat", "--logfile", f"{folder}/lynis.log"]
    # sh reads ./lynis as a script: the tmpfs may be mounted noexec.
    script = (
        f"umask 077; cd {where} && echo $$ >{folder}/pid && "
        f"exec env -i {shlex.join([*environment, *start, *files])} >{folder}/output 2>&1 </dev/null"
    )
    try:
        status, _, err = shell.run(f"sh -c {shlex.quote(script)}", timeout_s=timeout_s)
    except CommandTimeout as exc:
        raise CommandTimeout(
            f"lynis in the guest did not end within {timeout_s:.0f} s; it was killed",
            hint="give it more time: without KVM a run takes three minutes on an idle computer",
        ) from exc
    if status in _FINE:
        return
    _, tail, _ = shell.run(f"tail -c 600 {folder}/output", timeout_s=_SHORT_S)
    raise ObservationError(
        f"lynis in the guest ended with exit status {status}: {_shown(tail or err)!r}",
        hint="'lynis audit system --quick' in the guest shows the same; another run of it there is in the way",
    )


def _report(shell: Shell, path: str, *, timeout_s: float) -> bytes:
    status, out, _ = shell.run(f"[ -f {path} ] && [ ! -L {path} ] && wc -c <{path}", timeout_s=timeout_s)
    told = out.strip()
    if status != 0 or not told.isdigit():
        raise ObservationError("lynis ended well, but there is no report of it in the guest")
    if int(told) > MAX_BYTES:
        raise ObservationError(f"the lynis report has {int(told)} bytes, more than the {MAX_BYTES} that we read")
    status, data, err = shell.run(f"cat {path}", timeout_s=timeout_s)
    if status != 0 or len(data) != int(told):
        raise ObservationError(
            f"the lynis report did not come over whole: {len(data)} of {int(told)} bytes, {_shown(err)!r}"
        )
    return data
