"""What the running kernel was built with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest
from seatrial.check import Check
from seatrial.evidence.cmdline import CMDLINE, Cmdline, parse_cmdline
from seatrial.evidence.kconfig import KCONFIG, KernelConfig, broken_options, options_text, parse_kconfig
from seatrial.evidence.kernel import LOCKDOWN, chosen
from seatrial.guest.facts import Facts
from seatrial.policy.controls import Control


@pytest.mark.probe("kconfig")
def test_kernel_is_built_with_the_option(row: Control, facts: Facts, check: Check) -> None:
    """The configuration holds one of the alternatives, or something makes up for it, and nothing undoes it.

    A word of the command line makes up for it in a kernel that knows the word: it came with an option, which such a
    configuration holds, be it as "not set". Lockdown does, however it was switched on (kernel_lockdown(7)).
    """
    assert row.probe is not None
    config = parse_kconfig(facts.text(KCONFIG))
    alternatives = _of_its_architecture(config, row.probe["kconfig"])
    broken = broken_options(config, alternatives)
    undone_by = row.probe.get("undone-by", [])
    came_with = row.probe.get("words-came-with")
    makeup = row.probe.get("or-cmdline", []) if came_with is None or came_with in config.options else []
    modes = row.probe.get("or-lockdown", []) if broken else []
    line = parse_cmdline(facts.text(CMDLINE)) if makeup or undone_by else Cmdline(())
    if undone_by:
        undoing = [words for words in undone_by if _is_last(line, words)]
        check.nothing(undoing, expected=f"the build's choice kept by the command line: none of {', '.join(undone_by)}")
    expected, saving = options_text(alternatives), list[str]()
    if modes:
        mode = _lockdown(facts)
        saving += [f"lockdown {mode}"] if mode in modes else []
        expected += f"; or lockdown {' or '.join(modes)}"
    if broken and makeup:
        saving += [words for words in makeup if _is_last(line, words)]
        expected += f"; or {' or '.join(makeup)} on the command line"
    if saving:
        check.holds(True, expected=expected, seen=", ".join(saving))
        return
    check.nothing(broken, expected=expected)


def _of_its_architecture(
    config: KernelConfig, alternatives: Sequence[Mapping[str, str]]
) -> Sequence[Mapping[str, str]]:
    """Return the alternatives for arm64 on arm64, and the others elsewhere; all where there is but one kind."""
    own = [one for one in alternatives if ("ARM64" in one) == (config.value("ARM64") == "y")]
    return own or alternatives


def _lockdown(facts: Facts) -> str:
    """Return the mode of lockdown; none where the kernel has no such module."""
    text = facts.text(LOCKDOWN, allowed=(0, 1))
    return chosen(text) if text.strip() else "none"


def _is_last(line: Cmdline, words: str) -> bool:
    """Return whether ``words`` (``name``, ``name=value``) are what the command line says of ``name`` last."""
    name, _equals, wanted = words.partition("=")
    # Lockdown can only be made tighter: a later lockdown=none takes nothing back (kernel_lockdown(7)).
    values = line.values(name) if name == "lockdown" else line.values(name)[-1:]
    return any(wanted in value.lower().split(",") for value in values)
