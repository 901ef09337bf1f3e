"""``tox -e bench-boot``: how far two boots of one image differ on each clock, and whether a slow unit is found.

Every boot is appended to ``reports/out/bench-boot.jsonl`` when it is over, with what it was booted with, so a run that
was ended goes on where it was (``--fresh`` starts anew) and a boot of another image, QEMU or machine is never counted;
``--report`` only prints what there is. A boot of a slow image is compared with the unchanged boot of its own seed, as
``seatrial boot-time --baseline`` does it.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rows import Row, save
from seatrial.boot_budget import judged
from seatrial.boot_time import Plan, Yardstick, measure
from seatrial.clock import Deadline
from seatrial.images import built
from seatrial.layout import cache_dir, out_dir
from seatrial.machine.arguments import Attached, qemu_arguments
from seatrial.machine.counted import Counted
from seatrial.options import resolve
from seatrial.policy.boot_time import NOISE_OF_PAIRS, spread
from seatrial.policy.flavours import Budgets
from seatrial.policy.judge import Outcome
from seatrial.progress import Silent
from seatrial.report.atomic import write_atomic
from seatrial.report.boot_record import VERSION, BootRecord, HostFacts, Sample, sample_from_json
from seatrial.report.record import plain
from seatrial.session import Candidate, examine

RESULTS = out_dir() / "bench-boot.jsonl"
PHASES = ("kernel_s", "initrd_s", "userspace_s")
# same: one seed again and again; seeds: a seed for each boot, and those of the slow images ``cpu`` and ``sleep`` too.
KINDS = ("same", "seeds", "cpu", "sleep", "plain")
# The unit that the slow images slow down: on the critical chain, a few hundredths of a second by itself.
VICTIM = "systemd-user-sessions.service"
# The unchanged image takes 25.9 s of the counted clock; there a shell counts to 100,000 in 4.3 s.
PLANTED = 0.02
SLEEP_S = round(PLANTED * 25.9, 2)
ROUNDS = round(SLEEP_S / 4.3 * 100_000, -2)
AMOUNTS: Mapping[str, float] = {"sleep": SLEEP_S, "cpu": ROUNDS}
# Of a normal distribution, one in a hundred lies further above the mean than so many standard deviations.
_ONE_IN_A_HUNDRED = 2.33
# What an image may grow by, in percent: with what one boot's total may be off by, half of what is planted is an alarm.
GROWTH = Budgets(growth={"total_s": 0.1, "unit_s": 30.0})


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """One boot, and the seconds of processor time that QEMU and all else took for it."""

    sample: Sample
    cpu_s: float


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
    image = built("immutable", say=lambda text: print(text, file=sys.stderr), deadline=Deadline(3600))
    if not options.report:
        boot_all(image, options.n, options.kinds)
    return save(rows(results(image), options.n), out_dir() / "bench-boot.json")


def boot_all(image: Path, number: int, kinds: Sequence[str]) -> None:
    """Boot each of ``kinds`` ``number`` times, as far as that has not been done; counted boots first, in turns."""
    for turn in range(number):
        for kind in ("same", "seeds", "cpu", "sleep"):
            # The first boot of kind 'same' has seed 1 too, so it is the first of the seeds.
            if kind in kinds and len(results(image).get(kind, ())) <= turn - (kind == "seeds"):
                boot(image, kind, seed=1 if kind == "same" else turn + 1)
    while "plain" in kinds and len(results(image).get("plain", ())) < number:
        boot(image, "plain", seed=0)


def boot(image: Path, kind: str, *, seed: int) -> None:
    """Boot an image of ``kind`` once and keep it; ``plain`` is on the wall clock, with the machine's two CPUs."""
    disk = slowed(image, kind, AMOUNTS[kind]) if kind in AMOUNTS else image
    clock = Plan(boots=1, cap=1, clock="counted", first_seed=seed, drawing=False)
    plan = clock if kind != "plain" else Plan(boots=1, cap=1, clock="wall", warm_up=False, drawing=False)
    before = _cpu_s()
    with tempfile.TemporaryDirectory(prefix="bench-boot-") as place:
        yardstick = Yardstick(budgets=Budgets())
        done = measure(candidate_of(disk), plan, Path(place), yardstick=yardstick, progress=Silent())
    keep(kind, Kept(sample=done.record.samples[0], cpu_s=round(_cpu_s() - before, 1)), booted_with(image, kind))


