"""The published XML form of a report (``reports/lynis.xsd``): built, validated, and asked by XPath."""

from __future__ import annotations

import re
from typing import Final, Literal, cast

from lxml import etree

from seatrial.errors import ObservationError
from seatrial.evidence.lynis.fields import (
    certificate_of,
    detail_of,
    event_of,
    finding_of,
    ids_of,
    listener_of,
    packages_of,
)
from seatrial.evidence.lynis.records import Detail, Finding, FindingKind, Flaw, FlawKind, LynisReport, LynisRun, Split
from seatrial.evidence.lynis.report import parse_report
from seatrial.evidence.lynis.text import escape, shorten

__all__ = ["NAMESPACE", "VERSION", "examine", "findings", "read_run", "serialise", "to_tree", "validated"]

NAMESPACE: Final = "urn:seatrial:lynis-report:1"
VERSION: Final = "1.0"
_NS: Final = {"l": NAMESPACE}
_DETAIL_FIELDS: Final = ("desc", "field", "prefval", "value", "other")
_TIME: Final = r"[0-9]{4}-[0-9]{2}-[0-9]{2} [0-9]{2}:[0-9]{2}:[0-9]{2}"
_SolutionKind = Literal["text", "url", "plain"]


def to_tree(report: LynisReport) -> etree._ElementTree:
    """Return ``report`` as XML: every line of it, and what the lines mean. All guest text is escaped."""
    nsmap = {None: NAMESPACE}
    root = etree.Element(f"{{{NAMESPACE}}}lynis-report", version=VERSION, nsmap=nsmap)  # type: ignore[arg-type]  # stubs
    _add(root, "source", bytes=report.size, lines=len(report.lines), ends_in_lf=_flag(report.ends_in_lf))
    _add(root, "run", **_run_of(report))
    _add_flaws(_add(root, "flaws"), report)
    _add_tests(_add(root, "tests"), report)
    _add_findings(_add(root, "findings"), report)
    _add_details(_add(root, "details"), report)
    _add_events(root, report)
    _add_inventory(root, report)
    _add_lines(root, report)
    return root.getroottree()


def validated(tree: etree._ElementTree, schema: str) -> etree._ElementTree:
    """Return ``tree`` after checking it against ``schema``, the text of ``reports/lynis.xsd``.

    :raises ObservationError: it is not valid.
    """
    xsd = etree.XMLSchema(etree.fromstring(schema.encode(), _parser()))
    try:
        xsd.assertValid(tree)
    except etree.DocumentInvalid as exc:
        raise ObservationError(
            f"the XML of the lynis report does not follow its schema: {shorten(str(exc), 300)}",
            hint="this is a fault of seatrial: please report it together with the report file",
        ) from exc
    return tree


def serialise(tree: etree._ElementTree) -> bytes:
    """Return ``tree`` as a file's content."""
    return etree.tostring(tree, encoding="UTF-8", xml_declaration=True, pretty_print=True)


def examine(data: bytes, schema: str) -> tuple[etree._ElementTree, LynisRun]:
    """Return the validated XML of a report file, and what it says as a whole.

    :raises ObservationError: this is no lynis report, or it is larger than any real one.
    """
    tree = validated(to_tree(parse_report(data)), schema)
    return tree, read_run(tree)


def read_run(tree: etree._ElementTree) -> LynisRun:
    """Return what the report in ``tree`` says as a whole."""
    index = _texts(tree, "/l:lynis-report/l:run/@hardening-index")
    version = _texts(tree, "/l:lynis-report/l:run/@lynis-version")
    return LynisRun(
        is_complete=_texts(tree, "/l:lynis-report/l:run/@complete") == ["true"],
        flaws=tuple(
            Flaw(FlawKind(e.get("kind", "")), int(e.get("line", "0")), int(e.get("count", "0")), e.text or "")
            for e in _elements(tree, "/l:lynis-report/l:flaws/l:flaw")
        ),
        lynis_version=version[0] if version else None,
        hardening_index=int(index[0]) if index else None,
        executed=frozenset(_texts(tree, "/l:lynis-report/l:tests/l:test[@state='executed']/@id")),
        skipped=frozenset(_texts(tree, "/l:lynis-report/l:tests/l:test[@state='skipped']/@id")),
        exceptions=tuple(
            f"{e.get('test', '')}: {e.text or ''}" for e in _elements(tree, "/l:lynis-report/l:exceptions/l:exception")
        ),
        findings=findings(tree),
        details=tuple(_detail(e) for e in _elements(tree, "/l:lynis-report/l:details/l:detail")),
    )


def findings(tree: etree._ElementTree) -> tuple[Finding, ...]:
    """Return the warnings and suggestions in ``tree``, in the order of the report, duplicates marked."""
    return tuple(_finding(e) for e in _elements(tree, "/l:lynis-report/l:findings/l:finding"))


def _finding(element: etree._Element) -> Finding:
    solution = element.find("l:solution", _NS)
    return Finding(
        line=int(element.get("line", "0")),
        kind=cast(FindingKind, element.get("kind")),
        test=element.get("test"),
        message=element.findtext("l:message", "", _NS),
        details=element.findtext("l:details", None, _NS),
        solution_kind=None if solution is None else cast(_SolutionKind, solution.get("kind")),
        solution=None if solution is None else solution.text or "",
        split=cast(Split, element.get("split")),
        is_duplicate=element.get("duplicate") == "true",
    )


