"""Every error that Seatrial raises, and the exit status that each family ends a run with.

An error means "we could not judge" or "you must change something". A control that failed is no error: it is a verdict.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

__all__ = [
    "AcceleratorError",
    "AuthRefused",
    "BootError",
    "BootFatal",
    "BootHung",
    "BootTimeout",
    "CommandTimeout",
    "ConfigError",
    "DataCorrupted",
    "EmergencyShell",
    "GuestSilent",
    "GuestStopped",
    "HostError",
    "HostKeyChanged",
    "KernelPanic",
    "NoBootableSystem",
    "NotRecorded",
    "ObservationError",
    "OutputTooLarge",
    "QemuExited",
    "QuestionAsked",
    "RebootLoop",
    "RightsRefused",
    "Scene",
    "SeatrialError",
    "SecureBootRefused",
    "SessionError",
    "SessionLost",
    "TimerLost",
    "TpmLost",
    "packed",
    "unpacked",
]


class SeatrialError(Exception):
    """Base of all our errors: what happened, what to do next, where the evidence lies.

    * SeatrialError
      - ConfigError        the user must change an option or a table            exit status 4
      - HostError          this computer lacks something (QEMU, space, ...)     exit status 2
        - AcceleratorError   KVM is there but runs no guest
          - TimerLost          the emulator lost a processor's timer: QEMU's fault, not the image's
        - TpmLost            the TPM's emulator ended under the guest
      - BootError          the image did not come up                            exit status 1
        - BootFatal          the console said so; its kinds:
          KernelPanic, EmergencyShell, NoBootableSystem, SecureBootRefused, QuestionAsked, DataCorrupted
        - BootHung           nothing moves any more: console, disk (and CPU) are still
        - BootTimeout        not ready in time
          - GuestSilent        and the console never said a word
        - RebootLoop         it starts again and again
        - GuestStopped       the guest was halted, or restarted by itself during the suites
          - QemuExited         QEMU ended or was killed                         exit status 2
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


def packed(error: SeatrialError) -> str:
    """Return ``error`` as one line of text, for its way to another process of the run."""
    evidence = str(error.evidence) if error.evidence else ""
    return json.dumps([type(error).__name__, error.message, error.hint, evidence])


def unpacked(text: str) -> SeatrialError:
    """Return the error that :func:`packed` wrote."""
    kind, message, hint, evidence = json.loads(text)
    families: dict[str, type[SeatrialError]] = {}
    todo = [SeatrialError]
    while todo:
        family = todo.pop()
        families[family.__name__] = family
        todo += family.__subclasses__()
    return families[kind](message, hint=hint, evidence=Path(evidence) if evidence else None)


class ConfigError(SeatrialError):
    """The user must change an option, a table or a file."""

    exit_status = 4


class HostError(SeatrialError):
    """This computer lacks a program, firmware, memory or space."""


class AcceleratorError(HostError):
    """The accelerator is there, but runs no guest."""


class TimerLost(AcceleratorError):
    """The emulator lost the timer of one of the guest's processors, which wakes nothing any more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """What a boot looked like when it failed: phase, seconds since power-on, last console lines, a screenshot."""

    phase: str
    at_s: float
    tail: tuple[str, ...] = ()
    screenshot: Path | None = None


class TpmLost(HostError):
    """The emulator of the guest's TPM ended while the guest ran."""


class BootError(SeatrialError):
    """The image did not come up: a reason to reject it. ``scene`` is what it looked like, when that is known."""

    exit_status = 1
    scene: Scene | None = None

    def __str__(self) -> str:
        lines = [super().__str__()]
        if self.scene is not None:
            lines.append(f"  when: {self.scene.at_s:.1f} s after power-on, phase {self.scene.phase}")
            if self.scene.screenshot is not None:
                lines.append(f"  screen: {self.scene.screenshot}")
            if self.scene.tail:
                lines += ["  the last lines of the console:", *(f"    | {line}" for line in self.scene.tail)]
        return "\n".join(lines)


class BootFatal(BootError):
    """The console showed a state from which no boot recovers."""


class KernelPanic(BootFatal):
    """The kernel panicked."""


class EmergencyShell(BootFatal):
    """The boot ended in emergency mode, rescue mode or a shell of the initrd."""


class NoBootableSystem(BootFatal):
    """Firmware or boot loader found nothing to start."""


class SecureBootRefused(BootFatal):
    """Secure Boot did not accept a signature."""


class QuestionAsked(BootFatal):
    """The boot waits for somebody to answer a question."""


class DataCorrupted(BootFatal):
    """The image's data does not match its own checksums."""


class BootHung(BootError):
    """Nothing moves any more: console and disk are still, and mostly the CPU too."""


class RebootLoop(BootError):
    """The guest starts again and again."""


class BootTimeout(BootError):
    """The guest was not ready in time."""


class GuestSilent(BootTimeout):
    """The guest was not ready in time, and its console never said a word."""


class GuestStopped(BootError):
    """The guest was halted, restarted by itself, or QEMU ended under it."""


class QemuExited(GuestStopped):
    """QEMU ended or was killed: that says nothing about the image, so the exit status is that of a host's trouble."""

    exit_status = 2


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