def _cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def candidate_of(image: Path) -> Candidate:
    """Return ``image`` as a candidate under emulation."""
    given = {"seatrial_image": str(image), "seatrial_flavour": "debian-immutable", "seatrial_accel": "tcg"}
    return examine(resolve(given.get, lambda _key: None, {}))


def booted_with(image: Path, kind: str) -> Mapping[str, object]:
    """Return all that decides over a boot but its seed: the demo's version, what slows it, QEMU and its arguments."""
    candidate = candidate_of(image)
    wires = Attached(qmp_fd=3, console_fd=4, overlay_fd=5, base_fd=6, code_fd=7, variables_fd=8)
    words = qemu_arguments(
        candidate.machine,
        candidate.image,
        accelerator="tcg",
        firmware=candidate.firmware,
        attached=wires if kind == "plain" else replace(wires, counted=Counted(seed=0)),
        smbios=(),
    )
    return {
        "image": image.stem,
        "slowed": AMOUNTS.get(kind, 0),
        "qemu": candidate.features.version_text,
        "arguments": hashlib.sha256("\0".join(words).encode()).hexdigest()[:16],
    }


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


def results(image: Path) -> dict[str, list[Kept]]:
    """Return the boots that were kept, by kind, as far as they were made with what there is now."""
    found: dict[str, list[Kept]] = {}
    now = {kind: booted_with(image, kind) for kind in KINDS}
    for line in _kept_lines().splitlines():
        entry = json.loads(line)
        if entry["with"] == now.get(entry["kind"]):
            kept = Kept(sample=sample_from_json(entry["sample"]), cpu_s=entry["cpu_s"])
            found.setdefault(entry["kind"], []).append(kept)
    return found


def _kept_lines() -> str:
    return RESULTS.read_text(encoding="utf-8") if RESULTS.is_file() else ""


def keep(kind: str, boot_: Kept, conditions: Mapping[str, object]) -> None:
    """Append one boot."""
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    entry = {"kind": kind, "with": conditions, "cpu_s": boot_.cpu_s, "sample": plain(boot_.sample)}
    # Whole or not at all: a run that is killed here leaves no half of a line.
    write_atomic(RESULTS, _kept_lines() + json.dumps(entry) + "\n")
    sample = boot_.sample
    phases = ", ".join(f"{name} {seconds:.6f}" for name, seconds in sample.phases.items())
    told = f"(seed {sample.seed}, took {sample.wall_s:.0f} s, {boot_.cpu_s:.0f} s of CPU, load {sample.load})"
    print(f"{kind}: {phases} {told}", file=sys.stderr, flush=True)


def rows(found: Mapping[str, Sequence[Kept]], number: int) -> list[Row]:
    """Return every figure that the boots there are allow, with its goal."""
    counts = {kind: len(found.get(kind, ())) for kind in KINDS}
    result = [Row.at_least(f"boots of kind '{k}'", counts[k], number - (k == "seeds")) for k in KINDS]
    same = found.get("same", ())
    seeds = [*same[:1], *found.get("seeds", ())]
    if len(same) > 1:
        result += _spreads(f"one seed, {len(same)} boots", same, counts_for_goal=True)
    if len(seeds) > 1:
        result += _spreads(f"{len(seeds)} seeds", seeds, counts_for_goal=False)
    if counts["plain"] > 1:
        result += _spreads(f"wall clock, {counts['plain']} boots", found["plain"], counts_for_goal=False)
    if len(same) > 1:
        result.append(_false_alarms(same))
    for kind in AMOUNTS:
        pairs = _pairs(seeds, found.get(kind, ()))
        if pairs:
            result += _detected(kind, pairs)
    pairs_of = [_pairs(seeds, found.get(kind, ())) for kind in AMOUNTS]
    if all(len(pairs) > 1 for pairs in pairs_of):
        result.append(_noise(pairs_of))
    if same and counts["plain"]:
        result += _cost([*seeds, *same[1:]], found["plain"])
    return result


def _spreads(what: str, boots: Sequence[Kept], *, counts_for_goal: bool) -> list[Row]:
    """Return (max - min) / median of the total and of each phase."""
    result = []
    for name in ("total_s", *PHASES):
        value = spread([kept.sample.phases[name] for kept in boots])
        label = f"spread of {name.removesuffix('_s')}, {what}"
        limit = 0.005 if name == "total_s" else 0.01
        result.append(Row.at_most(label, value, limit) if counts_for_goal else _told(label, value))
    return result


def _told(name: str, value: float, goal: str = "to compare with") -> Row:
    return Row(name=name, value=round(value, 4), goal=goal, holds=True)


