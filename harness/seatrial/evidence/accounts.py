"""What the guest's account files, login.defs, PAM stacks and sudoers say, and the questions that fetch them."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from seatrial.errors import ObservationError

__all__ = [
    "ACCOUNT_FILES",
    "GROUPS",
    "LOGIN_DEFS",
    "LOGIN_SHELL",
    "NEW_ACCOUNTS",
    "PASSWD",
    "SHADOW",
    "SHELLS",
    "SHELL_TIMEOUT",
    "Account",
    "Group",
    "LoginShell",
    "Secret",
    "ShellTimeout",
    "is_legacy",
    "parse_groups",
    "parse_login_defs",
    "parse_login_shell",
    "parse_new_accounts",
    "parse_passwd",
    "parse_shadow",
    "parse_shell_timeout",
    "parse_shells",
    "people",
    "uid_min",
    "user_shell_command",
]

# getent sees what nss adds (altfiles, userdb); a system without it has the files alone.
PASSWD: Final = "if command -v getent >/dev/null 2>&1; then getent passwd; else cat /etc/passwd; fi"  # noqa: S105 -- a file
GROUPS: Final = "if command -v getent >/dev/null 2>&1; then getent group; else cat /etc/group; fi"
# What other sources of nss hold beside the file, where there is a getent that knows of them.
SHADOW: Final = "if command -v getent >/dev/null 2>&1; then getent shadow; fi; true"
ACCOUNT_FILES: Final = "grep -asH '' /etc/passwd /etc/shadow /etc/group /etc/gshadow"
LOGIN_DEFS: Final = "for f in /etc/login.defs /usr/etc/login.defs; do if [ -e $f ]; then cat $f; break; fi; done"
_SHELL: Final = 'case "${SHELL##*/}" in bash|sh|dash|ash|ksh|zsh) s=$SHELL ;; *) s=/bin/sh ;; esac; '
_UMASK_AND_PATH: Final = """'printf "\\nseatrial-umask=%s\\nseatrial-path=%s\\n" "$(umask)" "$PATH"'"""
# root's own shell reads its own profile files; whatever they print is told from the answer by the names.
LOGIN_SHELL: Final = f'{_SHELL}"$s" -lc {_UMASK_AND_PATH}'
SHELLS: Final = "for f in /etc/shells /usr/etc/shells; do if [ -e $f ]; then cat $f; break; fi; done"
NEW_ACCOUNTS: Final = "PATH=$PATH:/usr/sbin:/sbin useradd -D"
# An ordinary user's interactive shell tries to get rid of its time-out. Each try has a shell of its own: one that is
# refused ends it.
SHELL_TIMEOUT: Final = (
    f"{_SHELL}"
    'setpriv --reuid=65534 --regid=65534 --clear-groups env -i HOME=/ PATH="$PATH" "$s" -lic \''
    'printf "\\nseatrial-timeout=%s\\n" "${TMOUT-none}"; printf "seatrial-exported=%s\\n" "$(printenv TMOUT)"; '
    "(TMOUT=0) 2>/dev/null && echo seatrial-changed; (unset TMOUT) 2>/dev/null && echo seatrial-unset; "
    "echo seatrial-tried' </dev/null"
)
# What getusershell(3) takes where there is no list.
_USUAL_SHELLS: Final = frozenset({"/bin/sh", "/bin/csh"})

_NOBODY: Final = 65534
# By where packages put them: a program elsewhere may bear any name.
_NOLOGIN: Final = frozenset(
    f"{folder}/{name}" for folder in ("/bin", "/sbin", "/usr/bin", "/usr/sbin") for name in ("nologin", "false")
)
_FIXED_PROGRAMS: Final = frozenset(
    {"/bin/sync", "/sbin/shutdown", "/sbin/halt", "/usr/bin/sync", "/usr/sbin/shutdown", "/usr/sbin/halt"}
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """One entry of the passwd database."""

    name: str
    password: str
    uid: int
    gid: int
    home: str
    shell: str

    @property
    def has_login_shell(self) -> bool:
        """Return whether the shell lets somebody in; an empty field means /bin/sh."""
        return self.shell not in _FIXED_PROGRAMS | _NOLOGIN


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """One entry of the group database."""

    name: str
    gid: int
    members: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Secret:
    """One entry of the shadow database: the password field as it is."""

    name: str
    field: str

    @property
    def is_empty(self) -> bool:
        """Return whether the account needs no password at all."""
        return not self.field

    @property
    def is_locked(self) -> bool:
        """Return whether no password opens the account."""
        return self.field.startswith(("!", "*"))

    @property
    def scheme(self) -> str | None:
        """Return the hash scheme (``y``, ``6``, ...; ``des`` for the ancient one), or None when no hash is stored."""
        hashed = self.field.lstrip("!*")
        if match := re.match(r"\$([^$]+)\$", hashed):
            return match[1]
        # Anything else, such as the remark 'NP' or 'LK', is no hash at all.
        return "des" if re.fullmatch(r"_?[./0-9A-Za-z]{13,19}", hashed) else None


@dataclass(frozen=True, slots=True, kw_only=True)
class LoginShell:
    """What a login shell starts with."""

    umask: int
    path: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ShellTimeout:
    """After how many seconds an ordinary user's idle shell ends; None when the text is no number.

    ``escapes`` says what the user did to get rid of it.
    """

    seconds: int | None
    is_exported: bool
    escapes: tuple[str, ...]


def parse_shells(text: str) -> frozenset[str]:
    """Return the shells of /etc/shells, or the C library's own where nothing is listed."""
    lines = (line.partition("#")[0].strip() for line in text.split("\n"))
    return frozenset(line for line in lines if line) or _USUAL_SHELLS


