"""A drawing that a guest made is kept as a drawing only when it can do nothing."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from seatrial.report.foreign_svg import harmless_svg

PLOT = """<?xml version="1.0"?><!DOCTYPE svg PUBLIC "-//W3C//DTD SVG 1.1//EN"
"http://www.w3.org/Graphics/SVG/1.1/DTD/svg11.dtd"><svg width="9px" xmlns="http://www.w3.org/2000/svg" version="1.1">
<!-- a comment --><defs><style type="text/css"><![CDATA[ rect { stroke-width: 1; } ]]></style></defs>
<rect class="background" width="100%" height="100%"/><text x="20" y="50">Debian</text></svg>"""


def test_plot_of_systemd_is_kept() -> None:
    kept = harmless_svg(PLOT)
    assert kept is not None
    assert "Debian" in kept


@pytest.mark.parametrize(
    ("harmless", "evil"),
    [
        ("<text ", '<text onclick="x()" '),
        ("<rect ", "<script>x()</script><rect "),
        ("<rect ", '<image href="http://example.org/x"/><rect '),
        ("stroke-width: 1", "background: url(http://example.org)"),
        ("<rect ", '<rect style="fill:url(http://example.org)" '),
        ("<rect ", '<foreignObject><p xmlns="http://www.w3.org/1999/xhtml">x</p></foreignObject><rect '),
        ("</svg>", ""),
    ],
)
def test_anything_but_shapes_and_text_is_refused(harmless: str, evil: str) -> None:
    assert harmless in PLOT
    assert harmless_svg(PLOT.replace(harmless, evil)) is None


@given(st.text())
def test_any_text_is_refused_or_a_drawing(text: str) -> None:
    assert harmless_svg(text) is None
