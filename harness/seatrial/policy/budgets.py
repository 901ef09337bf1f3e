"""Budgets for boot phases: a measured time is judged by the budget of the accelerator that it was measured on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from seatrial.errors import ConfigError
from seatrial.policy.flavours import Budgets

__all__ = ["MILESTONES", "PHASES", "Timing", "check_names", "compare_with_budget"]

PHASES: Final = ("firmware_s", "loader_s", "kernel_s", "initrd_s", "userspace_s", "total_s", "ssh_s")
# Also measured where the guest has them: when targets and the SSH server were up, and what a client saw.
MILESTONES: Final = ("multi_user_s", "default_target_s", "ssh_unit_s", "prompt_s", "banner_s", "login_s", "ready_s")

# Of a single unit, of the way down, and of what a second boot may take longer.
_OTHERS: Final = ("unit_s", "shutdown_s", "second_s")


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
    check_names(budgets)
    limits = budgets.limits(accelerator)
    return tuple(Timing(phase=phase, seconds=seconds, limit_s=limits.get(phase)) for phase, seconds in measured.items())


def check_names(budgets: Budgets) -> None:
    """Refuse limits for what is never measured.

    :raises ConfigError: the budgets name a phase that is never measured.
    """
    tables = {"kvm": budgets.kvm, "tcg": budgets.tcg, "counted": budgets.counted, "growth": budgets.growth}
    known = {*PHASES, *MILESTONES, *_OTHERS}
    for name, limits in tables.items():
        unknown = sorted(set(limits) - known - ({"phase_s"} if name == "growth" else set()))
        if unknown:
            raise ConfigError(
                f"budgets.{name} names unknown phases: {', '.join(unknown)}",
                hint=f"known: {', '.join((*PHASES, *MILESTONES, *_OTHERS))}",
            )
