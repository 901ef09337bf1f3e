"""What a session will check, fixed before anything boots; and what became of a check, as a verdict."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType

from seatrial.errors import ConfigError, NotRecorded, SeatrialError
from seatrial.policy.controls import Control, verdict_on
from seatrial.policy.differences import Difference, falsifying
from seatrial.policy.flavours import Deviation, Flavour
from seatrial.policy.judge import Observation, Outcome, Severity, Verdict, judge
from seatrial.policy.writes import PROBE as WRITTEN_FROM_OUTSIDE
from seatrial.suites import Suite, Suites

__all__ = ["Collected", "Ended", "Plan", "make_plan", "probe_rows", "why_not_applicable", "without_live_checks"]

OTHER = "other"
_LONGEST = 500


@dataclass(frozen=True, slots=True)
class Collected:
    """A collected check: its node id, its file, and what its ``control`` marker names (None without the marker)."""

    node: str
    path: Path
    control: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """How a check ended: its exception, what it said of itself, what it observed, how long it took.

    ``judged`` says that the exception only shows what the observations came to.
    """

    error: BaseException | None
    said: tuple[str, str] | None
    observations: tuple[Observation, ...]
    seconds: float
    judged: bool
    skipped: bool
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The suites with their controls, which check belongs to which control, and why a control will not be checked.

    ``left_out`` names controls that this kind of run is not about: without a guest, those that only a guest can answer.
    """

    suites: tuple[Suite, ...]
    control_of: Mapping[str, str]
    unchecked: Mapping[str, str]
    not_applicable: frozenset[str]
    left_out: tuple[str, ...] = ()

    def applies(self, node: str) -> bool:
        """Return whether the check ``node`` is of a control for this kind of image and of run."""
        return self.control_of[node] not in self.not_applicable and self.control_of[node] not in self.left_out

    def is_falsified(self, node: str, difference: Difference) -> bool:
        """Return whether ``difference`` makes the control of the check ``node`` meaningless."""
        return falsifying(self._row(node)[1].falsified_by, (difference,)) is not None

    def _row(self, node: str) -> tuple[Suite, Control]:
        wanted = self.control_of[node]
        return next((s, c) for s in self.suites for c in s.controls if c.id == wanted)

    def verdict(self, node: str, ended: Ended) -> Verdict:
        """Return the verdict on the control that the check ``node`` belongs to."""
        suite, control = self._row(node)
        outcome, expected, seen, because = _outcome(ended, is_listed=suite.name != OTHER)
        return verdict_on(
            control, suite.name, outcome, because=because, expected=expected, seen=seen, seconds=round(ended.seconds, 3)
        )


def probe_rows(
    tables: Suites, path: Path, kind: str, deviations: Mapping[str, Deviation] = MappingProxyType({})
) -> tuple[Control, ...]:
    """Return the rows of the table beside the test file ``path`` whose probe is of ``kind``, as the flavour has them.

    :raises ConfigError: there is no table, or it has no such row: a check that would run zero times is a defect.
    """
    suite = tables.of(path)
    if suite is None:
        raise ConfigError(f"{path} has a probe check for {kind!r}, but there is no controls.toml beside or above it")
    rows = tuple(control for control in suite.controls if control.probe_kind == kind)
    if not rows:
        raise ConfigError(
            f"{path} has a probe check for {kind!r}, but no row of {suite.folder / 'controls.toml'} has such a probe"
        )
    return tuple(_deviating(row, deviations.get(row.id)) for row in rows)


def _deviating(row: Control, deviation: Deviation | None) -> Control:
    if deviation is None or deviation.probe is None:
        return row
    changed = row.model_copy(update={"probe": deviation.probe})
    if changed.probe_kind != row.probe_kind:
        raise ConfigError(
            f"the flavour's deviation for control {row.id!r} has a probe for {changed.probe_kind!r}, "
            f"but the control's own is for {row.probe_kind!r}"
        )
    return changed


def make_plan(
    tables: Suites, checks: Sequence[Collected], flavour: Flavour, *, root: Path, named: Sequence[Suite] = ()
) -> Plan:
    """Return the plan for ``checks``; every control of every suite they touch is selected, checked or not.

    :param named: suites whose controls are selected whether or not a check of theirs was collected.
    :raises ConfigError: a check names a control that its table does not have, or two checks claim one control.
    """
    control_of: dict[str, str] = {}
    others: list[Control] = []
    suites = {suite.folder: suite for suite in named}
    for check in checks:
        suite = tables.of(check.path)
        if suite is not None:
            suites[suite.folder] = suite
        if check.control is None:
            others.append(_own_test(check.node))
            control_of[check.node] = others[-1].id
        else:
            control_of[check.node] = _claimed(check, suite, control_of)
    listed = [*suites.values()]
    if others:
        listed.append(Suite(name=OTHER, folder=root, controls=tuple(others)))
    controls = [control for suite in listed for control in suite.controls]
    _refuse_idle_deviations(controls, flavour)
    left_out = frozenset(control.id for control in controls if why_not_applicable(control, flavour) is not None)
    checked = set(control_of.values())
    reason = "no check for it was collected: it was deselected on the command line, or the suite has none"
    return Plan(
        suites=tuple(listed),
        control_of=control_of,
        unchecked={
            c.id: reason
            for c in controls
            if c.id not in checked and c.id not in left_out and c.probe_kind != WRITTEN_FROM_OUTSIDE
        },
        not_applicable=left_out,
    )


