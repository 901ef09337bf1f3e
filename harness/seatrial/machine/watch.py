"""Watches a boot from outside: console, QMP events and QEMU itself; says when there is nothing left to wait for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from seatrial.errors import AcceleratorError, BootFatal, GuestStopped
from seatrial.machine.console import Console
from seatrial.machine.definition import Accelerator
from seatrial.machine.qmp import Monitor
from seatrial.process import Child

__all__ = ["Watch", "last_words"]


@dataclass(slots=True, kw_only=True)
class Watch:
    """What watches one QEMU, be it a boot or a clone; :meth:`guard` is called wherever somebody waits for the guest."""

    console: Console
    monitor: Monitor
    process: Child
    accelerator: Accelerator
    qemu_log: Path

    def guard(self) -> None:
        """Raise when there is nothing left to wait for.

        :raises BootFatal: the console showed a state from which no boot recovers.
        :raises GuestStopped: QEMU ended or the guest was stopped.
        :raises AcceleratorError: KVM could not go on.
        """
        if self.console.fatal is not None:
            state, line = self.console.fatal
            raise BootFatal(f"{state.title}: the console said {line!r}", hint=state.hint, evidence=self.console.path)
        if self.process.status is not None:
            self._explain_exit()
        for name, data in list(self.monitor.events):
            if name == "STOP" and self.monitor.status() == "internal-error":
                raise AcceleratorError(
                    "the accelerator stopped with an internal error: no guest runs on it", evidence=self.qemu_log
                )
            if name in {"SHUTDOWN", "GUEST_PANICKED"}:
                raise GuestStopped(
                    f"the guest stopped by itself: QEMU reported {name} ({data.get('reason', 'no reason')})",
                    hint=f"the last console line was {self.console.last_line!r}",
                    evidence=self.console.path,
                )

    def _explain_exit(self) -> None:
        said = last_words(self.qemu_log)
        if self.accelerator == "kvm" and self.console.byte_count == 0:
            raise AcceleratorError(f"QEMU ended at once under KVM: {said}", evidence=self.qemu_log)
        raise GuestStopped(
            f"QEMU ended with exit status {self.process.status}: {said}",
            hint=f"the last console line was {self.console.last_line!r}",
            evidence=self.qemu_log,
        )


def last_words(log: Path) -> str:
    """Return what QEMU complained of first: what follows is mostly its consequence."""
    try:
        lines = log.read_text(encoding="utf-8", errors="backslashreplace").strip().splitlines()
    except OSError:
        return ""
    complaint = next((line for line in lines if "error" in line or "failed" in line.lower()), "".join(lines[-1:]))
    # QEMU puts its own name before what it says: "qemu-system-x86_64: error: ...".
    program, colon, said = complaint.strip().partition(": ")
    return (said if colon and program.startswith("qemu-system-") else complaint.strip()).removeprefix("error: ")
