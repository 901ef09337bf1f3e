"""The benchmark of boot times: it goes on where it was ended, mixes nothing, and finds what was planted."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import boot as bench
import pytest
from rows import Row
from seatrial.report.boot_record import Sample, Span
from test_boot_budget import record

IMAGE = Path("/demo-1.raw")


def kept(total: float, seed: int, unit_s: float = 0.05) -> bench.Kept:
    sample: Sample = replace(record(total).samples[0], seed=seed)
    span = Span(name=bench.VICTIM, started_s=1.0, done_s=1.0 + unit_s)
    return bench.Kept(sample=replace(sample, units=(span,), phases={**sample.phases, "initrd_s": 1.0}), cpu_s=150.0)


@pytest.fixture(autouse=True)
def results(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Keep the boots of a test in a file of its own, and take the image's name for all that it is booted with."""
    monkeypatch.setattr(bench, "RESULTS", tmp_path / "kept.jsonl")
    monkeypatch.setattr(bench, "booted_with", lambda image, kind: {"image": image.stem, "kind": kind})


@pytest.fixture
def booted(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """Stand for every boot: note kind and seed, keep the boot, and end the run at the third."""
    done: list[tuple[str, int]] = []

    def boot(image: Path, kind: str, *, seed: int) -> None:
        if len(done) == 3:
            raise KeyboardInterrupt
        done.append((kind, seed))
        bench.keep(kind, kept(25.0, seed), bench.booted_with(image, kind))

    monkeypatch.setattr(bench, "boot", boot)
    return done


def test_ended_run_goes_on_and_boots_nothing_twice(booted: list[tuple[str, int]]) -> None:
    every: list[tuple[str, int]] = []
    for _run in range(5):
        try:
            bench.boot_all(IMAGE, 2, bench.KINDS)
        except KeyboardInterrupt:
            every += booted
            booted.clear()
        else:
            every += booted
            break
    wanted = [("same", 1), ("same", 1), ("seeds", 2), ("plain", 0), ("plain", 0)]
    wanted += [(kind, seed) for kind in ("cpu", "sleep") for seed in (1, 2)]
    assert Counter(every) == Counter(wanted)
    assert {kind: len(boots) for kind, boots in bench.results(IMAGE).items()} == Counter(kind for kind, _ in wanted)


def test_boots_of_another_image_are_not_counted() -> None:
    bench.keep("same", kept(25.0, 1), bench.booted_with(IMAGE, "same"))
    assert len(bench.results(IMAGE)["same"]) == 1
    assert bench.results(Path("/demo-2.raw")) == {}


def boots(grown: float) -> dict[str, list[bench.Kept]]:
    """Return four boots of each kind whose seeds are worth 6 % of the total, the slow ones longer by ``grown``."""
    totals = {seed: 25.0 + 0.5 * seed for seed in range(1, 5)}
    slow = [kept((1 + grown) * total, seed, 0.05 + grown * total) for seed, total in totals.items()]
    return {
        "same": [kept(totals[1] + 0.01 * number, 1) for number in range(4)],
        "seeds": [kept(total, seed) for seed, total in totals.items() if seed > 1],
        "cpu": slow,
        "sleep": slow,
        "plain": [kept(90.0, 0)] * 4,
    }


def rows(found: dict[str, list[bench.Kept]]) -> dict[str, Row]:
    return {row.name: row for row in bench.rows(found, 4)}


def test_two_percent_are_found_among_seeds_that_differ_by_more() -> None:
    found = rows(boots(0.02))
    assert found["slow unit (cpu) found in 4 boots"].value == 4
    assert found["slow unit (cpu): share planted in the unit"].value == pytest.approx(0.02, abs=1e-4)
    assert found["false alarms in 4 unchanged boots"].value == 0
    assert found["spread of total, 4 seeds"].value > 0.05
    assert all(row.holds for row in found.values())


def test_nothing_is_found_where_nothing_was_planted() -> None:
    found = rows(boots(0.0))
    assert found["slow unit (sleep) found in 4 boots"].value == 0
    assert not found["slow unit (sleep) found in 4 boots"].holds


def test_unchanged_boot_that_differs_is_an_alarm_and_a_spread() -> None:
    found = boots(0.02)
    found["same"][2] = kept(26.5, 1)
    told = rows(found)
    assert told["false alarms in 4 unchanged boots"].value == 1
    assert not told["spread of total, one seed, 4 boots"].holds


def test_boots_that_are_lacking_miss_the_goal() -> None:
    told = rows({kind: some[:3] for kind, some in boots(0.02).items()})
    assert not told["boots of kind 'cpu'"].holds
    assert told["boots of kind 'seeds'"].holds
