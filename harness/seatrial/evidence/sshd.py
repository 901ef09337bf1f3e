"""What ``sshd -T`` says of the server's effective settings, and for whom it must be asked."""

from __future__ import annotations

import ipaddress
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Any, Final

from seatrial.errors import ObservationError
from seatrial.evidence.accounts import Account, Group

__all__ = [
    "CONFIG_LINES",
    "Caller",
    "HostKey",
    "callers",
    "expand_keys_file",
    "host_key_paths",
    "host_keys_command",
    "moduli_command",
    "parse_host_keys",
    "parse_moduli",
    "parse_settings",
    "settings_command",
    "validate_command",
]

_SSHD: Final = "PATH=$PATH:/usr/sbin:/sbin sshd"
# Only Match matters here, in every file that an Include leads to (a name without a folder lies in /etc/ssh);
# everything else is read as sshd itself understands it.
CONFIG_LINES: Final = (
    "cd /etc/ssh 2>/dev/null; seen=' '; look() { for f in \"$@\"; do case $f in /*) ;; *) f=/etc/ssh/$f ;; esac; "
    'case $seen in *" $f "*) f=/ ;; esac; if [ -f "$f" ]; then seen="$seen$f "; '
    "grep -ashiE '^[[:space:]]*(match|include)([[:space:]]|=)' \"$f\"; "
    "i=$(sed -n 's/^[[:space:]]*[Ii][Nn][Cc][Ll][Uu][Dd][Ee][[:space:]=]*//p' \"$f\"); "
    '[ -z "$i" ] || look $i; fi; done; }; '
    "for d in /etc/ssh /usr/etc/ssh /usr/lib/ssh; do look $d/sshd_config $d/sshd_config.d/*; done; true"
)
_HOST_KEYS: Final = ("/etc/ssh/ssh_host_*_key", "/var/lib/ssh/ssh_host_*_key")
# What the question above does not follow: the shell would take such a name apart.
_INCLUDES: Final = re.compile(r"[^\s\"'\\$`]+")
_FOREIGN: Final = "198.51.100.7"
_MOST_CALLERS: Final = 32
_UNKNOWN: Final = "seatrial-nobody"


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """Somebody who connects: sshd's settings depend on who, from where, and the options that sshd was started with."""

    user: str
    addr: str = _FOREIGN
    host: str = "client.example"
    laddr: str = "10.0.2.15"
    lport: str = "22"
    options: tuple[str, ...] = ()

    def __str__(self) -> str:
        started = f" (sshd was started with {' '.join(self.options)})" if self.options else ""
        return f"{self.user} from {self.addr}{started}"


@dataclass(frozen=True, slots=True, kw_only=True)
class HostKey:
    """A host key of the guest: when it was made (seconds since the epoch), where, its length, digest and type."""

    made_s: int
    path: str
    bits: int
    digest: str
    kind: str


def settings_command(caller: Caller) -> str:
    """Return the question for the settings that ``caller`` would meet."""
    spec = f"user={caller.user},host={caller.host},addr={caller.addr},laddr={caller.laddr},lport={caller.lport}"
    return " ".join([_SSHD, "-T", *map(shlex.quote, caller.options), "-C", shlex.quote(spec)])


def validate_command(options: Sequence[str]) -> str:
    """Return the question whether sshd accepts its configuration together with ``options``."""
    return " ".join([_SSHD, "-t", *map(shlex.quote, options)])


def parse_settings(text: str) -> Mapping[str, tuple[str, ...]]:
    """Return the settings of ``sshd -T``: keyword to its values, several for a keyword that repeats.

    :raises ObservationError: a line is no ``keyword value``, or there is none.
    """
    settings: dict[str, tuple[str, ...]] = {}
    for line in filter(None, text.split("\n")):
        keyword, _, value = line.strip().partition(" ")
        if not re.fullmatch(r"[a-z0-9]+", keyword):
            raise ObservationError(f"'sshd -T' said {line[:200]!r}, which is no 'keyword value'")
        settings[keyword] = (*settings.get(keyword, ()), value.strip())
    if "port" not in settings:
        raise ObservationError(f"'sshd -T' said nothing of its port; it said {text[:200]!r}")
    return settings