def _refuse_idle_deviations(controls: Sequence[Control], flavour: Flavour) -> None:
    """Refuse a stricter probe that nothing would look at.

    :raises ConfigError: a deviation gives a probe to a control that has none.
    """
    idle = [c.id for c in controls if c.probe_kind is None and (d := flavour.deviations.get(c.id)) and d.probe]
    if idle:
        raise ConfigError(
            f"flavour {flavour.name!r} gives a probe to {', '.join(idle)}, which no table judges: it would not count",
            hint="only controls with a probe in their controls.toml take another one; lists go into [expect]",
        )


def why_not_applicable(control: Control, flavour: Flavour) -> str | None:
    """Return why ``control`` is not for images of ``flavour``; None when it is."""
    if flavour.kind not in control.applies_to:
        kinds = " and ".join(sorted(control.applies_to))
        return f"flavour {flavour.name!r} is of kind {flavour.kind!r}; the control is for {kinds}"
    deviation = flavour.deviations.get(control.id)
    if deviation is not None and not deviation.applies:
        return f"not on flavour {flavour.name!r}: {deviation.reason} ({deviation.source})"
    return None


def without_live_checks(plan: Plan, nodes: Collection[str]) -> Plan:
    """Return ``plan`` without the controls that only a guest can answer, which are named.

    They are those of the checks ``nodes``, and those that are judged by what a guest has written to its disk.
    """
    outside = {c.id for suite in plan.suites for c in suite.controls if c.probe_kind == WRITTEN_FROM_OUTSIDE}
    live = ({plan.control_of[node] for node in nodes} | outside) - plan.not_applicable
    suites = tuple(replace(s, controls=tuple(c for c in s.controls if c.id not in live)) for s in plan.suites)
    return replace(
        plan,
        suites=tuple(suite for suite in suites if suite.controls),
        unchecked={control: why for control, why in plan.unchecked.items() if control not in live},
        left_out=tuple(sorted(live)),
    )


def _claimed(check: Collected, suite: Suite | None, claimed: Mapping[str, str]) -> str:
    wanted = check.control or ""
    if suite is None:
        raise ConfigError(f"{check.node} checks control {wanted!r}, but there is no controls.toml beside or above it")
    if wanted not in {control.id for control in suite.controls}:
        raise ConfigError(
            f"{check.node} checks control {wanted!r}, which is not in {suite.folder / 'controls.toml'}",
            hint="add a row for it, or mend the id: @pytest.mark.control takes exactly one",
        )
    twin = next((node for node, control in claimed.items() if control == wanted), None)
    if twin is not None:
        raise ConfigError(f"control {wanted!r} is checked twice: by {twin} and by {check.node}")
    return wanted


def _own_test(node: str) -> Control:
    slug = re.sub(r"[^a-z0-9]+", "-", node.lower()).strip("-")
    return Control(
        id=slug,
        title=f"Test {node}",
        severity=Severity.MEDIUM,
        rationale="A plain test beside the controls; its failure rejects like any other.",
        remedy="See the test.",
        refs=(),
        applies_to=frozenset({"general-purpose", "immutable-host"}),
    )


def _outcome(ended: Ended, *, is_listed: bool) -> tuple[Outcome, str, str, str]:
    outcome, expected, seen, because = judge(ended.observations)
    if ended.said is not None:
        outcome, because = Outcome(ended.said[0]), ended.said[1]
    elif ended.skipped:
        outcome, because = Outcome.NOT_CHECKED, f"the check was skipped: {ended.reason}"
    elif ended.error is not None and not ended.judged:
        outcome, because = _broken(ended.error, ended.reason)
    elif not ended.observations and not is_listed:
        outcome, because = Outcome.PASS, "the test passed"
    return outcome, expected, seen, because


def _broken(error: BaseException, reason: str) -> tuple[Outcome, str]:
    text = (str(error).splitlines()[0] if str(error) else reason)[:_LONGEST]
    if isinstance(error, NotRecorded):
        return Outcome.NOT_CHECKED, error.message
    if isinstance(error, SeatrialError):
        return Outcome.ERROR, f"could not tell: {error.message}"
    # pytest.fail raises "Failed", whose module is private to pytest.
    if isinstance(error, AssertionError) or type(error).__name__ == "Failed":
        return Outcome.FAIL, text
    return Outcome.ERROR, f"the check broke: {type(error).__name__}: {text}"
