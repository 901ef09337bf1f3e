"""Budgets for boot phases: a measured time is judged by the budget of the accelerator that it was measured on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from seatrial.errors import ConfigError
from seatrial.policy.flavours import Budgets

__all__ = ["PHASES", "Timing", "compare_with_budget"]

PHASES: Final = ("firmware_s", "loader_s", "kernel_s", "initrd_s", "userspace_s", "total_s", "ssh_s")


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """A measured phase and its budget; no limit means that the policy cannot judge it."""

    phase: str
    seconds: float
    limit_s: float | None

    @property
    def holds(self) -> bool:
        """Return whether the phase kept to its budget."""
        return self.limit_s is not None and self.seconds <= self.limit_s


def compare_with_budget(measured: Mapping[str, float], budgets: Budgets, accelerator: str) -> tuple[Timing, ...]:
    """Return each measured phase with its budget on ``accelerator``: a budget of another one judges nothing.

    :raises ConfigError: the budgets name a phase that is never measured.
    """
    limits = {"kvm": budgets.kvm, "tcg": budgets.tcg}.get(accelerator, {})
    unknown = sorted(set(limits) - set(PHASES))
    if unknown:
        raise ConfigError(
            f"budgets.{accelerator} names unknown phases: {', '.join(unknown)}", hint=f"known: {', '.join(PHASES)}"
        )
    return tuple(Timing(phase=phase, seconds=seconds, limit_s=limits.get(phase)) for phase, seconds in measured.items())
