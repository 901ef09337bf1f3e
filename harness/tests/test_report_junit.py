"""JUnit XML: the shape that CI servers read, and red for everything that rejects."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lxml import etree
from records import DIGEST, FINDING, HOSTILE, boot_failure, record, reject, release, verdict
from seatrial.policy.judge import Decision, Outcome
from seatrial.report.junit import junit_xml
from seatrial.report.record import Record

# The shape that pytest writes and that Jenkins and GitLab read.
SHAPE = etree.RelaxNG(
    etree.fromstring(
        b"""
<grammar xmlns="http://relaxng.org/ns/structure/1.0"
         datatypeLibrary="http://www.w3.org/2001/XMLSchema-datatypes">
  <define name="counts">
    <attribute name="tests"><data type="nonNegativeInteger"/></attribute>
    <attribute name="failures"><data type="nonNegativeInteger"/></attribute>
    <attribute name="errors"><data type="nonNegativeInteger"/></attribute>
    <attribute name="skipped"><data type="nonNegativeInteger"/></attribute>
    <attribute name="time"><data type="decimal"/></attribute>
  </define>
  <define name="properties">
    <element name="properties"><zeroOrMore><element name="property">
      <attribute name="name"/><attribute name="value"/>
    </element></zeroOrMore></element>
  </define>
  <define name="result"><attribute name="type"/><attribute name="message"/><text/></define>
  <start><element name="testsuites">
    <attribute name="name"/><ref name="counts"/>
    <zeroOrMore><element name="testsuite">
      <attribute name="name"/><ref name="counts"/>
      <attribute name="timestamp"><data type="dateTime"/></attribute>
      <attribute name="hostname"/>
      <ref name="properties"/>
      <zeroOrMore><element name="testcase">
        <attribute name="classname"/><attribute name="name"/>
        <attribute name="time"><data type="decimal"/></attribute>
        <optional><ref name="properties"/></optional>
        <optional><choice>
          <element name="failure"><ref name="result"/></element>
          <element name="error"><ref name="result"/></element>
          <element name="skipped"><ref name="result"/></element>
        </choice></optional>
        <optional><element name="system-out"><text/></element></optional>
      </element></zeroOrMore>
    </element></zeroOrMore>
  </element></start>
</grammar>"""
    )
)


def tree(made: Record) -> etree._Element:
    root = etree.fromstring(junit_xml(made))
    SHAPE.assertValid(root)
    return root


def red(root: etree._Element) -> int:
    return int(root.get("failures", "")) + int(root.get("errors", ""))


def case(root: etree._Element, name: str) -> etree._Element:
    found = root.findall(f".//testcase[@name='{name}']")
    assert len(found) == 1
    return found[0]


@pytest.mark.parametrize(
    ("outcome", "element", "kind"),
    [
        (Outcome.FAIL, "failure", "high"),
        (Outcome.ERROR, "error", "error"),
        (Outcome.NOT_CHECKED, "error", "not-checked"),
        (Outcome.NOT_APPLICABLE, "skipped", "not-applicable"),
    ],
)
def test_an_outcome_has_its_element(outcome: Outcome, element: str, kind: str) -> None:
    result = case(tree(reject()), f"control-{outcome}").find(element)
    assert result is not None
    assert result.get("type") == kind
    assert "saw lockdown = none" in result.get("message", "")
    assert "remedy: Boot with lockdown=integrity." in (result.text or "")


def test_a_pass_has_no_result_element() -> None:
    assert [child.tag for child in case(tree(reject()), "control-pass")] == ["properties"]


@pytest.mark.parametrize(
    "made",
    [
        release(),
        reject(),
        boot_failure(),
        record(),
        record(verdict(), complete=False, finished=None),
        record(verdict(), problem=boot_failure().problem),
        record(verdict("a", Outcome.NOT_APPLICABLE)),
    ],
)
def test_ci_is_red_exactly_when_the_decision_is_reject(made: Record) -> None:
    assert (red(tree(made)) > 0) == (made.decision is Decision.REJECT)


def test_the_counts_are_those_of_the_testcases() -> None:
    root = tree(reject())
    for element in (root, *root.iter("testsuite")):
        for attribute, path in {
            "tests": ".//testcase",
            "failures": ".//failure",
            "errors": ".//error",
            "skipped": ".//skipped",
        }.items():
            assert element.get(attribute) == str(len(element.findall(path)))


def test_the_problem_of_the_run_is_a_testcase() -> None:
    error = case(tree(boot_failure()), "the-run-could-judge").find("error")
    assert error is not None
    assert (error.get("type"), "Kernel panic" in error.get("message", "")) == ("BootFatal", True)


def test_the_properties_tell_what_was_judged() -> None:
    told = {p.get("name"): p.get("value") for p in tree(release()).iterfind(".//testsuite/properties/property")}
    assert told["image.sha256"] == DIGEST
    assert (told["flavour"], told["decision"], told["accelerator"]) == ("debian-general", "release", "tcg")


def test_a_control_carries_its_severity_and_references() -> None:
    properties = case(tree(release()), "kernel-lockdown").iterfind("properties/property")
    pairs = [(p.get("name"), p.get("value")) for p in properties]
    assert ("severity", "high") in pairs
    assert [value for name, value in pairs if name == "ref"] == ["https://example.org/lockdown", "KSPP"]


def test_a_suite_without_verdicts_is_still_there() -> None:
    names = [suite.get("name") for suite in tree(record(verdict(), suites=("kernel", "boot"))).iter("testsuite")]
    assert names == ["seatrial.run", "seatrial.kernel", "seatrial.boot"]


def test_hostile_text_arrives_as_escapes() -> None:
    failure = case(tree(record(verdict("a", Outcome.FAIL, seen=HOSTILE))), "a").find("failure")
    assert failure is not None
    assert r"seen: <script>alert('x')</script>\x1b[31m\u202egnp.exe\x00\x9b2J\ud800\ufffe]]>&amp;" in (
        failure.text or ""
    )


@settings(deadline=None)  # a busy computer is no fault
@given(st.text(st.characters()), st.sampled_from(Outcome))
def test_any_text_makes_a_valid_document(text: str, outcome: Outcome) -> None:
    fields = dict.fromkeys(["title", "seen", "expected", "because", "suite"], text or "-")
    assert len(tree(record(verdict("a", outcome, **fields))).findall(".//testcase")) == 2


def test_findings_are_the_output_of_the_run() -> None:
    made = record(verdict(), findings=(FINDING, replace(FINDING, line=HOSTILE, accepted="known")))
    said = case(tree(made), "the-run-could-judge").findtext("system-out")
    assert said is not None
    assert said.startswith("31.2 s, userspace, 3x a unit failed: [FAILED] Failed to start agent.service.\n")
    assert said.endswith("(accepted: known)")
    assert "\x1b" not in said
