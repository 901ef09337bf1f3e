"""``tox -e bench-boot``: how far two boots of one image differ on each clock, and whether a slow unit is found.

Every boot is appended to ``reports/out/bench-boot.jsonl`` when it is over, so a run that was ended goes on where it was
(``--fresh`` starts anew); ``--report`` only prints what there is. Boots of different kinds take turns, so that every
figure has seen the same host.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from rows import Row, save
from seatrial.boot_time import Plan, Yardstick, measure
from seatrial.clock import Deadline
from seatrial.images import built
from seatrial.layout import cache_dir, out_dir
from seatrial.options import resolve
from seatrial.policy.boot_time import judge_growth, spread
from seatrial.policy.flavours import Budgets
from seatrial.progress import Silent
from seatrial.report.boot_record import Sample, sample_from_json
from seatrial.report.record import plain
from seatrial.session import Candidate, examine

RESULTS = out_dir() / "bench-boot.jsonl"
PHASES = ("kernel_s", "initrd_s", "userspace_s")
KINDS = ("counted", "same", "sleep", "cpu", "wall")
# The unit that the slow images slow down: on the critical chain, a few hundredths of a second by itself.
VICTIM = "systemd-user-sessions.service"
# Two percent of 25.9 s, the total of the unchanged image; a shell counts 100,000 rounds in 4.3 s of that clock.
SLEEP_S = 0.52
ROUNDS = 12_100
# What an unchanged image may seem to have grown by, and a slow one must have grown by at least.
LIMIT_PERCENT = 1.0


def main() -> int:
    """Boot, append, print and save; exit status 1 when a goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-n", type=int, default=8, help="boots of each kind (default 8)")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS, help="only boots of these kinds")
    parser.add_argument("--fresh", action="store_true", help="forget the boots of earlier runs")
    parser.add_argument("--report", action="store_true", help="boot nothing, print what there is")
    options = parser.parse_args()
    if options.fresh:
        RESULTS.unlink(missing_ok=True)
    if not options.report:
        image = built("immutable", say=lambda text: print(text, file=sys.stderr), deadline=Deadline(3600))
        boot_all(image, options.n, options.kinds)
    return save(rows(results(), options.n), out_dir() / "bench-boot.json")


def boot_all(image: Path, number: int, kinds: Sequence[str]) -> None:
    """Boot each of ``kinds`` ``number`` times, as far as that has not been done."""
    plain = candidate_of(image)
    for turn in range(number):
        due = [kind for kind in KINDS if kind in kinds and done(kind) <= turn]
        if "counted" in due:
            keep("counted", counted_boot(plain, seed=turn + 1))
        if "same" in due and turn < number // 2:
            keep("same", counted_boot(plain, seed=1))
        for kind, amount in (("sleep", SLEEP_S), ("cpu", ROUNDS)):
            if kind in due:
                keep(kind, counted_boot(candidate_of(slowed(image, kind, amount)), seed=turn + 1))
        if "wall" in due:
            keep("wall", wall_boot(plain))


def candidate_of(image: Path) -> Candidate:
    """Return ``image`` as a candidate under emulation."""
    given = {"seatrial_image": str(image), "seatrial_flavour": "debian-immutable", "seatrial_accel": "tcg"}
    return examine(resolve(given.get, lambda _key: None, {}))


def counted_boot(candidate: Candidate, *, seed: int) -> Sample:
    """Return one boot on the counted clock."""
    return _boot(candidate, Plan(boots=1, cap=1, clock="counted", first_seed=seed, drawing=False))


def wall_boot(candidate: Candidate) -> Sample:
    """Return one boot on the wall clock, with two CPUs as the machine has them."""
    return _boot(candidate, Plan(boots=1, cap=1, clock="wall", warm_up=False, drawing=False))


def _boot(candidate: Candidate, plan: Plan) -> Sample:
    with tempfile.TemporaryDirectory(prefix="bench-boot-") as place:
        done_ = measure(candidate, plan, Path(place), yardstick=Yardstick(budgets=Budgets()), progress=Silent())
    return done_.record.samples[0]


def unit_s(sample: Sample) -> float:
    """Return how long the victim took to start."""
    return next(span.took_s for span in sample.units if span.name == VICTIM)


def slowed(image: Path, kind: str, amount: float) -> Path:
    """Return a copy of ``image`` whose victim first counts to ``amount``, or sleeps so many seconds."""
    path = cache_dir("bench") / f"{image.stem}-{kind}-{amount:g}.raw"
    if path.is_file():
        return path
    work = f"/bin/sh -c 'i=0; while [ $$i -lt {amount:.0f} ]; do i=$$((i+1)); done'"
    command = work if kind == "cpu" else f"/usr/bin/sleep {amount:g}"
    with tempfile.TemporaryDirectory(dir=path.parent) as place:
        copy, root, dropin = (Path(place, name) for name in ("disk", "root", "dropin"))
        shutil.copyfile(image, copy)
        dropin.write_text(f"[Service]\nExecStartPre={command}\n", encoding="utf-8")
        start, size = root_partition(image)
        with copy.open("r+b") as disk:
            disk.seek(start)
            root.write_bytes(disk.read(size))
            folder = f"/etc/systemd/system/{VICTIM}.d"
            for request in (f"mkdir {folder}", f"write {dropin} {folder}/50-slow.conf"):
                subprocess.run(["/usr/sbin/debugfs", "-w", "-R", request, str(root)], check=True, capture_output=True)
            disk.seek(start)
            disk.write(root.read_bytes())
        copy.rename(path)
    return path


