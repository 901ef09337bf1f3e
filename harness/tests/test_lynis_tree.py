"""The XML of a lynis report: documented, always valid, without loss, and asked by XPath."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lxml import etree
from seatrial.errors import ObservationError
from seatrial.evidence.lynis import FlawKind, parse_report
from seatrial.evidence.lynis.text import encode, unescape
from seatrial.evidence.lynis.tree import (
    NAMESPACE,
    VERSION,
    examine,
    findings,
    read_run,
    serialise,
    to_tree,
    validated,
)
from seatrial.layout import data_dir

SCHEMA = (data_dir("reports") / "lynis.xsd").read_text("utf-8")
FIXTURES = Path(__file__).parents[2] / "fixtures" / "lynis"
RECORDED = (FIXTURES / "debian-13-lynis-3.1.4.dat").read_bytes()
XS = {"xs": "http://www.w3.org/2001/XMLSchema"}
NS = {"l": NAMESPACE}

HEAD = b"# Lynis Report\nreport_version_major=1\nlynis_version=3.1.4\n"
TAIL = b"lynis_tests_done=2\nhardening_index=64\ntests_executed=SSH-7402|AUTH-9204|\ntests_skipped=X-1|\nfinish=true\n"


def report(*lines: bytes) -> bytes:
    return HEAD + b"".join(line + b"\n" for line in lines) + TAIL


def as_bytes(xml: bytes) -> bytes:
    """Return the report that ``xml`` was made of, from the lines that it holds."""
    root = etree.fromstring(xml)
    lines: dict[int, bytes] = {}
    for element in root.iterfind("l:records/l:record", NS):
        brackets = "[]" if element.get("list") == "true" else ""
        text = f"{element.get('key')}{brackets}={unescape(element.text or '')}"
        lines[int(element.get("line", ""))] = encode(text) + (b"\r" if element.get("cr") == "true" else b"")
    for element in root.iterfind("l:loose/l:text", NS):
        cr = b"\r" if element.get("cr") == "true" else b""
        lines[int(element.get("line", ""))] = encode(unescape(element.text or "")) + cr
    source = root.find("l:source", NS)
    assert source is not None
    whole = b"\n".join(lines[number] for number in sorted(lines))
    return whole + (b"\n" if source.get("ends-in-lf") == "true" else b"")


# --- the schema ---


def test_schema_is_a_schema_of_our_namespace_and_version() -> None:
    root = etree.fromstring(SCHEMA.encode())
    etree.XMLSchema(root)
    assert root.get("targetNamespace") == NAMESPACE
    assert root.get("version") == VERSION


def test_schema_documents_every_type_and_itself() -> None:
    root = etree.fromstring(SCHEMA.encode())
    named = root.findall("xs:simpleType", XS) + root.findall("xs:complexType", XS) + root.findall("xs:element", XS)
    assert len(named) > 15
    silent = [item.get("name") for item in named if not item.findtext("xs:annotation/xs:documentation", "", XS).strip()]
    assert silent == []
    assert "Lynis" in root.findtext("xs:annotation/xs:documentation", "", XS)


def test_schema_knows_the_flaws_that_the_reader_knows() -> None:
    root = etree.fromstring(SCHEMA.encode())
    kinds = root.find("xs:simpleType[@name='flaw-kind']", XS)
    assert kinds is not None
    assert [value.get("value") for value in kinds.iterfind(".//xs:enumeration", XS)] == [
        kind.value for kind in FlawKind
    ]
    text = kinds.findtext("xs:annotation/xs:documentation", "", XS)
    damage, notes = text.split("Damage", 1)[1].split("Notes:")
    for kind in FlawKind:
        assert (kind.value in damage) is kind.is_damage
        assert (kind.value in notes) is not kind.is_damage


@pytest.mark.parametrize(
    ("path", "attribute", "value"),
    [
        ("l:run", "hardening-index", "101"),
        ("l:run", "complete", "perhaps"),
        ("l:run", "started", "yesterday"),
        ("l:run", "colour", "red"),
        ("l:source", "bytes", "0"),
        ("l:tests/l:test", "state", "forgotten"),
        ("l:findings/l:finding", "kind", "rumour"),
        ("l:findings/l:finding", "test", "run-complete"),
        ("l:findings/l:finding", "line", "99999"),
        ("l:findings/l:finding", "split", "perhaps"),
        ("l:records/l:record", "key", "two words"),
        ("l:records/l:record", "line", "3"),
        (".", "version", "2.0"),
    ],
)
def test_schema_refuses_what_is_wrong(path: str, attribute: str, value: str) -> None:
    tree = copy.deepcopy(to_tree(parse_report(RECORDED)))
    element = tree.getroot() if path == "." else tree.getroot().find(path, NS)
    assert element is not None
    element.set(attribute, value)
    with pytest.raises(ObservationError, match="does not follow its schema"):
        validated(tree, SCHEMA)


def test_schema_refuses_another_namespace() -> None:
    tree = etree.ElementTree(etree.Element("lynis-report", version=VERSION))
    with pytest.raises(ObservationError, match="does not follow its schema"):
        validated(tree, SCHEMA)


# --- the tree ---


@pytest.mark.parametrize("name", ["debian-13-lynis-3.0.8.dat", "debian-13-lynis-3.1.4.dat"])
def test_recorded_report_is_valid_and_comes_back_byte_for_byte(name: str) -> None:
    data = (FIXTURES / name).read_bytes()
    tree, _ = examine(data, SCHEMA)
    assert as_bytes(serialise(tree)) == data


def test_recorded_run_is_read_by_xpath() -> None:
    _, run = examine(RECORDED, SCHEMA)
    assert run.is_complete
    assert (run.lynis_version, run.hardening_index) == ("3.1.4", 64)
    assert (len(run.executed), len(run.skipped)) == (228, 230)
    assert run.exceptions == ()
    assert len(run.findings) == 39
    assert {finding.split for finding in run.findings} == {"exact"}
    assert len([detail for detail in run.details if detail.test == "KRNL-6000"]) == 19


def test_findings_keep_all_their_fields() -> None:
    tree = to_tree(parse_report(report(b"warning[]=FILE-7524|a <b> & 'c'|see\\log|text:do it|")))
    (found,) = findings(tree)
    assert (found.kind, found.test, found.message, found.details) == (
        "warning",
        "FILE-7524",
        "a <b> & 'c'",
        "see\\\\log",
    )
    assert (found.solution_kind, found.solution, found.line) == ("text", "do it", 4)


def test_finding_that_is_equal_in_all_fields_is_marked_as_duplicate() -> None:
    line = b"suggestion[]=AUTH-9286|a|-|-|"
    tree = to_tree(parse_report(report(line, b"suggestion[]=AUTH-9286|b|-|-|", line, line.replace(b"sugg", b"sugg"))))
    assert [found.is_duplicate for found in findings(tree)] == [False, False, True, True]


def test_warning_and_suggestion_of_the_same_text_are_two_findings() -> None:
    tree = to_tree(parse_report(report(b"suggestion[]=AUTH-9286|a|-|-|", b"warning[]=AUTH-9286|a|-|-|")))
    assert [found.is_duplicate for found in findings(tree)] == [False, False]


def test_exceptions_and_flaws_reach_the_run() -> None:
    _, run = examine(report(b"exception_event[]=BOOT-5104:001|Unknown | manager|", b"loose text"), SCHEMA)
    assert run.exceptions == ("BOOT-5104:001: Unknown | manager",)
    assert [(flaw.kind, flaw.line, flaw.text) for flaw in run.flaws] == [
        (FlawKind.LOOSE_LINE, 5, "no record: 'loose text'")
    ]


def test_inventory_is_in_the_tree() -> None:
    data = report(
        b"installed_packages_array=|libc6:i386,2.36|bash,5.2",
        b"network_listen[]=raw,ss,v1|tcp|0.0.0.0:22|sshd|",
        b"certificate[]=/a.pem|0|cn:subject=CN = A, O = B;notafter:Dec 31 09:37:37 2030 GMT;|",
        b"manual[]=Ask somebody",
        b"manual_event[]=AUTH-9328:03",
    )
    root = examine(data, SCHEMA)[0].getroot()
    assert [p.get("name") for p in root.iterfind("l:packages/l:package", NS)] == ["libc6:i386", "bash"]
    assert [h.get("address") for h in root.iterfind("l:listeners/l:listener", NS)] == ["0.0.0.0:22"]
    assert root.findtext("l:certificates/l:certificate/l:subject", None, NS) == "CN = A, O = B"
    assert [t.text for t in root.iterfind("l:manual/l:task", NS)] == ["Ask somebody", "AUTH-9328:03"]


def test_value_that_has_no_form_is_absent_from_the_run_and_kept_as_record() -> None:
    data = report().replace(b"=64", b"=900").replace(b"3.1.4", b"3 <x>")
    tree, run = examine(data, SCHEMA)
    assert (run.hardening_index, run.lynis_version, run.is_complete) == (None, None, False)
    assert as_bytes(serialise(tree)) == data


def test_last_of_repeated_scalars_counts() -> None:
    _, run = examine(report(b"hardening_index=100"), SCHEMA)
    assert run.hardening_index == 64
    assert not run.is_complete


@pytest.mark.parametrize(
    "raw", [b"\x00", b"\x1b[31m", b"\xff\xfe", b"\t\r\x0b", "\u202e\ufeff\uffff".encode(), b"\\x41\\"]
)
def test_unsafe_text_survives_the_way_through_xml(raw: bytes) -> None:
    data = report(
        b"home_directory[]=/" + raw, b"warning[]=AUTH-9208|" + raw + b"|-|-|", b"details[]=" + raw + b"|x|desc:;|"
    )
    tree, _ = examine(data, SCHEMA)
    xml = serialise(tree)
    assert as_bytes(xml) == data
    assert not set(xml) & (set(range(32)) - {10})
    assert read_run(etree.ElementTree(etree.fromstring(xml))) == read_run(tree)


# --- hostile bytes ---

FRAGMENTS = st.sampled_from(
    [
        b"warning[]=",
        b"suggestion[]=SSH-7408|a|",
        b"details[]=KRNL-6000|sysctl|desc:x;field:y;",
        b"details[]=",
        b"exception_event[]=",
        b"installed_packages_array=|a,1",
        b"certificate[]=/x|0|cn:subject=a;notafter:b;|",
        b"certificate[]=/x|99999999999|cn:",
        b"tests_executed=A|",
        b"lynis_version=",
        b"report_datetime_start=2026-01-01 12:00:00",
        b"network_listen[]=raw,ss,v1|",
        b"manual[]=",
        b"hardening_index=",
        b"|",
        b"]]>",
        b"<!--&lt;",
        b"\\u0041",
        b"\r\n",
        b"\n",
        b"\xff",
        b"\x00\x1b[0m",
        "\u202e\ufeff\u2028\uffff\U0001fffe".encode(),
    ]
)
HOSTILE = st.lists(FRAGMENTS | st.binary(max_size=12), max_size=30).map(b"".join)


@given(HOSTILE)
def test_any_report_gives_valid_xml_that_holds_all_of_it(middle: bytes) -> None:
    data = HEAD + middle
    tree, run = examine(data, SCHEMA)
    xml = serialise(tree)
    assert as_bytes(xml) == data
    assert read_run(etree.ElementTree(etree.fromstring(xml))) == run
    assert not run.is_complete
