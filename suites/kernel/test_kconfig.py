"""What the running kernel was built with."""

from __future__ import annotations

import pytest
from seatrial.check import Check
from seatrial.evidence.cmdline import CMDLINE, Cmdline, parse_cmdline
from seatrial.evidence.kconfig import KCONFIG, broken_options, options_text, parse_kconfig
from seatrial.guest.facts import Facts
from seatrial.policy.controls import Control


@pytest.mark.probe("kconfig")
def test_kernel_is_built_with_the_option(row: Control, facts: Facts, check: Check) -> None:
    """The configuration holds one of the alternatives, or the command line makes up for it, and does not undo it."""
    assert row.probe is not None
    config = parse_kconfig(facts.text(KCONFIG))
    broken = broken_options(config, row.probe["kconfig"])
    makeup, undone_by = row.probe.get("or-cmdline", []), row.probe.get("undone-by", [])
    line = parse_cmdline(facts.text(CMDLINE)) if makeup or undone_by else Cmdline(())
    if undone_by:
        undoing = [words for words in undone_by if _is_last(line, words)]
        check.nothing(undoing, expected=f"the build's choice kept by the command line: none of {', '.join(undone_by)}")
    if broken and makeup:
        said = [words for words in makeup if _is_last(line, words)]
        expected = f"{options_text(row.probe['kconfig'])}; or {' or '.join(makeup)} on the command line"
        check.holds(bool(said), expected=expected, seen=", ".join(said or broken))
        return
    check.nothing(broken, expected=options_text(row.probe["kconfig"]))


def _is_last(line: Cmdline, words: str) -> bool:
    """Return whether ``words`` (``name``, ``name=value``) are what the command line says of ``name`` last."""
    name, _equals, wanted = words.partition("=")
    # Lockdown can only be made tighter: a later lockdown=none takes nothing back (kernel_lockdown(7)).
    values = line.values(name) if name == "lockdown" else line.values(name)[-1:]
    return any(wanted in value.lower().split(",") for value in values)
