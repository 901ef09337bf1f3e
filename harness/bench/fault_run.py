"""One fault in one real run: the product as a subprocess, watched from outside, and what it left behind."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from leftovers import Family, stray_files, stray_sockets
from micro import QUICK, Micro
from seatrial.layout import data_dir

__all__ = ["MICRO", "Fault", "Result", "Running", "run_fault"]

MICRO: Final = data_dir("fixtures") / "faults"
_POLL_S: Final = 0.02
_LOOK_EVERY_S: Final = 0.5
_MOST_S: Final = 240.0
_GONE_S: Final = 5.0  # how long the kernel may take to end what a killed runner leaves
_SHOWN: Final = 160
# The name of a run's folder, and the port that it happened to get.
_RUN_ID: Final = re.compile(r"\d{8}T\d{6}Z-\S+?-[0-9a-f]{4}\b|(?<=on port )\d+")


@dataclass(slots=True, kw_only=True)
class Running:
    """A run under way, as what is done to it sees it."""

    runner: subprocess.Popen[bytes]
    family: Family
    place: Path
    images: tuple[Path, ...]

    def kill(self, program: str) -> None:
        """Kill the descendant ``program`` (SIGKILL).

        :raises AssertionError: there is none.
        """
        pid = self.family.find(program)
        assert pid is not None, f"no {program} runs; there are {list(self.family.living().values())}"
        os.kill(pid, signal.SIGKILL)

    def interrupt(self) -> None:
        """Do what Ctrl-C in a terminal does: SIGINT to the whole foreground process group."""
        os.killpg(self.runner.pid, signal.SIGINT)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """A row: a fault, and what a run with it must come to.

    The clock starts when ``mark`` is on the console (or at the start of the run, without a mark) and stops when the
    record holds a problem, or at the end of the run. ``error`` is a regular expression for "kind: message" of that
    problem, or for "none: ..." where the run decided. ``hit`` is done at ``mark``.
    """

    name: str
    error: str
    exit_status: int
    limit_s: float = 10.0
    mark: bytes = b"micro: fault "
    append: str = ""
    options: tuple[str, ...] = ()
    image: Callable[[Path], Path] | None = None
    hit: Callable[[Running], None] | None = None
    kernel: bool = True
    boots: bool = True
    suite: str = "suite"
    until_exit: bool = False
    out_space_kib: int | None = None
    out: str = "out"
    more: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What was seen; the fields of ``reports/out/faults.json``. ``wrong`` says what is not as it must be."""

    fault: str
    error: str
    seconds: float
    limit_s: float
    exit_status: int
    leftovers: int
    digest_unchanged: bool
    wrong: tuple[str, ...] = ()


def run_fault(row: Fault, place: Path, micro: Micro) -> Result:
    """Run the product into the fault ``row`` in the empty folder ``place`` and return what came of it."""
    for name in ("tmp", "input"):
        (place / name).mkdir()
    image = row.image(place / "input") if row.image else None
    images = tuple(path for path in (image, *((micro.kernel, micro.initrd) if row.kernel else ())) if path)
    with _out_folder(place / "out", row.out_space_kib):
        return _watched(row, place, _command(row, place, image, micro), images)


def _command(row: Fault, place: Path, image: Path | None, micro: Micro) -> list[str]:
    words = [sys.executable, "-m", "seatrial", "gate", *([str(image)] if image else [])]
    if row.kernel:
        append = f"{QUICK} {row.append}".strip()
        words += ["--kernel", str(micro.kernel), "--initrd", str(micro.initrd), "--append", append]
    words += ["--flavour", str(MICRO / "micro.toml"), "--suite", str(MICRO / row.suite), "--out", str(place / row.out)]
    hardware = ["--memory", "512", "--cpus", "1"] if row.boots else []
    if row.boots and "--machine" not in row.options:
        hardware += ["--machine", "q35-bios"]
    return [*words, "-q", *hardware, *row.options]


@contextlib.contextmanager
def _out_folder(folder: Path, kib: int | None) -> Iterator[None]:
    folder.mkdir()
    if kib is None:
        yield
        return
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={kib}k", "tmpfs", str(folder)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def _watched(row: Fault, place: Path, command: list[str], images: tuple[Path, ...]) -> Result:
    before = _digests(images)
    environment = {
        name: value
        for name, value in os.environ.items()
        if name == "SEATRIAL_CACHE" or not name.startswith("SEATRIAL_")
    }
    environment.update(TMPDIR=str(place / "tmp"), **row.more)
    with (place / "shown").open("wb") as shown:
        started = time.monotonic()
        runner = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=shown, stderr=shown, env=environment, start_new_session=True
        )
    running = Running(runner=runner, family=Family(runner.pid, place / "tmp"), place=place, images=images)
    try:
        seconds, changed = _follow(row, running, started)
    finally:
        if runner.poll() is None:
            os.killpg(runner.pid, signal.SIGKILL)
            runner.wait()
    before = changed or before
    return _result(row, running, seconds, unchanged=_digests(images) == before)