def _pairs(before: Sequence[Kept], now: Sequence[Kept]) -> list[tuple[Kept, Kept]]:
    """Return each boot of ``now`` behind the one of ``before`` that had its seed."""
    by_seed = {kept.sample.seed: kept for kept in before}
    return [(by_seed[kept.sample.seed], kept) for kept in now if kept.sample.seed in by_seed]


def _growth(before: Kept, now: Kept) -> float:
    return 100 * (_total(now) / _total(before) - 1)


def _total(kept: Kept) -> float:
    return kept.sample.phases["total_s"]


def _is_alarm(before: Kept, now: Kept) -> bool:
    """Return whether ``seatrial boot-time --baseline`` would fail this one boot, for its total or for a unit."""
    return judged(_record(now), _record(before), GROWTH, machine="").outcome is Outcome.FAIL


def _record(kept: Kept) -> BootRecord:
    """Return a record of one counted boot; what it ran on is the same for all that are compared here."""
    return BootRecord(
        version=VERSION,
        seatrial="",
        image="",
        sha256="",
        flavour="",
        machine="",
        accelerator="tcg",
        clock="counted",
        shift=None,
        which="first",
        qemu="",
        host=HostFacts(cpu="", cpus=1, kernel="", fingerprint=""),
        steps="",
        discarded=0,
        samples=(kept.sample,),
    )


def _false_alarms(same: Sequence[Kept]) -> Row:
    """Compare every unchanged boot with every other one of its seed: each is the baseline once, each the candidate."""
    alarmed = {number for number, now in enumerate(same) if any(_is_alarm(before, now) for before in same)}
    return Row.at_most(f"false alarms in {len(same)} unchanged boots", len(alarmed), 0)


def _detected(kind: str, pairs: Sequence[tuple[Kept, Kept]]) -> list[Row]:
    found = sum(_is_alarm(before, now) for before, now in pairs)
    grown = [_growth(before, now) for before, now in pairs]
    longer = statistics.median(unit_s(now.sample) - unit_s(before.sample) for before, now in pairs)
    moved = [abs(_start(now) - _start(before)) / _total(before) for before, now in pairs]
    planted = longer / statistics.median(_total(before) for before, _now in pairs)
    return [
        Row.at_least(f"slow unit ({kind}) found in {len(pairs)} boots", found, len(pairs)),
        _told(f"slow unit ({kind}): share planted in the unit", planted, f"about {PLANTED}"),
        _told(f"slow unit ({kind}): most that its start moved, by chance alone", max(moved), "about 0"),
        _told(f"slow unit ({kind}): least growth of the total", min(grown) / 100, f"about {PLANTED}"),
        _told(f"slow unit ({kind}): most growth of the total", max(grown) / 100, f"about {PLANTED}"),
    ]


def _noise(pairs_of: Sequence[Sequence[tuple[Kept, Kept]]]) -> Row:
    """Return how much the growth of the total varies among boots of one slow image, whatever was planted in it."""
    variance = statistics.mean(statistics.variance(_growth(*pair) for pair in pairs) for pairs in pairs_of)
    number = sum(map(len, pairs_of))
    goal = f"at most {NOISE_OF_PAIRS / _ONE_IN_A_HUNDRED:.4f}"
    value = variance**0.5 / 100
    label = f"standard deviation of the total's growth between two images, {number} pairs of one seed each"
    return Row(name=label, value=round(value, 4), goal=goal, holds=value <= NOISE_OF_PAIRS / _ONE_IN_A_HUNDRED)


def _start(kept: Kept) -> float:
    """Return when the victim started: until then the slow image has done nothing else than the unchanged one."""
    return next(span.started_s for span in kept.sample.units if span.name == VICTIM)


def _cost(counted: Sequence[Kept], plain_: Sequence[Kept]) -> list[Row]:
    """Compare processor time, which a busy host lengthens little, and time on the wall, which it does."""
    cpu = statistics.median(k.cpu_s for k in counted) / statistics.median(k.cpu_s for k in plain_)
    wall = statistics.median(k.sample.wall_s for k in counted) / statistics.median(k.sample.wall_s for k in plain_)
    loads = [statistics.median(k.sample.load for k in boots) for boots in (counted, plain_)]
    return [
        Row.at_most("processor time of a counted boot against a plain one under TCG", cpu, 2.5),
        _told("wall time of a counted boot against a plain one", wall),
        _told("load of the host in median, counted boots", loads[0]),
        _told("load of the host in median, plain boots", loads[1]),
    ]


if __name__ == "__main__":
    sys.exit(main())
