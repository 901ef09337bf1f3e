"""Verdicts and decisions, with invented controls; the shipped tables are tested for form."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from seatrial.check import Check
from seatrial.errors import ConfigError
from seatrial.layout import data_dir
from seatrial.policy.controls import Control, parse_controls
from seatrial.policy.flavours import load_flavour
from seatrial.policy.judge import Decision, Observation, Outcome, Severity, Verdict, decide, judge
from seatrial.suites import Suites, built_in_suites, flavour_names, read_flavour, suite_folders

ROW = """
[[control]]
id = "{id}"
title = "Title"
severity = "high"
rationale = "Why"
remedy = "How"
refs = ["a:1"]
applies-to = ["general-purpose"]
"""


def verdict(outcome: Outcome) -> Verdict:
    return Verdict(control="c", suite="s", title="t", severity=Severity.LOW, outcome=outcome)


def observation(holds: bool) -> Observation:
    return Observation(holds=holds, expected="e", seen="s")


def test_outcomes_stand_worst_first() -> None:
    """Counts and lists are shown in this order: a pass never hides something unjudged."""
    assert [str(o) for o in Outcome] == ["error", "fail", "not-checked", "pass", "not-applicable"]


@given(st.lists(st.sampled_from(Outcome), max_size=6))
def test_release_needs_a_pass_and_nothing_unjudged(outcomes: list[Outcome]) -> None:
    released = decide([verdict(outcome) for outcome in outcomes]) is Decision.RELEASE
    assert released == (Outcome.PASS in outcomes and set(outcomes) <= {Outcome.PASS, Outcome.NOT_APPLICABLE})


def test_nothing_judged_is_no_release() -> None:
    assert decide([]) is Decision.REJECT
    assert decide([verdict(Outcome.NOT_APPLICABLE)]) is Decision.REJECT


@given(st.lists(st.booleans(), max_size=5))
def test_a_control_passes_only_when_every_observation_holds(held: list[bool]) -> None:
    outcome = judge([observation(holds) for holds in held])[0]
    assert outcome is (Outcome.ERROR if not held else Outcome.PASS if all(held) else Outcome.FAIL)


def test_of_a_failed_control_only_what_failed_is_shown() -> None:
    seen = [
        Observation(holds=True, expected="a = 1", seen="a = 1"),
        Observation(holds=False, expected="b = 2", seen="b = 3"),
    ]
    assert judge(seen) == (Outcome.FAIL, "b = 2", "b = 3", "expected b = 2, saw b = 3")


def test_what_a_check_found_is_bounded() -> None:
    check = Check()
    check.nothing((f"/file{n}" for n in range(5000)), expected="no such file")
    check.equal("x" * 10_000, "y", what="q")
    assert all(len(o.seen) <= 400 for o in check.observations)
    assert "and 4980 more" in check.observations[0].seen or check.observations[0].seen.endswith("…")


def test_every_fault_of_a_table_is_reported_at_once_with_row_and_key() -> None:
    text = ROW.format(id="first") + ROW.format(id="second").replace("high", "higher").replace('remedy = "How"\n', "")
    with pytest.raises(ConfigError) as caught:
        parse_controls(text + 'extra = "x"\n', where="t.toml")
    for fault in ("second: severity", "second: remedy: Field required", "second: extra: Extra inputs"):
        assert fault in str(caught.value)


def test_an_id_may_stand_once_in_a_table() -> None:
    with pytest.raises(ConfigError, match=r"t\.toml has control ids more than once: twin"):
        parse_controls(ROW.format(id="twin") * 2, where="t.toml")


def test_a_table_that_is_no_toml_is_named() -> None:
    with pytest.raises(ConfigError, match=r"t\.toml is not valid TOML"):
        parse_controls("[[control", where="t.toml")


def shipped() -> list[tuple[str, Control]]:
    suites = Suites()
    found = []
    for name in (*built_in_suites(), "lynis"):
        suite = suites.of(data_dir("suites") / name / "controls.toml")
        assert suite is not None
        found += [(name, control) for control in suite.controls]
    return found


def test_each_broad_suite_has_at_least_fifteen_controls() -> None:
    assert set(built_in_suites()) == {
        *("boot", "footprint", "hardening", "identity", "immutability", "kernel", "sandbox", "updates")
    }
    sizes = {name: len(list(rows)) for name, rows in itertools.groupby(shipped(), key=lambda row: row[0])}
    assert all(size >= 15 for name, size in sizes.items() if name not in ("footprint", "identity", "lynis", "updates"))


def test_control_ids_are_unique_over_all_suites() -> None:
    ids = [control.id for _suite, control in shipped()]
    assert len(ids) == len(set(ids))


@pytest.mark.parametrize(("suite", "control"), [pytest.param(s, c, id=c.id) for s, c in shipped()])
def test_a_shipped_control_says_why_whence_and_how_to_mend_it(suite: str, control: Control) -> None:
    assert control.refs
    assert all(":" in ref for ref in control.refs)
    assert len(control.rationale) > 15
    assert len(control.remedy) > 4
    assert len(control.title) > 10


@pytest.mark.parametrize("name", flavour_names())
def test_a_shipped_flavour_is_valid(name: str) -> None:
    flavour = read_flavour(name)
    assert flavour.name == name
    assert flavour.kind in {"general-purpose", "immutable-host"}


def test_a_list_that_the_flavour_does_not_have_is_asked_for_and_not_assumed() -> None:
    with pytest.raises(ConfigError, match=r"has no list 'expect\.unheard-of', which a selected control compares with"):
        read_flavour(flavour_names()[0]).allowed("unheard-of")


GROUND = """
abstract = true
machine = "q35-uefi"
[lynis]
gate_on_suggestions = false
min_index = 1
[expect]
a = ["1"]
"""
KIND = """
inherits = "ground"
title = "K"
kind = "general-purpose"
[access]
route = "cloud-init"
user = "u"
[expect]
b = ["2"]
"""
TABLES = {
    "ground": GROUND,
    "kind": KIND,
    "leaf": 'inherits = "kind"\n[expect]\na = ["3"]\n',
    "circle": 'inherits = "circle"\n',
    "typo": 'inherits = "kind"\ncolour = "red"\n[access]\nroute = "carrier pigeon"\n',
    "orphan": 'inherits = "nobody"\n',
    "told": 'inherits = "kind"\n[console-accepted]\n"^a unit failed" = "known"\n',
    "pattern": 'inherits = "kind"\n[console-accepted]\n"(" = "known"\n',
    "reason": 'inherits = "kind"\n[console-accepted]\n"x" = ""\n',
}


def test_a_flavour_inherits_and_the_nearest_value_wins() -> None:
    leaf = load_flavour("leaf", TABLES.get, known=("leaf",))
    assert (leaf.allowed("a"), leaf.allowed("b"), leaf.access.user) == (("3",), ("2",), "u")


def test_a_flavour_accepts_console_findings_with_a_reason() -> None:
    assert load_flavour("told", TABLES.get, known=("told",)).console_accepted == {"^a unit failed": "known"}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("nobody", "unknown flavour 'nobody'\n  hint: known flavours: leaf"),
        ("orphan", "unknown flavour 'nobody', inherited by 'orphan'"),
        ("circle", "flavour 'circle' inherits in a circle: circle -> circle"),
        ("ground", "flavour 'ground' is a base for others and no image's flavour"),
        ("typo", "colour: Extra inputs are not permitted"),
        ("pattern", "'(' is no regular expression"),
        ("reason", "console-accepted.x: String should have at least 1 character"),
        ("typo", "access.route: Input should be 'credentials', 'credentials-fw-cfg', 'cloud-init'"),
    ],
)
def test_a_faulty_flavour_says_what_is_wrong(name: str, text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_flavour(name, TABLES.get, known=("leaf",))
    assert text in str(caught.value)


def test_a_flavour_may_be_a_file_of_the_users_own(tmp_path: Path) -> None:
    own = tmp_path / "our-host.toml"
    own.write_text('inherits = "debian-general"\n[expect]\nsuid = ["/bin/ours"]\n', encoding="utf-8")
    flavour = read_flavour(str(own))
    assert (flavour.name, flavour.allowed("suid")) == ("our-host", ("/bin/ours",))
    assert flavour.access == read_flavour("debian-general").access


def test_a_flavour_file_may_be_called_as_the_built_in_one_that_it_inherits(tmp_path: Path) -> None:
    own = tmp_path / "debian-general.toml"
    own.write_text('inherits = "debian-general"\ntitle = "Ours"\n', encoding="utf-8")
    assert read_flavour(str(own)).title == "Ours"


@pytest.mark.parametrize("content", [None, b"\xff"])
def test_a_flavour_file_that_cannot_be_read_says_so(tmp_path: Path, content: bytes | None) -> None:
    own = tmp_path / "ours.toml"
    if content is not None:
        own.write_bytes(content)
    with pytest.raises(ConfigError, match=r"flavour file '.*/ours\.toml' cannot be read") as caught:
        read_flavour(str(own))
    assert "hint: give a TOML file, or one of the built-in flavours: azure-container-linux" in str(caught.value)


def test_an_unknown_suite_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="suite 'hardning' is neither a built-in suite nor a folder") as caught:
        suite_folders(["hardning"])
    known = "boot, footprint, hardening, identity, immutability, kernel, sandbox, updates"
    assert f"hint: built-in suites: {known}" in str(caught.value)