def _follow(row: Fault, running: Running, started: float) -> tuple[float, dict[Path, str] | None]:
    """Wait for the run's end; return the seconds from fault to error, and the digests after what was done to it."""
    console, looked = _Console(running.place / row.out, row.mark), 0.0
    at, seen, changed = (None if row.mark else started), None, None
    while running.runner.poll() is None and time.monotonic() - started < _MOST_S:
        if at is None and console.has_mark():
            at = time.monotonic()
            if row.hit:
                row.hit(running)
                changed = _digests(running.images)
        if at is not None and seen is None and not row.until_exit and _record(running.place / row.out).get("problem"):
            seen = time.monotonic()
        if time.monotonic() - looked > _LOOK_EVERY_S:
            running.family.look()
            looked = time.monotonic()
        time.sleep(_POLL_S)
    end = time.monotonic()
    return ((seen or end) - at if at is not None else float("inf")), changed


class _Console:
    """Looks for a mark in a console log that grows."""

    def __init__(self, out: Path, mark: bytes) -> None:
        self._out, self._mark, self._offset = out, mark, 0

    def has_mark(self) -> bool:
        for path in self._out.glob("*/console.log"):
            with path.open("rb") as file:
                file.seek(self._offset)
                piece = file.read(1 << 20)
            self._offset += max(0, len(piece) - len(self._mark))
            return self._mark in piece
        return False


def _result(row: Fault, running: Running, seconds: float, *, unchanged: bool) -> Result:
    status = running.runner.returncode
    left = _leftovers(row, running)
    error = _RUN_ID.sub(
        "…", _error(row, running).replace(f"{running.place}/input/", "").replace(f"{running.place}/", "")
    )
    wrong = [
        *([f"expected error {row.error!r}"] if not re.search(row.error, error) else []),
        *([f"expected exit status {row.exit_status}"] if status != row.exit_status else []),
        *([f"took {seconds:.1f} s of {row.limit_s:g} s"] if seconds > row.limit_s else []),
        *([f"left behind: {', '.join(left)}"] if left else []),
        *(["the image's digest changed"] if not unchanged else []),
    ]
    return Result(
        fault=row.name,
        error=error if len(error) <= _SHOWN else error[: _SHOWN - 1] + "…",
        seconds=round(seconds, 2) if seconds < _MOST_S else _MOST_S,
        limit_s=row.limit_s,
        exit_status=status,
        leftovers=len(left),
        digest_unchanged=unchanged,
        wrong=tuple(wrong),
    )


def _error(row: Fault, running: Running) -> str:
    """Return what the run said: the record's problem, its decision, or what bad usage was answered with."""
    record = _record(running.place / row.out)
    findings = ", ".join(sorted({found["sign"] for found in record.get("findings", ())}))
    if problem := record.get("problem"):
        seen = f"; findings: {findings}" if findings else ""
        return f"{problem['kind']}: {problem['message'].splitlines()[0]}{seen}"
    if record and (record["complete"] or running.runner.returncode not in (2, 4)):
        worst = ", ".join(f"{v['outcome']}, {v['because']}" for v in record["verdicts"] if v["outcome"] != "pass")
        how = "" if record["complete"] else " (incomplete)"
        return f"none: {record['decision']}{how}; findings: {findings or 'none'}{f'; {worst}' if worst else ''}"
    shown = (running.place / "shown").read_text("utf-8", "replace")
    said = re.search(r"(?:cannot judge: |\nERROR: |^ERROR: |Error: )(.*)", shown)
    # The families end a run with a status of their own (seatrial.errors).
    kind = {4: "ConfigError", 2: "HostError"}.get(running.runner.returncode, f"exit {running.runner.returncode}")
    return f"{kind}: {said[1].strip('! ') if said else shown[-_SHOWN:].strip()}"


def _leftovers(row: Fault, running: Running) -> list[str]:
    running.family.look()
    end = time.monotonic() + _GONE_S
    while running.family.living() and time.monotonic() < end:
        time.sleep(_POLL_S)
    processes = [f"process {pid} {command[:60]}" for pid, command in running.family.living().items()]
    out = running.place / row.out
    allowed = {path.name for path in out.glob("*") if path.is_dir()} if out.is_dir() else set()
    for folder in tuple(allowed):
        names = set(_record(out).get("evidence", {}).values()) | {"record.json"}
        if not _record(out).get("complete"):  # a killed run: what it had written so far, and no more
            names |= {"console.log", "qemu.log", "swtpm.log", "screen.png", "errors.txt", "junit.xml", "report.html"}
        # A copy of the guest has logs of its own, in a folder that is evidence as a whole.
        copies = [path for path in (out / folder).glob("restored/*") if "restored" in names]
        names |= {f"restored/{copy.name}{log}" for copy in copies for log in ("", "/console.log", "/qemu.log")}
        allowed |= {f"{folder}/{name}" for name in names}
    files = [
        *stray_files(running.place / "tmp", set()),
        *(stray_files(out, allowed) if out.is_dir() else []),
        *stray_files(running.place / "input", {path.name for path in running.images}),
    ]
    shared = [name for name in os.listdir("/dev/shm") if any(str(pid) in name for pid in running.family.living())]
    return processes + files + stray_sockets(running.place) + shared


def _record(out: Path) -> dict[str, Any]:
    for path in out.glob("*/record.json"):
        with contextlib.suppress(OSError, ValueError):
            return json.loads(path.read_text("utf-8"))  # type: ignore[no-any-return]  # our own schema
    return {}


def _digests(paths: tuple[Path, ...]) -> dict[Path, str]:
    found = {}
    for path in paths:
        if path.is_file():
            with path.open("rb") as file:
                found[path] = hashlib.file_digest(file, "sha256").hexdigest()
    return found
