"""Files that are whole at every moment, even when the run is killed while it writes."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from seatrial.errors import HostError

__all__ = ["write_atomic"]


def write_atomic(path: Path, content: str | bytes) -> None:
    """Put ``content`` (text as UTF-8) at ``path``: a reader finds the old file or the new one, never a part.

    :raises HostError: it cannot be written; what was there is still there.
    """
    try:
        _replace(path, content.encode("utf-8") if isinstance(content, str) else content)
    except OSError as exc:
        raise HostError(
            f"cannot write {str(path)!r}: {exc.strerror}",
            hint="'df' tells whether the disk is full; --out DIR puts results elsewhere",
            evidence=path.parent,
        ) from exc


def _replace(path: Path, data: bytes) -> None:
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(0o644)  # mkstemp gives 0600, and CI servers collect reports as another user
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
