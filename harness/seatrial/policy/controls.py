"""Control tables: one row a requirement, read strictly, with every fault reported at once."""

from __future__ import annotations

import re
import tomllib
from collections import Counter
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from seatrial.errors import ConfigError
from seatrial.policy.differences import Kind, Touched
from seatrial.policy.judge import Outcome, Severity, Verdict

__all__ = ["Control", "HostKind", "parse_controls", "verdict_on", "verdict_without_boot"]

HostKind = Literal["general-purpose", "immutable-host"]
_ID = r"^[a-z0-9]+(-[a-z0-9]+)*$"
Text = Annotated[str, Field(min_length=1)]


class Control(BaseModel):
    """One requirement.

    ``probe`` holds the data of a declarative control (``{sysctl = "kernel.kptr_restrict", in = [1, 2]}``); its first
    key names the kind of probe, and the suite's parametrised check for that kind judges the row. ``falsified_by`` names
    the kinds of differences, and what differences touch, after which the answer would say nothing of the image.
    ``follows`` holds globs for controls whose defects turn this one red as well, by its nature. ``fails_without_boot``
    says that an image that does not come up fails it; all others are not checked then.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    id: Annotated[str, Field(pattern=_ID)]
    title: Text
    severity: Severity
    rationale: Text
    remedy: Text
    refs: tuple[Text, ...]
    applies_to: Annotated[frozenset[HostKind], Field(alias="applies-to", min_length=1)]
    falsified_by: Annotated[tuple[Kind | Touched, ...], Field(alias="falsified-by")] = ()
    follows: tuple[Text, ...] = ()
    fails_without_boot: Annotated[bool, Field(alias="fails-without-boot")] = False
    probe: Mapping[str, Any] | None = None

    @property
    def probe_kind(self) -> str | None:
        """Return the first key of the probe, or None for a control that a function of its own checks."""
        return next(iter(self.probe), None) if self.probe else None


def verdict_on(control: Control, suite: str, outcome: Outcome, *, because: str, **seen: Any) -> Verdict:
    """Return a verdict on ``control`` with the texts of its row; ``seen`` holds further fields of the verdict."""
    return Verdict(
        control=control.id,
        suite=suite,
        title=control.title,
        severity=control.severity,
        outcome=outcome,
        because=because,
        rationale=control.rationale,
        remedy=control.remedy,
        refs=control.refs,
        **seen,
    )


def verdict_without_boot(control: Control, suite: str, why: str) -> Verdict:
    """Return what an image that does not come up, as ``why`` says, fails: a control that ``fails_without_boot``."""
    return verdict_on(
        control,
        suite,
        Outcome.FAIL,
        because=f"the image did not come up: {why}",
        expected="the image comes up",
        seen=why,
    )


class _Table(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    control: tuple[Control, ...]


def parse_controls(text: str, *, where: str) -> tuple[Control, ...]:
    """Return the rows of a ``controls.toml``.

    :raises ConfigError: the text is no TOML, or rows are wrong; all faults are listed, each with its row and key.
    """
    try:
        table = _Table.model_validate(tomllib.loads(text))
    except tomllib.TOMLDecodeError as exc:
        raise ConfigError(f"{where} is not valid TOML: {exc}") from exc
    except ValidationError as exc:
        raise ConfigError(f"{where} is not a valid control table:\n{_faults(exc, text)}") from exc
    twice = sorted(name for name, number in Counter(control.id for control in table.control).items() if number > 1)
    if twice:
        raise ConfigError(f"{where} has control ids more than once: {', '.join(twice)}")
    return table.control


def _faults(exc: ValidationError, text: str) -> str:
    ids = re.findall(r'(?m)^id\s*=\s*"([^"]*)"', text)
    lines = []
    for fault in exc.errors():
        place = fault["loc"]
        row = place[1] if len(place) > 1 and isinstance(place[1], int) else None
        name = ids[row] if row is not None and row < len(ids) else "the table"
        key = ".".join(str(part) for part in place[2:]) or ".".join(str(part) for part in place)
        lines.append(f"  {name}: {key}: {fault['msg']}")
    return "\n".join(lines)
