"""One block of the partition under a verity device, changed on the disk, and what comes of reading it: an attack."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from seatrial.errors import ObservationError
from seatrial.evidence.attempts import on_this_boot
from seatrial.evidence.verity import Verity

__all__ = ["Flipped", "ReadBack", "flip_script", "parse_flipped", "parse_read_back", "read_back_script"]

# Blocks to choose from, as shares of the data: one that cannot be read, or holds only zeros (which verity may be told
# not to look at), is left for the next.
_SHARES: Final = ((1, 2), (2, 3), (1, 3), (3, 4), (1, 4), (4, 5), (2, 5), (1, 5))
_REFUSED: Final = ("Operation not permitted", "Read-only file system", "Permission denied", "Device or resource busy")
_FAILED_READ: Final = ("Input/output error", "I/O error")  # glibc, musl
_SHA256: Final = re.compile(r"[0-9a-f]{64}")
_SMALL: Final = re.compile(r"[0-9]{1,12}")
_SMALLEST: Final = 512
_LARGEST: Final = 1 << 20

# Only what dd has just read is to leave the page cache: the programs that the script needs come from the same device.
_TOOLS: Final = """
export LC_ALL=C; nl='
'; t=/run/seatrial-flipped
flush() { blockdev --flushbufs "$1" 2>/dev/null || echo 1 > /proc/sys/vm/drop_caches; }
sum() { set -- $(sha256sum < "$1"); echo "$1"; }
put() {
    said=$(dd if="$1" of="$2" bs="$3" seek="$4" conv=notrunc,fsync 2>&1); rc=$?
    [ $rc != 0 ] || said=
}
on_disk() { put "$1" "/dev/block/$(cat $s/../dev)" 512 $(($(cat $s/start) + n * (b / 512))); }
get() {
    said=$(dd if="$1" of=$t/back bs=$b skip=$n count=1 2>&1); rc=$?
    [ $rc != 0 ] || said=
    size=$(($(wc -c < $t/back)))
}
"""
_FLIP: Final = """
for p in dd sha256sum wc tail dmsetup; do command -v $p >/dev/null || { echo "lacks $p"; exit 0; }; done
for f in $m $d; do [ -b $f ] || { echo "lacks $f"; exit 0; }; done
rm -rf $t; mkdir -m 700 $t || exit 1
dd if=/dev/zero of=$t/zero bs=$b count=1 2>/dev/null || exit 1
for n in $candidates; do
    get $m; [ $rc = 0 ] && [ $size = $b ] && [ "$(sum $t/back)" != "$(sum $t/zero)" ] && break
    n=
done
[ -n "$n" ] || { echo "lacks a block that can be read and holds more than zeros"; exit 0; }
mv $t/back $t/old
{ printf 'seatrial flipped'; tail -c +17 $t/old; } > $t/new
get $d; mv $t/back $t/below
echo "block $n"; echo "old $(sum $t/old)"; echo "below $(sum $t/below)"; echo "new $(sum $t/new)"
if [ "$(sum $t/old)" = "$(sum $t/below)" ]; then
    put $t/new $d $b $n; echo "wrote $rc ${said%%"$nl"*}"
    [ $rc = 0 ] || [ ! -e $s/partition ] || { on_disk $t/new; echo "wrote $rc ${said%%"$nl"*}"; }
