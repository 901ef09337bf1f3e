"""The prose of systemd-analyze: every odd string is read rightly or refused, and compared with the time stamps."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from seatrial.errors import ObservationError
from seatrial.evidence.analyze import disagreements, parse_analyze, parse_blame, parse_chain, parse_span
from seatrial.evidence.systemd import boot_phases, parse_show
from suite_bench import recorded

# As published by users; the first looks like an error of the poster and must be read as it stands.
PUBLISHED = {
    "Startup finished in 2.020ms (kernel) + 8.866s (initrd) + 14.894s (userspace) = 25.782s": (
        {"kernel": 0.00202, "initrd": 8.866, "userspace": 14.894},
        25.782,
    ),
    "Startup finished in 3.312s (kernel) + 37.194s (userspace) = 40.506s": (
        {"kernel": 3.312, "userspace": 37.194},
        40.506,
    ),
    "Startup finished in 4.160s (firmware) + 2.796s (loader) + 5.831s (kernel) + 18.885s (userspace) = 31.673s": (
        {"firmware": 4.160, "loader": 2.796, "kernel": 5.831, "userspace": 18.885},
        31.673,
    ),
    "Startup finished in 1.512s (kernel) + 1min 1.252s (userspace) = 1min 2.764s": (
        {"kernel": 1.512, "userspace": 61.252},
        62.764,
    ),
    "Startup finished in 555ms (userspace)": ({"userspace": 0.555}, 0.555),
}


@pytest.mark.parametrize("text", PUBLISHED)
def test_published_sentence_is_read(text: str) -> None:
    phases, total = PUBLISHED[text]
    said = parse_analyze(text + "\ngraphical.target reached after 954ms in userspace.\n")
    assert said.phases == pytest.approx(phases)
    assert said.total_s == pytest.approx(total)
    assert said.target == "graphical.target"
    assert said.target_s == pytest.approx(0.954)


def test_unfinished_boot_is_an_error_and_no_time() -> None:
    text = "Bootup is not yet finished (org.freedesktop.systemd1.Manager.FinishTimestampMonotonic=0).\n"
    with pytest.raises(ObservationError, match="not yet finished"):
        parse_analyze(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Startup finished in ",
        "Startup finished in ... = 1min 2.764s",
        "Startup finished in 3.3s (kernel) + 2 (userspace) = 5s",
        "Startup finished in 3.3s (shim) + 2s (userspace) = 5s",
        "Startup finished in 3,3s (kernel) = 3,3s",
    ],
)
def test_anything_else_is_refused_and_never_zero(text: str) -> None:
    with pytest.raises(ObservationError):
        parse_analyze(text)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0", 0),
        ("954ms", 0.954),
        ("12us", 12e-6),
        ("12μs", 12e-6),
        ("1h 2min 3s", 3723),
        ("1d 1h", 90_000),
        ("1w", 604_800),
    ],
)
def test_time_span_is_read_in_every_unit(text: str, seconds: float) -> None:
    assert parse_span(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "1", "s", "-1s", "1 s", "1.2.3s", "1e3s", "infinity", "١s"])
def test_other_text_is_no_time_span(text: str) -> None:
    with pytest.raises(ObservationError):
        parse_span(text)


def test_recorded_prose_agrees_with_the_time_stamps() -> None:
    phases = boot_phases(parse_show(recorded("boot/manager-counted")))
    assert disagreements(phases, parse_analyze(recorded("boot/analyze"))) == ()


def test_contradiction_and_absent_phase_are_told() -> None:
    phases = boot_phases(parse_show(recorded("boot/manager-counted")))
    said = parse_analyze("Startup finished in 4.270s (kernel) + 21.725s (userspace) = 25.996s")
    assert [text.partition(":")[0] for text in disagreements(phases, said)] == ["initrd", "userspace"]


def test_recorded_blame_is_read() -> None:
    blame = parse_blame(recorded("boot/blame"))
    unit, took_s = blame[0]
    assert unit == r"dev-disk-by\x2ddiskseq-1\x2dpart4.device"
    assert took_s == pytest.approx(17.867)


def test_recorded_chain_is_read() -> None:
    chain = parse_chain(recorded("boot/critical-chain"))
    assert (chain[0].unit, chain[0].at_s, chain[0].took_s, chain[0].depth) == ("graphical.target", 12.495, None, 0)
    assert (chain[4].unit, chain[4].took_s, chain[4].depth) == ("systemd-user-sessions.service", 0.589, 4)
    assert chain[-1].at_s is None


@given(st.text())
def test_any_text_is_read_or_refused(text: str) -> None:
    for parse in (parse_analyze, parse_blame, parse_chain, parse_span):
        with contextlib.suppress(ObservationError):
            assert parse(text) is not None


spans = st.sampled_from(["0", "2ms", "1.5s", "1min 2.764s", "1h 1min", "12us"])


@given(st.lists(st.tuples(spans, st.sampled_from(["firmware", "kernel", "initrd", "userspace"])), min_size=1), spans)
def test_every_sentence_of_that_form_is_read(parts: list[tuple[str, str]], total: str) -> None:
    sentence = "Startup finished in " + " + ".join(f"{span} ({name})" for span, name in parts) + f" = {total}"
    said = parse_analyze(sentence)
    assert said.total_s == parse_span(total)
    assert said.phases == {name: parse_span(span) for span, name in parts}
