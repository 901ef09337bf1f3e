"""Waivers: failures that somebody answers for, for a time. The check still runs, and the failure is still shown."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, timedelta
from enum import StrEnum
from fnmatch import fnmatchcase
from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, ValidationError

from seatrial.errors import ConfigError
from seatrial.policy.flavours import WaiverLimits
from seatrial.policy.judge import Outcome, Verdict, Waived

__all__ = ["State", "Waiver", "WaiverNote", "Waivers", "parse_waivers"]


def _written_as_a_date(value: object) -> object:
    # TOML knows dates and times; a time of day would be cut off unseen, and a string would depend on its form.
    if type(value) is not date:
        raise ValueError("expected a date such as 2027-01-31, without quotes and without a time")
    return value


Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]
Day = Annotated[date, BeforeValidator(_written_as_a_date)]


class Waiver(BaseModel):
    """One accepted failure. It counts to the end of the day ``expires`` (UTC); ``extended`` lists earlier expiries."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    control: Annotated[str, Field(pattern=r"^[a-z0-9*?\[\]-]+$")]
    flavour: Text
    reason: Text
    owner: Text
    tracker: Annotated[str, Field(pattern=r"^https?://\S+$")]
    expires: Day
    granted: Day | None = None
    extended: tuple[Day, ...] = ()

    def covers(self, control: str, flavour: str, today: date) -> bool:
        """Return whether a failure of ``control`` is accepted today."""
        return self.matches(control, flavour) and not self.is_expired(today)

    def matches(self, control: str, flavour: str) -> bool:
        """Return whether the waiver speaks of ``control`` of ``flavour``, expired or not."""
        return flavour == self.flavour and fnmatchcase(control, self.control)

    def is_expired(self, today: date) -> bool:
        """Return whether the last day is over."""
        return today > self.expires


class State(StrEnum):
    """What became of a waiver in a run; only the first needs no attention."""

    USED = "used"
    EXPIRED = "expired"
    NOT_NEEDED = "not-needed"
    UNUSED = "unused"


@dataclass(frozen=True, slots=True, kw_only=True)
class WaiverNote:
    """What a run says of one waiver: ``controls`` are those that it accepted, or would have (expired, passed)."""

    control: str
    state: State
    because: str
    owner: str
    tracker: str
    expires: str
    extensions: int
    controls: tuple[str, ...]


