"""The guest's network interfaces, radios, and how it finds names."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from seatrial.errors import ObservationError

__all__ = [
    "LINKS",
    "MULTICAST_NAMES",
    "RADIOS",
    "RESOLVER",
    "Link",
    "Resolver",
    "parse_links",
    "parse_multicast_names",
    "parse_resolver",
]

LINKS: Final = "ip -d -j link"
RADIOS: Final = (
    "for f in /sys/class/net/*/wireless /sys/class/net/*/phy80211 /sys/class/ieee80211/* /sys/class/bluetooth/*; do "
    'if [ -e "$f" ]; then echo "$f"; fi; done'
)
RESOLVER: Final = (
    "f=/etc/resolv.conf; if [ -L $f ] || [ -e $f ]; then readlink -f $f || echo nowhere; "
    "grep -asE '^[[:space:]]*nameserver[[:space:]]' $f; "
    "if grep -asq '^nameserver 127\\.0\\.0\\.5[34]' $f; then resolvectl --no-pager dns; fi; else echo none; fi; true"
)
# Who resolves names by asking the neighbours; a system without systemd-resolved says nothing.
MULTICAST_NAMES: Final = (
    "if systemctl is-active -q systemd-resolved.service; then "
    "resolvectl --no-pager llmnr && resolvectl --no-pager mdns; fi"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """A network interface, how many ask it to take in what is for others, and the bridge that it is a port of."""

    name: str
    promiscuity: int
    bridge: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Resolver:
    """The file that /etc/resolv.conf really is (``none`` without one), and the servers that are asked."""

    path: str
    servers: tuple[str, ...]


def parse_links(text: str) -> tuple[Link, ...]:
    """Return the interfaces of the answer to :data:`LINKS`.

    :raises ObservationError: it is not what ip writes, or it does not know of promiscuity.
    """
    try:
        links = tuple(
            Link(
                name=str(link["ifname"]),
                promiscuity=int(link["promiscuity"]),
                bridge=str(link.get("master", "")) if _is_port(link) else "",
            )
            for link in json.loads(text)
            if link
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as exc:
        raise ObservationError(f"ip said {text[:200]!r}, which are no interfaces: {exc!r:.200}") from exc
    if not links:
        raise ObservationError("ip knows no interface at all, not even loopback")
    return links


def _is_port(link: dict[str, dict[str, str]]) -> bool:
    return link.get("linkinfo", {}).get("info_slave_kind") == "bridge"


def parse_multicast_names(text: str) -> tuple[str, ...]:
    """Return the lines of :data:`MULTICAST_NAMES` by which neighbours are asked: ``Link 2 (eth0): yes``.

    :raises ObservationError: a line is none.
    """
    asking = []
    for line in filter(None, (line.strip() for line in text.split("\n"))):
        match = re.fullmatch(r"(Global|Link \d+ \(.*\)): (yes|no|resolve)", line)
        if not match:
            raise ObservationError(f"resolvectl said {line[:200]!r}, which is no link and its mode")
        if match[2] != "no":
            asking.append(line)
    return tuple(asking)


def parse_resolver(text: str) -> Resolver:
    """Return the answer to :data:`RESOLVER`.

    :raises ObservationError: it names no file, or a line is no server.
    """
    lines = [line.strip() for line in text.split("\n") if line.strip()]
    if not lines or not (lines[0] in {"none", "nowhere"} or lines[0].startswith("/")):
        raise ObservationError(f"nothing says what /etc/resolv.conf is: {text[:200]!r}")
    return Resolver(path=lines[0], servers=tuple(server for line in lines[1:] for server in _servers(line)))


def _servers(line: str) -> Sequence[str]:
    if match := re.fullmatch(r"nameserver\s+(\S+).*", line):
        # The stub is no server: it asks those that resolvectl names.
        return [] if match[1] in {"127.0.0.53", "127.0.0.54"} else [match[1]]
    if match := re.fullmatch(r"(?:Global|Link \d+ \(.*\)):(.*)", line):
        return match[1].split()
    raise ObservationError(f"/etc/resolv.conf or resolvectl said {line[:200]!r}, which names no server")
