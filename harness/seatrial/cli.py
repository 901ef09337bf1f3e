"""The command ``seatrial``: everything that a person or a script starts by hand."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

from seatrial import __version__
from seatrial.errors import ConfigError, SeatrialError
from seatrial.options import OPTIONS, Settings, environment, resolve
from seatrial.suites import suite_folders

__all__ = ["main"]

_KERNEL = ("kernel", "initrd", "append")
_MACHINE = ("accel", "machine", "firmware", "tpm", "disk_bus", "memory", "cpus", "network")
_ACCESS = ("access", "ssh_user", "ssh_key", "ignition")
_TIMES = ("boot_timeout", "settle_timeout", "hang_timeout", "command_timeout")
Command = TypeVar("Command", bound=Callable[..., Any])


class _Group(click.Group):
    """Shows our errors as text with the exit status of their family, never as a traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except SeatrialError as exc:
            click.echo(f"seatrial: {exc}", err=True)
            ctx.exit(exc.exit_status)


def _run_options(*names: str) -> Callable[[Command], Command]:
    """Add the options of the one table that a command takes."""

    def add(command: Command) -> Command:
        for option in reversed([option for option in OPTIONS if option.name in names]):
            kind: dict[str, Any] = {"help": f"{option.help} [{option.variable}]", "default": None}
            if isinstance(option.default, bool):
                kind |= {"is_flag": True, "flag_value": "on", "type": str}
            else:
                kind |= {"metavar": option.metavar or "|".join(option.choices)}
            command = click.option(option.flag, f"seatrial_{option.name}", **kind)(command)
        return command

    return add


def _settings(image: Path | None, given: dict[str, Any]) -> Settings:
    flag = given.get("seatrial_image")
    if image is not None and flag is not None:
        raise ConfigError(f"two images were named: {str(image)!r} and --image {flag!r}", hint="name one")
    values = {**given, "seatrial_image": str(image) if image else flag}
    return resolve(values.get, lambda _key: None, environment())


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="seatrial")
def main() -> None:
    """Gate operating-system images: boot the candidate, judge it, decide release or reject.

    Exit status: 0 release, 1 reject, 2 could not judge, 4 bad usage.
    """


@main.command()
@click.option("--install", is_flag=True, help="Install what is missing (root or sudo); says first what it changes.")
def doctor(install: bool) -> None:
    """Name what this computer lacks, why it is needed and the command that installs it."""
    from seatrial.doctor import main as examine_host

    sys.exit(examine_host(install_missing=install))


@main.group()
def image() -> None:
    """Build and list the demo images."""


@image.command("list")
def image_list() -> None:
    """List the demo images and where they are cached."""
    from seatrial.images import recipes

    for recipe in recipes():
        click.echo(f"{recipe.name:12} {recipe.flavour:18} {recipe.cached or 'not built yet'}\n{'':12} {recipe.title}")


@image.command("build")
@click.argument("name")
@click.option("--force", is_flag=True, help="Build even when a cached image of this recipe exists.")
def image_build(name: str, force: bool) -> None:
    """Build demo image NAME (or take it from the cache) and print its path."""
    click.echo(_built(name, force=force))


@main.command()
@click.argument("image", type=click.Path(path_type=Path), required=False)
@click.option("--suite", "suites", multiple=True, metavar="NAME|DIR", help="Judge by this suite only; may be repeated.")
@click.option("-q", "--quiet", is_flag=True, help="Plain lines, no live progress.")
@_run_options(
    "image", *_KERNEL, "flavour", "lynis", "break", "repeat_failed", "waivers", "out", *_MACHINE, *_ACCESS, *_TIMES
)
def gate(image: Path | None, suites: tuple[str, ...], quiet: bool, **given: str | None) -> None:
    """Boot IMAGE, judge it by all suites and decide.

    Without IMAGE, SEATRIAL_IMAGE or --kernel the demo image 'immutable' is judged, built first if need be; IMAGE may
    also be demo:NAME.
    """
    from seatrial.plugin import gate as run_gate

    chosen = _with_demo(image, given)
    folders = [str(folder) for folder in suite_folders(suites)]
    subject = [f"--image={chosen}"] if chosen else []
    sys.exit(run_gate(subject, folders, _as_options(given), quiet=quiet))


@main.command()
@click.argument("facts", type=click.Path(path_type=Path))
@click.option("--suite", "suites", multiple=True, metavar="NAME|DIR", help="Judge by this suite only; may be repeated.")
@click.option("-q", "--quiet", is_flag=True, help="Plain lines, no live progress.")
@_run_options("flavour", "waivers", "out")
def judge(facts: Path, suites: tuple[str, ...], quiet: bool, **given: str | None) -> None:
    """Judge FACTS (the facts.json of an earlier run) again by the suites of today; nothing is booted.

    Without a flavour it is the one that the system's os-release says. Controls that only a guest can answer are left
    out, and named.
    """
    from seatrial.plugin import gate as run_gate

    # What a CI server says of its next gate says nothing of these facts.
    for name in ("IMAGE", "KERNEL", "LYNIS"):
        os.environ.pop(f"SEATRIAL_{name}", None)
    folders = [str(folder) for folder in suite_folders(suites)]
    sys.exit(run_gate([f"--facts={facts}"], folders, _as_options(given), quiet=quiet))