def callers(
    config_lines: Sequence[str], ordinary: str, accounts: Sequence[Account], groups: Sequence[Group]
) -> tuple[Caller, ...]:
    """Return whom sshd's settings must be asked for: root and ``ordinary`` from afar, and one for each Match block.

    A block that nobody can match (an unknown group) adds no caller.

    :raises ObservationError: a Match criterion or an Include is not understood: settings could hide there.
    """
    found = [Caller(user="root"), Caller(user=ordinary)]
    for line in config_lines:
        words = _words(line)
        if words[0].lower() == "include":
            _expect_known_includes(words[1:])
        elif words[0].lower() != "match":
            raise ObservationError(f"sshd's configuration was searched for Match and Include, and gave {line[:200]!r}")
        elif [word.lower() for word in words[1:]] != ["all"]:
            found.extend(_matching(words[1:], found[:2], accounts, groups))
    unique = tuple(dict.fromkeys(found))
    if len(unique) > _MOST_CALLERS:
        raise ObservationError(
            f"sshd's configuration holds Match blocks for {len(unique)} kinds of callers, more than {_MOST_CALLERS}"
        )
    return unique


def host_key_paths(named: Iterable[str]) -> tuple[str, ...]:
    """Return shell patterns for the files of host keys: the usual places, and those that HostKey names elsewhere."""
    others = {path for path in named if not any(fnmatchcase(path, usual) for usual in _HOST_KEYS)}
    return (*_HOST_KEYS, *sorted(shlex.quote(path) for path in others))


def host_keys_command(patterns: Sequence[str]) -> str:
    """Return the question for what the host keys of ``patterns`` are and when they were made."""
    return (
        f"for f in {' '.join(patterns)}; do "
        'if [ -e "$f" ]; then printf "%s " "$(stat -c "%Y %n" "$f")"; ssh-keygen -l -f "$f" || exit; fi; done'
    )


def parse_host_keys(text: str) -> tuple[HostKey, ...]:
    """Return the host keys of the answer to :func:`host_keys_command`.

    :raises ObservationError: a line is none.
    """
    keys = []
    for line in filter(None, text.split("\n")):
        match = re.fullmatch(r"(\d{1,18}) (/\S+) (\d{1,6}) (\S+) .*\(([A-Z0-9-]+)\)", line)
        if not match:
            raise ObservationError(
                f"a host key is described by {line[:200]!r}, which is no 'time path bits digest comment (TYPE)'"
            )
        keys.append(HostKey(made_s=int(match[1]), path=match[2], bits=int(match[3]), digest=match[4], kind=match[5]))
    return tuple(keys)


def moduli_command(path: str) -> str:
    """Return the question for how many Diffie-Hellman groups of each size the file ``path`` holds."""
    file = shlex.quote(path)
    count = "awk 'NF && $1 !~ /^#/ {n[$5]++} END {for (s in n) print s, n[s]}'"
    return f"if [ -e {file} ]; then echo groups && {count} {file}; fi"


def parse_moduli(text: str) -> Mapping[int, int] | None:
    """Return size in bits (the last one not counted, as in the file) to number of groups; None without a file.

    :raises ObservationError: a line is none.
    """
    if not text:
        return None
    first, *lines = text.split("\n")
    if first != "groups":
        raise ObservationError(f"the moduli are counted below {first[:200]!r}, expected 'groups'")
    groups = {}
    for line in filter(None, lines):
        if not re.fullmatch(r"\d{1,6} \d{1,9}", line, re.ASCII):
            raise ObservationError(f"the moduli are counted as {line[:200]!r}, which is no 'size number'")
        size, _, number = line.partition(" ")
        groups[int(size)] = int(number)
    return dict(sorted(groups.items()))


