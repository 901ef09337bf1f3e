"""JUnit XML: a suite of controls is a testsuite, a control a testcase; whatever rejects the candidate turns CI red."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC

from lxml import etree

from seatrial.evidence.console import Finding
from seatrial.policy.judge import Outcome, Verdict
from seatrial.report.record import Record
from seatrial.report.summary import acceptance, run_reasons, says_more, waivers_to_mend
from seatrial.report.text import shortened, visible

__all__ = ["junit_xml"]

_MOST_MESSAGE = 500
_MOST_BODY = 20_000
# Servers know no «not checked», and show a skipped test as harmless. What was not checked rejects, so it is an error.
_ELEMENTS: Mapping[Outcome, str] = {
    Outcome.FAIL: "failure",
    Outcome.ERROR: "error",
    Outcome.NOT_CHECKED: "error",
    Outcome.NOT_APPLICABLE: "skipped",
}


def junit_xml(record: Record) -> bytes:
    """Return ``record`` as one JUnit XML document."""
    suites = list(dict.fromkeys([*record.suites, *(v.suite for v in record.verdicts)]))
    by_suite = {name: [v for v in record.verdicts if v.suite == name] for name in suites}
    root = etree.Element("testsuites", name="seatrial")
    root.append(_run_suite(record))
    for name, verdicts in by_suite.items():
        root.append(_suite(record, name, verdicts))
    for total in ("tests", "failures", "errors", "skipped"):
        root.set(total, str(sum(int(suite.get(total, "0")) for suite in root)))
    root.set("time", _seconds(record.verdicts))
    return etree.tostring(root, xml_declaration=True, encoding="UTF-8", pretty_print=True)


def _run_suite(record: Record) -> etree._Element:
    """Return the suite of the run itself: red for what stands against a release and is no control's."""
    case = etree.Element("testcase", classname="seatrial.run", name="the-run-could-judge", time="0.000")
    reasons = run_reasons(record)
    if reasons:
        problem = record.problem
        body = "" if problem is None else "\n".join((problem.message, problem.hint, problem.evidence))
        message = problem.message if problem is not None else "; ".join(reasons)
        case.append(_element("error", type=problem.kind if problem else "run", message=message, body=body))
    if record.findings:
        said = etree.SubElement(case, "system-out")
        said.text = shortened("\n".join(map(_finding, record.findings)), _MOST_BODY)
    return _testsuite(record, "run", [case], "0.000")


def _finding(found: Finding) -> str:
    accepted = f" (accepted: {found.accepted})" if found.accepted else ""
    return f"{found.at_s:.1f} s, {found.phase}, {found.count}x {found.title}: {found.line}{accepted}"


def _suite(record: Record, name: str, verdicts: Sequence[Verdict]) -> etree._Element:
    return _testsuite(record, name, [_case(verdict) for verdict in verdicts], _seconds(verdicts))


def _testsuite(record: Record, name: str, cases: Sequence[etree._Element], seconds: str) -> etree._Element:
    suite = etree.Element("testsuite", name=visible(f"seatrial.{name}"))
    numbers = {
        "tests": len(cases),
        "failures": sum(case.find("failure") is not None for case in cases),
        "errors": sum(case.find("error") is not None for case in cases),
        "skipped": sum(case.find("skipped") is not None for case in cases),
    }
    for key, number in numbers.items():
        suite.set(key, str(number))
    suite.set("time", seconds)
    suite.set("timestamp", record.started.astimezone(UTC).replace(tzinfo=None).isoformat(timespec="seconds"))
    suite.set("hostname", visible(record.image.name))
    suite.append(_properties(_run_properties(record)))
    suite.extend(cases)
    return suite


def _run_properties(record: Record) -> Iterable[tuple[str, str]]:
    machine = record.machine
    yield "seatrial.version", record.seatrial
    yield "seatrial.run", record.run
    yield "decision", record.decision
    yield "flavour", record.flavour.name
    yield "image.path", record.image.path
    yield "image.sha256", record.image.sha256
    for note in waivers_to_mend(record):
        yield "waiver", f"{note.control} is {note.state}: {note.because}"
    if record.replay is not None:
        yield "facts", record.replay.facts
        yield "left-out", ", ".join(record.replay.left_out)
    if machine is not None:
        yield "machine", machine.definition
        yield "accelerator", machine.accelerator
    for difference in record.differences:
        yield f"difference.{difference.kind}", difference.text


def _case(verdict: Verdict) -> etree._Element:
    case = etree.Element(
        "testcase",
        classname=visible(f"seatrial.{verdict.suite}"),
        name=visible(verdict.control),
        time=_seconds([verdict]),
    )
    again = (("repeats", str(verdict.repeats)), ("repeats-failed", str(verdict.repeats_failed)))
    about = [("title", verdict.title), ("severity", verdict.severity), *(("ref", ref) for ref in verdict.refs)]
    case.append(_properties([*about, *(again if verdict.repeats else ())]))
    if verdict.waived is not None:
        message = f"waived: {acceptance(verdict.waived)}"
        case.append(_element("skipped", type="waived", message=message, body=_body(verdict)))
    elif name := _ELEMENTS.get(verdict.outcome):
        message = f"{verdict.title}: {verdict.because}" if verdict.because else verdict.title
        kind = verdict.severity if verdict.outcome is Outcome.FAIL else verdict.outcome
        case.append(_element(name, type=kind, message=message, body=_body(verdict)))
    return case


def _body(verdict: Verdict) -> str:
    fields = {
        "control": f"{verdict.control}: {verdict.title}",
        "severity": verdict.severity,
        "expected": verdict.expected,
        "seen": verdict.seen,
        "because": verdict.because if says_more(verdict) else "",
        "rationale": verdict.rationale,
        "remedy": verdict.remedy,
        "refs": ", ".join(verdict.refs),
    }
    return "\n".join(f"{name}: {text}" for name, text in fields.items() if text)


def _element(name: str, *, type: str, message: str, body: str) -> etree._Element:
    element = etree.Element(name, type=visible(type), message=shortened(message, _MOST_MESSAGE))
    element.text = shortened(body, _MOST_BODY) or None
    return element


def _properties(pairs: Iterable[tuple[str, str]]) -> etree._Element:
    properties = etree.Element("properties")
    for name, value in pairs:
        etree.SubElement(properties, "property", name=name, value=shortened(value, _MOST_BODY))
    return properties


def _seconds(verdicts: Iterable[Verdict]) -> str:
    return f"{sum(verdict.seconds or 0.0 for verdict in verdicts):.3f}"