def root_partition(image: Path) -> tuple[int, int]:
    """Return start and size in bytes of the partition labelled ``root`` (GPT with 512-byte sectors)."""
    with image.open("rb") as disk:
        disk.seek(1024)
        table = disk.read(128 * 128)
    for entry in (table[at : at + 128] for at in range(0, len(table), 128)):
        if entry[56:].decode("utf-16-le").rstrip("\0") == "root":
            first, last = (int.from_bytes(entry[at : at + 8], "little") for at in (32, 40))
            return first * 512, (last - first + 1) * 512
    raise SystemExit(f"{image} has no partition labelled root")


def results() -> dict[str, list[Sample]]:
    """Return the boots that were kept, by kind."""
    found: dict[str, list[Sample]] = {}
    for line in RESULTS.read_text(encoding="utf-8").splitlines() if RESULTS.is_file() else []:
        entry = json.loads(line)
        found.setdefault(entry["kind"], []).append(sample_from_json(entry["sample"]))
    return found


def done(kind: str) -> int:
    """Return how many boots of ``kind`` were kept."""
    return len(results().get(kind, ()))


def keep(kind: str, sample: Sample) -> None:
    """Append one boot."""
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    with RESULTS.open("a", encoding="utf-8") as file:
        file.write(json.dumps({"kind": kind, "sample": plain(sample)}) + "\n")
    phases = ", ".join(f"{name} {seconds:.6f}" for name, seconds in sample.phases.items())
    print(
        f"{kind} {done(kind)}: {phases} (took {sample.wall_s:.0f} s, load {sample.load})", file=sys.stderr, flush=True
    )


def values(samples: Sequence[Sample], phase: str) -> list[float]:
    """Return ``phase`` of every sample."""
    return [sample.phases[phase] for sample in samples]


def rows(found: dict[str, list[Sample]], number: int) -> list[Row]:
    """Return every figure that the boots there are allow, with its goal."""
    same = [*found.get("counted", [])[:1], *found.get("same", [])]
    result = [
        Row.at_least(f"boots of the kind {kind!r}", len(found.get(kind, ())), number if kind != "same" else number // 2)
        for kind in KINDS
    ]
    for name, samples in (("same seed", same), ("other seeds", found.get("counted", []))):
        if len(samples) > 1:
            result.append(
                Row.at_most(f"spread of the total, counted, {name}", spread(values(samples, "total_s")), 0.005)
            )
            result += [
                Row.at_most(f"spread of the {p.removesuffix('_s')}, counted, {name}", spread(values(samples, p)), 0.01)
                for p in PHASES
            ]
    if len(found.get("wall", ())) > 1:
        wall = spread(values(found["wall"], "total_s"))
        result.append(
            Row(name="spread of the total, wall clock", value=round(wall, 4), goal="for comparison", holds=True)
        )
    if len(found.get("counted", ())) > 1:
        result += found_and_alarms(found)
    if found.get("wall") and same:
        cost = statistics.median(s.wall_s for s in same) / statistics.median(s.wall_s for s in found["wall"])
        result.append(Row.at_most("time of a counted boot against a plain one under TCG", cost, 2.5))
    return result


def found_and_alarms(found: dict[str, list[Sample]]) -> list[Row]:
    """Judge each slow boot, and each unchanged one, by the unchanged others as the baseline."""
    plain = values(found["counted"], "total_s")

    def grew(total: float, others: Sequence[float]) -> bool:
        judged = judge_growth("total", others, [total], LIMIT_PERCENT)
        return judged is not None and judged.value > LIMIT_PERCENT

    alarms = sum(grew(total, [*plain[:at], *plain[at + 1 :]]) for at, total in enumerate(plain))
    result = [Row.at_most(f"false alarms in {len(plain)} unchanged boots", alarms, 0)]
    for kind in ("cpu", "sleep"):
        totals = values(found.get(kind, []), "total_s")
        if totals:
            seen = sum(grew(total, plain) for total in totals)
            result.append(Row.at_least(f"slow units ({kind}, 2 %) found in {len(totals)} boots", seen, len(totals)))
            longer = statistics.median(map(unit_s, found[kind])) - statistics.median(map(unit_s, found["counted"]))
            planted = longer / statistics.median(plain)
            result.append(Row(name=f"planted in the unit ({kind})", value=round(planted, 4), goal="0.02", holds=True))
    return result


if __name__ == "__main__":
    sys.exit(main())