fi
flush $d; get $d
echo "kept $(sum $t/back)"
"""
# What was changed is put back: others may still want to look at this guest.
_READ_BACK: Final = """
flush $m; get $m
if [ $rc = 0 ] && [ "$(sum $t/back)" = "$(sum $t/old)" ]; then echo 3 > /proc/sys/vm/drop_caches; get $m; fi
echo "read $rc $size ${said%%"$nl"*}"
echo "got $(sum $t/back)"
set -- $(dmsetup status -j $major -m $minor | sed 's/^.*: //'); echo "status $4"
put $t/old $d $b $n; [ $rc = 0 ] || on_disk $t/old
flush $d; flush $m
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Flipped:
    """A block that was to be changed, by digests: through verity and on the disk before, the change, the disk after.

    ``refusals`` holds what was said to each write that failed, ``tries`` how many were made.
    """

    block: int
    old: str
    below: str
    new: str
    kept: str
    refusals: Sequence[str]
    tries: int

    @property
    def was_refused(self) -> bool:
        """Return whether nothing but a refusal kept the block from being changed."""
        return 0 < self.tries == len(self.refusals) and all(
            any(word in said for word in _REFUSED) for said in self.refusals
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadBack:
    """What came of reading the block: whether that worked, what was said, bytes and digest of it; verity's status."""

    succeeded: bool
    said: str
    size: int
    digest: str
    status: str

    @property
    def is_io_error(self) -> bool:
        """Return whether the read failed by an I/O error, and by nothing else."""
        return not self.succeeded and any(word in self.said for word in _FAILED_READ)


def flip_script(device: Verity, mapped: str, *, boot_id: str) -> str:
    """Return a script that changes 16 bytes of one data block below the verity device with the number ``mapped``.

    It writes to the partition, and where that is refused to the whole disk. It does so on the boot ``boot_id`` only.

    :raises ObservationError: that is no boot id, or the table is none that verity takes.
    """
    candidates = dict.fromkeys(device.blocks * part // whole for part, whole in _SHARES)
    first = f"candidates='{' '.join(map(str, candidates))}'\n"
    return _script(first + _FLIP, device, mapped, boot_id=boot_id)


def read_back_script(device: Verity, mapped: str, block: int, *, boot_id: str) -> str:
    """Return a script that reads ``block`` through verity, past the page cache, and then puts back what was there.

    It takes what :func:`flip_script` has left. Verity may be told to stop the system instead of failing the read.

    :raises ObservationError: see :func:`flip_script`.
    """
    return _script(f"n={block}\n{_READ_BACK}", device, mapped, boot_id=boot_id)


def _script(body: str, device: Verity, mapped: str, *, boot_id: str) -> str:
    for number in (mapped, device.data_device):
        if not re.fullmatch(r"[0-9]{1,9}:[0-9]{1,9}", number):
            raise ObservationError(f"{number[:200]!r} is no device number")
    size = device.block_bytes
    if not _SMALLEST <= size <= _LARGEST or size & (size - 1) or not device.blocks:
        raise ObservationError(f"verity's table has {device.blocks} blocks of {size} bytes, expected a power of two")
    major, minor = mapped.split(":")
    names = (
        f"m=/dev/block/{mapped} d=/dev/block/{device.data_device} s=/sys/dev/block/{device.data_device} b={size} "
        f"major={major} minor={minor}\n"
    )
    return on_this_boot(f"{_TOOLS}{names}{body.strip()}", boot_id=boot_id)


def parse_flipped(text: str) -> Flipped:
    """Return what :func:`flip_script` reported.

    :raises ObservationError: something that it takes is missing in the guest, or it is no such report.
    """
    fields = _fields(text, ("lacks", "block", "old", "below", "new", "wrote", "kept"))
    if fields["lacks"]:
        raise ObservationError(f"no block could be changed: the guest lacks {fields['lacks'][0][:200]}")
    writes = [_status_and_words(line) for line in fields["wrote"]]
    return Flipped(
        block=_small(fields["block"], "block"),
        old=_digest(fields["old"], "old"),
        below=_digest(fields["below"], "below"),
        new=_digest(fields["new"], "new"),
        kept=_digest(fields["kept"], "kept"),
        refusals=tuple(said for status, said in writes if status),
        tries=len(writes),
    )


def parse_read_back(text: str) -> ReadBack:
    """Return what :func:`read_back_script` reported.

    :raises ObservationError: it is no such report, or a program was missing.
    """
    fields = _fields(text, ("read", "got", "status"))
    status, words = _status_and_words(_only(fields["read"], "read"))
    size, _, said = words.partition(" ")
    return ReadBack(
        succeeded=status == 0,
        said=said,
        size=_small([size], "size"),
        digest=_digest(fields["got"], "got"),
        status=_only(fields["status"], "status")[:20],
    )


def _fields(text: str, names: Sequence[str]) -> dict[str, list[str]]:
    fields: dict[str, list[str]] = {name: [] for name in names}
    for line in filter(None, text.split("\n")):
        name, _, rest = line.partition(" ")
        if name not in fields:
            raise ObservationError(
                f"the script for a changed block gave {line[:200]!r}, which is none of {', '.join(names)}"
            )
        fields[name].append(rest)
    return fields


def _only(values: Sequence[str], name: str) -> str:
    if len(values) != 1:
        raise ObservationError(f"the script for a changed block gave {len(values)} lines {name!r}, expected one")
    return values[0]


def _small(values: Sequence[str], name: str) -> int:
    value = _only(values, name)
    if not _SMALL.fullmatch(value):
        raise ObservationError(f"the script for a changed block gave {value[:200]!r} as {name}, expected a number")
    return int(value)


def _digest(values: Sequence[str], name: str) -> str:
    value = _only(values, name)
    if not _SHA256.fullmatch(value):
        raise ObservationError(f"the script for a changed block gave {value[:200]!r} as {name}, expected a SHA-256")
    return value


def _status_and_words(line: str) -> tuple[int, str]:
    status, _, words = line.partition(" ")
    if not re.fullmatch(r"[0-9]{1,3}", status):
        raise ObservationError(f"the script for a changed block gave {line[:200]!r}, expected an exit status and words")
    if int(status) in (126, 127):
        raise ObservationError(f"a block could not be read or written: {words[:200]!r}; a program is missing")
    return int(status), words