def parse_new_accounts(text: str) -> Mapping[str, str]:
    """Return the defaults for new accounts that ``useradd -D`` shows.

    :raises ObservationError: a line is no ``NAME=value``, or there is no INACTIVE among them.
    """
    found = {}
    for line in filter(None, text.split("\n")):
        name, equals, value = line.partition("=")
        if not equals or not re.fullmatch(r"[A-Z_]+", name):
            raise ObservationError(f"'useradd -D' said {line[:200]!r}, which is no 'NAME=value'")
        found[name] = value.strip()
    if "INACTIVE" not in found:
        raise ObservationError(f"'useradd -D' did not say INACTIVE; it said {text[:200]!r}")
    return found


def parse_shell_timeout(text: str) -> ShellTimeout:
    """Return what came of :data:`SHELL_TIMEOUT`.

    :raises ObservationError: the shell did not come to its end, or said more than once what it should say once.
    """
    timeouts = re.findall(r"(?m)^seatrial-timeout=(.*)$", text)
    exported = re.findall(r"(?m)^seatrial-exported=(.*)$", text)
    if len(timeouts) != 1 or len(exported) != 1 or not re.search(r"(?m)^seatrial-tried$", text):
        raise ObservationError(f"an ordinary user's login shell did not say its time-out; it said {text[-200:]!r}")
    escapes = [word for word in ("changed", "unset") if re.search(rf"(?m)^seatrial-{word}$", text)]
    seconds = int(timeouts[0]) if re.fullmatch(r"[0-9]{1,9}", timeouts[0]) else None
    return ShellTimeout(
        seconds=seconds, is_exported=bool(seconds) and exported[0] == timeouts[0], escapes=tuple(escapes)
    )


def parse_passwd(text: str) -> tuple[Account, ...]:
    """Return the accounts of passwd lines; entries that repeat name and uid (two nss sources) count once.

    NIS entries (``+::::::``), which getent repeats, name no account and are left to the control that forbids them.

    :raises ObservationError: a line is no passwd entry.
    """
    accounts: dict[tuple[str, int], Account] = {}
    for line in filter(None, text.split("\n")):
        fields = line.split(":")
        if is_legacy(line) and not (len(fields) > 2 and _is_id(fields[2])):
            continue
        if len(fields) != 7 or not fields[0] or not _is_id(fields[2]) or not _is_id(fields[3]):
            raise ObservationError(
                f"the passwd database holds {line[:200]!r}, which is no 'name:x:uid:gid:gecos:home:shell'"
            )
        name, password, uid, gid, _, home, shell = fields
        account = Account(name=name, password=password, uid=int(uid), gid=int(gid), home=home, shell=shell)
        accounts.setdefault((name, account.uid), account)
    return tuple(accounts.values())


