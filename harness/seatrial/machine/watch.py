"""Watches a boot from outside: console, QMP events, counters and QEMU; says when waiting has become pointless."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from seatrial.clock import Deadline, monotonic_s
from seatrial.errors import (
    AcceleratorError,
    BootError,
    BootFatal,
    BootHung,
    BootTimeout,
    DataCorrupted,
    EmergencyShell,
    GuestSilent,
    GuestStopped,
    KernelPanic,
    NoBootableSystem,
    QemuExited,
    QuestionAsked,
    RebootLoop,
    Scene,
    SeatrialError,
    SecureBootRefused,
    SessionLost,
    TimerLost,
)
from seatrial.evidence.console import Finding, Hit
from seatrial.evidence.signs import Kind, Phase, Sign
from seatrial.machine.console import Console
from seatrial.machine.definition import Accelerator
from seatrial.machine.events import CONSOLE_SILENT, RESTARTED, error_of_event, sign_of_event
from seatrial.machine.qmp import Event, Monitor
from seatrial.machine.stillness import HangLimits, Sample, Stillness, cpu_seconds
from seatrial.machine.tpm import Tpm
from seatrial.process import Child

__all__ = ["SCREENSHOT", "Watch", "last_words"]

SCREENSHOT: Final = "screen.png"
_TAIL: Final = 20
_SAMPLE_EVERY_S: Final = 2.0
# What explains a failure comes after its first line: a panic's trace, the last events of a QEMU that ended.
_SETTLE_S: Final = 1.5
_QUIET_S: Final = 0.3
_REASON_S: Final = 3.0
# RCU looks every 21 s (CONFIG_RCU_CPU_STALL_TIMEOUT): what it finds dead twice was not only slow on a busy host.
_MOST_TIMERS_LOST: Final = 2
_LOST_TIMER: Final = "lost-timer"
_NOTHING_RAN: Final = frozenset({Phase.FIRMWARE, Phase.LOADER, Phase.KERNEL})
# One restart is normal (firmware settings, first-boot set-up); a second one that never left the kernel is a loop.
_MOST_RESTARTS: Final = 2
_MOST_EARLY_RESTARTS: Final = 1
_FAMILIES: Final = {
    Kind.PANIC: KernelPanic,
    Kind.SHELL: EmergencyShell,
    Kind.LOADER: NoBootableSystem,
    Kind.SECURE_BOOT: SecureBootRefused,
    Kind.QUESTION: QuestionAsked,
    Kind.CORRUPTION: DataCorrupted,
}


@dataclass(slots=True, kw_only=True)
class Watch:
    """What watches one QEMU, be it a boot or a clone; :meth:`guard` is called wherever somebody waits for the guest.

    A clone of a ready guest has a console that starts in :attr:`Phase.SUITE`: nothing may restart there unannounced.
    """

    console: Console
    monitor: Monitor
    process: Child
    accelerator: Accelerator
    qemu_log: Path
    limits: HangLimits | None = None
    tpm: Tpm | None = None
    _lock: threading.RLock = field(default_factory=threading.RLock)
    _failure: SeatrialError | None = None
    _last_event: int = 0
    _restarts: int = 0
    _early_restarts: int = 0
    _forgiven: int = 0
    _restarts_seen: int = 0
    _reboot_expected: bool = False
    _announced: int = 0
    _limits_then: HangLimits | None = None
    _is_ready: bool = False
    _sampled_s: float = 0.0
    _stillness: Stillness | None = field(default=None)

    def __post_init__(self) -> None:
        self._is_ready = self.phase is Phase.SUITE

    @property
    def phase(self) -> Phase:
        """Return how far the guest is."""
        return self.console.scanner.phase

    @property
    def findings(self) -> tuple[Finding, ...]:
        """Return what was suspicious so far: on the console, and in QEMU's events."""
        return self.console.scanner.findings.all

    def guard(self) -> None:
        """Raise when there is nothing left to wait for; cheap enough for every turn of a loop; for any thread.

        :raises BootFatal: the console, or the pvpanic device, showed a state from which no boot recovers.
        :raises BootHung: console, disk and CPU stand still.
        :raises RebootLoop: the guest starts again and again.
        :raises GuestStopped: the guest was halted, restarted by itself, or QEMU ended.
        :raises AcceleratorError: KVM could not go on.
        :raises TimerLost: the emulator lost a processor's timer.
        :raises TpmLost: the emulator of the TPM ended.
        :raises HostError: this host's disk is full.
        """
        with self._lock:
            if self._failure is None:
                try:
                    self._failure = self._trouble()
                except GuestStopped:  # QEMU did not answer the monitor: mostly because it ended just now
                    if not self.process.ends_within(_REASON_S):
                        raise
                    self._failure = self._trouble()
                if isinstance(self._failure, BootError):
                    self._failure.scene = self._scene()
            if self._failure is not None:
                raise self._failure.with_traceback(None)

    def let_in(self) -> None:
        """Say that somebody could log in: a guest that answers does not hang, however still it is."""
        self.limits = self._stillness = None

    def ready(self) -> None:
        """Say that the guest is ready: from now on the suites run."""
        self.let_in()
        self.console.scanner.phase = Phase.SUITE
        self._is_ready = True
        if self.console.byte_count == 0:
            self._note(CONSOLE_SILENT, "(nothing)")

    @contextlib.contextmanager
    def reboot_expected(self, limits: HangLimits | None = None) -> Iterator[None]:
        """Within this block the guest may restart or stop; at its end it counts as ready again.

        :param limits: when it hangs, from its reset until :meth:`let_in`. On its way down it may be still for long.
        """
        self.guard()
        self._reboot_expected, self._announced, self._limits_then = True, 0, limits
        try:
            yield
            self.guard()
        finally:
            self._reboot_expected = False
            self.let_in()
            self._restarts_seen = self.console.scanner.restarts
            self.console.scanner.phase = Phase.SUITE

    @contextlib.contextmanager
    def tolerating(self, *signs: str) -> Iterator[None]:
        """Within this block the fatal console signs with these ids are only findings: a check provokes them."""
        before = self.console.scanner.tolerated
        self.console.scanner.tolerated = before | frozenset(signs)
        try:
            yield
        finally:
            self.console.scanner.tolerated = before

    def forgive_lost_timer(self) -> bool:
        """Forget a timer that the emulator lost before anything of the system ran; return whether that is all.

        The machine can be reset then, as if it had not started.
        """
        with self._lock:
            if not isinstance(self._failure, TimerLost) or self.phase not in _NOTHING_RAN:
                return False
            self._failure, self._forgiven = None, self.console.scanner.findings.count_of(_LOST_TIMER)
            return True

    @contextlib.contextmanager
    def explained(self) -> Iterator[None]:
        """Let a time-out or a lost connection within this block say what was seen from outside.

        :raises SeatrialError: the reason, when there is one; else what was raised, with the scene of a time-out.
        """
        try:
            yield
        except SessionLost:
            self.find_reason()
            raise
        except BootTimeout as exc:
            self.find_reason(patience_s=0)
            raise self._told(exc) from exc

    def find_reason(self, *, patience_s: float = _REASON_S) -> None:
        """Wait a little for console and QEMU to say why the connection broke.

        :raises SeatrialError: the reason.
        """
        deadline = Deadline(patience_s)
        while True:
            self.guard()
            if deadline.is_over:
                return
            deadline.pause(0.1)

    def _trouble(self) -> SeatrialError | None:
        scanner = self.console.scanner
        ended = self.process.status is not None
        if ended:
            self._settle()  # the events and lines that explain it may still be on their way
        error = self._read_events()
        if scanner.fatal is None and isinstance(error, BootError):
            self._settle()
        if scanner.fatal is not None:
            self._settle()
            return self._fatal(scanner.fatal)
        if error is None and ended:
            return self._exit_explained()
        return error or self._lost_tpm() or self._lost_timer() or self._unannounced_start() or self._hang()

    def _lost_tpm(self) -> SeatrialError | None:
        # A QEMU that ends takes its TPM along: that is for the exit to explain.
        return self.tpm.trouble() if self.tpm is not None and self.process.status is None else None

    def _lost_timer(self) -> SeatrialError | None:
        complaints = self.console.scanner.findings.count_of(_LOST_TIMER) if self.accelerator == "tcg" else 0
        if complaints - self._forgiven < _MOST_TIMERS_LOST:
            return None
        return TimerLost(
            f"QEMU's emulation lost the timer of a processor in phase {self.phase}: the kernel's RCU found it dead "
            f"{complaints - self._forgiven} times",
            hint="this is no fault of the image: run it again, or on a host with KVM",
            evidence=self.console.path,
        )

    def _fatal(self, hit: Hit) -> SeatrialError:
        family = _FAMILIES.get(hit.sign.kind, BootFatal)
        return family(
            f"{hit.sign.title}: the console said {hit.line!r}", hint=hit.sign.hint, evidence=self.console.path
        )

    def _read_events(self) -> SeatrialError | None:
        for event in self.monitor.events_after(self._last_event):
            self._last_event = event.number
            if error := self._judge_event(event):
                if error.evidence is None:
                    error.evidence = self.console.path if isinstance(error, BootError) else self.qemu_log
                return error
        return None

    def _judge_event(self, event: Event) -> SeatrialError | None:
        if event.name == "STOP" and self.process.status is None and self.monitor.status() == "internal-error":
            return AcceleratorError(
                "the accelerator stopped with an internal error: no guest runs on it", evidence=self.qemu_log
            )
        if event.name == "RESET":
            return self._judge_reset(str(event.data.get("reason", "no reason")))
        if event.name == "SHUTDOWN" and self._reboot_expected:
            return None
        if sign := sign_of_event(event.name, event.data):
            self._note(sign, f"{event.name} {dict(event.data)}"[:300])
        return error_of_event(event.name, event.data)

    def _judge_reset(self, reason: str) -> SeatrialError | None:
        phase = self._phase_before_reset()
        if self._stillness is not None:
            self._stillness.restart()
        if self._reboot_expected:
            return self._judge_announced(reason, phase)
        if self._is_ready:
            return GuestStopped(
                f"the guest restarted by itself while the suites ran: QEMU reported RESET ({reason})",
                hint="look for a panic with panic= on the command line, a watchdog, or a unit that reboots",
            )
        self._note(RESTARTED, f"RESET ({reason}) in phase {phase}")
        self._restarts += 1
        self._early_restarts += phase is not Phase.USERSPACE
        if self._restarts > _MOST_RESTARTS or self._early_restarts > _MOST_EARLY_RESTARTS:
            return self._loop(self._restarts, reason, phase)
        return None

    def _judge_announced(self, reason: str, phase: Phase) -> SeatrialError | None:
        self._announced += 1
        if self.limits is None:
            self.limits = self._limits_then
        further = self._announced - 1
        return self._loop(further, reason, phase) if further > _MOST_RESTARTS else None

    def _loop(self, times: int, reason: str, phase: Phase) -> RebootLoop:
        return RebootLoop(
            f"the guest restarts again and again: {times} times, last in phase {phase} ({reason})",
            hint="a panic with panic= on the command line, a triple fault (wrong CPU model, broken kernel), or a "
            "first-boot step that never succeeds",
        )

    def _phase_before_reset(self) -> Phase:
        """Return the phase that a reset ended, and begin at the firmware where the console has not told so itself."""
        scanner = self.console.scanner
        if scanner.restarts != self._restarts_seen:  # it shows the next start already
            self._restarts_seen = scanner.restarts
            return scanner.left
        phase, scanner.phase = scanner.phase, Phase.FIRMWARE
        return phase

    def _unannounced_start(self) -> SeatrialError | None:
        restarts = self.console.scanner.restarts
        if self._reboot_expected or restarts == self._restarts_seen:
            return None
        before, self._restarts_seen = self._restarts_seen, restarts
        if self._is_ready and restarts > before:
            # No RESET was told: another kernel was started by kexec, or the console shows an old log.
            return GuestStopped(
                "the guest started again by itself while the suites ran: the console shows another start",
                hint="a kexec, or a soft-reboot: something in the image or a check ordered it",
                evidence=self.console.path,
            )
        return None

    def _hang(self) -> SeatrialError | None:
        now = monotonic_s()
        if self.limits is None or now - self._sampled_s < _SAMPLE_EVERY_S:
            return None
        self._sampled_s = now
        if self._stillness is None:
            self._stillness = Stillness(self.limits)
        still = self._stillness.take(
            Sample(
                at_s=now,
                console_bytes=self.console.byte_count,
                disk_operations=self.monitor.disk_operations(),
                cpu_s=cpu_seconds(self.process.pid),
            )
        )
        if not still:
            return None
        return BootHung(
            f"the boot hangs in phase {self.phase}: {still}{self._silence()}",
            hint=self._clue(),
            evidence=self.console.path,
        )

    def _exit_explained(self) -> SeatrialError:
        said = last_words(self.qemu_log)
        if self.accelerator == "kvm" and self.console.byte_count == 0:
            return AcceleratorError(f"QEMU ended at once under KVM: {said}", evidence=self.qemu_log)
        status = self.process.status or 0
        how = f"was killed by signal {-status}" if status < 0 else f"ended with exit status {status}"
        killed = "; was this host short of memory ('dmesg' tells)?" if status == -9 else ""
        return QemuExited(
            f"QEMU {how}: {said or 'it said nothing'}",
            hint=f"the last console line was {self.console.last_line!r}{killed}",
            evidence=self.qemu_log,
        )

    def _told(self, error: BootTimeout) -> BootTimeout:
        family = GuestSilent if self.console.byte_count == 0 else type(error)
        hint = self._clue() if self.console.byte_count == 0 else f"{error.hint}; {self._clue()}"
        told = family(f"{error.message}{self._silence()}", hint=hint, evidence=self.console.path)
        told.scene = self._scene()
        return told

    def _silence(self) -> str:
        return "; the console never said a word" if self.console.byte_count == 0 else ""

    def _clue(self) -> str:
        if self.console.byte_count == 0:
            return (
                "is console=ttyS0 (aarch64: ttyAMA0) on the kernel's command line? Is the image made for the machine's "
                "firmware (UEFI or BIOS)? Without a console only the screenshot, if there is one, tells more"
            )
        if self.phase in (Phase.FIRMWARE, Phase.LOADER):
            return (
                "firmware or boot loader were the last to speak: the kernel did not start, or has no console=ttyS0; "
                f"the last console line was {self.console.last_line[:200]!r}"
            )
        seen = [finding.title for finding in self.findings[-3:]]
        before = f"; before that: {', '.join(seen)}" if seen else ""
        return f"the last console line was {self.console.last_line[:200]!r}{before}"

    def _scene(self) -> Scene:
        path = self.console.path.parent / SCREENSHOT
        shot = self.process.status is None and self.monitor.screenshot(path)
        return Scene(
            phase=self.phase,
            at_s=round(self.console.elapsed_s, 1),
            tail=tuple(line[:300] for line in self.console.tail(_TAIL)),
            screenshot=path if shot else None,
        )

    def _settle(self) -> None:
        deadline = Deadline(_SETTLE_S)
        count, quiet = self.console.byte_count, Deadline(_QUIET_S)
        while not deadline.is_over and not quiet.is_over:
            deadline.pause(0.05)
            if self.console.byte_count != count:
                count, quiet = self.console.byte_count, Deadline(_QUIET_S)

    def _note(self, sign: Sign, line: str) -> None:
        hit = Hit(sign=sign, line=line, phase=self.phase, at_s=self.console.elapsed_s)
        self.console.scanner.findings.add(hit)


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
