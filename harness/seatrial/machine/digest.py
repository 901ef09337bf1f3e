"""The digest of a file on this host."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path

__all__ = ["sha256", "sha256_of_all"]


def sha256(path: Path, *, progress: Callable[[float], None] = lambda _share: None) -> str:
    """Return the SHA-256 of ``path`` as hex; ``progress`` is given the share done, 0 to 1."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        size, done = max(1, os.fstat(file.fileno()).st_size), 0
        while block := file.read(8 * 1024 * 1024):
            digest.update(block)
            done += len(block)
            progress(done / size)
    return digest.hexdigest()


def sha256_of_all(paths: Sequence[Path], *, progress: Callable[[float], None] = lambda _share: None) -> str:
    """Return the SHA-256 of what ``sha256sum`` prints for ``paths``: a line "DIGEST  NAME" each."""
    lines = "".join(f"{sha256(path, progress=progress)}  {path.name}\n" for path in paths)
    return hashlib.sha256(lines.encode("utf-8", "surrogateescape")).hexdigest()