def expand_keys_file(pattern: str, account: Account) -> str:
    """Return the file that an AuthorizedKeysFile ``pattern`` means for ``account``."""
    named = {"%%": "%", "%h": account.home, "%u": account.name, "%U": str(account.uid)}
    path = re.sub(r"%[%huU]", lambda match: named[match[0]], pattern)
    return path if path.startswith("/") else f"{account.home.rstrip('/')}/{path}"


def _words(line: str) -> list[str]:
    # 'Match=User bob' is as good as 'Match User bob'.
    spaced = re.sub(r"^(\s*\w+)\s*=", r"\1 ", line)
    try:
        return shlex.split(spaced, comments=True) or [""]
    except ValueError as exc:
        raise ObservationError(f"sshd's configuration holds {line[:200]!r}: {exc}") from exc


def _expect_known_includes(targets: Sequence[str]) -> None:
    strange = [target for target in targets if not _INCLUDES.fullmatch(target)]
    if strange:
        raise ObservationError(f"sshd's configuration includes {strange[0]!r}, whose Match blocks were not read")


def _matching(
    criteria: Sequence[str], base: Sequence[Caller], accounts: Sequence[Account], groups: Sequence[Group]
) -> list[Caller]:
    found = list(base)
    # Both 'User bob' and 'User=bob' are allowed.
    words = [word for criterion in criteria for word in criterion.split("=", 1)]
    if any(word.lower() == "invalid-user" for word in words):
        # It has no pattern (sshd_config(5)).
        words = [word for word in words if word.lower() != "invalid-user"]
        found = [replace(caller, user=_UNKNOWN) for caller in found[:1]]
    if len(words) % 2:
        raise ObservationError(
            f"sshd's configuration holds 'Match {' '.join(criteria)[:200]}', which is not understood"
        )
    for name, patterns in zip(words[::2], words[1::2], strict=True):
        found = _narrowed(name.lower(), patterns.split(","), found, accounts, groups)
    return found


def _narrowed(
    name: str, patterns: Sequence[str], found: Sequence[Caller], accounts: Sequence[Account], groups: Sequence[Group]
) -> list[Caller]:
    positive = next((pattern for pattern in patterns if pattern and not pattern.startswith("!")), None)
    if positive is None:
        return []  # a block of negations alone matches nobody
    plain = positive.replace("*", "x").replace("?", "x")
    match name:
        case "user":
            users = [next((a.name for a in accounts if _fits(a.name, patterns)), plain)]
        case "group":
            users = [m for group in groups if _fits(group.name, patterns) for m in _members(group, accounts)][:1]
        case "address" | "localaddress" | "host" | "localport":
            part = {"address": "addr", "localaddress": "laddr", "host": "host", "localport": "lport"}[name]
            value = _address(positive) if name.endswith("address") else plain
            changed: dict[str, Any] = {part: value}
            return [replace(caller, **changed) for caller in found]
        case _:
            raise ObservationError(
                f"sshd's configuration holds a Match block for {name!r} {positive[:100]!r}, which is not understood"
            )
    return [replace(caller, user=user) for caller in found[:1] for user in users]


def _fits(name: str, patterns: Sequence[str]) -> bool:
    refused = any(fnmatchcase(name, pattern[1:]) for pattern in patterns if pattern.startswith("!"))
    return not refused and any(fnmatchcase(name, pattern) for pattern in patterns)


def _members(group: Group, accounts: Sequence[Account]) -> tuple[str, ...]:
    return (*group.members, *(account.name for account in accounts if account.gid == group.gid))


def _address(pattern: str) -> str:
    if pattern == "*":
        return _FOREIGN
    if "*" in pattern or "?" in pattern:
        return pattern.replace("*", "7").replace("?", "7")
    try:
        network = ipaddress.ip_network(pattern, strict=False)
    except ValueError as exc:
        raise ObservationError(f"sshd's configuration matches the address {pattern[:100]!r}, which is none") from exc
    return str(network.network_address + (1 if network.num_addresses > 1 else 0))
