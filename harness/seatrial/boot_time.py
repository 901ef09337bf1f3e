"""Boot time as an experiment: many boots from the same state, measured from time stamps, judged by intervals."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import platform
import re
import secrets
import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Literal

from seatrial import __version__
from seatrial.boot_budget import BootVerdict, judged, mismatch
from seatrial.boot_sample import Conditions, Measured, Seen, measured_boot, observe, sampled
from seatrial.clock import monotonic_s
from seatrial.errors import ConfigError, HostError, ObservationError
from seatrial.guest.facts import Facts
from seatrial.guest.ready import Patience
from seatrial.guest.ssh import RunKey
from seatrial.layout import cache_dir
from seatrial.machine.accelerator import Choice
from seatrial.machine.boot import Launch
from seatrial.machine.counted import Counted, copied_in_memory, disk_in_memory
from seatrial.machine.disk import nameless_duplicate, nameless_overlay, sha256
from seatrial.machine.provision import KEY_COMMENT
from seatrial.options import TCG_FACTOR
from seatrial.policy.flavours import Budgets
from seatrial.progress import Progress
from seatrial.report.boot_record import VERSION, BootRecord, HostFacts, Sample
from seatrial.session import Candidate, first_usable, launch_of

__all__ = ["Measurement", "Plan", "Yardstick", "measure"]

# A counted boot takes two to three times as long as a plain one under emulation; a busy host stretches that.
_COUNTED_FACTOR: Final = 4
_WALL: Final = "the host's monotonic clock"


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How to measure: at least ``boots``, up to ``cap`` while the verdict is open; which boots, on which clock.

    A counted boot takes its chance from a seed: the first boot from ``first_seed``, the next from the one after it.
    ``warm_up`` boots once on the wall clock without counting it; a caller that has done so need not again.
    ``drawing``: the guest draws its own picture of the boot as evidence.
    """

    boots: int
    cap: int
    clock: Literal["wall", "counted"]
    which: Literal["first", "later"] = "first"
    shift: int = 1
    first_seed: int = 1
    warm_up: bool = True
    drawing: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Yardstick:
    """What is measured against: budgets, and the record of an earlier measurement if there is one."""

    budgets: Budgets
    baseline: BootRecord | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """What was measured, and the verdict on it."""

    record: BootRecord
    baseline: BootRecord | None
    verdict: BootVerdict
    folder: Path


def measure(
    candidate: Candidate,
    plan: Plan,
    folder: Path,
    *,
    yardstick: Yardstick,
    progress: Progress,
    keep: Callable[[BootRecord], None] = lambda _record: None,
) -> Measurement:
    """Boot ``candidate`` as ``plan`` says and judge the times.

    :param keep: called with the record after every boot: what was measured survives the end of the run.
    :raises ConfigError: the plan is not possible.
    :raises SeatrialError: a boot failed, or could not be measured.
    """
    _refuse_nonsense(plan)
    record = _empty(candidate, plan)
    budgets, baseline = yardstick.budgets, yardstick.baseline
    machine = budgets.machine or candidate.flavour.machine
    with _state(candidate, plan, folder, progress) as state:
        record = replace(record, accelerator=state.choice.accelerator, steps=state.steps, discarded=state.discarded)
        while True:
            number = len(record.samples)
            progress.phase(f"boot {number + 1} of {plan.boots} on the {plan.clock} clock")
            sample = _boot(candidate, plan, state, folder, number=number, progress=progress)
            record = replace(record, samples=(*record.samples, sample))
            keep(record)
            progress.note(f"boot {number + 1}: {_told(sample)}")
            if number + 1 < plan.boots:
                continue
            verdict = judged(record, baseline, budgets, machine=machine)
            if not verdict.is_open or number + 1 >= plan.cap or (baseline is not None and mismatch(record, baseline)):
                return Measurement(record=record, baseline=baseline, verdict=_capped(verdict, plan), folder=folder)


def _refuse_nonsense(plan: Plan) -> None:
    if plan.boots < 1 or plan.cap < plan.boots:
        raise ConfigError(
            f"{plan.boots} boots with a cap of {plan.cap} cannot be measured",
            hint="-n is at least 1, --cap at least -n",
        )


