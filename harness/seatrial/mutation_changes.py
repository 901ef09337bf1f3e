"""How a mutant's change is made in a guest: as root by a shell, on a mounted disk, or in a boot loader's file."""

from __future__ import annotations

import contextlib
import re
import secrets
import shlex
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from seatrial.errors import CommandTimeout, OutputTooLarge
from seatrial.guest.shell import Shell
from seatrial.mutation_files import mutant_files
from seatrial.workshop import PLACE as MOUNTED_AT

__all__ = [
    "OLDER_S",
    "Inapplicable",
    "has_loader",
    "make_change",
    "needed_first",
    "prepare",
    "reword",
    "seen_to_write",
    "took",
    "words_of",
]

_PLACE: Final = "/run/seatrial-mutant"
_CHANGE_S: Final = 300.0
_SHOWN: Final = 400
# No image is built the moment before it boots; what tells old state from new goes by seconds.
OLDER_S: Final = 5
_STAMP: Final = f"{_PLACE}.stamp"
_TICK_S: Final = 2  # FAT keeps times in steps of two seconds, rounded down
# An account such as a person would have, for changes that are about one ("$U"): nobody knows what its password is.
_ACCOUNT: Final = "mutant"
_SECRET: Final = f"$y$j9T${secrets.token_hex(11)}${secrets.token_hex(21)}."
_MAKE_ACCOUNT: Final = (
    f"grep -q ^{_ACCOUNT}: /etc/passwd || {{ "
    f"echo '{_ACCOUNT}:x:59902:59902::/home/{_ACCOUNT}:/bin/sh' >> /etc/passwd"
    f" && echo '{_ACCOUNT}:x:59902:' >> /etc/group"
    f" && echo '{_ACCOUNT}:{_SECRET}:20000:0:90:7:30::' >> /etc/shadow"
    f" && mkdir -p -m 700 /home/{_ACCOUNT} && chown 59902:59902 /home/{_ACCOUNT}; }}"
)
_OWN_DISK: Final = """$(lsblk -dnpo NAME,TYPE | awk '$2 == "disk" { print $1; exit }')"""
# What starts the kernel keeps its words in one of these (GRUB; the Boot Loader Specification).
_LOADERS: Final = "/boot/grub/grub.cfg /boot/grub2/grub.cfg /boot/loader/entries/*.conf /efi/loader/entries/*.conf"


class Inapplicable(Exception):
    """The change itself could not be made; the reason is the message."""


def words_of(change: str) -> tuple[list[str], list[str]]:
    """Return the words that a change of stage K adds to and drops from a command line: ``[add|drop] WORD...``."""
    verb, *rest = change.split()
    if verb == "drop":
        return [], rest
    return (rest if verb == "add" else [verb, *rest]), []


def needed_first(changes: Iterable[str]) -> str:
    """Return the command that makes what ``changes`` are about but no image has; nothing if they need nothing."""
    return _MAKE_ACCOUNT if any(re.search(r"\$\{?U\b", change) for change in changes) else ""


def prepare(shell: Shell, first: str) -> None:
    """Run what :func:`needed_first` returned.

    :raises Inapplicable: its exit status is not 0.
    """
    if first:
        _run(shell, first, what="the account of '$U' could not be made")


def make_change(shell: Shell, change: str, *, root: str = "/", disk: str = _OWN_DISK) -> None:
    """Make a change as root, in a folder with the files that changes use; ``$R`` is the root, ``$DISK`` the disk.

    :raises Inapplicable: its exit status is not 0.
    """
    files = " && ".join(f"printf '%s\\n' {shlex.quote(text)} > {name}" for name, text in mutant_files().items())
    script = (
        f"mkdir -p -m 700 {_PLACE} && cd {_PLACE} && {files} || exit 99\n"
        f"export U={_ACCOUNT} R={root} DISK={disk}\n"
        f"( eval {shlex.quote(change)} )\n"
        f"status=$?; cd / && rm -rf {_PLACE}; sync; exit $status"
    )
    _run(shell, f"sh -c {shlex.quote(script)}", what="the change failed")


@contextlib.contextmanager
def seen_to_write(shell: Shell, change: str, *, root: str = MOUNTED_AT) -> Iterator[None]:
    """Give the time to make ``change`` below ``root``; one that wrote no file there has changed no image.

    A change of the disk itself may do without, and what a guest's find cannot tell counts as written.

    :raises Inapplicable: nothing was written: the image was as the change would have it.
    """
    if re.search(r"\$\{?DISK\b", change):
        yield
        return
    shell.run(f": > {_STAMP}; sleep {_TICK_S}")
    yield
    newer = f"find {shlex.quote(root)} \\( -newer {_STAMP} -o -cnewer {_STAMP} \\) 2>&1 | head -n 1"
    if not shell.run(newer, timeout_s=_CHANGE_S)[1]:
        raise Inapplicable("the change wrote nothing: the image was like that before")


def _run(shell: Shell, command: str, *, what: str) -> None:
    try:
        status, out, err = shell.run(command, timeout_s=_CHANGE_S)
    except (CommandTimeout, OutputTooLarge) as exc:
        raise Inapplicable(f"{what}: {exc.message}") from exc
    if status != 0:
        said = (err or out).decode("utf-8", "backslashreplace").strip().splitlines()[-3:]
        raise Inapplicable(f"{what}: exit status {status}, {' / '.join(said)[:_SHOWN] or 'nothing was said'}")


def has_loader(shell: Shell) -> bool:
    """Return whether what starts the kernel keeps its words in a file that can be changed."""
    return shell.run(f"ls {_LOADERS} 2>/dev/null | grep -q .")[0] == 0


def reword(shell: Shell, added: Sequence[str], dropped: Sequence[str]) -> None:
    """Add words to the boot loader's file and drop others.

    :raises Inapplicable: it cannot be written.
    """
    edits = "".join(rf"s~[[:space:]]{_in_sed(word)}\([[:space:]]\|$\)~ ~g;" for word in dropped)
    line = r"/^[[:space:]]*\(linux\|linuxefi\|options\)[[:space:]]/"
    script = f"{line} {{ {edits} s~$~ {_in_sed(' '.join(added))}~; }}"
    change = f"for f in {_LOADERS}; do [ ! -f $f ] || sed -i -e {shlex.quote(script)} $f || exit 1; done; sync"
    _run(shell, change, what="the boot loader's file could not be changed")


def _in_sed(text: str) -> str:
    return re.sub(r"[\\.*\[\]^$~&]", r"\\\g<0>", text)


def took(shell: Shell, added: Sequence[str], dropped: Sequence[str]) -> None:
    """Find out whether the kernel really has the words.

    :raises Inapplicable: it has not.
    """
    words = shell.run("cat /proc/cmdline")[1].decode("utf-8", "backslashreplace").split()
    if {*added} - {*words} or {*dropped} & {*words}:
        raise Inapplicable(f"the kernel's command line did not take it: {' '.join(words)!r}")
