"""The picture of a gate's boot: from the facts that were asked, escaped, and absent where there is nothing to draw."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from lxml import etree, html
from records import HOSTILE, release
from seatrial.boot_picture import boot_picture
from seatrial.evidence.boot_units import UNITS
from seatrial.evidence.systemd import MANAGER
from seatrial.guest.facts import Answer, Recorded
from seatrial.report.boot_record import Span
from seatrial.report.facts import read_facts
from seatrial.report.html import html_page
from seatrial.report.timeline import boot_svg

FACTS = Path(__file__).parents[2] / "fixtures" / "facts" / "demo-immutable" / "facts.json"


@pytest.fixture(scope="module")
def recorded() -> dict[str, Answer]:
    return {answer.command: answer for answer in read_facts(FACTS).answers}


def drawn(answers: dict[str, Answer]) -> str:
    return boot_picture(Recorded(answers.values()))


def test_recorded_boot_is_drawn_with_its_phases_and_its_chain(recorded: dict[str, Answer]) -> None:
    picture = drawn(recorded)
    tree = etree.fromstring(picture)
    texts = {element.text or "" for element in tree.iter("{*}text", "text")}
    assert {"multi-user.target", "ssh.service"} <= texts
    bars = [element.get("class") for element in tree.iter("{*}rect", "rect")]
    assert {"kernel_s", "initrd_s", "userspace_s", "chain", "unit"} <= set(bars)
    # The legend has one bar of the chain too.
    assert bars.count("chain") >= 3


@pytest.mark.parametrize("question", [UNITS, MANAGER])
def test_nothing_is_drawn_and_nothing_asked_without_the_facts(recorded: dict[str, Answer], question: str) -> None:
    facts = Recorded(answer for command, answer in recorded.items() if command != question)
    before = dict(facts.answers)
    assert boot_picture(facts) == ""
    assert facts.answers == before


@pytest.mark.parametrize("question", [UNITS, MANAGER])
@pytest.mark.parametrize("answer", ["", HOSTILE, "Id=a.service\nInactiveExitTimestampMonotonic=x\n"])
def test_unreadable_answer_draws_nothing(recorded: dict[str, Answer], question: str, answer: str) -> None:
    assert drawn({**recorded, question: replace(recorded[question], stdout=answer)}) == ""


def test_page_shows_the_boot_by_unit_only_where_it_was_drawn(recorded: dict[str, Answer]) -> None:
    with_picture = html.document_fromstring(html_page(release(), timeline=drawn(recorded)))
    assert with_picture.xpath("count(//svg[@class='timeline'])") == 1
    assert "Unit by unit" not in html_page(release())


def test_hostile_unit_in_the_drawing_stays_text() -> None:
    name = "<script>alert(1)</script>\x1b.service"
    span = Span(name=name, started_s=1.0, done_s=2.0)
    page = html_page(release(), timeline=boot_svg({"kernel_s": 1.0, "userspace_s": 2.0}, [span], [name]))
    assert "<script" not in page
    assert "\x1b" not in page
    assert "&lt;script&gt;" in page
