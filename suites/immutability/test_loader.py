"""Whether somebody at the console gets past the image: the boot loader's editor, or a shell without a password."""

from __future__ import annotations

import pytest
from seatrial.check import Check
from seatrial.evidence.cmdline import CMDLINE, parse_cmdline
from seatrial.evidence.loader import LOADER, parse_loader
from seatrial.evidence.rescue import RESCUE, parse_rescue
from seatrial.evidence.systemd import FALSE, TRUE
from seatrial.guest.facts import Facts

# bootparam(7), kernel-command-line(7), dracut.cmdline(7): words that end in a shell nobody has to log in to.
_SHELLS = (
    *("SYSTEMD_SULOGIN_FORCE", "rd.systemd.debug_shell", "systemd.debug_shell", "rd.break", "rd.shell", "break"),
    *("init=/bin/sh", "init=/bin/bash", "rdinit=/bin/sh"),
    *(f"systemd.setenv=SYSTEMD_SULOGIN_FORCE={yes}" for yes in sorted(TRUE)),
)


@pytest.mark.control("ib-emergency-auth")
def test_emergency_mode_asks_for_a_password(facts: Facts, check: Check) -> None:
    """Emergency and rescue mode start sulogin, which is not forced; no word of the command line gives another shell."""
    doors = [door for mode in parse_rescue(facts.text(RESCUE)) for door in mode.open_doors()]
    check.nothing(doors, expected="emergency and rescue mode that ask for root's password")
    said = parse_cmdline(facts.text(CMDLINE)).matching(_SHELLS)
    words = [word for word in said if word.partition("=")[2].lower() not in FALSE]
    check.nothing(words, expected="no word on the command line that opens a shell")


@pytest.mark.control("ib-loader-locked")
def test_boot_loader_takes_no_other_words(facts: Facts, check: Check) -> None:
    """systemd-boot's editor is off; GRUB asks for a password before it lets anybody edit an entry."""
    loader = parse_loader(facts.text(LOADER))
    if loader.is_systemd_boot:
        if not loader.esp_seen:
            check.cannot_tell(
                f"{loader.name} started the guest, and its partition is mounted at none of its usual places"
            )
        check.holds(
            loader.editor_is_off,
            expected="'editor no' in loader.conf",
            seen=f"'editor {loader.editor[-1]}'" if loader.editor else "no such line: the editor is on",
        )
        return
    if not loader.grubs and loader.by_grub:
        check.cannot_tell(
            "GRUB started the guest (BOOT_IMAGE= on the command line), and its grub.cfg is at none of its usual places"
        )
    if not loader.grubs:
        check.not_applicable("neither systemd-boot nor GRUB has started this guest: there is no menu to edit")
    for words in loader.grubs:
        lacking = sorted({"superusers", "password"} - words)
        check.nothing(lacking, expected="superusers and a hashed password in GRUB's configuration; lacking: none")
