"""Whether the boot loader lets a person at the console change what is started."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from seatrial.errors import ObservationError
from seatrial.evidence.systemd import FALSE, TRUE

__all__ = ["LOADER", "Loader", "parse_loader"]

_ESP: Final = "/efi /boot /boot/efi"
_GRUB: Final = (
    "/boot/grub/grub.cfg /boot/grub2/grub.cfg /boot/EFI/*/grub.cfg /boot/efi/EFI/*/grub.cfg /efi/EFI/*/grub.cfg"
)
_NAME: Final = "/sys/firmware/efi/efivars/LoaderInfo-4a67b082-0a4c-41cf-b6c7-440b29bb8c4f"
# LoaderInfo: four bytes of attributes, then UTF-16 (Boot Loader Interface, systemd). On efivarfs nobody can seek.
LOADER: Final = (
    f"if [ -f {_NAME} ]; then printf 'loader '; cat {_NAME} | tail -c +5 | tr -cd '[:print:]' | head -c 200; echo; fi; "
    f"for d in {_ESP}; do if [ -d $d/EFI ]; then echo 'esp'; f=$d/loader/loader.conf; "
    '[ ! -f $f ] || sed -n "s/^[[:blank:]]*editor[[:blank:]]\\{1,\\}/editor /p" $f | head -n 20; fi; done; '
    f"for f in {_GRUB}; do if [ -f $f ]; then echo 'grub'; "
    "grep -q '^[[:blank:]]*set superusers=' $f && echo 'superusers'; "
    # A hash: Fedora's menus name a variable in any case, which user.cfg has to set.
    "grep -Eq '^[[:blank:]]*password_pbkdf2[[:blank:]]+[^[:blank:]]+[[:blank:]]+[^[:blank:]]?grub\\.pbkdf2\\.' $f "
    "&& echo 'password'; "
    # What grub-install puts on the ESP: no menu, only the way to one.
    "grep -Eq '^[[:blank:]]*configfile[[:blank:]]' $f && ! grep -Eq '^[[:blank:]]*(menuentry|blscfg)' $f "
    "&& echo 'stub'; "
    "u=${f%/*}/user.cfg; [ -f $u ] && grep -q 'GRUB2_PASSWORD' $f && grep -q '^GRUB2_PASSWORD=grub\\.pbkdf2\\.' $u "
    "&& echo 'password'; fi; done; grep -q '\\bBOOT_IMAGE=' /proc/cmdline && echo 'by grub'; echo 'the end'"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Loader:
    """The loader's name for itself ("" when it gives none), and what its configuration says.

    ``editor`` holds every value of systemd-boot's switch, the last of which wins; ``grubs`` are GRUB's configurations,
    each with the words ``superusers`` and ``password`` when it has them; one that only leads to another is left out
    where there is another. ``by_grub`` is whether the kernel was told BOOT_IMAGE, which GRUB always does.
    """

    name: str
    esp_seen: bool
    editor: tuple[str, ...]
    grubs: tuple[frozenset[str], ...]
    by_grub: bool

    @property
    def is_systemd_boot(self) -> bool:
        """Return whether the running system was started by systemd-boot."""
        return self.name.startswith("systemd-boot")

    @property
    def editor_is_off(self) -> bool:
        """Return whether systemd-boot refuses to edit the command line; loader.conf(5).

        :raises ObservationError: its value is none that loader.conf(5) knows.
        """
        value = self.editor[-1].lower() if self.editor else "yes"
        if value not in TRUE | FALSE:
            raise ObservationError(f"loader.conf says 'editor {value[:100]}', which is neither yes nor no")
        return value in FALSE


def parse_loader(text: str) -> Loader:
    """Return what the answer to :data:`LOADER` says.

    :raises ObservationError: a line is none of that answer, or it was cut.
    """
    name, esp_seen, editor, grubs, by_grub = "", False, list[str](), list[set[str]](), False
    lines = text.split("\n")
    if lines[-2:] != ["the end", ""]:
        raise ObservationError(f"the answer about the boot loader ends with {text[-100:]!r}, expected 'the end'")
    for line in lines[:-2]:
        word, _blank, rest = line.partition(" ")
        if word == "loader":
            name = rest.strip()
        elif line == "esp":
            esp_seen = True
        elif word == "editor":
            editor.append(rest.strip())
        elif line == "grub":
            grubs.append(set())
        elif line == "by grub":
            by_grub = True
        elif line in {"superusers", "password", "stub"} and grubs:
            grubs[-1].add(line)
        else:
            raise ObservationError(f"the answer about the boot loader has the line {line[:200]!r}")
    menus = [words for words in grubs if "stub" not in words] or grubs
    return Loader(
        name=name, esp_seen=esp_seen, editor=tuple(editor), grubs=tuple(map(frozenset, menus)), by_grub=by_grub
    )
