"""A measurement is judged by the budgets of just its clock and machine, and against a baseline that it fits."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from seatrial.boot_budget import judged, mismatch
from seatrial.errors import ConfigError
from seatrial.policy.budgets import check_names
from seatrial.policy.flavours import Budgets, merged_budgets
from seatrial.policy.judge import Outcome
from seatrial.report.boot_page import boot_lines, boot_page
from seatrial.report.boot_record import BootRecord, HostFacts, Sample, Span, read_boot_record, to_json
from seatrial.suites import read_flavour

HOST = HostFacts(cpu="a", cpus=2, kernel="6.12", fingerprint="f00")
MACHINE = "q35-uefi"


def record(
    *totals: float, units: Mapping[str, float] | None = None, clock: str = "counted", odd: tuple[str, ...] = ()
) -> BootRecord:
    """Return a measurement: each boot has a kernel of 4 s, and the rest in userspace."""
    spans = tuple(Span(name=n, started_s=5.0, done_s=5.0 + took) for n, took in (units or {"a.service": 0.5}).items())
    samples = tuple(
        Sample(
            number=number,
            seed=number,
            phases={"kernel_s": 4.0, "userspace_s": total - 4.0, "total_s": total},
            milestones={"default_target_s": total - 0.1},
            units=spans,
            chain=("graphical.target", "a.service"),
            wall_s=60.0,
            load=1.0,
            mhz=None,
            odd=odd,
        )
        for number, total in enumerate(totals, start=1)
    )
    return BootRecord(
        version=1,
        seatrial="0",
        image="disk.raw",
        sha256="0" * 64,
        flavour="debian-immutable",
        machine=MACHINE,
        accelerator="tcg",
        clock=clock,
        shift=1 if clock == "counted" else None,
        which="first",
        qemu="10",
        host=HOST,
        steps="2 ns an instruction",
        discarded=0,
        samples=samples,
    )


COUNTED = Budgets(counted={"total_s": 30.0})


@pytest.mark.parametrize(
    ("total", "outcome"), [(25.0, Outcome.PASS), (35.0, Outcome.FAIL), (30.0, Outcome.NOT_CHECKED)]
)
def test_total_is_judged_by_the_budget_of_its_clock(total: float, outcome: Outcome) -> None:
    assert judged(record(total, total, total), None, COUNTED, machine=MACHINE).outcome is outcome


def test_inconclusive_asks_for_more_boots_and_a_failure_does_not() -> None:
    assert judged(record(30.0), None, COUNTED, machine=MACHINE).is_open
    assert not judged(record(40.0), None, COUNTED, machine=MACHINE).is_open


def test_budget_of_another_machine_judges_nothing() -> None:
    verdict = judged(record(5.0), None, COUNTED, machine="q35-large")
    assert verdict.outcome is Outcome.NOT_CHECKED
    assert "another machine" in verdict.unjudged[0]


def test_budget_of_another_clock_judges_nothing() -> None:
    kvm = Budgets(kvm={"total_s": 30.0}, tcg={"total_s": 30.0})
    verdict = judged(record(5.0), None, kvm, machine=MACHINE)
    assert verdict.outcome is Outcome.NOT_CHECKED
    assert "no budget on the counted clock" in verdict.unjudged[0]


def test_few_boots_prove_nothing_on_the_wall_clock() -> None:
    verdict = judged(record(5.0, clock="wall"), None, Budgets(tcg={"total_s": 30.0}), machine=MACHINE)
    assert verdict.outcome is Outcome.NOT_CHECKED
    assert verdict.findings == ()


def test_phase_that_does_not_exist_has_nothing_to_keep_to() -> None:
    budgets = Budgets(counted={"total_s": 30.0, "firmware_s": 0.001})
    assert judged(record(25.0), None, budgets, machine=MACHINE).outcome is Outcome.PASS


def test_slow_unit_fails_unless_it_may_be_slow() -> None:
    slow = record(25.0, units={"a.service": 9.0, "dev-sda.device": 20.0})
    limits = {"total_s": 30.0, "unit_s": 5.0}
    verdict = judged(slow, None, Budgets(counted=limits), machine=MACHINE)
    assert [(f.quantity, f.standing) for f in verdict.findings if f.unit == "s"][1:] == [("a.service", "fail")]
    assert judged(slow, None, Budgets(counted=limits, slow_units=("a.*",)), machine=MACHINE).outcome is Outcome.PASS


def test_prose_that_contradicts_the_time_stamps_is_not_a_pass() -> None:
    verdict = judged(record(25.0, odd=("total: 3 s",)), None, COUNTED, machine=MACHINE)
    assert verdict.outcome is Outcome.NOT_CHECKED


GROWTH = Budgets(growth={"total_s": 2.0, "phase_s": 5.0, "unit_s": 20.0})


def test_growth_names_the_unit_that_grew_first() -> None:
    now = record(26.5, units={"a.service": 1.9, "new.service": 0.3})
    verdict = judged(now, record(25.0), GROWTH, machine=MACHINE)
    assert verdict.outcome is Outcome.FAIL
    assert [(g.name, g.on_chain) for g in verdict.growers] == [
        ("phase userspace", False),
        ("a.service", True),
        ("new.service", False),
    ]
    assert "a.service against the baseline" in {f.quantity for f in verdict.findings}


def test_unchanged_boot_passes_against_its_baseline() -> None:
    verdict = judged(record(25.1, 24.9), record(25.0, 25.05), GROWTH, machine=MACHINE)
    assert verdict.outcome is Outcome.PASS


def test_growth_is_told_seed_by_seed() -> None:
    """Seeds 1 and 2 of the baseline are met again; the boot of seed 3 has nothing to be held against."""
    verdict = judged(record(26.0, 28.6, 99.0), record(25.0, 27.5), GROWTH, machine=MACHINE)
    (total,) = [finding for finding in verdict.findings if finding.quantity.startswith("total")]
    assert (round(total.value, 6), total.standing) == (4.0, "fail")


def test_boots_without_a_common_seed_are_compared_by_their_medians() -> None:
    other = record(25.0, 27.0)
    other = replace(other, samples=tuple(replace(sample, seed=sample.number + 7) for sample in other.samples))
    verdict = judged(record(26.0, 28.0), other, GROWTH, machine=MACHINE)
    (total,) = [finding for finding in verdict.findings if finding.quantity.startswith("total")]
    assert round(total.value, 2) == 3.85


@pytest.mark.parametrize(
    "other", [{"clock": "wall"}, {"machine": "x"}, {"shift": 3}, {"which": "later"}, {"qemu": "9"}, {"flavour": "x"}]
)
def test_baseline_of_another_kind_judges_nothing(other: dict[str, str]) -> None:
    verdict = judged(record(25.0), replace(record(25.0), **other), GROWTH, machine=MACHINE)  # type: ignore[arg-type]
    assert verdict.outcome is Outcome.NOT_CHECKED
    assert verdict.growers == ()


def test_wall_clock_of_another_host_compares_with_nothing() -> None:
    here = record(25.0, clock="wall")
    there = replace(here, host=replace(HOST, fingerprint="other"))
    assert "host" in mismatch(here, there)
    assert mismatch(here, here) == ""


def test_record_survives_its_file(tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    path.write_text(to_json(record(25.0, 26.0)), encoding="utf-8")
    assert read_boot_record(path) == record(25.0, 26.0)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"version": 2}', '{"version": 1}', '{"version": 1, "samples": 3}'])
def test_file_that_is_no_record_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "r.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError):
        read_boot_record(path)


def test_record_without_boots_is_no_baseline(tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    path.write_text(json.dumps({**json.loads(to_json(record(25.0))), "samples": []}), encoding="utf-8")
    with pytest.raises(ConfigError, match="holds no boot"):
        read_boot_record(path)


def test_budgets_of_the_user_lie_over_those_of_the_flavour() -> None:
    flavour = read_flavour("debian-immutable")
    merged = merged_budgets(flavour, "[budgets.kvm]\ntotal_s = 7\n", where="file")
    assert merged.kvm["total_s"] == 7
    assert merged.kvm["kernel_s"] == flavour.budgets.kvm["kernel_s"]
    assert merged.tcg == flavour.budgets.tcg


@pytest.mark.parametrize(
    "text", ["[budgets", "[expect]\nsuid = []", "[budgets.kvm]\ntotal_s = -1", "[budgets.xen]\na=1"]
)
def test_faulty_budgets_are_refused(text: str) -> None:
    with pytest.raises(ConfigError):
        merged_budgets(read_flavour("debian-immutable"), text, where="file")


def test_budget_for_what_is_never_measured_is_a_fault() -> None:
    with pytest.raises(ConfigError, match=r"budgets\.growth names unknown phases: totl_s"):
        check_names(Budgets(growth={"totl_s": 1.0, "phase_s": 1.0}))


def test_terminal_shows_at_most_ten_lines_and_no_escape_of_a_guest() -> None:
    names = {f"\x1b[31m{n}.service": 9.0 for n in range(30)}
    now, before = record(40.0, units=names), record(25.0)
    verdict = judged(now, before, replace_growth(), machine=MACHINE)
    lines = boot_lines(now, before, verdict)
    assert len(lines) <= 10
    assert lines[0].startswith("FAIL boot time of disk.raw")
    assert not any("\x1b" in line for line in lines)
    assert any("grew" in line for line in lines)


def replace_growth() -> Budgets:
    return Budgets(counted={"total_s": 30.0}, growth=GROWTH.growth)


def test_page_escapes_a_hostile_unit_and_draws_both_boots() -> None:
    hostile = "<script>alert(1)</script>.service"
    now, before = record(40.0, units={hostile: 9.0}), record(25.0, units={hostile: 1.0})
    page = boot_page(now, before, judged(now, before, replace_growth(), machine=MACHINE))
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert page.count("<svg") == 1
    assert 'class="ghost"' in page
