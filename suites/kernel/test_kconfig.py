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
    """The configuration holds one of the alternatives, or the command line makes up for it."""
    assert row.probe is not None
    config = parse_kconfig(facts.text(KCONFIG))
    broken = broken_options(config, row.probe["kconfig"])
    makeup = row.probe.get("or-cmdline", [])
    if broken and makeup:
        line = parse_cmdline(facts.text(CMDLINE))
        said = [words for words in makeup if _is_last(line, words)]
        expected = f"{options_text(row.probe['kconfig'])}; or {' or '.join(makeup)} on the command line"
        check.holds(bool(said), expected=expected, seen=", ".join(said or broken))
        return
    check.nothing(broken, expected=options_text(row.probe["kconfig"]))


def _is_last(line: Cmdline, words: str) -> bool:
    """Return whether ``words`` (``name``, ``name=value``) are what the command line says of ``name`` last."""
    name, equals, wanted = words.partition("=")
    value = line.last(name)
    return value is not None and (not equals or wanted in value.lower().split(","))
