"""One measured boot: powered on, left alone until it is over, then asked for its time stamps."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from seatrial.clock import Deadline, monotonic_s
from seatrial.errors import BootTimeout, ObservationError, SeatrialError
from seatrial.evidence.analyze import ANALYZE, disagreements, parse_analyze
from seatrial.evidence.boot_units import DEFAULT_TARGET, SSH_UNITS, UNITS, Units, critical_chain, parse_unit_times
from seatrial.evidence.systemd import MANAGER, Phases, boot_phases, parse_show
from seatrial.guest.facts import Facts
from seatrial.guest.ready import Guest, Patience, ready_guest
from seatrial.guest.ssh import Address, LoginKey
from seatrial.machine.boot import Boot, Launch, powered_on
from seatrial.machine.counted import is_prompt, virtual_s
from seatrial.progress import Progress
from seatrial.report.atomic import write_atomic
from seatrial.report.boot_record import Sample, spans
from seatrial.report.foreign_svg import harmless_svg

__all__ = ["PLOT", "Conditions", "Measured", "Seen", "measured_boot", "observe", "sampled"]

PLOT: Final = "systemd-analyze plot --no-pager"
_HAS_SYSTEMD: Final = "test -d /run/systemd/system && command -v systemctl >/dev/null && echo systemd; true"
# Virtual seconds of silence on the console after which the boot is over: with a prompt on it, or without.
_QUIET_AFTER_PROMPT_S: Final = 20.0
_QUIET_S: Final = 90.0
_LOOK_S: Final = 0.3
# Without a prompt: seconds of the host's time after which it is worth asking for the guest's.
_STILL_S: Final = 60.0
_OFF_S: Final = 300.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Conditions:
    """How the host was: seconds that the boot took there, load average, mean CPU frequency (None: unknown)."""

    wall_s: float
    load: float
    mhz: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What the guest told of its boot. Without systemd there is nothing but ``odd`` that says so."""

    phases: Mapping[str, float] = field(default_factory=dict)
    milestones: Mapping[str, float] = field(default_factory=dict)
    units: Units = field(default_factory=dict)
    chain: tuple[str, ...] = ()
    odd: tuple[str, ...] = ()
    plot: str = ""

    def keep_plot(self, path: Path) -> None:
        """Keep the guest's own drawing at ``path``: as SVG when it is only a drawing, else as text beside it."""
        if self.plot:
            safe = harmless_svg(self.plot)
            write_atomic(path if safe else path.with_suffix(".svg.txt"), safe or self.plot)


@dataclass(slots=True, kw_only=True)
class Measured:
    """A boot that is over and answers. ``prompt_s`` is when getty's prompt was seen on the console, if it was."""

    boot: Boot
    guest: Guest
    prompt_s: float | None
    asked_s: float | None

    def power_off(self) -> None:
        """Shut the guest down in order, so that its disk is what a next boot would find.

        :raises BootTimeout: it does not go.
        """
        with contextlib.suppress(SeatrialError):  # the connection ends with the guest
            self.guest.shell.run("sync; systemctl poweroff --no-block || poweroff")
        deadline = Deadline(_OFF_S)
        while self.boot.process.status is None:
            if deadline.is_over:
                raise BootTimeout(f"the guest did not power off within {_OFF_S:.0f} s", evidence=self.boot.console.path)
            deadline.pause(_LOOK_S)


@contextlib.contextmanager
def measured_boot(launch: Launch, key: LoginKey, patience: Patience, progress: Progress) -> Iterator[Measured]:
    """Power on, wait, log in.

    On the counted clock nobody knocks before the boot is over: a knock comes at the host's time, and costs the guest
    instructions. The guest's silence on the console, in its own time, says that it is over.

    :raises SeatrialError: it does not come up.
    """
    with powered_on(launch) as boot:
        watching, prompts = [True], list[float]()

        def look(_chunk: bytes) -> None:
            if watching:
                progress.detail(boot.console.last_line)
            if not prompts and is_prompt(boot.console.last_line):
                prompts.append(boot.elapsed_s)

        boot.console.listen(look)
        asked = _until_over(boot, Deadline(patience.boot_s)) if launch.counted else None
        address = Address(boot.port)
        with (
            boot.watch.explained(),
            ready_guest(
                address, launch.provision.user, key, guard=boot.guard, patience=patience, progress=progress
            ) as guest,
        ):
            watching.clear()
            boot.watch.ready()
            seen = prompts[0] if prompts and not launch.counted else None
            yield Measured(boot=boot, guest=guest, prompt_s=seen, asked_s=asked)


