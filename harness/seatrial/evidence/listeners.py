"""Who listens on the network: from ``ss``, or from /proc/net where a guest lacks it."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Final

from seatrial.errors import ObservationError

__all__ = ["LISTENERS", "Listener", "is_expected", "parse_listeners"]

LISTENERS: Final = (
    "if command -v ss >/dev/null 2>&1; then ss -H -lntup; "
    "else for p in tcp tcp6 udp udp6; do if [ -e /proc/net/$p ]; then grep -aH '' /proc/net/$p || exit; fi; done; fi"
)

_PROC: Final = re.compile(
    r"/proc/net/(tcp|udp)6?:\s*\d+: ([0-9A-F]{8}|[0-9A-F]{32}):([0-9A-F]{4}) [0-9A-F]+:([0-9A-F]{4}) ([0-9A-F]{2})\b.*"
)
_PROC_HEAD: Final = re.compile(r"/proc/net/(tcp|udp)6?:\s*sl\s+local_address\b.*")
_TCP_LISTEN: Final = "0A"


@dataclass(frozen=True, slots=True, kw_only=True)
class Listener:
    """A socket that answers strangers; ``processes`` is empty where the guest does not tell."""

    protocol: str
    address: str
    port: int
    processes: tuple[str, ...]

    @property
    def is_local(self) -> bool:
        """Return whether only the guest itself reaches it."""
        try:
            address = ipaddress.ip_address(self.address)
            return (getattr(address, "ipv4_mapped", None) or address).is_loopback
        except ValueError:
            return False

    def __str__(self) -> str:
        who = f" by {', '.join(self.processes)}" if self.processes else ""
        return f"{self.protocol}/{self.port} on {self.address}{who}"


def parse_listeners(text: str) -> tuple[Listener, ...]:
    """Return the listeners of the answer to :data:`LISTENERS`.

    :raises ObservationError: a line is none.
    """
    found = []
    for line in filter(None, text.split("\n")):
        if not _PROC_HEAD.fullmatch(line):
            listener = _from_proc(line) if line.startswith("/proc/net/") else [_from_ss(line)]
            found.extend(listener)
    return tuple(dict.fromkeys(found))


def is_expected(listener: Listener, allowed: tuple[str, ...]) -> bool:
    """Return whether ``allowed`` names the listener: ``tcp/22``, or ``tcp/22 sshd`` for one program alone.

    ``tcp/*`` stands for every port, and wants a program: which port it takes is then its own affair.
    """
    place = f"{listener.protocol}/{listener.port}"
    # One socket may be held by several programs, each of which has an entry of its own.
    programs = {program for named, _, program in (e.partition(" ") for e in allowed) if fnmatchcase(place, named)}
    exact = any(named == place for named, _, _program in (e.partition(" ") for e in allowed))
    if "" in programs or (exact and not listener.processes):
        return True
    return bool(listener.processes) and set(listener.processes) <= programs


def _from_ss(line: str) -> Listener:
    words = line.split()
    if len(words) < 6 or words[0] not in {"tcp", "udp"} or words[1] not in {"LISTEN", "UNCONN"}:
        raise ObservationError(f"ss said {line[:200]!r}, which describes no listening socket")
    address, _, port = words[4].rpartition(":")
    if not (port.isascii() and port.isdigit()):
        raise ObservationError(f"ss said {line[:200]!r}, whose local port is {port[:20]!r}")
    processes = tuple(dict.fromkeys(re.findall(r'\("((?:[^"\\]|\\.)*)",pid=\d+', " ".join(words[6:]))))
    return Listener(protocol=words[0], address=_address(address), port=int(port), processes=processes)


def _from_proc(line: str) -> list[Listener]:
    match = _PROC.fullmatch(line)
    if not match:
        raise ObservationError(f"the kernel's socket table holds {line[:200]!r}, which describes no socket")
    protocol, address, port, peer_port, state = match.groups()
    # A UDP socket with a peer is a client; a TCP socket that does not listen is a connection.
    if (protocol == "tcp" and state != _TCP_LISTEN) or (protocol == "udp" and peer_port != "0000"):
        return []
    return [Listener(protocol=protocol, address=_from_hex(address), port=int(port, 16), processes=())]


def _from_hex(text: str) -> str:
    # Words of 32 bits in the guest's byte order, which is little-endian on every machine that we boot.
    words = [bytes.fromhex(text[start : start + 8])[::-1] for start in range(0, len(text), 8)]
    return str(ipaddress.ip_address(b"".join(words)))


def _address(text: str) -> str:
    plain = text.split("%", 1)[0].strip("[]")
    return "::" if plain == "*" else plain  # both families