def _detail(element: etree._Element) -> Detail:
    fields = {name: element.findtext(f"l:{name}", None, _NS) for name in _DETAIL_FIELDS}
    line, test, service = int(element.get("line", "0")), element.get("test", "-"), element.get("service", "-")
    return Detail(line=line, test=test, service=service, **fields)


def _elements(tree: etree._ElementTree, path: str) -> list[etree._Element]:
    return cast(list[etree._Element], tree.xpath(path, namespaces=_NS))


def _texts(tree: etree._ElementTree, path: str) -> list[str]:
    return [str(found) for found in cast(list[str], tree.xpath(path, namespaces=_NS))]


def _parser() -> etree.XMLParser:
    return etree.XMLParser(resolve_entities=False, no_network=True, load_dtd=False, huge_tree=False)


def _add(
    parent: etree._Element, tag: str, text: str | None = None, /, **attributes: str | int | None
) -> etree._Element:
    given = {key.replace("_", "-"): escape(str(value)) for key, value in attributes.items() if value is not None}
    element = etree.SubElement(parent, f"{{{NAMESPACE}}}{tag}", given)
    if text is not None:
        element.text = escape(text)
    return element


def _flag(value: bool) -> str:
    return "true" if value else "false"


def _run_of(report: LynisReport) -> dict[str, str | None]:
    def last(key: str, pattern: str) -> str | None:
        found = report.scalars(key)
        return found[-1].value if found and re.fullmatch(pattern, found[-1].value, re.ASCII) else None

    return {
        "complete": _flag(report.is_complete),
        "lynis_version": last("lynis_version", r"[0-9A-Za-z.+~-]{1,32}"),
        "hardening_index": last("hardening_index", r"[0-9]{1,2}|100"),
        "tests_done": last("lynis_tests_done", r"[0-9]{1,6}"),
        "started": last("report_datetime_start", _TIME),
        "ended": last("report_datetime_end", _TIME),
    }


def _add_flaws(parent: etree._Element, report: LynisReport) -> None:
    for flaw in report.flaws:
        damage = _flag(flaw.kind.is_damage)
        element = _add(parent, "flaw", kind=flaw.kind, damage=damage, line=flaw.line, count=flaw.count)
        element.text = flaw.text  # our words; what they quote of the guest is escaped already


def _add_tests(parent: etree._Element, report: LynisReport) -> None:
    for key, state in (("tests_executed", "executed"), ("tests_skipped", "skipped")):
        for record in report.scalars(key)[-1:]:
            for test in ids_of(record.value):
                _add(parent, "test", id=test, state=state)


def _add_findings(parent: etree._Element, report: LynisReport) -> None:
    seen: set[tuple[str | None, ...]] = set()
    for record in report.records:
        if not record.is_list or record.key not in ("warning", "suggestion"):
            continue
        found = finding_of(record, cast(FindingKind, record.key))
        same = (found.kind, found.test, found.message, found.details, found.solution)
        element = _add(parent, "finding", line=found.line, kind=found.kind, test=found.test, split=found.split)
        element.set("duplicate", _flag(same in seen))
        seen.add(same)
        _add(element, "message", found.message)
        if found.details is not None:
            _add(element, "details", found.details)
        if found.solution is not None:
            _add(element, "solution", found.solution, kind=found.solution_kind)


def _add_details(parent: etree._Element, report: LynisReport) -> None:
    for detail in filter(None, map(detail_of, report.items("details"))):
        element = _add(parent, "detail", line=detail.line, test=detail.test, service=detail.service)
        for name in _DETAIL_FIELDS:
            value = getattr(detail, name)
            if value is not None:
                _add(element, name, value)


def _add_events(root: etree._Element, report: LynisReport) -> None:
    exceptions = _add(root, "exceptions")
    for record in report.items("exception_event"):
        test, text = event_of(record.value)
        _add(exceptions, "exception", text, line=record.line, test=test)
    manual = _add(root, "manual")
    for record in report.records:
        if record.is_list and record.key in ("manual", "manual_event"):
            _add(manual, "task", record.value, line=record.line)


def _add_inventory(root: etree._Element, report: LynisReport) -> None:
    packages = _add(root, "packages")
    for record in report.scalars("installed_packages_array")[-1:]:
        for name, version in packages_of(record.value):
            _add(packages, "package", name=name, version=version)
    listeners = _add(root, "listeners")
    for record in report.items("network_listen"):
        if (heard := listener_of(record.value)) is not None:
            element = _add(listeners, "listener", line=record.line, protocol=heard.protocol)
            element.set("address", escape(heard.address))
            element.set("process", escape(heard.process))
    certificates = _add(root, "certificates")
    for record in report.items("certificate"):
        if (shown := certificate_of(record.value)) is not None:
            element = _add(certificates, "certificate", line=record.line, status=shown.status)
            _add(element, "path", shown.path)
            _add(element, "subject", shown.subject)
            _add(element, "not-after", shown.not_after)


def _add_lines(root: etree._Element, report: LynisReport) -> None:
    records = _add(root, "records")
    for record in report.records:
        element = _add(records, "record", record.value, line=record.line, key=record.key)
        element.set("list", _flag(record.is_list))
        element.set("cr", _flag(record.ends_in_cr))
    loose = _add(root, "loose")
    for line in report.loose:
        _add(loose, "text", line.text, line=line.line, cr=_flag(line.ends_in_cr))
