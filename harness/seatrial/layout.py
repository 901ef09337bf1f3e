"""Where the data folders (suites, qemu, reports) and the cache are: one function each."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["cache_dir", "data_dir", "out_dir"]


def data_dir(name: str) -> Path:
    """Return the folder ``name`` (``suites``, ``qemu``, ``reports``), in a checkout and in a wheel alike."""
    package = Path(__file__).resolve().parent
    packed = package / "_data" / name
    return packed if packed.is_dir() else package.parent.parent / name


def cache_dir(*parts: str) -> Path:
    """Return (and make) a folder below the user's cache (``SEATRIAL_CACHE``, else ``$XDG_CACHE_HOME/seatrial``)."""
    base = (
        os.environ.get("SEATRIAL_CACHE")
        or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "seatrial"
    )
    path = Path(base, *parts)
    path.mkdir(parents=True, exist_ok=True)
    return path


def out_dir() -> Path:
    """Return where reports go by default: ``reports/out`` of the checkout, else below the working folder."""
    checkout = Path(__file__).resolve().parents[2]
    base = checkout if (checkout / "pyproject.toml").is_file() else Path.cwd()
    return base / "reports" / "out"
