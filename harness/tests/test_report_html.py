"""The HTML page: self-contained, decision first, and deaf to what a guest wrote."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lxml import html
from records import FINDING, HOSTILE, PANIC, boot_failure, disk_writes, record, reject, release, verdict
from seatrial.policy.judge import Outcome, Severity
from seatrial.report.html import html_page
from seatrial.report.record import Record, read_record, to_json
from seatrial.report.summary import console_tail
from seatrial.report.write import write_reports


def page(made: Record, tail: tuple[str, ...] = ()) -> html.HtmlElement:
    return html.document_fromstring(html_page(made, tail))


def text(element: html.HtmlElement) -> str:
    return " ".join(element.text_content().split())


@pytest.mark.parametrize("made", [release(), reject(), boot_failure(), record()])
def test_the_page_opens_with_the_decision(made: Record) -> None:
    body = page(made).body
    assert body[0].tag == "header"
    assert text(body[0]).startswith(made.decision)


@pytest.mark.parametrize("made", [release(), reject(), boot_failure(), record(verdict(seen=HOSTILE))])
def test_the_page_runs_and_loads_nothing(made: Record) -> None:
    document = page(made)
    assert document.xpath("//script | //link | //img | //iframe | //object | //*[@src]") == []
    assert document.xpath("//@*[starts-with(name(), 'on')]") == []
    assert "url(" not in document.xpath("string(//style)")
    assert document.xpath("//meta[@http-equiv='Content-Security-Policy']/@content")[0].startswith("default-src 'none'")


def test_hostile_text_is_shown_and_not_obeyed() -> None:
    written = html_page(record(verdict("a", Outcome.FAIL, seen=HOSTILE, title=HOSTILE)))
    assert "<script" not in written
    assert "\x1b" not in written
    assert "\u202e" not in written
    shown = text(html.document_fromstring(written))
    assert r"<script>alert('x')</script>\x1b[31m\u202egnp.exe\x00\x9b2J\ud800\ufffe]]>&amp;" in shown


@settings(max_examples=25, deadline=None)  # a page takes 30 ms, and more on a busy computer
@given(st.text(st.characters()))
def test_any_text_leaves_the_structure_as_it_is(guest: str) -> None:
    def shape(seen: str) -> list[str]:
        filled = verdict("a", Outcome.FAIL, seen=seen, title=seen, because=seen, rationale=seen, suite=seen)
        tail = (seen,)
        return [e.tag for e in page(record(filled, problem=PANIC), tail).iter() if isinstance(e.tag, str)]

    assert shape(f"x{guest}") == shape("x")


def test_what_stands_against_a_release_comes_by_outcome_then_severity() -> None:
    made = record(
        verdict("e", Outcome.ERROR, severity=Severity.CRITICAL, because="no answer"),
        verdict("f-low", Outcome.FAIL, severity=Severity.LOW),
        verdict("n", Outcome.NOT_CHECKED),
        verdict("f-critical", Outcome.FAIL, severity=Severity.CRITICAL),
        verdict("p"),
    )
    assert page(made).xpath("//article//h3//code/text()") == ["f-critical", "f-low", "e", "n"]


def test_a_failure_tells_all_that_is_known() -> None:
    card = text(page(record(verdict("a", Outcome.FAIL))).xpath("//article")[0])
    for part in (
        "lockdown = integrity",
        "lockdown = none",
        "Root must not",
        "Boot with",
        "https://example.org/lockdown",
        "high",
    ):
        assert part in card
    assert "Because" not in card


def test_only_web_addresses_become_links() -> None:
    made = record(verdict("a", Outcome.FAIL, refs=("javascript:alert(1)", "https://example.org/x")))
    assert page(made).xpath("//article//a/@href") == ["https://example.org/x"]


def test_evidence_links_stay_in_the_folder() -> None:
    made = replace(release(), evidence={"odd": "javascript:alert(1)", "console": "a b.log"})
    links = page(made).xpath("//li/a/@href")
    assert links == ["./record.json", "./javascript%3Aalert%281%29", "./a%20b.log"]


def test_the_evidence_is_said_in_words_and_the_page_links_to_all_but_itself() -> None:
    made = replace(release(), evidence={"qemu": "qemu.log", "html": "report.html"})
    items = [text(item) for item in page(made).xpath("//li[a[starts-with(@href, './')]]")]
    assert items == ["record.json: everything on this page, for programs", "qemu.log: what QEMU said"]


def test_many_not_checked_for_one_reason_are_one_card() -> None:
    cards = page(boot_failure(97)).xpath("//article")
    assert len(cards) == 1
    assert "97 controls for the same reason" in text(cards[0])
    assert len(cards[0].xpath(".//details//tbody/tr")) == 97


def test_the_console_is_shown_when_the_boot_failed() -> None:
    assert "Kernel panic" in text(page(boot_failure(), ("[2.0] Kernel panic",)).xpath("//pre")[0])


def test_a_boot_of_no_length_is_drawn() -> None:
    boot = release().boot
    assert boot is not None
    still = replace(boot, banner_s=0.0, login_s=0.0, ready_s=0.0, phases={})
    assert len(page(replace(release(), boot=still)).xpath("//svg")) == 2


@given(st.dictionaries(st.sampled_from(Outcome), st.integers(1, 400), min_size=1))
@settings(max_examples=10, deadline=None)  # up to 2,000 verdicts a page
def test_bars_never_leave_their_picture(numbers: dict[Outcome, int]) -> None:
    made = record(*(verdict(f"{o}-{i}", o) for o, n in numbers.items() for i in range(n)))
    for bar in page(made).xpath("//svg"):
        pieces = [(float(r.get("x")), float(r.get("width"))) for r in bar.xpath("rect[not(@class='ground')]")]
        assert all(width > 0 for _, width in pieces)
        assert max(x + width for x, width in pieces) <= 100.01


def test_the_reports_lie_beside_the_record(tmp_path: Path) -> None:
    (tmp_path / "console.log").write_bytes(b"first\r\n\x1b[1;31mlast words\x1b[0m\xff\r\n")
    made = replace(boot_failure(), problem=replace(PANIC, console_tail=()))
    files = write_reports(made, tmp_path)
    assert files == {"junit": "junit.xml", "html": "report.html"}
    assert sorted(p.name for p in tmp_path.iterdir()) == ["console.log", "junit.xml", "report.html"]
    written = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "first\nlast words\\xff\n" in written
    assert 'href="./junit.xml"' in written


def test_the_tail_of_a_console_is_short_and_only_for_a_problem(tmp_path: Path) -> None:
    (tmp_path / "console.log").write_text("".join(f"line {n}\n" for n in range(50_000)))
    failed = replace(boot_failure(), problem=replace(PANIC, console_tail=()))
    assert console_tail(failed, tmp_path, 2) == ("line 49998", "line 49999")
    assert console_tail(release(), tmp_path) == ()
    assert console_tail(failed, tmp_path / "elsewhere") == ()


def test_reports_can_be_made_again_from_the_record_alone(tmp_path: Path) -> None:
    made = reject()
    write_reports(made, tmp_path)
    first = (tmp_path / "report.html").read_bytes()
    (tmp_path / "record.json").write_text(to_json(made))
    write_reports(read_record(tmp_path / "record.json"), tmp_path)
    assert (tmp_path / "report.html").read_bytes() == first


def test_findings_are_listed_with_hint_or_reason() -> None:
    made = record(verdict(), findings=(FINDING, replace(FINDING, line="[FAILED] b", accepted="known: b")))
    table = next(t for t in page(made).iter("table") if "Phase" in t.text_content())
    first, second = ([text(cell) for cell in row.iter("td")] for row in table.iter("tr") if list(row.iter("td")))
    assert first[:3] == ["31.2 s", "userspace", "3"]
    assert first[3:] == ["a unit failed" + FINDING.hint, FINDING.line]
    assert second[3:] == ["a unit failedaccepted: known: b", "[FAILED] b"]


def test_a_hostile_finding_is_shown_and_not_obeyed() -> None:
    written = html_page(record(findings=(replace(FINDING, line=HOSTILE, title=HOSTILE),)))
    assert "<script>alert" not in written
    assert "\x1b" not in written


def test_the_page_says_when_a_boot_failed() -> None:
    assert "12.5 s after power-on, phase initrd" in text(page(boot_failure()).body)


def test_the_parts_of_the_disk_are_told_with_hostile_labels_escaped() -> None:
    page = html_page(record(verdict(), disk_writes=(disk_writes(label="<b>usr", immutable=True),)))
    assert "What the guest wrote to its disk" in page
    assert "1 &lt;b&gt;usr (immutable!) 512 B" in page
    assert "What the guest wrote to its disk" not in html_page(record(verdict()))
