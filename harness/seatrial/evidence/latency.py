"""How a kernel hands over the processor: its preemption model, and measured wake-up latency."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Final

from seatrial.errors import ObservationError

__all__ = ["CYCLICTEST", "MODELS", "PREEMPT", "is_said_by_build_only", "parse_cyclictest", "preemption_model"]

MODELS: Final = ("none", "voluntary", "lazy", "full", "rt")
# debugfs is closed by lockdown; the kernel's own message and its command line tell the same.
PREEMPT: Final = (
    "uname -v; cat /sys/kernel/debug/sched/preempt 2>/dev/null; "
    "{ journalctl -k -b -q --no-pager -o cat 2>/dev/null || dmesg; } | grep -F 'Dynamic Preempt:' | tail -n 1; true"
)
# Ten seconds on every CPU, a wake-up each 200 microseconds; the JSON goes where --json says.
CYCLICTEST: Final = (
    "f=$(mktemp) && {program} --mlockall --smp --priority=80 --interval=200 --duration=10 --quiet --json=$f >&2 && "
    "cat $f; s=$?; rm -f $f; exit $s"
)


def is_said_by_build_only(text: str) -> bool:
    """Return whether only the build configuration can tell: a kernel with one model that is none or voluntary."""
    version, _, rest = text.partition("\n")
    return not any(word.startswith("PREEMPT") for word in version.split()) and not rest.strip()


def preemption_model(text: str, built: str = "") -> str:
    """Return the model of :data:`MODELS` that the running kernel uses, from the answer to :data:`PREEMPT`.

    :param built: the model of the build, where :func:`is_said_by_build_only` holds.
    :raises ObservationError: the kernel does not say; nothing is assumed.
    """
    version, _, rest = text.partition("\n")
    words = version.split()
    if "PREEMPT_RT" in words:
        return "rt"
    chosen = re.search(r"\(([a-z]+)\)", rest) or re.search(r"Dynamic Preempt: ([a-z]+)", rest)
    model = chosen[1] if chosen else built
    if not model and "PREEMPT_DYNAMIC" not in words:
        model = "full" if "PREEMPT" in words else "lazy" if "PREEMPT_LAZY" in words else ""
    if model not in MODELS:
        raise ObservationError(
            f"the kernel does not say how it preempts: version {version[:200]!r}, otherwise {rest[:200]!r}",
            hint="its first messages may have been rotated away, and debugfs be closed",
        )
    return model


def parse_cyclictest(text: str) -> Mapping[str, float]:
    """Return the longest wake-up of each thread in microseconds, from ``cyclictest --json``.

    :raises ObservationError: the text is no such measurement, or no thread woke up at all.
    """
    try:
        threads = json.loads(text)["thread"]
        found = {str(name): (float(thread["max"]), int(thread["cycles"])) for name, thread in threads.items()}
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as exc:
        raise ObservationError(
            f"cyclictest gave {text[:200]!r}, expected JSON with the maximum of each thread"
        ) from exc
    asleep = [name for name, (longest, cycles) in found.items() if cycles <= 0 or not 0 <= longest < float("inf")]
    if not found or asleep:
        raise ObservationError(f"cyclictest measured nothing on thread {', '.join(asleep) or 'any'}: {text[:200]!r}")
    return {name: longest for name, (longest, _cycles) in found.items()}