def _capped(verdict: BootVerdict, plan: Plan) -> BootVerdict:
    if not verdict.is_open:
        return verdict
    why = f"{plan.cap} boots (the cap) do not settle it: the interval holds the limit; raise --cap, or quieten the host"
    return replace(verdict, unjudged=(*verdict.unjudged, why))


def _told(sample: Sample) -> str:
    parts = [f"{name.removesuffix('_s')} {seconds:.3f} s" for name, seconds in sample.phases.items()]
    return ", ".join(parts or ["no system manager to ask"]) + f" (took {sample.wall_s:.0f} s, load {sample.load:.1f})"


def _empty(candidate: Candidate, plan: Plan) -> BootRecord:
    return BootRecord(
        version=VERSION,
        seatrial=__version__,
        image=candidate.image.path.name,
        sha256=sha256(candidate.image.path),
        flavour=candidate.flavour.name,
        machine=candidate.machine.name,
        accelerator="tcg",
        clock=plan.clock,
        shift=plan.shift if plan.clock == "counted" else None,
        which=plan.which,
        qemu=candidate.features.version_text,
        host=_host(),
        steps="",
        discarded=0,
        samples=(),
    )


def _host() -> HostFacts:
    cpu = next(iter(re.findall(r"^model name\s*:\s*(.+)$", _proc("cpuinfo"), re.MULTILINE)), platform.machine())
    cpus, kernel = os.cpu_count() or 1, platform.release()
    memory = next(iter(re.findall(r"MemTotal:\s*(\d+)", _proc("meminfo"))), "")
    mark = hashlib.sha256(f"{cpu}|{cpus}|{kernel}|{memory}|{platform.node()}".encode()).hexdigest()
    return HostFacts(cpu=cpu, cpus=cpus, kernel=kernel, fingerprint=mark[:16])


def _proc(name: str) -> str:
    with contextlib.suppress(OSError):
        return Path("/proc", name).read_text(encoding="utf-8", errors="replace")
    return ""


def _conditions(seconds: float) -> Conditions:
    clocks = [float(value) for value in re.findall(r"^cpu MHz\s*:\s*([0-9.]+)$", _proc("cpuinfo"), re.MULTILINE)]
    return Conditions(wall_s=seconds, load=os.getloadavg()[0], mhz=statistics.mean(clocks) if clocks else None)


@dataclass(frozen=True, slots=True, kw_only=True)
class _State:
    """What every boot starts from: the pristine image (``disk`` None), or the disk that a first boot left."""

    choice: Choice
    disk: int | None
    discarded: int
    steps: str


@contextlib.contextmanager
def _state(candidate: Candidate, plan: Plan, folder: Path, progress: Progress) -> Iterator[_State]:
    """Boot once where a boot has to be thrown away: to warm the host, to leave the first boot behind, to find KVM."""
    with contextlib.ExitStack() as stack:
        if plan.clock == "counted":
            choice = Choice(accelerator="tcg", reason="the counted clock runs on emulation only")
            yield stack.enter_context(_counted_state(candidate, plan, choice, folder, progress))
        else:
            yield stack.enter_context(
                first_usable(
                    candidate.tries, lambda choice: _wall_state(candidate, plan, choice, folder, progress), progress
                )
            )


@contextlib.contextmanager
def _counted_state(
    candidate: Candidate, plan: Plan, choice: Choice, folder: Path, progress: Progress
) -> Iterator[_State]:
    steps = f"{2**plan.shift} ns an instruction"
    if plan.which == "first":  # nothing of the host shows on this clock, so there is nothing to warm
        yield _State(choice=choice, disk=None, discarded=0, steps=steps)
        return
    with disk_in_memory(candidate.image) as disk:
        progress.phase("the first boot, which leaves the state that later boots start from")
        launch = _launch(candidate, plan, choice, folder, disk=disk, seed=plan.first_seed)
        _first_boot(candidate, plan, launch, progress)
        yield _State(choice=choice, disk=disk, discarded=1, steps=steps)


@contextlib.contextmanager
def _wall_state(candidate: Candidate, plan: Plan, choice: Choice, folder: Path, progress: Progress) -> Iterator[_State]:
    if not plan.warm_up and plan.which == "first":
        yield _State(choice=choice, disk=None, discarded=0, steps=_WALL)
        return
    with nameless_overlay(candidate.image.disk_bytes, folder) as disk:
        progress.phase("a boot that does not count: it warms the host's caches")
        _first_boot(candidate, plan, _launch(candidate, plan, choice, folder, disk=disk, seed=None), progress)
        kept = disk if plan.which == "later" else None
        yield _State(choice=choice, disk=kept, discarded=1, steps=_WALL)


