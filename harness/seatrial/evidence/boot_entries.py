"""The kernel command line as the image has it: in a unified kernel image, a boot loader entry, or GRUB's script."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from seatrial.errors import ObservationError

__all__ = ["BOOT_ENTRIES", "Entries", "parse_entries"]

# Words that the platform adds by SMBIOS (systemd-stub) are not the image's.
_EXTRA: Final = "io.systemd.stub.kernel-cmdline-extra"
_LOADERS: Final = "/boot /efi /boot/efi"
_GRUB: Final = "/boot/grub/grub.cfg /boot/grub2/grub.cfg /boot/efi/EFI/*/grub.cfg"
_ENVIRONMENTS: Final = "/boot/grub/grubenv /boot/grub2/grubenv /boot/efi/EFI/*/grubenv"
BOOT_ENTRIES: Final = (
    "if command -v bootctl >/dev/null 2>&1; then e=$(bootctl list --json=short --no-pager 2>/dev/null); "
    '[ -z "$e" ] || echo "bootctl $e"; fi; '
    f"for d in {_LOADERS}; do for f in $d/loader/entries/*.conf; do "
    '[ ! -f "$f" ] || sed -n "s/^options[[:blank:]]/entry /p" "$f"; done; done; '
    f"for f in {_GRUB}; do "
    '[ ! -f "$f" ] || sed -n "s/^[[:blank:]]*linux[a-z0-9]*[[:blank:]]*[^[:blank:]]*[[:blank:]]/grub /p" "$f"; done; '
    f"for f in {_GRUB} {_ENVIRONMENTS}; do "
    '[ ! -f "$f" ] || sed -n "/^#/d; s/^[[:blank:]]*set[[:blank:]][[:blank:]]*//; '
    's/^\\([A-Za-z_][A-Za-z0-9_]*=\\)/variable \\1/p" "$f"; done; '
    f"for f in {_GRUB}; do "
    '[ ! -f "$f" ] || sed -n "s/.*load_env .*-f *\\([^ ;]*\\).*/\\1/p" "$f"; done | sed "s,.*/,," | grep -v grubenv '
    "| sort -u | while read -r n; do for d in /boot /boot/grub /boot/grub2; do "
    '[ ! -f "$d/$n" ] || sed -n "s/^\\([A-Za-z_][A-Za-z0-9_]*=\\)/loaded \\1/p" "$d/$n"; done; done; '
    f"tr '\\0' '\\n' 2>/dev/null < /sys/firmware/dmi/tables/DMI | sed -n 's/^{_EXTRA}=/smbios /p'; echo 'the end'"
)
_VARIABLE: Final = re.compile(r"\$(?:\{(\w+)\}|(\w+))")
# Loaders name what they loaded.
_LOADERS_OWN: Final = ("BOOT_IMAGE=", "initrd=")


@dataclass(frozen=True, slots=True)
class Entries:
    """The command lines that the image could have been started with, and the words that the platform added."""

    lines: tuple[str, ...]
    added: tuple[str, ...]

    def difference(self, running: str) -> tuple[str, ...]:
        """Return the words that only ``running`` (``+``) or only the nearest line (``-``) has."""
        seen = Counter(word for word in running.split() if not word.startswith(_LOADERS_OWN))
        each = []
        for line in self.lines:
            own = Counter(word for word in line.split() if not word.startswith(_LOADERS_OWN))
            more, less = seen - own - Counter(self.added), own - seen
            each.append((*(f"+{word}" for word in more.elements()), *(f"-{word}" for word in less.elements())))
        return min(each, key=len, default=())

    @property
    def are_open(self) -> bool:
        """Return whether a line holds variables that only the loader can fill in."""
        return any("$" in line for line in self.lines)


def parse_entries(text: str) -> Entries:
    """Return what :data:`BOOT_ENTRIES` found; with systemd-boot the entry that was chosen alone.

    GRUB's variables have the values that its script and its environment block give them; one that is given none is
    empty (GRUB manual, "Shell-like scripting"), and one that is given several stays as it is. What a file of its own
    says (``load_env -f``) counts more: scripts set a value of theirs where there is no such file.

    :raises ObservationError: a line is none, the end is missing, or bootctl's JSON is not as documented.
    """
    found = text.rstrip("\n").split("\n")
    if found[-1] != "the end":
        raise ObservationError(f"the boot entries were cut off: they end with {found[-1][:200]!r}")
    lines: list[str] = []
    added: list[str] = []
    chosen: list[str] = []
    variables: dict[str, set[str]] = {}
    loaded: dict[str, set[str]] = {}
    for line in found[:-1]:
        kind, _, rest = line.partition(" ")
        if kind == "bootctl":
            chosen += _chosen(rest)
        elif kind in ("entry", "grub"):
            lines.append(rest)
        elif kind in ("variable", "loaded"):
            name, _, value = rest.partition("=")
            (variables if kind == "variable" else loaded).setdefault(name, set()).add(value.strip().strip("\"'"))
        elif kind == "smbios":
            added += rest.split()
        else:
            raise ObservationError(f"the boot entries hold {line[:200]!r}, which is none")
    for name, values in loaded.items():
        variables[name] = values | {value for value in variables.get(name, ()) if "$" in value}
    return Entries(tuple(chosen) or tuple(_filled_in(line, variables) for line in lines), tuple(added))


def _filled_in(line: str, variables: Mapping[str, set[str]]) -> str:
    def value(found: re.Match[str]) -> str:
        values = variables.get(found[1] or found[2], {""})
        # What holds a variable itself is filled in by nobody here: scripts that build words from words are rare.
        return next(iter(values)) if len(values) == 1 else found[0]

    return _VARIABLE.sub(value, line)


def _chosen(text: str) -> list[str]:
    try:
        entries = json.loads(text)
    except (ValueError, RecursionError) as exc:
        raise ObservationError(f"'bootctl list' gave no JSON but {text[:200]!r}") from exc
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise ObservationError(f"'bootctl list' gave {text[:200]!r}, expected a list of entries")
    chosen = [entry for entry in entries if entry.get("isSelected") is True]
    said = [entry.get("cmdline", entry.get("options")) for entry in chosen]
    return [line for line in said if isinstance(line, str)]
