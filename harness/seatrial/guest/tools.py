"""Programs that a suite brings along: pushed over the session into the guest's memory, gone with the boot."""

from __future__ import annotations

import base64
import shlex
import shutil
from pathlib import Path
from typing import Any, Final

from seatrial.errors import ObservationError

__all__ = ["found_or_pushed"]

_FOLDER: Final = "/run/seatrial-tools"
_CHUNK: Final = 48 * 1024
_MOST_BYTES: Final = 8 * 1024 * 1024


def found_or_pushed(host: Any, program: str) -> str:
    """Return the path in the guest of ``program``: its own, or this computer's, pushed; empty when neither has it.

    :param host: a testinfra host.
    :raises ObservationError: the guest does not take it.
    """
    own = host.run(f"command -v {shlex.quote(program)}")
    if own.rc == 0 and own.stdout.strip():
        return str(own.stdout.strip())
    here = shutil.which(program)
    return _pushed(host, Path(here)) if here else ""


def _pushed(host: Any, program: Path) -> str:
    content = program.read_bytes()
    if len(content) > _MOST_BYTES:
        raise ObservationError(f"{str(program)!r} is too large to be pushed into a guest: {len(content)} bytes")
    target = f"{_FOLDER}/{program.name}"
    quoted = shlex.quote(target)
    commands = [f"mkdir -p -m 0700 {_FOLDER} && : > {quoted}"]
    for start in range(0, len(content), _CHUNK):
        text = base64.b64encode(content[start : start + _CHUNK]).decode()
        commands.append(f"printf %s {text} | base64 -d >> {quoted}")
    commands.append(f"chmod 0700 {quoted} && test $(wc -c < {quoted}) -eq {len(content)}")
    for command in commands:
        done = host.run(command)
        if done.rc != 0:
            raise ObservationError(f"the guest did not take {program.name!r}: {done.stderr.strip()[:200]!r}")
    return target