def _until_over(boot: Boot, deadline: Deadline) -> float:
    """Return the virtual time at which the console had been silent for long enough."""
    told, still_s, since = -1, monotonic_s(), None
    while True:
        boot.guard()
        if deadline.is_over:
            raise BootTimeout(
                f"the guest was not quiet within {deadline.total_s:.0f} s of the host's time",
                hint="a busy host makes a counted boot slow, never wrong; --boot-timeout gives it longer",
                evidence=boot.console.path,
            )
        deadline.pause(_LOOK_S)
        if boot.console.byte_count != told:
            told, still_s, since = boot.console.byte_count, monotonic_s(), None
            continue
        # Not even QEMU's monitor is asked for the time before the guest looks ready.
        if not is_prompt(boot.console.last_line) and monotonic_s() - still_s < _STILL_S:
            continue
        now = virtual_s(boot.monitor)
        since = now if since is None else since
        if now - since >= (_QUIET_AFTER_PROMPT_S if is_prompt(boot.console.last_line) else _QUIET_S):
            return now


def observe(facts: Facts, *, drawing: bool = True) -> Seen:
    """Return what the guest tells of its boot, from time stamps; its prose is compared with them.

    :param drawing: also have the guest draw its boot, which costs it seconds.

    :raises ObservationError: the boot is not finished, or the answers make no sense.
    """
    if not facts.lines(_HAS_SYSTEMD):
        return Seen()
    facts.ask_all([MANAGER, UNITS, DEFAULT_TARGET, ANALYZE, *([PLOT] if drawing else [])])
    phases = boot_phases(parse_show(facts.text(MANAGER)))
    units = parse_unit_times(facts.text(UNITS))
    (target,) = facts.lines(DEFAULT_TARGET)
    started = phases.kernel_s + (phases.initrd_s or 0.0)
    return Seen(
        phases={**phases.measured(), "total_s": phases.total_s},
        milestones=_milestones(units, target.strip()),
        units=units,
        chain=critical_chain(units, target.strip(), since_s=started),
        odd=_odd(facts, phases),
        plot=_optional(facts, PLOT) if drawing else "",
    )


def _milestones(units: Units, default: str) -> Mapping[str, float]:
    ssh = next((name for name in SSH_UNITS if name in units), "")
    wanted = {"multi_user_s": "multi-user.target", "default_target_s": default, "ssh_unit_s": ssh}
    every = {name: units[unit].done_s for name, unit in wanted.items() if unit in units}
    return {name: at for name, at in every.items() if at is not None}


def _odd(facts: Facts, phases: Phases) -> tuple[str, ...]:
    text = _optional(facts, ANALYZE)
    if not text:
        return ()
    try:
        return disagreements(phases, parse_analyze(text))
    except ObservationError as exc:
        return (exc.message,)


def _optional(facts: Facts, question: str) -> str:
    """Return an answer that not every image can give: systemd-analyze is a package of its own on some."""
    with contextlib.suppress(SeatrialError):
        return facts.text(question)
    return ""


def sampled(
    seen: Seen, outside: Mapping[str, float], *, number: int, seed: int | None, conditions: Conditions
) -> Sample:
    """Return what was seen as one sample; ``outside`` is what the host's clock adds."""
    return Sample(
        number=number,
        seed=seed,
        phases=dict(seen.phases),
        milestones={**seen.milestones, **outside},
        units=spans(seen.units),
        chain=seen.chain,
        wall_s=round(conditions.wall_s, 1),
        load=round(conditions.load, 2),
        mhz=conditions.mhz,
        odd=seen.odd,
    )
