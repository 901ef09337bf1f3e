"""A copy of lynis on this computer: found, read, and packed so that lynis trusts it in the guest."""

from __future__ import annotations

import hashlib
import io
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Final

from seatrial.errors import ConfigError

__all__ = ["LynisTree", "find_tree", "packed"]

_PROGRAMS: Final = ("usr/sbin/lynis", "usr/bin/lynis")
_SHARED: Final = "usr/share/lynis"
_PROFILE: Final = "etc/lynis/default.prf"
_LANGUAGE: Final = "en"  # the run has LANG=C, which is English


@dataclass(frozen=True)
class LynisTree:
    """The files of lynis as it is unpacked from its release: ``lynis``, ``include/``, ``db/``, ``default.prf``.

    ``is_chosen``: the user named it, so it goes before a lynis that the image has.
    """

    origin: str
    files: Mapping[str, bytes]
    is_chosen: bool

    @cached_property
    def folders(self) -> tuple[str, ...]:
        """Return the folders, parents first; ``plugins`` is there but empty, lynis refuses to run without it."""
        parents = {str(parent) for name in self.files for parent in PurePosixPath(name).parents if str(parent) != "."}
        return tuple(sorted(parents | {"plugins"}))

    @cached_property
    def digest(self) -> str:
        """Return a SHA-256 of names and contents: two runs with the same digest ran the same tests."""
        total = hashlib.sha256()
        for name, content in sorted(self.files.items()):
            total.update(f"{name}\0{hashlib.sha256(content).hexdigest()}\n".encode())
        return total.hexdigest()


def find_tree(directory: Path | None = None, *, root: Path = Path("/")) -> LynisTree | None:
    """Return the lynis in ``directory``, else the one that is installed on this computer, else None.

    :raises ConfigError: ``directory`` holds no lynis.
    """
    if directory is not None:
        program, shared, profiles = (
            directory / "lynis",
            directory,
            [directory / "default.prf", directory / "custom.prf"],
        )
        if not (program.is_file() and (shared / "include").is_dir() and profiles[0].is_file()):
            raise ConfigError(
                f"the folder '{directory}' holds no lynis: expected 'lynis', 'include/', 'db/' and 'default.prf' in it",
                hint="name the folder that a release of lynis unpacks to",
            )
        return LynisTree(f"lynis of '{directory}'", dict(_read(program, shared, profiles)), is_chosen=True)
    shared, profiles = root / _SHARED, [root / _PROFILE]
    programs = [root / name for name in _PROGRAMS if (root / name).is_file()]
    if not (programs and (shared / "include").is_dir() and profiles[0].is_file()):
        return None
    return LynisTree("this computer's lynis", dict(_read(programs[0], shared, profiles)), is_chosen=False)


def _read(program: Path, shared: Path, profiles: list[Path]) -> Iterator[tuple[str, bytes]]:
    yield "lynis", program.read_bytes()
    for profile in profiles:
        if profile.is_file():
            yield profile.name, profile.read_bytes()
    for folder in ("include", "db"):
        for path in sorted((shared / folder).iterdir()):
            if path.is_file():
                yield f"{folder}/{path.name}", path.read_bytes()
    language = shared / "db" / "languages" / _LANGUAGE
    if language.is_file():
        yield f"db/languages/{_LANGUAGE}", language.read_bytes()


def packed(tree: LynisTree) -> bytes:
    """Return ``tree`` as a tar archive: all of root, nothing writable for others, the same bytes for the same files."""
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name in tree.folders:
            entry = tarfile.TarInfo(name)
            entry.type, entry.mode, entry.uname, entry.gname = tarfile.DIRTYPE, 0o700, "root", "root"
            archive.addfile(entry)
        for name, content in sorted(tree.files.items()):
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode, entry.uname, entry.gname = len(content), 0o600, "root", "root"
            archive.addfile(entry, io.BytesIO(content))
    return sink.getvalue()