class _Table(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    waiver: tuple[Waiver, ...]


def parse_waivers(
    text: str, *, where: str, flavours: Collection[str], limits: WaiverLimits, today: date
) -> tuple[Waiver, ...]:
    """Return the waivers in ``text``.

    :param flavours: all flavours that there are.
    :param limits: what the flavour that is judged by allows.
    :raises ConfigError: the text is no TOML, or waivers are wrong or more than the policy allows; all faults at once.
    """
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as exc:
        raise ConfigError(f"{where} is not valid TOML: {exc}") from exc
    try:
        waivers = _Table.model_validate(table).waiver
    except ValidationError as exc:
        raise ConfigError(f"{where} is not a valid table of waivers:\n{_schema_faults(exc, table)}") from exc
    faults = [*_faults(waivers, flavours, today), *_beyond(waivers, limits, today)]
    if faults:
        raise ConfigError(f"{where} has waivers that cannot count:\n" + "\n".join(f"  {fault}" for fault in faults))
    return waivers


@dataclass(frozen=True, slots=True, kw_only=True)
class Waivers:
    """The waivers of one run, on its day; ``file`` is where they are from, for people (empty: there is none)."""

    items: tuple[Waiver, ...]
    flavour: str
    today: date
    file: str

    def on(self, verdict: Verdict) -> Verdict:
        """Return ``verdict`` with why its failure is accepted, when it is one and somebody has accepted it.

        What could not be told, or was not checked, no waiver covers: nobody can answer for what nobody has seen.
        """
        if verdict.outcome is not Outcome.FAIL:
            return verdict
        waiver = next((w for w in self.items if w.covers(verdict.control, self.flavour, self.today)), None)
        if waiver is None:
            return verdict
        accepted = Waived(
            reason=waiver.reason,
            owner=waiver.owner,
            tracker=waiver.tracker,
            expires=waiver.expires.isoformat(),
            extensions=len(waiver.extended),
        )
        return replace(verdict, waived=accepted)

    def review(self, verdicts: Sequence[Verdict]) -> tuple[WaiverNote, ...]:
        """Return what became of each waiver for this flavour; those for other flavours are another run's."""
        return tuple(_note(w, verdicts, self.flavour, self.today) for w in self.items if w.flavour == self.flavour)


def _note(waiver: Waiver, verdicts: Sequence[Verdict], flavour: str, today: date) -> WaiverNote:
    met = [verdict for verdict in verdicts if waiver.matches(verdict.control, flavour)]
    failed = tuple(verdict.control for verdict in met if verdict.outcome is Outcome.FAIL)
    passed = tuple(verdict.control for verdict in met if verdict.outcome is Outcome.PASS)
    if waiver.is_expired(today):
        state, because, named = State.EXPIRED, f"it expired on {waiver.expires}: mend the control or renew it", failed
    elif failed:
        state, because, named = State.USED, f"it accepts a failure until {waiver.expires}", failed
    elif passed:
        state, because, named = State.NOT_NEEDED, "its control has passed: remove it", passed
    else:
        reason = "no control of that name was judged" if not met else "nothing that it names failed or passed"
        state, because, named = State.UNUSED, f"{reason}: remove it or mend its glob", ()
    return WaiverNote(
        control=waiver.control,
        state=state,
        because=because,
        owner=waiver.owner,
        tracker=waiver.tracker,
        expires=waiver.expires.isoformat(),
        extensions=len(waiver.extended),
        controls=named,
    )


def _faults(waivers: Sequence[Waiver], flavours: Collection[str], today: date) -> Iterator[str]:
    seen: set[tuple[str, str]] = set()
    for number, waiver in enumerate(waivers, start=1):
        name = f"waiver {number} ({waiver.control})"
        if waiver.flavour not in flavours:
            yield f"{name}: unknown flavour {waiver.flavour!r}; known: {', '.join(sorted(flavours))}"
        if not re.search(r"[a-z0-9]{2}", re.sub(r"\[[^\]]*\]", "*", waiver.control)):
            yield f"{name}: the glob names no control: it would accept every failure"
        if (waiver.control, waiver.flavour) in seen:
            yield f"{name}: there is another one for the same control and flavour"
        seen.add((waiver.control, waiver.flavour))
        if any(earlier >= waiver.expires for earlier in waiver.extended):
            yield f"{name}: extended holds earlier expiries; one of them is not before {waiver.expires}"
        if len(set(waiver.extended)) != len(waiver.extended):
            yield f"{name}: extended holds one expiry twice"
        if waiver.granted is not None and waiver.granted > waiver.expires:
            yield f"{name}: it was granted on {waiver.granted}, after it expired"
        if waiver.granted is not None and waiver.granted > today:
            yield f"{name}: it was granted on {waiver.granted}, and today is {today}"


def _beyond(waivers: Sequence[Waiver], limits: WaiverLimits, today: date) -> Iterator[str]:
    """Give what exceeds the limits of the policy. Expired ones count for the number: they are to be cleared away."""
    if limits.most is not None and len(waivers) > limits.most:
        yield f"there are {len(waivers)} waivers; the policy allows {limits.most}"
    for number, waiver in enumerate(waivers, start=1):
        name = f"waiver {number} ({waiver.control})"
        if limits.longest_days is not None and waiver.expires > today + timedelta(days=limits.longest_days):
            yield (
                f"{name}: it expires on {waiver.expires}; "
                f"the policy allows {limits.longest_days} days from today ({today})"
            )
        if limits.most_extensions is not None and len(waiver.extended) > limits.most_extensions:
            yield f"{name}: it was extended {len(waiver.extended)} times; the policy allows {limits.most_extensions}"
        if limits.oldest_days is not None:
            if waiver.granted is None:
                yield f"{name}: the policy limits the age of waivers, so it needs 'granted = DATE'"
            elif waiver.expires > waiver.granted + timedelta(days=limits.oldest_days):
                yield (
                    f"{name}: from {waiver.granted} to {waiver.expires} is longer "
                    f"than the {limits.oldest_days} days that the policy allows"
                )


def _schema_faults(exc: ValidationError, table: Mapping[str, object]) -> str:
    rows = table.get("waiver")
    lines = []
    for fault in exc.errors():
        place = fault["loc"]
        name = "the table"
        if len(place) > 1 and isinstance(place[1], int) and isinstance(rows, list):
            row = rows[place[1]]
            shown = row.get("control", "no control") if isinstance(row, dict) else row
            name = f"waiver {place[1] + 1} ({str(shown)[:80]})"
        key = ".".join(str(part) for part in place[2:]) or ".".join(str(part) for part in place)
        lines.append(f"  {name}: {key}: {fault['msg'].removeprefix('Value error, ')}")
    return "\n".join(lines)
