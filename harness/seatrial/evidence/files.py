"""What the guest says of its files: one walk for every audit, states of named files, lines by file."""

from __future__ import annotations

import re
import shlex
import stat
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from seatrial.errors import ObservationError
from seatrial.evidence.mounts import Mount

__all__ = [
    "FileState",
    "acls_command",
    "audit_command",
    "backing_mount",
    "capabilities_command",
    "complaints_of",
    "lines_by_file",
    "local_trees",
    "parse_acls",
    "parse_audit",
    "parse_capabilities",
    "parse_states",
    "read_command",
    "states_command",
]

# File systems that hold no files of the image, would trigger a mount, or live elsewhere.
_NOT_WALKED: Final = re.compile(
    r"autofs|binfmt_misc|bpf|cgroup2?|configfs|debugfs|devpts|efivarfs|fusectl|hugetlbfs|nsfs|proc|pstore|rpc_pipefs"
    r"|securityfs|selinuxfs|sysfs|tracefs|9p|afs|ceph|cifs|fuse\.sshfs|nfs4?|smb3|virtiofs"
)
# Where programs and libraries are, on systems with and without a merged /usr.
_SYSTEM: Final = ("/usr", "/opt", "/bin", "/sbin", "/lib")
# What find says of a folder that it lies in: everything below was met on the way.
_LOOP: Final = "File system loop detected"
# What is gone when the walk comes to it was never there (find(1)); busybox' find says that it could not look.
_RACE: Final = "race=; if find / -maxdepth 0 -ignore_readdir_race >/dev/null 2>&1; then race=-ignore_readdir_race; fi"
# busybox' find knows no -nouser: there, a file of none of the known users is one without owner.
_UNOWNED: Final = (
    # Whatever is root's is known to have an owner: looking one up for every file takes most of the walk.
    "if find / -maxdepth 0 -nouser >/dev/null 2>&1; then user='! -user 0 -nouser' group='! -group 0 -nogroup'; "
    "else user=$(sed 's/^[^:]*:[^:]*:\\([0-9]*\\):.*/! -user \\1/' /etc/passwd); "
    "group=$(sed 's/^[^:]*:[^:]*:\\([0-9]*\\):.*/! -group \\1/' /etc/group); fi"
)
_STATE: Final = re.compile(r"([0-9a-f]{1,8}) (\S+) (\S+) (\S.*)")
# Behind the mode of what has an access control list GNU ls shows a plus (its manual, "What information is listed").
_WITH_ACL: Final = re.compile(r"[-a-z][-a-zA-Z]{9}\+ .*? (/.*)")
_CAPABILITIES: Final = re.compile(
    r"(/.*?)(?: =)? ((?:cap_[a-z0-9_,]+|all|)[=+][eip]+(?: \S+[=+-][eip]+)*)(?: \[rootid=\d+\])?"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class FileState:
    """Type and mode bits, owner and group of a file."""

    mode: int
    owner: str
    group: str
    path: str

    @property
    def permissions(self) -> int:
        """Return the permission bits with set-id and sticky bits."""
        return stat.S_IMODE(self.mode)

    @property
    def is_file(self) -> bool:
        """Return whether this is a regular file."""
        return stat.S_ISREG(self.mode)

    @property
    def is_dir(self) -> bool:
        """Return whether this is a directory."""
        return stat.S_ISDIR(self.mode)

    @property
    def is_system(self) -> bool:
        """Return whether this lies where programs and libraries are."""
        return self.path.startswith(_SYSTEM)

    @property
    def has_owners(self) -> bool:
        """Return whether owner and group exist; stat says UNKNOWN otherwise."""
        return "UNKNOWN" not in {self.owner, self.group}

    @property
    def is_link(self) -> bool:
        """Return whether this is a symbolic link."""
        return stat.S_ISLNK(self.mode)

    def __str__(self) -> str:
        return f"{self.path} ({self.permissions:04o} {self.owner}:{self.group})"


def backing_mount(mounts: Sequence[Mount], path: str) -> Mount:
    """Return the mount that really holds ``path``: the deepest, and of several at one place the last.

    :raises ObservationError: none does.
    """
    best: Mount | None = None
    for mount in mounts:
        holds = mount.target in {"/", path} or path.startswith(f"{mount.target}/")
        if holds and mount.kind != "autofs" and (best is None or len(mount.target) >= len(best.target)):
            best = mount
    if best is None:
        raise ObservationError(f"mountinfo names no mount that holds {path!r}")
    return best


def local_trees(mounts: Sequence[Mount], *, without: Collection[str] = ()) -> tuple[str, ...]:
    """Return the mount points from which walks that stay on their file system see every file of the image.

    :param without: kinds of file system that are left out.
    :raises ObservationError: the root file system is of a kind that is not walked.
    """
    seen = [
        mount.target
        for mount in mounts
        if not _NOT_WALKED.fullmatch(mount.kind)
        and mount.kind not in without
        and backing_mount(mounts, mount.target) == mount
        and not _is_entered(mount, mounts)
    ]
    root = backing_mount(mounts, "/")
    if _NOT_WALKED.fullmatch(root.kind):
        raise ObservationError(f"the root file system is {root.kind}, which is not looked through: it is elsewhere")
    return tuple(sorted(set(seen)))


def _is_entered(mount: Mount, mounts: Sequence[Mount]) -> bool:
    """Return whether the walk of what ``mount`` lies in enters it: another part of the same file system.

    On btrfs each subvolume has a device number of its own, whatever mountinfo says.
    """
    if mount.target == "/" or mount.kind == "btrfs":
        return False
    return backing_mount(mounts, mount.target.rpartition("/")[0] or "/").device == mount.device


def audit_command(trees: Sequence[str]) -> str:
    """Return the one walk over ``trees`` that finds whatever an audit of permissions cares for.

    World-writable files and folders, set-id files, files without owner, keys that open accounts, and programs or
    libraries that others than root may change. A name with a line break is given as inode, so that it forges nothing.
    """
    system = " -o ".join(f"-path '{folder}*'" for folder in _SYSTEM)
    wanted = (
        r"-type f \( -perm -0002 -o -perm -4000 -o -perm -2000 \)",
        "-type d -perm -0002",
        r"\( $user \)",
        r"\( $group \)",
        "-type f -size +0 -path '*/authorized_keys*'",
        # What is cheap comes first: an emulated processor compares paths slowly.
        rf"\( -perm -0020 -o ! -user 0 \) ! -type l \( {system} -o -path '/etc/*' \)",
    )
    roots = " ".join(shlex.quote(tree) for tree in trees)
    newline = shlex.quote("*\n*")
    # Negated, not '-o': busybox runs '-exec ... +' at the outermost level only.
    odd = rf"-path {newline} -exec stat -c '%f %U %G (a line break in the name of inode %i)' {{}} \;"
    return (
        rf"{_RACE}; {_UNOWNED}; find {roots} $race -xdev \( {' -o '.join(wanted)} \) ! \( {odd} \)"
        " -exec stat -c '%f %U %G %n' {} +"
    )


def capabilities_command(trees: Sequence[str]) -> str:
    """Return the walk over ``trees`` that finds programs with file capabilities."""
    roots = " ".join(shlex.quote(tree) for tree in trees)
    return (
        rf"{_RACE}; getcap / && find {roots} $race -xdev -type f \( -perm -0100 -o -perm -0010 -o -perm -0001 \)"
        " -exec getcap {} +"
    )


def states_command(patterns: Sequence[str], *, follow: bool) -> str:
    """Return the question for the states of all files that match the shell ``patterns``; missing ones give nothing.

    With ``follow``, a symbolic link counts as what it leads to, unless that is missing.
    """
    way = "-L " if follow else ""
    each = (
        f'if [ -e "$f" ]; then stat {way}-c "%f %U %G %n" "$f" || exit; '
        'elif [ -L "$f" ]; then stat -c "%f %U %G %n" "$f" || exit; fi'
    )
    return f"for f in {' '.join(patterns)}; do {each}; done"


def acls_command(patterns: Sequence[str]) -> str:
    """Return the question which of the files that match the shell ``patterns`` have an access control list (acl(5)).

    Their modes do not show whom it lets in: in place of the group's bits they have the most that it grants.
    """
    return f"ls -Lld {' '.join(patterns)} 2>/dev/null; true"


def parse_acls(text: str) -> tuple[str, ...]:
    """Return the files that have an access control list, by the answer to :func:`acls_command`.

    busybox' ls does not tell of one.
    """
    return tuple(match[1] for line in text.split("\n") if (match := _WITH_ACL.fullmatch(line)))


def parse_states(text: str) -> tuple[FileState, ...]:
    """Return the files of ``mode owner group name`` lines (the mode in hexadecimal, as ``stat -c %f`` gives it).

    :raises ObservationError: a line is none.
    """
    states = []
    for line in filter(None, text.split("\n")):
        match = _STATE.fullmatch(line)
        if not match:
            raise ObservationError(f"a file is described by {line[:200]!r}, which is no 'mode owner group name'")
        states.append(FileState(mode=int(match[1], 16), owner=match[2], group=match[3], path=match[4]))
    return tuple(states)


def parse_audit(status: int, stdout: str, stderr: str) -> tuple[FileState, ...]:
    """Return the files that the walk of :func:`audit_command` found; files that vanished meanwhile are no fault.

    :raises ObservationError: the walk could not see everything.
    """
    _refuse_incomplete(status, stderr)
    # A mount point is met twice: in the tree above it, and as the root of its own.
    states = tuple(dict.fromkeys(parse_states(stdout)))
    if not states:
        # Every system has /tmp, which everybody may write: a walk that finds nothing saw nothing.
        raise ObservationError("the walk over the guest's files found nothing at all, not even /tmp")
    return states


def complaints_of(stderr: str) -> list[str]:
    """Return what find complained about, but for files that vanished, and folders that lie below themselves.

    ostree mounts the physical root below the root that is a part of it: what is met again was walked.
    """
    lines = stderr.split("\n")
    return [line for line in lines if line and not line.endswith("No such file or directory") and _LOOP not in line]


def _refuse_incomplete(status: int, stderr: str) -> None:
    complaints = complaints_of(stderr)
    if complaints or (status != 0 and not stderr):
        why = complaints[0][:200] if complaints else f"exit status {status}"
        raise ObservationError(f"the walk over the guest's files is incomplete: {why!r}")


def parse_capabilities(status: int, stdout: str, stderr: str) -> Mapping[str, str]:
    """Return path to capabilities of what :func:`capabilities_command` found, in getcap's older form or newer one.

    The older is ``path = cap+ep``.

    :raises ObservationError: a line is none, the guest has no getcap, or the walk could not see everything.
    """
    if status in {126, 127}:
        raise ObservationError("the guest has no getcap: nothing says which programs hold capabilities")
    _refuse_incomplete(status, stderr)
    found = {}
    for line in filter(None, stdout.split("\n")):
        match = _CAPABILITIES.fullmatch(line)
        if not match:
            raise ObservationError(f"getcap said {line[:200]!r}, which is no 'path capabilities'")
        found[match[1]] = match[2].replace("+", "=", 1)
    return found


def read_command(paths: Sequence[str]) -> str:
    """Return the question for the lines of ``paths``, each with its path; missing files give nothing."""
    return f"grep -asH '' {' '.join(shlex.quote(path) for path in paths)} /dev/null; true"


def lines_by_file(text: str, paths: Sequence[str] | None = None) -> Mapping[str, tuple[str, ...]]:
    """Return path to lines of ``path:line`` text; ``paths`` names the files when their names may hold colons.

    :raises ObservationError: a line belongs to no file.
    """
    files: dict[str, tuple[str, ...]] = {}
    known = sorted(paths or (), key=len, reverse=True)
    for line in filter(None, text.split("\n")):
        path = (
            next((p for p in known if line.startswith(f"{p}:")), None) if paths is not None else line.partition(":")[0]
        )
        if path is None or not path.startswith("/"):
            raise ObservationError(f"a line belongs to no file that was asked for: {line[:200]!r}")
        files[path] = (*files.get(path, ()), line[len(path) + 1 :])
    return files
