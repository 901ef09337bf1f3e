"""Which images are gated as which flavour, from a ``seatrial.toml``, as a job matrix for CI servers."""

from __future__ import annotations

import json
import re
import shlex
import tomllib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Final

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from seatrial.errors import ConfigError
from seatrial.images import recipes
from seatrial.suites import flavour_names

__all__ = ["FORMATS", "Job", "matrix_text", "read_jobs"]

_NAME: Final = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"
_SHOWN: Final = 'a file with rows such as [[image]] name = "edge", image = "edge.raw", flavour = "flatcar"'


def _printable(text: str) -> str:
    if not text.isprintable():
        raise ValueError("a path of printable characters was expected")
    return text


class Job(BaseModel):
    """One image that is gated: ``image`` is a path, or ``demo:NAME`` for a demo image."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Annotated[str, Field(pattern=_NAME)]
    image: Annotated[str, Field(min_length=1), AfterValidator(_printable)]
    flavour: str
    suites: tuple[Annotated[str, Field(pattern=r"^[A-Za-z0-9._/-]+$")], ...] = ()
    lynis: bool = False

    @property
    def arguments(self) -> tuple[str, ...]:
        """Return the further arguments of ``seatrial gate``."""
        return (*(f"--suite={suite}" for suite in self.suites), *(["--lynis"] if self.lynis else []))


class _Table(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    image: Annotated[tuple[Job, ...], Field(min_length=1)]


def read_jobs(path: Path) -> tuple[Job, ...]:
    """Return the images that ``path`` names.

    :raises ConfigError: it cannot be read, is no TOML, or rows are wrong; all faults at once.
    """
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8-sig"))
        jobs = _Table.model_validate(table).image
    except (OSError, UnicodeDecodeError) as exc:
        raise ConfigError(f"matrix file {str(path)!r} cannot be read: {exc}", hint=_SHOWN) from exc
    except tomllib.TOMLDecodeError as exc:
        raise ConfigError(f"matrix file {str(path)!r} is not valid TOML: {exc}") from exc
    except ValidationError as exc:
        # A faulty row leaves none: that is no fault of its own.
        found = [f for f in exc.errors() if f["type"] != "too_short"] or exc.errors()
        faults = "\n".join(f"  {'.'.join(map(str, f['loc']))}: {f['msg']}" for f in found)
        raise ConfigError(f"matrix file {str(path)!r} is not valid:\n{faults}", hint=_SHOWN) from exc
    if faults := "\n".join(f"  {fault}" for fault in _faults(jobs)):
        raise ConfigError(f"matrix file {str(path)!r} is not valid:\n{faults}")
    return jobs


def _faults(jobs: Sequence[Job]) -> list[str]:
    known = flavour_names()
    faults = [
        f"{job.name}: unknown flavour {job.flavour!r}; known: {', '.join(known)}, and files called *.toml"
        for job in jobs
        if job.flavour not in known and not job.flavour.endswith(".toml")
    ]
    demos = [f"demo:{recipe.name}" for recipe in recipes()]
    faults += [
        f"{job.name}: there is no demo image {job.image!r}; known: {', '.join(demos)}"
        for job in jobs
        if job.image.startswith("demo:") and job.image not in demos
    ]
    # Azure knows letters, digits and _ only, so that is what makes a name unlike another.
    twice = [name for name, number in Counter(_plain(job.name) for job in jobs).items() if number > 1]
    return [*faults, *(f"{name}: two images have this name" for name in twice)]


def matrix_text(jobs: Sequence[Job], form: str) -> str:
    """Return ``jobs`` for a CI server; ``form`` is one of :data:`FORMATS`."""
    return _WRITERS[form](jobs)


def _row(job: Job) -> dict[str, str]:
    return {"name": job.name, "image": job.image, "flavour": job.flavour, "arguments": " ".join(job.arguments)}


def _json(jobs: Sequence[Job]) -> str:
    return json.dumps([job.model_dump() for job in jobs], indent=2) + "\n"


def _github(jobs: Sequence[Job]) -> str:
    """Return one line for ``$GITHUB_OUTPUT``, to be read by ``fromJSON``."""
    return "matrix=" + json.dumps({"include": [_row(job) for job in jobs]}) + "\n"


def _azure(jobs: Sequence[Job]) -> str:
    """Return the logging command that sets the output variable ``matrix``."""
    rows = {_plain(job.name): {f"gate_{key}": text for key, text in _row(job).items()} for job in jobs}
    return f"##vso[task.setvariable variable=matrix;isOutput=true]{json.dumps(rows)}\n"


def _gitlab(jobs: Sequence[Job]) -> str:
    """Return a child pipeline. It is JSON, which is YAML too, so that no text can break out of its place."""
    pipeline: dict[str, Any] = {}
    for job in jobs:
        command = shlex.join(["seatrial", "gate", job.image, f"--flavour={job.flavour}", "--out=out", *job.arguments])
        pipeline[f"gate {job.name}"] = {
            "script": [command.replace("$", "$$")],
            "artifacts": {"when": "always", "paths": ["out"], "reports": {"junit": "out/*/junit.xml"}},
        }
    # YAML readers do not join the two halves that JSON escapes a character beyond U+FFFF by.
    return json.dumps(pipeline, indent=2, ensure_ascii=False) + "\n"


def _plain(name: str) -> str:
    plain = re.sub(r"[^A-Za-z0-9]", "_", name)
    return f"image_{plain}" if plain[0].isdigit() else plain  # a job's name may not begin with a digit


_WRITERS: Final[Mapping[str, Callable[[Sequence[Job]], str]]] = {
    "github": _github,
    "gitlab": _gitlab,
    "azure": _azure,
    "json": _json,
}
FORMATS: Final = tuple(_WRITERS)
