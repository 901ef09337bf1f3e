"""What the device mapper says of dm-verity devices."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from seatrial.errors import ObservationError

__all__ = ["Verity", "device_command", "mapped_uuid_command", "parse_device", "root_hashes"]

_HEX: Final = re.compile(r"[0-9a-f]{32,128}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Verity:
    """One mapped device: its targets in order; the rest is of the only target when that is verity."""

    name: str
    sectors: int
    read_only: bool
    targets: Sequence[str]
    mapped_sectors: int
    status: str
    algorithm: str
    root_hash: str
    salt: str
    options: Sequence[str]
    data_device: str
    block_bytes: int
    blocks: int

    @property
    def is_verity(self) -> bool:
        """Return whether verity, and nothing else, is behind the device."""
        return tuple(self.targets) == ("verity",)


def device_command(device: str) -> str:
    """Return the question for the mapped device with the number ``device`` (``254:0``).

    :raises ObservationError: that is no device number.
    """
    if not re.fullmatch(r"\d{1,9}:\d{1,9}", device):
        raise ObservationError(f"{device[:200]!r} is no device number")
    major, minor = device.split(":")
    base = f"/sys/dev/block/{device}"
    return (
        f'echo "name $(cat {base}/dm/name 2>/dev/null)"; '
        f'echo "sectors $(cat {base}/size)"; echo "ro $(cat {base}/ro)"; '
        f"if [ -e {base}/dm/name ]; then dmsetup table -j {major} -m {minor} | sed 's/^/table /' && "
        f"dmsetup status -j {major} -m {minor} | sed 's/^/status /'; fi"
    )


def mapped_uuid_command(device: str) -> str:
    """Return the question for the UUID of the mapped device with the number ``device``; the answer is empty for others.

    That of a verity device begins with ``CRYPT-VERITY-`` (cryptsetup).

    :raises ObservationError: that is no device number.
    """
    if not re.fullmatch(r"\d{1,9}:\d{1,9}", device):
        raise ObservationError(f"{device[:200]!r} is no device number")
    return f"cat /sys/dev/block/{device}/dm/uuid 2>/dev/null; true"


def parse_device(text: str) -> Verity:
    """Return what :func:`device_command` gave.

    :raises ObservationError: it lacks a part, or a line is none of ``dmsetup``.
    """
    fields: Mapping[str, list[str]] = {"name": [], "sectors": [], "ro": [], "table": [], "status": []}
    for line in filter(None, text.split("\n")):
        kind, _, rest = line.partition(" ")
        if kind not in fields:
            raise ObservationError(
                f"the question for the device gave {line[:200]!r}, which is none of {', '.join(fields)}"
            )
        fields[kind].append(rest.strip())
    sectors, read_only = (_number(fields[kind], kind) for kind in ("sectors", "ro"))
    tables = [_target(line) for line in fields["table"]]
    verity = tables[0][2] if len(tables) == 1 and tables[0][1] == "verity" else []
    if verity and len(verity) < 10:
        raise ObservationError(f"dmsetup gave the verity table {fields['table'][0][:200]!r}, which is cut off")
    if any(fields["name"]) and not tables:
        raise ObservationError(
            f"the device mapper knows {fields['name']!r}, and dmsetup gave no table of it",
            hint="the image needs dmsetup to show what verity does",
        )
    states = [_target(line) for line in fields["status"]]
    return Verity(
        name="".join(fields["name"]),
        sectors=sectors,
        read_only=read_only == 1,
        targets=tuple(target for _length, target, _words in tables),
        mapped_sectors=sum(length for length, _target, _words in tables),
        status=" ".join(word for _length, target, words in states if target == "verity" for word in words[:1]),
        # Version, data device, hash device, two block sizes, blocks, hash start, algorithm, root hash, salt, options.
        algorithm=verity[7] if verity else "",
        root_hash=_digest(verity[8]) if verity else "",
        salt=verity[9] if verity else "",
        options=tuple(verity[11:]),
        data_device=verity[1] if verity else "",
        block_bytes=_number(verity[3:4], "size of a block of verity") if verity else 0,
        blocks=_number(verity[5:6], "number of blocks of verity") if verity else 0,
    )


def root_hashes(values: Sequence[str]) -> tuple[str, ...]:
    """Return the root hashes among values of the command line, lower case.

    :raises ObservationError: one is no hash.
    """
    return tuple(_digest(value.lower()) for value in values)


def _digest(text: str) -> str:
    if not _HEX.fullmatch(text):
        raise ObservationError(f"{text[:200]!r} is no root hash")
    return text


def _number(values: Sequence[str], kind: str) -> int:
    if len(values) != 1 or not re.fullmatch(r"[0-9]{1,15}", values[0]):
        raise ObservationError(f"the question for the device gave {values!r} as {kind}, expected one number")
    return int(values[0])


def _target(line: str) -> tuple[int, str, list[str]]:
    # With -j and -m dmsetup leaves the name out; other versions print "name: ".
    match = re.fullmatch(r"(?:\S+: )?(\d{1,15}) (\d{1,15}) (\S+)(?: (.*))?", line)
    if match is None:
        raise ObservationError(f"dmsetup said {line[:200]!r}, which is no target")
    return int(match[2]), match[3], (match[4] or "").split()
