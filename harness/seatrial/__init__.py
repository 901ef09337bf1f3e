"""Seatrial gates operating-system releases: boot the candidate, judge it, decide release or reject."""

from __future__ import annotations

__all__ = ["__version__"]

__version__ = "0.1.0"
