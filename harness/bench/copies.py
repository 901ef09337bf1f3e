"""How long a copy of a ready guest takes until it answers, against a cold boot of the same image in the same run."""

from __future__ import annotations

import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from rows import Row
from seatrial.options import resolve
from seatrial.progress import Silent
from seatrial.session import booted, examine

__all__ = ["Copying", "copies", "measure"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Copying:
    """Seconds: from power-on to the first answered command, to freeze, and from a copy's start to its first answer."""

    cold_s: float
    freeze_s: float
    copies_s: tuple[float, ...]
    method: str

    @property
    def ratio(self) -> float:
        """Return freezing and the first copy against the cold boot."""
        return (self.freeze_s + self.copies_s[0]) / self.cold_s


def measure(image: Path, *, flavour: str = "debian-immutable", repeats: int = 3) -> Copying:
    """Boot ``image`` once, freeze it, start ``repeats`` copies one after the other, and ask each for ``true``."""
    flags = {"seatrial_image": str(image), "seatrial_flavour": flavour}
    candidate = examine(resolve(flags.get, lambda _key: None, {}))
    with tempfile.TemporaryDirectory(prefix="bench-") as place:
        start = time.perf_counter()
        with booted(candidate, Path(place), run="bench", progress=Silent(), is_cloneable=True) as session:
            session.shell.run("true")
            cold_s = time.perf_counter() - start
            assert session.restorer is not None
            start = time.perf_counter()
            session.restorer.freeze(session)
            freeze_s = time.perf_counter() - start
            seconds = []
            for _ in range(repeats):
                start = time.perf_counter()
                with session.restored() as copy:
                    copy.shell.run("true")
                    seconds.append(time.perf_counter() - start)
            assert session.restorer.restores is not None
            method = session.restorer.restores.method
    return Copying(cold_s=cold_s, freeze_s=freeze_s, copies_s=tuple(seconds), method=method)


def copies(image: Path) -> list[Row]:
    """Return the ratio that has a goal."""
    seen = measure(image)
    print(
        f"cold boot {seen.cold_s:.1f} s, freeze {seen.freeze_s:.2f} s, copy by {seen.method} "
        f"{statistics.median(seen.copies_s):.2f} s"
    )
    return [Row.at_most("freeze, copy and first command against cold boot and first command", seen.ratio, 0.03)]
