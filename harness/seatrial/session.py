"""From settings to a guest that answers: the candidate is examined, booted on the first accelerator that works."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from seatrial.access import way_in
from seatrial.clock import utc_now
from seatrial.errors import AcceleratorError, AuthRefused, ConfigError, TimerLost
from seatrial.evidence.access import advice
from seatrial.guest.ready import Patience, ready_guest
from seatrial.guest.restart import WayIn
from seatrial.guest.ssh import Address, LoginKey, RunKey
from seatrial.layout import cache_dir, data_dir
from seatrial.machine.accelerator import Choice, choices, remember_kvm
from seatrial.machine.boot import Boot, Launch, powered_on
from seatrial.machine.definition import Machine, firmware_override, load_machine, overridden
from seatrial.machine.disk import Image, open_image, ready
from seatrial.machine.features import Features, qemu_features
from seatrial.machine.firmware import Firmware, usable_firmware
from seatrial.machine.kernel import DirectKernel, kernel_image, open_kernel
from seatrial.machine.provision import KEY_COMMENT, provision
from seatrial.machine.stillness import HangLimits
from seatrial.machine.watch import Watch
from seatrial.options import TCG_FACTOR, TCG_HANG_FACTOR, Settings
from seatrial.policy.flavours import Access, Flavour
from seatrial.policy.waivers import Waivers
from seatrial.progress import Progress, Silent
from seatrial.restore import Restorer, Session, new_session
from seatrial.suites import flavour_names, read_flavour
from seatrial.waiver_file import read_waivers

__all__ = [
    "Candidate",
    "Session",
    "booted",
    "booted_again",
    "examine",
    "first_usable",
    "hang_limits",
    "launch_of",
    "patience_for",
]

_MOST_CONSOLE = 262_144
_REFUSED_S = 30.0
_TPM = {"x86_64": "crb", "aarch64": "tis"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """What is to be judged, on what, by which policy: all bad input is found while this is made."""

    settings: Settings
    image: Image
    flavour: Flavour
    machine: Machine
    firmware: Firmware | None
    features: Features
    tries: tuple[Choice, ...]
    waivers: Waivers
    kernel: DirectKernel | None = None
    key: LoginKey | None = None
    ignition: str = ""


def examine(settings: Settings, progress: Progress | None = None) -> Candidate:
    """Return the candidate that ``settings`` describe, before anything boots; a compressed image is unpacked last.

    :raises ConfigError: the image, flavour, machine or accelerator is not usable.
    :raises HostError: this computer lacks QEMU or firmware.
    """
    path = settings.image or settings.kernel
    if path is None:
        raise ConfigError(
            "no image was given", hint="--image FILE names the candidate; 'seatrial gate' alone judges the demo image"
        )
    image = open_image(settings.image) if settings.image else None
    if settings.flavour is None:
        raise ConfigError(
            f"no flavour was given for image {str(path)!r}",
            hint=f"--flavour NAME chooses the policy; known flavours: {', '.join(flavour_names())}",
        )
    flavour = read_flavour(settings.flavour)
    waivers = read_waivers(settings.waivers, path, flavour, utc_now().date())
    way = way_in(flavour, settings)
    flavour = flavour.model_copy(update={"access": way.access})
    machine = _machine(settings, flavour)
    kernel = open_kernel(settings.kernel, settings.initrd, settings.append, console=machine.console)
    features = qemu_features(machine.qemu, why=f"boot images on machine {machine.name!r}")
    firmware = usable_firmware(machine)
    tries = choices(settings.accel, cache_dir())
    if image is not None:
        image = ready(image, cache_dir("unpacked"), progress or Silent())
    return Candidate(
        settings=settings,
        image=image or _without_disk(kernel),
        kernel=kernel,
        flavour=flavour,
        machine=machine,
        firmware=firmware,
        features=features,
        tries=tries,
        waivers=waivers,
        key=way.key,
        ignition=way.ignition,
    )


def _without_disk(kernel: DirectKernel | None) -> Image:
    assert kernel is not None  # or else there is an image
    return kernel_image(kernel)


def _machine(settings: Settings, flavour: Flavour) -> Machine:
    machine = load_machine(settings.machine or flavour.machine, data_dir("qemu") / "machines")
    return overridden(
        machine,
        {
            "memory_mib": settings.memory,
            "cpus": settings.cpus,
            "disk": settings.disk_bus,
            "open_network": settings.network,
            "tpm": _tpm(settings.tpm, machine),
            **firmware_override(settings.firmware),
        },
    )


def _tpm(wanted: str | None, machine: Machine) -> str | None:
    if wanted == "on":
        return _TPM[machine.arch] if machine.tpm == "none" else machine.tpm
    return "none" if wanted == "off" else None


@contextlib.contextmanager
def booted(  # noqa: PLR0913  # what a boot is told, each by its name
    candidate: Candidate,
    folder: Path,
    *,
    run: str,
    progress: Progress,
    describe: Callable[[Launch], None] = lambda _launch: None,
    is_cloneable: bool = False,
    has_spare_port: bool = False,
    watched: Callable[[Watch], None] = lambda _watch: None,
) -> Iterator[Session]:
    """Boot the candidate, wait until it is ready and give the session; the next accelerator is tried where allowed.

    :param folder: where console log, QEMU log and the nameless overlay go.
    :param run: an id for the guest's provisioning.
    :param describe: called before each try with what is launched.
    :param is_cloneable: prepare the machine for being frozen and cloned in moments; without it, that takes longer.
    :param has_spare_port: let the machine take a second disk while it runs.
    :param watched: called with what watches the boot, once it is powered on.
    :raises SeatrialError: it did not come up, or this host cannot boot it.
    """
    key = candidate.key or RunKey(KEY_COMMENT)

    def start(choice: Choice) -> contextlib.AbstractContextManager[Session]:
        launch = launch_of(candidate, choice, folder, run=run, key=key, is_cloneable=is_cloneable)
        launch = dataclasses.replace(launch, has_spare_port=has_spare_port)
        describe(launch)
        return _ready(candidate, launch, key, progress, watched)

    with first_usable(candidate.tries, start, progress) as session:
        yield session


Started = TypeVar("Started")


@contextlib.contextmanager
def first_usable(
    tries: Sequence[Choice],
    start: Callable[[Choice], contextlib.AbstractContextManager[Started]],
    progress: Progress,
) -> Iterator[Started]:
    """Give what ``start`` gives for the first accelerator that runs a guest; what was learnt of KVM is remembered.

    A boot in which the emulator loses a timer is repeated once.

    :raises AcceleratorError: none does.
    """
    todo, was_repeated = deque(tries), False
    while todo:
        choice = todo.popleft()
        with contextlib.ExitStack() as stack:
            try:
                started = stack.enter_context(start(choice))
            except TimerLost as exc:
                if was_repeated:
                    raise
                was_repeated = True
                progress.note(f"booting once more: {exc.message}")
                todo.appendleft(dataclasses.replace(choice, reason=f"{choice.reason}; the second boot: {exc.message}"))
                continue
            except AcceleratorError as exc:
                if not todo:
                    raise
                remember_kvm(cache_dir(), works=False, reason=f"KVM ran no guest on this host: {exc.message}")
                progress.note(f"KVM is not usable here: {exc.message}")
                continue
            if choice.accelerator == "kvm":
                remember_kvm(cache_dir(), works=True, reason="a guest ran on it")
            yield started
            return


def launch_of(
    candidate: Candidate, choice: Choice, folder: Path, *, run: str, key: LoginKey, is_cloneable: bool = False
) -> Launch:
    """Return all that a boot of ``candidate`` on the accelerator ``choice`` needs."""
    return Launch(
        machine=candidate.machine,
        features=candidate.features,
        image=candidate.image,
        choice=choice,
        firmware=candidate.firmware,
        provision=provision(
            candidate.flavour.access,
            key.public_line,
            run_id=run,
            arch=candidate.machine.arch,
            ignition=candidate.ignition,
        ),
        folder=folder,
        is_cloneable=is_cloneable,
        kernel=candidate.kernel,
    )


@contextlib.contextmanager
def _ready(
    candidate: Candidate,
    launch: Launch,
    key: LoginKey,
    progress: Progress,
    watched: Callable[[Watch], None] = lambda _watch: None,
) -> Iterator[Session]:
    choice = launch.choice
    patience = patience_for(candidate, choice)
    progress.phase(f"powering on under {choice.accelerator} ({choice.reason})")
    with powered_on(launch) as boot:
        boot.watch.limits = hang_limits(candidate, choice)
        watched(boot.watch)
        watching = [True]
        boot.console.listen(lambda _chunk: progress.detail(boot.console.last_line) if watching else None)
        with (
            _advised(candidate.flavour.access, boot),
            boot.watch.explained(),
            ready_guest(
                Address(boot.port),
                launch.provision.user,
                key,
                guard=boot.guard,
                patience=patience,
                progress=progress,
                let_in=boot.watch.let_in,
            ) as guest,
        ):
            watching.clear()
            boot.watch.ready()
            progress.phase(f"ready {guest.ready_s:.1f} s after power-on: the system says {guest.state!r}")
            hang = hang_limits(candidate, choice)
            way = WayIn(user=launch.provision.user, key=key, patience=patience, hang=hang)
            restorer = Restorer(way, launch.folder, cold=functools.partial(booted_again, candidate, launch, key))
            with contextlib.closing(restorer):
                yield new_session(guest, boot, way=way, restorer=restorer)


def hang_limits(candidate: Candidate, choice: Choice) -> HangLimits:
    """Return for how long a boot of ``candidate`` on the accelerator ``choice`` may stand still."""
    slowness = TCG_HANG_FACTOR if choice.accelerator == "tcg" else 1
    return HangLimits(silent_s=candidate.settings.hang_timeout * slowness)


def patience_for(candidate: Candidate, choice: Choice) -> Patience:
    """Return how long a boot of ``candidate`` on the accelerator ``choice`` is waited for."""
    settings = candidate.settings
    factor = TCG_FACTOR if choice.accelerator == "tcg" else 1
    return Patience(
        boot_s=settings.boot_timeout * factor,
        settle_s=settings.settle_timeout * factor,
        idle_s=settings.settle_timeout,
        command_s=settings.command_timeout * factor,
        # cloud-init makes its users when sshd may greet already; every other key is there before.
        refused_s=None if candidate.flavour.access.route == "cloud-init" else _REFUSED_S * factor,
    )


@contextlib.contextmanager
def booted_again(
    candidate: Candidate, launch: Launch, key: LoginKey, folder: Path, *, disk: int | None = None
) -> Iterator[Session]:
    """Boot the same once more, with a fresh overlay or with ``disk`` for one."""
    again = dataclasses.replace(launch, folder=folder, is_cloneable=False, has_spare_port=False, disk=disk)
    with _ready(candidate, again, key, Silent()) as session:
        session.restorer, session.is_restored = None, True
        with session.held:
            yield session


@contextlib.contextmanager
def _advised(access: Access, boot: Boot) -> Iterator[None]:
    """Add to a refused key what the console says of the way by which it was to come in."""
    try:
        yield
    except AuthRefused as exc:
        console = boot.console.path.read_bytes()[-_MOST_CONSOLE:].decode("utf-8", "backslashreplace")
        raise AuthRefused(
            exc.message, hint=advice(access.route, console, access.user), evidence=boot.console.path
        ) from exc
