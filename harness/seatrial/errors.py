"""Every error that Seatrial raises, and the exit status that each family ends a run with.

An error means "we could not judge" or "you must change something". A control that failed is no error: it is a verdict.
"""

from __future__ import annotations

from pathlib import Path

__all__ = [
    "AcceleratorError",
    "AuthRefused",
    "BootError",
    "BootFatal",
    "BootTimeout",
    "CommandTimeout",
    "ConfigError",
    "GuestStopped",
    "HostError",
    "HostKeyChanged",
    "NotRecorded",
    "ObservationError",
    "OutputTooLarge",
    "RightsRefused",
    "SeatrialError",
    "SessionError",
    "SessionLost",
]


class SeatrialError(Exception):
    """Base of all our errors: what happened, what to do next, where the evidence lies.

    * SeatrialError
      - ConfigError        the user must change an option or a table            exit status 4
      - HostError          this computer lacks something (QEMU, space, ...)     exit status 2
        - AcceleratorError   KVM is there but runs no guest
      - BootError          the image did not come up                            exit status 1
        - BootFatal          the console said so: panic, emergency mode, ...
        - BootTimeout        nothing happened in time
        - GuestStopped       QEMU ended, or the guest was halted
      - SessionError       SSH to the guest                                     exit status 2
        - AuthRefused, RightsRefused, HostKeyChanged, CommandTimeout, OutputTooLarge, SessionLost
      - ObservationError   the guest answered, but the answer cannot be read    exit status 2
        - NotRecorded        recorded facts do not hold the answer to a question
    """

    exit_status = 2

    def __init__(self, message: str, *, hint: str = "", evidence: Path | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.evidence = evidence

    def __str__(self) -> str:
        lines = [self.message]
        if self.hint:
            lines.append(f"  hint: {self.hint}")
        if self.evidence:
            lines.append(f"  see:  {self.evidence}")
        return "\n".join(lines)


class ConfigError(SeatrialError):
    """The user must change an option, a table or a file."""

    exit_status = 4


class HostError(SeatrialError):
    """This computer lacks a program, firmware, memory or space."""


class AcceleratorError(HostError):
    """The accelerator is there, but runs no guest."""


class BootError(SeatrialError):
    """The image did not come up: a reason to reject it."""

    exit_status = 1


class BootFatal(BootError):
    """The console showed a state from which no boot recovers."""


class BootTimeout(BootError):
    """The guest was not ready in time."""


class GuestStopped(BootError):
    """The guest was halted, or QEMU ended under it."""


class SessionError(SeatrialError):
    """The SSH session to the guest failed."""


class AuthRefused(SessionError):
    """The guest's SSH server does not accept our key."""


class RightsRefused(SessionError):
    """The user who logged in cannot become root without being asked for a password."""


class HostKeyChanged(SessionError):
    """The guest's SSH server shows another host key than at the first login of this boot."""


class CommandTimeout(SessionError):
    """A command in the guest did not end in time; it was killed."""


class OutputTooLarge(SessionError):
    """A command in the guest wrote more than we are willing to hold."""


class SessionLost(SessionError):
    """The connection broke. Nothing is repeated: a command may have run."""


class ObservationError(SeatrialError):
    """The guest answered, but the answer cannot be read."""


class NotRecorded(ObservationError):
    """Facts of an earlier boot do not hold the answer; the guest that could give it is gone."""
