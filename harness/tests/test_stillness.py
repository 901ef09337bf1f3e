"""When a boot counts as hung: console, disk and CPU as they were, sample by sample."""

from __future__ import annotations

from pathlib import Path

from seatrial.machine.stillness import HangLimits, Sample, Stillness, cpu_seconds

LIMITS = HangLimits(silent_s=100, halted_s=30)


def first_hang(samples: list[Sample]) -> tuple[float, str] | None:
    stillness = Stillness(LIMITS)
    return next(((s.at_s, said) for s in samples if (said := stillness.take(s))), None)


def series(*, cpu_share: float | None, until: int = 400) -> list[Sample]:
    return [
        Sample(
            at_s=float(t), console_bytes=5, disk_operations=9, cpu_s=None if cpu_share is None else 10 + t * cpu_share
        )
        for t in range(0, until, 2)
    ]


def test_a_halted_guest_hangs_soon() -> None:
    assert first_hang(series(cpu_share=0.0)) == (30.0, "console, disk and CPU have been still for 30 s")


def test_a_guest_that_only_ticks_has_longer() -> None:
    found = first_hang(series(cpu_share=0.01))
    assert found is not None
    assert found[0] == 100.0
    assert "waits for something that does not come" in found[1]


def test_a_guest_in_a_loop_is_told_as_one() -> None:
    found = first_hang(series(cpu_share=0.98))
    assert found is not None
    assert found[0] == 100.0
    assert "used to 98%: it runs in a loop" in found[1]


def test_a_cpu_that_cannot_be_seen_counts_as_busy() -> None:
    found = first_hang(series(cpu_share=None))
    assert found is not None
    assert found[0] == 100.0


def test_a_byte_now_and_then_is_progress() -> None:
    samples = [Sample(at_s=t, console_bytes=t // 20, disk_operations=0, cpu_s=0.0) for t in range(0, 1000, 2)]
    assert first_hang(samples) is None


def test_a_disk_that_moves_is_progress() -> None:
    samples = [Sample(at_s=t, console_bytes=0, disk_operations=t // 20, cpu_s=0.0) for t in range(0, 1000, 2)]
    assert first_hang(samples) is None


def test_time_in_which_nobody_looked_does_not_count() -> None:
    samples = [Sample(at_s=t, console_bytes=0, disk_operations=0, cpu_s=0.0) for t in range(0, 1000, 20)]
    assert first_hang(samples) is None


def test_cpu_time_is_that_of_the_virtual_cpus_and_their_waiting(tmp_path: Path) -> None:
    threads = {"1": ("qemu", "9000000000 0 1"), "2": ("CPU 0/TCG", "1500000000 500000000 7")}
    for number, (name, stat) in threads.items():
        folder = tmp_path / "77" / "task" / number
        folder.mkdir(parents=True)
        (folder / "comm").write_text(f"{name}\n")
        (folder / "schedstat").write_text(f"{stat}\n")
    assert cpu_seconds(77, proc=tmp_path) == 2.0
    assert cpu_seconds(78, proc=tmp_path) is None
