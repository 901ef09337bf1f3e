"""What the running kernel was built with."""

from __future__ import annotations

import pytest
from seatrial.check import Check
from seatrial.evidence.cmdline import CMDLINE, parse_cmdline
from seatrial.evidence.kconfig import KCONFIG, broken_options, options_text, parse_kconfig
from seatrial.guest.facts import Facts
from seatrial.policy.controls import Control


@pytest.mark.probe("kconfig")
def test_kernel_is_built_with_the_option(row: Control, facts: Facts, check: Check) -> None:
    """The configuration holds one of the alternatives, or the command line makes up for it."""
    assert row.probe is not None
    config = parse_kconfig(facts.text(KCONFIG))
    broken = broken_options(config, row.probe["kconfig"])
    makeup = row.probe.get("or-cmdline", [])
    if broken and makeup:
        said = parse_cmdline(facts.text(CMDLINE)).matching(makeup)
        expected = f"{options_text(row.probe['kconfig'])}; or {' or '.join(makeup)} on the command line"
        check.holds(bool(said), expected=expected, seen=", ".join(said or broken))
        return
    check.nothing(broken, expected=options_text(row.probe["kconfig"]))
