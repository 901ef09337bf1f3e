"""What a check function uses to say what it saw; it decides nothing."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import NoReturn

from seatrial.errors import ObservationError
from seatrial.policy.judge import Observation

__all__ = ["Check", "NotApplicable", "NotChecked"]

_SHOWN = 20
_LONGEST = 300
_MORE = 20  # letters of "and 123456 more"


class NotApplicable(Exception):
    """The control makes no sense on this guest; the reason is the message."""


class NotChecked(Exception):
    """The control makes sense, yet nothing here can judge it; the reason is the message."""


class Check:
    """Collects the observations of one control.

    All of them count: a control passes when every observation holds, and at least one was made.
    """

    def __init__(self) -> None:
        self.observations: list[Observation] = []

    def holds(self, condition: bool, *, expected: object, seen: object) -> None:
        """Record that ``condition`` was found true or false, with what was expected and seen."""
        self.observations.append(Observation(holds=condition, expected=_short(expected), seen=_short(seen)))

    def equal(self, seen: object, expected: object, *, what: str) -> None:
        """Record whether ``seen`` equals ``expected``; ``what`` names the quantity."""
        self.holds(seen == expected, expected=f"{what} = {expected}", seen=f"{what} = {seen}")

    def one_of(self, seen: object, allowed: Collection[object], *, what: str) -> None:
        """Record whether ``seen`` is one of ``allowed``."""
        choice = " or ".join(str(value) for value in allowed)
        self.holds(seen in allowed, expected=f"{what} = {choice}", seen=f"{what} = {seen}")

    def nothing(self, found: Iterable[object], *, expected: str) -> None:
        """Record whether ``found`` is empty; what was found is shown."""
        items = [str(item) for item in found]
        shown = items[:_SHOWN]
        while len(shown) > 1 and len(", ".join(shown)) > _LONGEST - _MORE:
            shown.pop()
        more = f" and {len(items) - len(shown)} more" if len(items) > len(shown) else ""
        self.holds(not items, expected=expected, seen=", ".join(shown) + more if items else "none")

    def not_applicable(self, reason: str) -> NoReturn:
        """End the check: the control makes no sense on this guest.

        :raises NotApplicable: always.
        """
        raise NotApplicable(reason)

    def not_checked(self, reason: str) -> NoReturn:
        """End the check: this run has nothing to judge the control by, such as no budget for its accelerator.

        :raises NotChecked: always.
        """
        raise NotChecked(reason)

    def cannot_tell(self, reason: str) -> NoReturn:
        """End the check: the question could not be answered, which is an error and never a pass.

        :raises ObservationError: always.
        """
        raise ObservationError(reason)


def _short(value: object) -> str:
    text = " ".join(str(value).split())
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"
