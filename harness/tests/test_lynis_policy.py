"""What a lynis run means: the run itself is judged, and every finding; what was not seen never passes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from seatrial.evidence.lynis import Detail, Finding, Flaw, FlawKind, LynisRun, parse_report
from seatrial.evidence.lynis.records import FindingKind
from seatrial.evidence.lynis.tree import examine, read_run, to_tree
from seatrial.layout import data_dir
from seatrial.policy.controls import Control, parse_controls
from seatrial.policy.flavours import LynisPolicy
from seatrial.policy.judge import Decision, Outcome, Verdict, decide
from seatrial.policy.lynis import OUTSIDE, Outside, finding_ids, judge_lynis

TABLE = data_dir("suites") / "lynis" / "controls.toml"
CONTROLS = parse_controls(TABLE.read_text("utf-8"), where=str(TABLE))
SCHEMA = (data_dir("reports") / "lynis.xsd").read_text("utf-8")
FIXTURES = Path(__file__).parents[2] / "fixtures" / "lynis"
RECORDED = (FIXTURES / "debian-13-lynis-3.1.4.dat").read_bytes()
ROWS = [control.id for control in CONTROLS]


def policy(*, gate: bool = False, index: int = 50, accepted: Mapping[str, str] | None = None) -> LynisPolicy:
    return LynisPolicy(gate_on_suggestions=gate, min_index=index, accepted=accepted or {})


def invented(control: str, **probe: object) -> Control:
    """Return a row of a table that is not the real one."""
    return Control.model_validate(
        {
            "id": control,
            "title": "Title",
            "severity": "high",
            "rationale": "Rationale",
            "remedy": "Remedy",
            "refs": ["ref"],
            "applies-to": ["general-purpose"],
            "probe": probe or None,
        }
    )


def found(
    test: str | None = "AUTH-9230",
    message: str = "message",
    *,
    kind: FindingKind = "warning",
    details: str | None = None,
    solution: str | None = None,
) -> Finding:
    return Finding(line=1, kind=kind, test=test, message=message, details=details, solution=solution)


def run_with(*findings: Finding, details: tuple[Detail, ...] = ()) -> LynisRun:
    return LynisRun(is_complete=True, lynis_version="3.1.4", hardening_index=64, findings=findings, details=details)


def judged(run: LynisRun, control: Control, rules: LynisPolicy | None = None) -> dict[str, Verdict]:
    verdicts = judge_lynis(run, rules or policy(), [control])
    assert len({verdict.control for verdict in verdicts}) == len(verdicts)
    return {verdict.control: verdict for verdict in verdicts}


WARNINGS = invented("lynis-warnings")
SUGGESTIONS = invented("lynis-suggestions")


# --- the real table and a recorded run ---


@pytest.mark.parametrize("version", ["3.0.8", "3.1.4"])
def test_every_row_of_the_table_is_judged_for_old_and_new_lynis(version: str) -> None:
    _, run = examine((FIXTURES / f"debian-13-lynis-{version}.dat").read_bytes(), SCHEMA)
    assert run.lynis_version == version
    verdicts = {verdict.control: verdict for verdict in judge_lynis(run, policy(), CONTROLS)}
    assert [verdicts[row].outcome for row in ROWS] == [Outcome.PASS] * 6 + [Outcome.NOT_APPLICABLE]
    assert {verdict.suite for verdict in verdicts.values()} == {"lynis"}


def test_recorded_run_is_released_without_a_gate_on_suggestions_and_rejected_with_one() -> None:
    _, run = examine(RECORDED, SCHEMA)
    assert decide(judge_lynis(run, policy(), CONTROLS)) is Decision.RELEASE
    assert decide(judge_lynis(run, policy(gate=True), CONTROLS)) is Decision.REJECT


def test_every_finding_of_the_recorded_run_has_a_verdict_of_its_own() -> None:
    _, run = examine(RECORDED, SCHEMA)
    verdicts = judge_lynis(run, policy(gate=True), CONTROLS)
    ids = [verdict.control for verdict in verdicts]
    assert len(ids) == len(ROWS) + 39
    assert len(set(ids)) == len(ids)
    assert all(re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", one) for one in ids)
    ssh = next(verdict for verdict in verdicts if verdict.control == "lynis-ssh-7408-maxauthtries")
    assert (ssh.expected, ssh.seen, ssh.refs) == ("MaxAuthTries=3", "MaxAuthTries=6", ("lynis:SSH-7408",))


@pytest.mark.parametrize("end", [len(RECORDED) - 1, len(RECORDED) - 5, 12_000, 4_000, 100])
def test_cut_report_is_an_error_and_passes_nothing(end: int) -> None:
    verdicts = judge_lynis(read_run(to_tree(parse_report(RECORDED[:end]))), policy(), CONTROLS)
    outcomes = {verdict.control: verdict.outcome for verdict in verdicts}
    assert outcomes["lynis-run-complete"] is Outcome.ERROR
    assert Outcome.PASS not in outcomes.values()


def test_warning_in_a_cut_report_still_fails() -> None:
    run = LynisRun(is_complete=False, findings=(found(),))
    verdicts = judged(run, WARNINGS)
    assert verdicts["lynis-warnings"].outcome is Outcome.FAIL
    assert verdicts["lynis-auth-9230"].outcome is Outcome.FAIL


# --- the run ---


def test_damage_is_named_in_the_error() -> None:
    flaws = (Flaw(FlawKind.NO_END, 0, 1, "it was cut"), Flaw(FlawKind.LOOSE_LINE, 3, 1, "harmless"))
    verdict = judged(LynisRun(is_complete=False, flaws=flaws), invented("lynis-run-complete"))["lynis-run-complete"]
    assert verdict.outcome is Outcome.ERROR
    assert verdict.seen == "no-end: it was cut"


def test_note_alone_is_no_error() -> None:
    run = LynisRun(is_complete=True, flaws=(Flaw(FlawKind.LOOSE_LINE, 3, 1, "harmless"),))
    assert judged(run, invented("lynis-run-complete"))["lynis-run-complete"].outcome is Outcome.PASS


@pytest.mark.parametrize(("executed", "outcome"), [({"R-1", "X-1"}, Outcome.PASS), ({"X-1"}, Outcome.ERROR)])
def test_run_without_any_test_for_root_is_an_error(executed: set[str], outcome: Outcome) -> None:
    row = invented("lynis-ran-as-root", **{"executed-any": ["R-1", "R-2"]})
    run = LynisRun(is_complete=True, executed=frozenset(executed))
    assert judged(run, row)["lynis-ran-as-root"].outcome is outcome


@pytest.mark.parametrize(
    ("executed", "accepted", "outcome"),
    [
        ({"A-1", "B-1", "C-1"}, {}, Outcome.PASS),
        ({"A-1", "B-1"}, {}, Outcome.ERROR),
        ({"A-1", "C-1", "D-1"}, {}, Outcome.ERROR),
        ({"A-1", "C-1", "D-1"}, {"B-1": "no such thing in this image"}, Outcome.PASS),
    ],
)
def test_run_that_skipped_tests_is_an_error(executed: set[str], accepted: dict[str, str], outcome: Outcome) -> None:
    row = invented("lynis-tests-executed", **{"executed": ["A-1", "B-1"], "at-least": 3})
    run = LynisRun(is_complete=True, executed=frozenset(executed))
    rules = LynisPolicy.model_construct(gate_on_suggestions=False, min_index=0, accepted=accepted)
    assert judged(run, row, rules)["lynis-tests-executed"].outcome is outcome


@pytest.mark.parametrize(
    ("exceptions", "outcome"),
    [
        ((), Outcome.PASS),
        (("BOOT-5104:001: Unknown service manager",), Outcome.FAIL),
        (("PKGS-7410: none",), Outcome.PASS),
        (("PKGS-7410:01: none", "BOOT-5104:001: x"), Outcome.FAIL),
    ],
)
def test_exception_of_a_test_that_is_not_accepted_fails(exceptions: tuple[str, ...], outcome: Outcome) -> None:
    run = LynisRun(is_complete=True, exceptions=exceptions)
    rules = policy(accepted={"PKGS-7410": "no package manager"})
    assert judged(run, invented("lynis-no-exceptions"), rules)["lynis-no-exceptions"].outcome is outcome


@pytest.mark.parametrize(
    ("index", "outcome"),
    [(None, Outcome.ERROR), (0, Outcome.FAIL), (59, Outcome.FAIL), (60, Outcome.PASS), (100, Outcome.PASS)],
)
def test_index_below_the_flavours_fails_and_none_is_an_error(index: int | None, outcome: Outcome) -> None:
    run = LynisRun(is_complete=True, hardening_index=index)
    assert judged(run, invented("lynis-hardening-index"), policy(index=60))["lynis-hardening-index"].outcome is outcome


def test_row_that_nothing_judges_is_not_checked() -> None:
    assert judged(run_with(), invented("lynis-colour"))["lynis-colour"].outcome is Outcome.NOT_CHECKED


# --- findings ---


def test_warning_fails_and_carries_what_a_person_needs() -> None:
    warning = found("FILE-7524", "Loose permissions", details="/etc/x", solution="Use chmod")
    verdict = judged(run_with(warning), WARNINGS)["lynis-file-7524"]
    assert verdict.outcome is Outcome.FAIL
    assert (verdict.title, verdict.remedy, verdict.refs) == ("Loose permissions", "Use chmod", ("lynis:FILE-7524",))
    assert (verdict.rationale, verdict.severity) == ("Rationale", "high")
    assert verdict.because == "lynis warning: Loose permissions (/etc/x)"


def test_warning_without_a_solution_has_the_rows_remedy() -> None:
    assert judged(run_with(found()), WARNINGS)["lynis-auth-9230"].remedy == "Remedy"


def test_no_warning_passes() -> None:
    verdicts = judged(run_with(found(kind="suggestion")), WARNINGS)
    assert {name: verdict.outcome for name, verdict in verdicts.items()} == {"lynis-warnings": Outcome.PASS}


@pytest.mark.parametrize("key", ["AUTH-9230", "lynis-auth-9230"])
def test_accepted_warning_is_not_applicable_and_says_why(key: str) -> None:
    verdicts = judged(run_with(found()), WARNINGS, policy(accepted={key: "known"}))
    assert verdicts["lynis-auth-9230"].outcome is Outcome.NOT_APPLICABLE
    assert verdicts["lynis-auth-9230"].because == "accepted: known"
    assert verdicts["lynis-warnings"].outcome is Outcome.PASS


def test_accepting_one_finding_of_a_test_leaves_the_others() -> None:
    findings = (
        found("SSH-7408", details="Port (set 22 to )"),
        found("SSH-7408", details="LogLevel (set INFO to VERBOSE)"),
    )
    verdicts = judged(run_with(*findings), WARNINGS, policy(accepted={"lynis-ssh-7408-port": "known"}))
    assert verdicts["lynis-ssh-7408-port"].outcome is Outcome.NOT_APPLICABLE
    assert verdicts["lynis-ssh-7408-loglevel"].outcome is Outcome.FAIL


@pytest.mark.parametrize(("gate", "outcome"), [(True, Outcome.FAIL), (False, Outcome.NOT_APPLICABLE)])
def test_suggestion_fails_only_where_the_flavour_gates_on_it(gate: bool, outcome: Outcome) -> None:
    verdicts = judged(run_with(found(kind="suggestion")), SUGGESTIONS, policy(gate=gate))
    assert {verdict.outcome for verdict in verdicts.values()} == {outcome}
    if not gate:
        assert {v.because for v in verdicts.values()} == {"flavour does not gate on lynis suggestions"}


@pytest.mark.parametrize("row", OUTSIDE, ids=lambda row: f"{row.test} {row.message}")
def test_finding_about_the_surroundings_is_not_applicable_and_says_why(row: Outside) -> None:
    verdicts = judged(run_with(found(row.test, f"{row.message} and more")), WARNINGS, policy(gate=True))
    verdict = verdicts[f"lynis-{row.test.lower()}"]
    assert (verdict.outcome, verdict.because) == (Outcome.NOT_APPLICABLE, row.because)


def test_other_message_of_lynis_about_itself_fails() -> None:
    assert judged(run_with(found("LYNIS", "Check your hostname")), WARNINGS)["lynis-lynis"].outcome is Outcome.FAIL


def test_finding_without_an_id_fails_too() -> None:
    verdicts = judged(run_with(found(None, "a|b"), found(None, "c|d")), WARNINGS)
    assert sorted(v.outcome for v in verdicts.values()) == [Outcome.FAIL] * 3
    assert all(name.startswith("lynis-") for name in verdicts)


def test_details_of_a_test_show_what_was_expected_and_seen() -> None:
    rows = tuple(
        Detail(line=n, test="KRNL-6000", service="sysctl", field=f"kernel.k{n}", prefval="2", value="0")
        for n in range(12)
    )
    verdict = judged(run_with(found("KRNL-6000"), details=rows), WARNINGS)["lynis-krnl-6000"]
    assert verdict.expected.startswith("kernel.k0=2, kernel.k1=2")
    assert verdict.seen.endswith("kernel.k9=0 and 2 more")


def test_text_of_the_guest_is_bounded_in_every_field() -> None:
    big = "x" * 100_000
    row = Detail(line=1, test="KRNL-6000", service=big, field=big, prefval=big, value=big)
    verdicts = judged(run_with(found("KRNL-6000", big, details=big, solution=big), details=(row,)), WARNINGS)
    for verdict in verdicts.values():
        for text in (verdict.title, verdict.expected, verdict.seen, verdict.because, verdict.remedy, verdict.control):
            assert len(text) <= 300


# --- ids ---


def test_ids_do_not_depend_on_the_order() -> None:
    findings = [found("FILE-6310", "/home"), found("FILE-6310", "/var"), found("USB-1000", "x")]
    forward = {finding.message: name for finding, name in finding_ids(findings)}
    backward = {finding.message: name for finding, name in finding_ids(findings[::-1])}
    assert forward == backward
    assert forward["x"] == "lynis-usb-1000"
    assert re.fullmatch(r"lynis-file-6310-[0-9a-f]{8}", forward["/home"])


def test_exact_duplicates_have_one_verdict() -> None:
    again = Finding(line=2, kind="warning", test="AUTH-9230", message="message", is_duplicate=True)
    assert [name for _, name in finding_ids([found(), again])] == ["lynis-auth-9230"]


def test_same_option_twice_has_two_ids() -> None:
    findings = [found("SSH-7408", details="Port (set 22 to )"), found("SSH-7408", details="Port (set 23 to )")]
    names = [name for _, name in finding_ids(findings)]
    assert len(set(names)) == 2
    assert all(name.startswith("lynis-ssh-7408-port-") for name in names)


FINDINGS = st.builds(
    found,
    st.sampled_from([None, "SSH-7408", "AUTH-9230", "LYNIS", "A1-1"]),
    st.sampled_from(["a", "b", ""]),
    kind=st.sampled_from(["warning", "suggestion"]),
    details=st.sampled_from([None, "Port (set 22 to )", "Run.Complete (set x", "x"]) | st.text(max_size=5),
    solution=st.sampled_from([None, "s"]),
)


@given(st.lists(FINDINGS, max_size=20))
def test_ids_are_always_unique_well_formed_and_no_rows(findings: list[Finding]) -> None:
    names = [name for _, name in finding_ids(findings)]
    assert len(set(names)) == len(names) == len(findings)
    assert not set(names) & set(ROWS)
    assert all(re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", name) for name in names)


# --- the policy record ---


@pytest.mark.parametrize("key", ["auth-9230", "AUTH 9230", "", "lynis", "lynis-", "AUTH-9230 "])
def test_key_that_accepts_nothing_is_refused(key: str) -> None:
    with pytest.raises(ValidationError):
        policy(accepted={key: "because"})


def test_acceptance_needs_a_reason() -> None:
    with pytest.raises(ValidationError):
        policy(accepted={"AUTH-9230": ""})