def _first_boot(candidate: Candidate, plan: Plan, launch: Launch, progress: Progress) -> None:
    with measured_boot(
        launch, candidate.key or _key(plan), _patience(candidate, plan, launch.choice), progress
    ) as measured:
        measured.power_off()


def _boot(candidate: Candidate, plan: Plan, state: _State, folder: Path, *, number: int, progress: Progress) -> Sample:
    seed = plan.first_seed + number if plan.clock == "counted" else None
    with contextlib.ExitStack() as stack:
        disk = None
        if state.disk is not None:
            counted = plan.clock == "counted"
            copy = copied_in_memory(state.disk) if counted else nameless_duplicate(state.disk, folder)
            disk = stack.enter_context(copy)
        started = monotonic_s()
        launch = _launch(candidate, plan, state.choice, folder, disk=disk, seed=seed)
        patience = _patience(candidate, plan, state.choice)
        measured = stack.enter_context(measured_boot(launch, candidate.key or _key(plan), patience, progress))
        seen = observe(Facts(measured.guest.shell), drawing=plan.drawing)
        _refuse_disturbed(seen, measured)
        seen.keep_plot(folder / f"systemd-analyze-plot-{number + 1}.svg")
        guest = measured.guest
        outside = {"prompt_s": measured.prompt_s} if measured.prompt_s is not None else {}
        if plan.clock == "wall":
            outside |= {"banner_s": guest.banner_s, "login_s": guest.login_s, "ready_s": guest.ready_s}
        elif not seen.phases and measured.asked_s is not None:
            outside |= {"quiet_s": measured.asked_s}
        return sampled(seen, outside, number=number + 1, seed=seed, conditions=_conditions(monotonic_s() - started))


def _refuse_disturbed(seen: Seen, measured: Measured) -> None:
    took, asked = seen.phases.get("total_s", 0.0), measured.asked_s
    if asked is not None and took > asked:
        raise ObservationError(
            f"the boot took {took:.1f} s, but was asked at {asked:.1f} s: the question disturbed what it measures",
            hint="the console was silent in mid-boot; the image should show its boot there (console=ttyS0)",
            evidence=measured.boot.console.path,
        )


def _launch(
    candidate: Candidate, plan: Plan, choice: Choice, folder: Path, *, disk: int | None, seed: int | None
) -> Launch:
    launch = launch_of(candidate, choice, folder, run="seatrial-boot-time", key=candidate.key or _key(plan))
    launch = replace(launch, disk=disk)
    if plan.clock == "wall":
        return launch
    # Instructions of two CPUs would interleave as the host likes.
    machine = launch.machine.model_copy(update={"cpus": 1})
    return replace(launch, machine=machine, counted=Counted(shift=plan.shift, seed=seed or plan.first_seed))


@functools.cache
def _fresh_key() -> RunKey:
    """Return one key for all boots of this process: what is brought in and what logs in must be the same."""
    return RunKey(KEY_COMMENT)


def _key(plan: Plan) -> RunKey:
    if plan.clock == "wall":
        return _fresh_key()
    # The kernel stirs its SMBIOS tables, our key among them, into its random pool: the same boot needs the same key.
    path = cache_dir() / "counted.key"
    with contextlib.suppress(FileExistsError), open(path, "xb", opener=lambda n, f: os.open(n, f, 0o600)) as file:
        file.write(secrets.token_bytes(32))
    secret = path.read_bytes()
    if len(secret) != 32:
        raise HostError(f"{str(path)!r} holds {len(secret)} bytes, expected 32", hint="delete it; it is made anew")
    return RunKey(KEY_COMMENT, secret=secret)


def _patience(candidate: Candidate, plan: Plan, choice: Choice) -> Patience:
    settings = candidate.settings
    factor = TCG_FACTOR if choice.accelerator == "tcg" else 1
    if plan.clock == "counted":
        factor *= _COUNTED_FACTOR
    return Patience(
        boot_s=settings.boot_timeout * factor,
        settle_s=settings.settle_timeout * factor,
        command_s=settings.command_timeout * factor,
    )