def parse_groups(text: str) -> tuple[Group, ...]:
    """Return the groups of group lines; entries that repeat name and gid count once.

    :raises ObservationError: a line is no group entry.
    """
    groups: dict[tuple[str, int], Group] = {}
    for line in filter(None, text.split("\n")):
        fields = line.split(":")
        if is_legacy(line) and not (len(fields) > 2 and _is_id(fields[2])):
            continue
        if len(fields) != 4 or not fields[0] or not _is_id(fields[2]):
            raise ObservationError(f"the group database holds {line[:200]!r}, which is no 'name:x:gid:members'")
        members = tuple(member for member in fields[3].split(",") if member)
        group = Group(name=fields[0], gid=int(fields[2]), members=members)
        groups.setdefault((group.name, group.gid), group)
    return tuple(groups.values())


def parse_shadow(text: str) -> tuple[Secret, ...]:
    """Return the entries of shadow lines.

    :raises ObservationError: a line is no shadow entry.
    """
    secrets = []
    for line in filter(None, text.split("\n")):
        fields = line.split(":")
        if is_legacy(line):
            continue  # the usual NIS entry has no password at all; another control forbids it
        if len(fields) != 9 or not fields[0]:
            # The line may hold a hash: show no more than its name.
            raise ObservationError(
                f"the shadow database holds a line with {len(fields)} fields instead of 9, beginning {line[:20]!r}"
            )
        secrets.append(Secret(name=fields[0], field=fields[1]))
    return tuple(secrets)


def parse_login_defs(text: str) -> Mapping[str, str]:
    """Return the settings of login.defs; the last of several wins, as in shadow.

    ``#`` begins a comment at the head of a line only (login.defs(5)); behind a value it is a part of it.

    :raises ObservationError: a line is neither a comment nor ``NAME value``.
    """
    settings: dict[str, str] = {}
    for line in text.split("\n"):
        words = line.split(None, 1)
        if not words or words[0].startswith("#"):
            continue
        if not re.fullmatch(r"[A-Z0-9_]+", words[0]):
            raise ObservationError(f"login.defs holds {line[:200]!r}, which is no 'NAME value'")
        settings[words[0]] = words[1].strip().strip('"') if len(words) == 2 else ""
    return settings


def user_shell_command(account: Account) -> str:
    """Return the question for umask and PATH of a login shell of ``account``; see :func:`parse_login_shell`."""
    name = shlex.quote(account.name)
    return (
        f"{_SHELL}setpriv --reuid={account.uid} --regid={account.gid} --clear-groups "
        f'env -i HOME=/ USER={name} LOGNAME={name} PATH="$PATH" "$s" -lc {_UMASK_AND_PATH} </dev/null'
    )


def parse_login_shell(text: str) -> LoginShell:
    """Return umask and PATH of the answer to :data:`LOGIN_SHELL`, or to :func:`user_shell_command`.

    :raises ObservationError: they are not there.
    """
    umask = re.findall(r"(?m)^seatrial-umask=([0-7]{1,4})$", text)
    path = re.findall(r"(?m)^seatrial-path=(.*)$", text)
    if len(umask) != 1 or len(path) != 1:
        raise ObservationError(f"a login shell did not say its umask and PATH; it said {text[-200:]!r}")
    return LoginShell(umask=int(umask[0], 8), path=tuple(path[0].split(":")))


def is_legacy(line: str) -> bool:
    """Return whether a line of an account file is a NIS entry: ``+``, ``+name``, ``-name``, ``+@netgroup``."""
    return line.startswith(("+", "-"))


def uid_min(settings: Mapping[str, str]) -> int:
    """Return the first UID of people by the ``settings`` of login.defs.

    :raises ObservationError: it is no number.
    """
    value = settings.get("UID_MIN", "1000")
    if not _is_id(value):
        raise ObservationError(f"login.defs says UID_MIN {value[:50]!r}, which is no number")
    return int(value)


def people(passwd: str, login_defs: str) -> tuple[Account, ...]:
    """Return root, the accounts of people, and whatever else has a login shell: those whose homes matter."""
    first = uid_min(parse_login_defs(login_defs))
    return tuple(a for a in parse_passwd(passwd) if a.has_login_shell or first <= a.uid < _NOBODY)


def _is_id(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 10