@main.group()
def flavour() -> None:
    """List the kinds of images, and show the policy of one."""


@flavour.command("list")
def flavour_list() -> None:
    """List the flavours, and by what of os-release each is recognised."""
    from seatrial.listing import flavours_lines

    for line in flavours_lines():
        click.echo(line)


@flavour.command("show")
@click.argument("name")
def flavour_show(name: str) -> None:
    """Print the effective policy of flavour NAME: each value, which table says it, and why."""
    from seatrial.listing import flavour_lines

    for line in flavour_lines(name):
        click.echo(line)


@main.command()
@click.option("--summary", is_flag=True, help="Print counts only.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--mutants", "file", type=click.Path(path_type=Path), help="Mutants to count, instead of our own.")
def controls(summary: bool, as_json: bool, file: Path | None) -> None:
    """List the controls of the built-in suites: severity, references, and the mutants that prove each."""
    from seatrial import listing
    from seatrial.mutants_file import read_mutants

    found = listing.listed(read_mutants(file) if file is not None else listing.our_mutants())
    if as_json:
        click.echo(listing.controls_json(found), nl=False)
        return
    for line in listing.summary_lines(found) if summary else listing.controls_lines(found):
        click.echo(line)


@main.command()
@click.option("--mutants", "file", type=click.Path(path_type=Path), help="Mutants to try, instead of our own.")
@click.option(
    "--image", "images", multiple=True, help="Image, or demo:NAME; may be repeated. Otherwise all demo images."
)
@click.option(
    "--only",
    multiple=True,
    metavar="ID",
    help="A mutant, a control or a stage (G, R, I, K); may be repeated, or comma-separated.",
)
@click.option("--json", "output", type=click.Path(path_type=Path), help="Write the results there, after each mutant.")
@click.option(
    "--jobs", type=click.IntRange(1, 64), help="Guests at a time [half of the processors' number, at least 2]"
)
@click.option("--suite", "suites", multiple=True, metavar="NAME|DIR", help="Judge by this suite only; may be repeated.")
@_run_options("flavour", *_MACHINE, *_ACCESS, *_TIMES)
def mutants(  # one parameter an option
    file: Path | None,
    images: tuple[str, ...],
    only: tuple[str, ...],
    output: Path | None,
    jobs: int | None,
    suites: tuple[str, ...],
    **given: str | None,
) -> None:
    """Break copies of a ready guest on purpose, one defect each, and find out whether the controls notice.

    killed: a control that must go red did. survived: none did. false alarm: another one changed. not-applicable: the
    change itself failed. Exit status 0 when all that apply were killed, with no false alarm.
    """
    from seatrial.images import recipes
    from seatrial.listing import our_mutants
    from seatrial.mutants_file import read_mutants
    from seatrial.mutation_run import chosen, default_jobs, run_mutants

    if output is not None and file is not None and output.exists() and output.samefile(file):
        raise click.UsageError("--json and --mutants name the same file: the results would take the mutants' place")
    seeded = chosen(read_mutants(file) if file is not None else our_mutants(), only)
    names = tuple(dict.fromkeys(images)) or tuple(f"demo:{recipe.name}" for recipe in recipes())
    subjects = [_subject(name, given["seatrial_flavour"], beside=names) for name in names]
    given["seatrial_flavour"] = None
    sys.exit(
        run_mutants(
            subjects,
            seeded,
            suites=suites,
            options=_as_options(given),
            jobs=jobs or default_jobs(),
            output=output,
            say=click.echo,
        )
    )


def _subject(name: str, flavour: str | None, *, beside: Sequence[str]) -> Any:
    """Return the image ``name``, called by its file's name in results, or as it was given where another has that."""
    from seatrial.images import recipes
    from seatrial.mutation_run import Subject

    path = Path(name)
    if name.startswith("demo:"):
        called = name.removeprefix("demo:")
        path = _built(called)
        flavour = flavour or next((recipe.flavour for recipe in recipes() if recipe.name == called), None)
    if not path.is_file():
        raise ConfigError(f"image {name!r} does not exist", hint="--image FILE|demo:NAME; each is tried in turn")
    chosen = [f"--flavour={flavour}"] if flavour else []
    is_alone = sum(Path(other).name == path.name for other in beside) == 1 and not name.startswith("demo:")
    return Subject(path.name if is_alone else name, (f"--image={path}", *chosen))


