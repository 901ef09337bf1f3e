"""Runs of pytest on the micro guest as a user starts them: in a process of its own, and what it has left."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jsonschema
from leftovers import Family, stray_files, stray_sockets
from micro import QUICK, micro_guest
from seatrial.clock import Deadline
from seatrial.layout import data_dir

__all__ = ["LONG_S", "MicroRun", "started"]

FIXTURES = data_dir("fixtures")
DISK_BYTES = 4 << 20
LOGS = frozenset({"console.log", "qemu.log"})
_GONE_S = 60.0
# A run takes half a minute on an idle computer; only one that hangs takes so long on a busy one.
LONG_S = 600.0


@dataclass(slots=True, kw_only=True)
class MicroRun:
    """A run under way in the empty folder ``place``: its process and all that descends from it."""

    place: Path
    process: subprocess.Popen[bytes]
    family: Family
    image_bytes: bytes = field(repr=False)

    @property
    def folder(self) -> Path:
        """Return the run's folder, which must be the only one."""
        (folder,) = (self.place / "out").iterdir()
        return folder

    @property
    def record(self) -> dict[str, Any]:
        """Return the record, which must fit its schema."""
        record: dict[str, Any] = json.loads((self.folder / "record.json").read_text("utf-8"))
        schema = json.loads((data_dir("reports") / "record.schema.json").read_text("utf-8"))
        jsonschema.validate(record, schema)
        return record

    @property
    def shown(self) -> str:
        """Return what the run has written to its output, where that is a file."""
        return (self.place / "shown").read_text("utf-8", "backslashreplace")

    def ends(self, within_s: float) -> int:
        """Wait for the end and return the exit status."""
        deadline = Deadline(within_s)
        while self.process.poll() is None and not deadline.is_over:
            self.family.look()
            deadline.pause(0.1)
        assert self.process.poll() is not None, f"the run has not ended within {within_s:.0f} s"
        return self.process.returncode

    def verdicts(self) -> dict[str, dict[str, Any]]:
        """Return the record's verdicts by control."""
        return {verdict["control"]: verdict for verdict in self.record["verdicts"]}

    def left(self) -> list[str]:
        """Return what is left of the run beyond its folder: processes, files, sockets; and a changed image.

        Descendants have some seconds to end in: the kernel kills them when their starter has died. pytest keeps its own
        folder of temporary folders.
        """
        self.family.look()
        deadline = Deadline(_GONE_S)
        while self.family.living() and not deadline.is_over:
            deadline.pause(0.1)
        changed = self.image_bytes != (self.place / "disk.raw").read_bytes()
        return [
            *(f"process {pid}: {command[:80]}" for pid, command in self.family.living().items()),
            *(name for name in stray_files(self.place / "tmp", set()) if not name.startswith("pytest-of-")),
            *self._unexpected(),
            *stray_sockets(self.place),
            *(["the image has changed"] if changed else []),
        ]

    def _unexpected(self) -> list[str]:
        """Return files in the run's folder that are no evidence. Copies have logs of their own."""
        record = self.record
        known = {"record.json", *record["evidence"].values()}
        if not record["complete"]:
            known |= {*LOGS, "workers", "restored"}
        files = [path.relative_to(self.folder) for path in self.folder.rglob("*") if not path.is_dir()]
        return [
            str(path) for path in files if path.parts[0] not in known or (len(path.parts) > 1 and path.name not in LOGS)
        ]

    def clones(self) -> set[str]:
        """Return the folders of guests that were copied: each has QEMU's log."""
        return {str(path.parent.relative_to(self.folder)) for path in self.folder.glob("**/restored/*/qemu.log")}


@contextlib.contextmanager
def started(
    place: Path, suite: str, *options: str, terminal: int | None = None, is_known: bool = True, **more: str
) -> Iterator[MicroRun]:
    """Start ``pytest --image DISK ... SUITE`` in ``place``; it is killed at the end of the block if it still runs.

    :param suite: a folder of ``fixtures/suites``, which is copied as a user's own.
    :param terminal: the terminal that the run gets as its own, Ctrl-C included, and that is closed here then; without
        one its output goes to the file ``shown``.
    :param is_known: say of which flavour the guest is.
    :param more: variables for its environment.
    """
    guest = micro_guest()
    (place / "tmp").mkdir()
    shutil.copytree(FIXTURES / "suites" / suite, place / suite)
    image = b"\0" * 510 + b"\x55\xaa" + b"\0" * (DISK_BYTES - 512)
    (place / "disk.raw").write_bytes(image)
    (place / "pytest.ini").write_text("[pytest]\n")  # the user's folder; without it pytest would look for ours
    subject = ("--image", "disk.raw", "--kernel", guest.kernel, "--initrd", guest.initrd, "--append", QUICK)
    machine = ("--machine", "q35-bios", "--memory", "384", "--cpus", "1", "--accel", "tcg")
    policy = ("--out", "out", *(("--flavour", FIXTURES / "faults" / "micro.toml") if is_known else ()))
    plain = (sys.executable, "-m", "pytest", "-c", "pytest.ini", "-p", "no:cacheprovider")
    own_session = ("setsid", "--ctty") if terminal is not None else ()
    words = [*own_session, *plain, *subject, *machine, *policy, *options, suite]
    kept = {name: value for name, value in os.environ.items() if name in ("HOME", "PATH", "SEATRIAL_CACHE", "LANG")}
    kept |= {"PYTHONPATH": os.pathsep.join(map(str, sys.path)), "TMPDIR": str(place / "tmp"), "TERM": "xterm"}
    with contextlib.ExitStack() as stack:
        stream: Any = terminal if terminal is not None else stack.enter_context((place / "shown").open("wb"))
        process = subprocess.Popen(
            [os.fspath(word) for word in words],
            stdin=subprocess.DEVNULL if terminal is None else terminal,
            stdout=stream,
            stderr=stream,
            cwd=place,
            env={**kept, **more},
            start_new_session=terminal is None,
        )
        if terminal is not None:
            os.close(terminal)
        try:
            yield MicroRun(place=place, process=process, family=Family(process.pid, place / "tmp"), image_bytes=image)
        finally:
            if process.poll() is None:
                process.kill()
            process.wait()
