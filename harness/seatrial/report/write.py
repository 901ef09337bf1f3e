"""Writes every form of the decision beside the record."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final

from seatrial.report.atomic import write_atomic
from seatrial.report.html import html_page
from seatrial.report.junit import junit_xml
from seatrial.report.record import Record
from seatrial.report.summary import console_tail

__all__ = ["REPORTS", "write_reports"]

REPORTS: Final[Mapping[str, str]] = {"junit": "junit.xml", "html": "report.html"}


def write_reports(record: Record, folder: Path, *, timeline: str = "") -> Mapping[str, str]:
    """Write JUnit XML and the HTML page to ``folder``; return name -> file, to be added to the record's evidence.

    :param timeline: the boot as SVG (see :mod:`seatrial.report.timeline`), for the page.
    """
    told = replace(record, evidence={**record.evidence, **REPORTS})
    write_atomic(folder / REPORTS["junit"], junit_xml(told))
    write_atomic(folder / REPORTS["html"], html_page(told, console_tail(told, folder), timeline=timeline))
    return REPORTS
