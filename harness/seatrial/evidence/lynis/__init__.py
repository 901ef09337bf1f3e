"""What a lynis report means: bytes in, lossless records and flaws out; ``tree`` makes queryable XML of them.

``lxml`` is imported by ``seatrial.evidence.lynis.tree`` only, so that whoever needs the records does not pay for it.
"""

from __future__ import annotations

from seatrial.evidence.lynis.records import Detail, Finding, Flaw, FlawKind, Loose, LynisReport, LynisRun, Record
from seatrial.evidence.lynis.report import MAX_BYTES, parse_report

__all__ = [
    "MAX_BYTES",
    "Detail",
    "Finding",
    "Flaw",
    "FlawKind",
    "Loose",
    "LynisReport",
    "LynisRun",
    "Record",
    "parse_report",
]
