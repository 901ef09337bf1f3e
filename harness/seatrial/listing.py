"""What there is: flavours with where their values come from, and controls with what proves them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from seatrial.layout import data_dir
from seatrial.mutants_file import Mutant, read_mutants
from seatrial.policy.controls import Control
from seatrial.policy.judge import Severity
from seatrial.suites import Suites, built_in_suites, explained_flavour, flavour_names, read_flavour

__all__ = [
    "Listed",
    "controls_json",
    "controls_lines",
    "flavour_lines",
    "flavours_lines",
    "listed",
    "our_mutants",
    "summary_lines",
]

_SUITES_WITHOUT_TESTS = ("lynis",)


@dataclass(frozen=True, slots=True)
class Listed:
    """A control, its suite, and the ids of the mutants that it must catch; none: nothing has shown that it can fail."""

    suite: str
    control: Control
    mutants: tuple[str, ...]


def listed(mutants: Sequence[Mutant]) -> tuple[Listed, ...]:
    """Return every control of the built-in suites.

    :raises ConfigError: a table is faulty.
    """
    by_control: dict[str, list[str]] = {}
    for mutant in mutants:
        for name in mutant.caught_by:
            by_control.setdefault(name, []).append(mutant.id)
    tables = Suites()
    found: list[Listed] = []
    for name in (*built_in_suites(), *_SUITES_WITHOUT_TESTS):
        suite = tables.of(data_dir("suites") / name / "controls.toml")
        for control in suite.controls if suite is not None else ():
            found.append(Listed(name, control, tuple(by_control.get(control.id, ()))))
    return tuple(found)


def our_mutants() -> tuple[Mutant, ...]:
    """Return the mutants that come with Seatrial."""
    return read_mutants(data_dir("fixtures") / "mutants" / "mutants.yaml")


def controls_lines(found: Sequence[Listed]) -> Iterator[str]:
    """Give a line for each control, and one for what it refers to and what proves it."""
    for one in found:
        control = one.control
        proof = f"mutants {', '.join(one.mutants)}" if one.mutants else "NO MUTANT: nothing shows that it can fail"
        yield f"{control.id:34} {control.severity:8} {one.suite:12} {control.title}"
        yield f"{'':34} {', '.join(control.refs) or 'no reference'}; {proof}"


def controls_json(found: Sequence[Listed]) -> str:
    """Return the same for programs."""
    rows = [
        {
            "id": one.control.id,
            "suite": one.suite,
            "severity": one.control.severity,
            "title": one.control.title,
            "applies_to": sorted(one.control.applies_to),
            "refs": list(one.control.refs),
            "mutants": list(one.mutants),
        }
        for one in found
    ]
    return json.dumps(rows, indent=2) + "\n"


def summary_lines(found: Sequence[Listed]) -> Iterator[str]:
    """Give counts by suite: controls, severities, references, mutants."""
    yield f"{'suite':14}{'controls':>9}{''.join(f'{s:>10}' for s in Severity)}{'sourced':>10}{'mutants':>9}"
    for suite in [*dict.fromkeys(one.suite for one in found), None]:
        some = [one for one in found if suite in (None, one.suite)]
        numbers: Mapping[Severity, int] = Counter(one.control.severity for one in some)
        severities = "".join(f"{numbers.get(s, 0):>10}" for s in Severity)
        sourced, proven = sum(bool(one.control.refs) for one in some), sum(bool(one.mutants) for one in some)
        yield f"{suite or 'all':14}{len(some):>9}{severities}{sourced:>10}{proven:>9}"
    share = sum(bool(one.mutants) for one in found) / len(found)
    yield f"{len(found)} controls, {share:.0%} with a mutant"


def flavours_lines() -> Iterator[str]:
    """Give a line for each flavour."""
    for name in flavour_names():
        flavour = read_flavour(name)
        by = "; ".join(" ".join(f"{key}={value}" for key, value in rule.items()) for rule in flavour.recognise)
        yield f"{name:24}{flavour.kind:18}{flavour.title}"
        yield f"{'':24}{by or 'what no other flavour claims' if name == flavour.kind else by or 'by name only'}"


def flavour_lines(name: str) -> Iterator[str]:
    """Give the effective policy of flavour ``name``: each value, the table that says it, and why.

    :raises ConfigError: unknown or faulty.
    """
    for origin in explained_flavour(name):
        yield f"{origin.key} = {_shown(origin.value)}"
        why = f": {origin.reason} ({origin.source})" if origin.reason else ""
        yield f"    {origin.flavour}.toml{why}"


def _shown(value: object) -> str:
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{k} = {_shown(v)}" for k, v in value.items() if k not in {"reason", "source"}) + " }"
    if isinstance(value, list):
        return "[" + ", ".join(_shown(item) for item in value) + "]"
    return json.dumps(value)