@main.command()
@click.argument("file", type=click.Path(path_type=Path), default=Path("seatrial.toml"))
@click.option("--format", "form", type=click.Choice(["github", "gitlab", "azure", "json"]), default="json")
def matrix(file: Path, form: str) -> None:
    """Print the images and flavours of FILE (seatrial.toml) as a job matrix for a CI server."""
    from seatrial.matrix import matrix_text, read_jobs

    click.echo(matrix_text(read_jobs(file), form), nl=False)


def _as_options(given: dict[str, str | None]) -> list[str]:
    return [
        o.flag if isinstance(o.default, bool) else f"{o.flag}={text}"
        for o in OPTIONS
        if o.name not in {"image", "facts"} and (text := given.get(f"seatrial_{o.name}"))
    ]


@main.command()
@click.argument("image", type=click.Path(path_type=Path), required=False)
@click.option("--console", is_flag=True, help="Watch and use the serial console instead of a shell; Ctrl-] leaves.")
@_run_options("image", *_KERNEL, "flavour", *_MACHINE, *_ACCESS, *_TIMES)
def boot(image: Path | None, console: bool, **given: str | None) -> None:
    """Boot IMAGE (or --kernel) untouched and give a root shell in it; what is changed is thrown away at the end."""
    from seatrial.interactive import boot_for_a_person

    sys.exit(boot_for_a_person(_settings(image, given), console=console))


@main.command("boot-time")
@click.argument("image", type=click.Path(path_type=Path), required=False)
@click.option("-n", "--boots", type=click.IntRange(1, 1000), help="How many boots (wall clock 5, counted clock 3).")
@click.option("--cap", type=click.IntRange(1, 1000), help="At most so many while the verdict is open (twice --boots).")
@click.option("--clock", type=click.Choice(["wall", "counted"]), default="wall", show_default=True)
@click.option("--which", type=click.Choice(["first", "later"]), default="first", show_default=True, help="Which boots.")
@click.option("--baseline", type=click.Path(path_type=Path), metavar="RECORD", help="Compare with this measurement.")
@click.option("--save", type=click.Path(path_type=Path), metavar="RECORD", help="Also write the measurement there.")
@click.option("--budgets", type=click.Path(path_type=Path), metavar="FILE", help="Budgets to lay over the flavour's.")
@_run_options("flavour", "accel", "machine", *_ACCESS, "boot_timeout", "settle_timeout", "command_timeout", "out")
def boot_time(image: Path | None, boots: int | None, cap: int | None, clock: Any, **given: Any) -> None:
    """Boot IMAGE several times and judge how long it takes, by budgets and against an earlier measurement.

    The wall clock is for KVM. The counted clock counts the guest's instructions instead, on any host, busy or idle.
    Without IMAGE (and without SEATRIAL_IMAGE) the demo image 'immutable' is measured, built first if need be.
    """
    from seatrial.boot_time import Plan
    from seatrial.boot_time_run import Files, judge_boot_time
    from seatrial.progress import progress_for

    files = Files(baseline=given.pop("baseline"), save=given.pop("save"), budgets=given.pop("budgets"))
    number = boots or (5 if clock == "wall" else 3)
    plan = Plan(boots=number, cap=cap or max(number, 2 * number), clock=clock, which=given.pop("which"))
    chosen = _with_demo(image, given)
    with progress_for() as progress:
        sys.exit(judge_boot_time(_settings(chosen, given), plan, files, progress=progress, say=click.echo))


@main.command()
@click.argument("report", type=click.Path(path_type=Path))
@_run_options("flavour")
@click.option("--xml", type=click.Path(path_type=Path), help="Also write the report as XML in our schema.")
def lynis(report: Path, xml: Path | None, **given: str | None) -> None:
    """Judge a lynis REPORT.dat from disk."""
    from seatrial.lynis import judge_file

    sys.exit(judge_file(report, flavour=given["seatrial_flavour"], xml=xml, say=click.echo))


def _with_demo(image: Path | None, given: dict[str, Any]) -> Path | None:
    from seatrial.images import recipes

    if image is not None and str(image).startswith("demo:"):
        name = str(image).removeprefix("demo:")
        path, known = _built(name), {recipe.name: recipe.flavour for recipe in recipes()}
        given["seatrial_flavour"] = _settings(path, given).flavour or known[name]
        return path
    chosen = _settings(image, given)
    if chosen.image is not None or chosen.kernel is not None:
        return chosen.image
    demo = next(recipe for recipe in recipes() if recipe.name == "immutable")
    given["seatrial_flavour"] = chosen.flavour or demo.flavour
    return _built(demo.name)


def _built(name: str, *, force: bool = False) -> Path:
    from seatrial.clock import Deadline
    from seatrial.images import built
    from seatrial.process import sigterm_as_interrupt
    from seatrial.progress import progress_for

    with progress_for() as progress, sigterm_as_interrupt():
        progress.phase(f"demo image {name!r}")
        return built(name, say=progress.detail, deadline=Deadline(3600), force=force)
