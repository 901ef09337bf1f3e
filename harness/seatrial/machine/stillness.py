"""Tells a boot that hangs from one that is slow: nothing moves, be it console, disk or CPU, for longer than it may."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

__all__ = ["HALTED_S", "HangLimits", "Sample", "Stillness", "cpu_seconds"]

HALTED_S: Final = 30.0
# Halted means no timer interrupt either: the idlest Linux that still ticks uses more than a thousandth of a CPU.
_HALTED_SHARE: Final = 0.001
_BUSY_SHARE: Final = 0.5
# Nobody looked for so long (this process was stopped, or waited elsewhere): what happened meanwhile is unknown.
_GAP_S: Final = 15.0


@dataclass(frozen=True, slots=True, kw_only=True)
class HangLimits:
    """Seconds without progress after which a boot hangs.

    ``halted_s`` counts when console, disk and CPU are all still, ``silent_s`` when console and disk are, whatever the
    CPU does: it must be longer than the 90 s for which systemd waits for a device in silence.
    """

    silent_s: float
    halted_s: float = HALTED_S


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """Counters that only grow, at one moment: bytes on the console, disk operations, CPU seconds (None: unknown)."""

    at_s: float
    console_bytes: int
    disk_operations: int
    cpu_s: float | None


class Stillness:
    """Follows samples of one boot. Pure: time is a part of the sample."""

    def __init__(self, limits: HangLimits) -> None:
        self._limits = limits
        self._last: Sample | None = None
        self._silent_since = self._halted_since = 0.0
        self._cpu_at_silence: float | None = None

    def restart(self) -> None:
        """Forget what was: from now on progress may be another (a reboot, a pause)."""
        self._last = None

    def take(self, sample: Sample) -> str:
        """Return in words what stands still for too long; empty while there is hope."""
        last, self._last = self._last, sample
        moved = last is None or (last.console_bytes, last.disk_operations) != (
            sample.console_bytes,
            sample.disk_operations,
        )
        if last is None or moved or sample.at_s - last.at_s > _GAP_S:
            self._silent_since = self._halted_since = sample.at_s
            self._cpu_at_silence = sample.cpu_s
            return ""
        if not _is_halted(last, sample):
            self._halted_since = sample.at_s
        halted, silent = sample.at_s - self._halted_since, sample.at_s - self._silent_since
        if halted >= min(self._limits.halted_s, self._limits.silent_s):
            return f"console, disk and CPU have been still for {halted:.0f} s"
        if silent >= self._limits.silent_s:
            return f"console and disk have been still for {silent:.0f} s, {self._cpu_in_words(sample, silent)}"
        return ""

    def _cpu_in_words(self, sample: Sample, seconds: float) -> str:
        if sample.cpu_s is None or self._cpu_at_silence is None or seconds <= 0:
            return "and what the CPU does is unknown"
        share = (sample.cpu_s - self._cpu_at_silence) / seconds
        busy = "it runs in a loop" if share >= _BUSY_SHARE else "it waits for something that does not come"
        return f"while the CPU was used to {share:.0%}: {busy}"


def _is_halted(last: Sample, sample: Sample) -> bool:
    if last.cpu_s is None or sample.cpu_s is None:
        return False
    return sample.cpu_s - last.cpu_s < _HALTED_SHARE * (sample.at_s - last.at_s)


def cpu_seconds(pid: int, *, proc: Path = Path("/proc")) -> float | None:
    """Return the seconds for which the virtual CPUs of QEMU process ``pid`` have run, or wanted to run; None: unknown.

    Time in the host's run queue counts as use (``schedstat``, Documentation/scheduler/sched-stats): on a loaded host a
    guest that gets no CPU is not one that hangs. The threads are named by ``-name debug-threads=on``.
    """
    try:
        times = [_thread_seconds(thread) for thread in _virtual_cpus(proc / str(pid) / "task")]
    except (OSError, ValueError, IndexError):
        return None
    return sum(times) if times else None


def _virtual_cpus(tasks: Path) -> Iterator[Path]:
    for thread in tasks.iterdir():
        if (thread / "comm").read_text(encoding="utf-8", errors="replace").startswith(("CPU ", "ALL CPUs")):
            yield thread


def _thread_seconds(thread: Path) -> float:
    ran, waited, *_rest = (thread / "schedstat").read_text(encoding="ascii").split()
    return (int(ran) + int(waited)) / 1e9
