"""The demo images: their recipes, and building them with mkosi into a cache that is addressed by content."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
import shutil
import stat
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from seatrial.clock import Deadline
from seatrial.errors import ConfigError, HostError
from seatrial.layout import cache_dir, data_dir
from seatrial.process import require_program, run, running

__all__ = ["Recipe", "built", "built_variant", "recipes", "sources_text"]

Say = Callable[[str], None]

# Goes up when this module would build another image from the same recipe.
_BUILDER = "1"
_RELEASE = "trixie"
_OLDEST_MKOSI = 24
_KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
_MIRROR = "SEATRIAL_DEBIAN_MIRROR"
_INSTALL = "run 'seatrial doctor --install'"
_PROXIES = ("http_proxy", "https_proxy", "no_proxy")
_POLL_S = 0.5
_SHOWN = 200
_KEPT = 2  # results of earlier recipes: another checkout, or a run that goes on, may be at work with them
# name: title, flavour
_KNOWN = {
    "immutable": ("Debian 13, immutable container host: verity-protected /usr", "debian-immutable"),
    "general": ("Debian 13, general purpose: cloud-init, apt, sudo", "debian-general"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """A demo image that can be built, and where it is if it has been."""

    name: str
    title: str
    flavour: str
    digest: str
    cached: Path | None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Build:
    """One run of mkosi: what it is called, what it reads, what makes its result valid, and the result's file."""

    label: str
    folders: tuple[Path, ...]
    digest: str
    result: Path

    @property
    def log(self) -> Path:
        return self.result.parent / f"{self.label}.log"


def recipes() -> tuple[Recipe, ...]:
    """Return the demo images; looks at the recipes and the cache, starts nothing but ``mkosi --version``."""
    version = _mkosi_version_if_any()
    return tuple(_recipe(name, version) for name in _KNOWN)


def built(name: str, *, say: Say, deadline: Deadline, force: bool = False) -> Path:
    """Return the read-only raw image ``name``, building it when its recipe has changed, or when told to.

    :raises ConfigError: there is no such image.
    :raises HostError: mkosi is missing or too old, there are no package sources, or the build failed.
    """
    if name not in _KNOWN:
        raise ConfigError(f"unknown image {name!r}", hint=f"known images: {', '.join(sorted(_KNOWN))}")
    version = _mkosi_version(deadline)
    return _ensure(
        _image_build(name, (_folder(name),), version), version=version, say=say, deadline=deadline, force=force
    )


def built_variant(recipe_dir: Path, *, base: str, say: Say, deadline: Deadline, force: bool = False) -> Path:
    """Return the demo image ``base`` built with the differences of ``recipe_dir``.

    Each entry at the top of ``recipe_dir`` takes the place of the base's entry of that name; settings go to
    ``mkosi.conf.d/``, which the base does not have.

    :raises ConfigError: there is no such folder, or no such image.
    :raises HostError: as for :func:`built`.
    """
    if base not in _KNOWN:
        raise ConfigError(f"unknown image {base!r}", hint=f"known images: {', '.join(sorted(_KNOWN))}")
    if not recipe_dir.is_dir():
        raise ConfigError(f"recipe {str(recipe_dir)!r} is no folder")
    version = _mkosi_version(deadline)
    build = _image_build(f"{base}+{recipe_dir.name}", (_folder(base), recipe_dir), version)
    return _ensure(build, version=version, say=say, deadline=deadline, force=force)


def sources_text(targets: str, mirror: str = "") -> str:
    """Return apt sources for the image's release: from ``mirror`` ("URL [SECURITY-URL]"), else from ``targets``.

    ``targets`` is what ``apt-get indextargets`` says of this computer: a line "URL CODENAME COMPONENT" each.

    :raises HostError: neither names a place that has Debian.
    """
    main, _, security = mirror.partition(" ")
    if not main:
        main, security = _places(targets)
    if not main:
        raise HostError(
            "no Debian package source: apt on this computer names none",
            hint=f"set {_MIRROR} to the URL of a Debian mirror (and, after a blank, of one with the security updates)",
        )
    suites = f"{_RELEASE} {_RELEASE}-updates"
    text = _stanza(main, suites)
    return text + (_stanza(security.strip(), f"{_RELEASE}-security") if security.strip() else "")


def _places(targets: str) -> tuple[str, str]:
    main = security = ""
    for line in targets.splitlines():
        url, codename, component, *origin = [*line.split(), "", "", ""]
        if component != "main" or "Debian" not in origin:
            continue
        if codename.endswith("-security"):
            security = security or url
        elif "-" not in codename:
            main = main or url
    return main, security


def _stanza(url: str, suites: str) -> str:
    return f"Types: deb\nURIs: {url}\nSuites: {suites}\nComponents: main\nSigned-By: {_KEYRING}\n\n"


def _folder(name: str) -> Path:
    return data_dir("qemu") / "images" / name


def _recipe(name: str, version: str) -> Recipe:
    title, flavour = _KNOWN[name]
    build = _image_build(name, (_folder(name),), version)
    cached = build.result if version and build.result.is_file() else None
    return Recipe(name=name, title=title, flavour=flavour, digest=build.digest, cached=cached)


def _image_build(label: str, folders: Sequence[Path], version: str) -> _Build:
    shared = [_folder(part) for part in ("common", "initrd", "tools")]
    digest = _digest((*shared, *folders), version)
    return _Build(
        label=label, folders=tuple(folders), digest=digest, result=cache_dir("images") / f"{label}-{digest}.raw"
    )


def _part_build(label: str, version: str, suffix: str) -> _Build:
    inputs = [_folder("tools"), _folder(label)]
    digest = _digest(inputs, version)
    return _Build(
        label=label, folders=(_folder(label),), digest=digest, result=cache_dir("images") / f"{label}-{digest}{suffix}"
    )


def _digest(folders: Sequence[Path], version: str) -> str:
    """Return what names a result: it changes with every file of the recipe, the release, mkosi and this module."""
    seen = hashlib.sha256(f"{_BUILDER}\0{_RELEASE}\0{version}\0".encode())
    for folder in folders:
        for path in sorted(p for p in folder.rglob("*") if p.is_symlink() or p.is_file()):
            if path.name == "README.md":
                continue
            mode = path.lstat().st_mode
            kind = "link" if stat.S_ISLNK(mode) else "program" if mode & stat.S_IXUSR else "file"
            content = os.fsencode(path.readlink()) if kind == "link" else path.read_bytes()
            head = f"{folder.name}/{path.relative_to(folder)}\0{kind}\0{len(content)}\0"
            seen.update(head.encode("utf-8", "surrogateescape") + content)
    return seen.hexdigest()[:16]


def _mkosi_version_if_any() -> str:
    try:
        return _mkosi_version(Deadline(30))
    except HostError:
        return ""


def _mkosi_version(deadline: Deadline) -> str:
    require_mkosi = f"{_INSTALL}; Debian 12 has it in backports"
    try:
        mkosi = require_program("mkosi", why="build the demo images")
    except HostError as exc:
        raise HostError(exc.message, hint=require_mkosi) from exc
    told = run([mkosi, "--version"], deadline=deadline.within(30))
    found = re.search(r"(\d+)(\.\d+)?", told.text)
    if told.status or found is None or int(found[1]) < _OLDEST_MKOSI:
        raise HostError(
            f"mkosi is too old: found {told.text.strip() or told.complaint!r}, expected {_OLDEST_MKOSI} or newer",
            hint=require_mkosi,
        )
    return found[0]


def _ensure(build: _Build, *, version: str, say: Say, deadline: Deadline, force: bool) -> Path:
    if build.result.is_file() and not force:
        return build.result
    with _only_one(say, deadline):
        if build.result.is_file() and not force:
            return build.result
        sources = _host_sources(deadline)
        with _workshop() as shop:
            _write_sources(shop, sources)
            mkosi = _Mkosi(shop=shop, version=version, say=say, deadline=deadline)
            tools = mkosi.part("tools", "")
            initrd = mkosi.part("initrd", ".cpio.zst", tools=tools)
            mkosi.image(build, tools=tools, initrd=initrd)
    say(f"image {build.label}: ready, {build.result}")
    return build.result


@contextlib.contextmanager
def _only_one(say: Say, deadline: Deadline) -> Iterator[None]:
    """Hold the cache against every other build, of this or another run."""
    with (cache_dir("images") / "lock").open("wb") as lock:
        told = False
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if deadline.is_over:
                    raise HostError(f"another run still builds an image after {deadline.total_s:.0f} s") from None
                if not told:
                    say("another run builds an image: waiting for it")
                    told = True
                deadline.pause(_POLL_S)
        yield


@contextlib.contextmanager
def _workshop() -> Iterator[Path]:
    """Give an empty folder in the cache, on one file system with the results; whatever a killed run left goes first."""
    shop = cache_dir("images") / "work"
    _remove_tree(shop)
    shop.mkdir()
    try:
        yield shop
    finally:
        _remove_tree(shop)


def _remove_tree(path: Path) -> None:
    # Trees of images hold folders without write permission, which an ordinary user has to open before emptying them.
    for folder, _, _ in os.walk(path):
        with contextlib.suppress(OSError):
            Path(folder).chmod(0o700)
    shutil.rmtree(path, ignore_errors=True)


def _host_sources(deadline: Deadline) -> str:
    mirror = os.environ.get(_MIRROR, "").strip()
    if mirror or shutil.which("apt-get") is None:
        return sources_text("", mirror)
    form = "$(REPO_URI) $(CODENAME) $(COMPONENT) $(ORIGIN)"
    told = run(["apt-get", "indextargets", "--format", form, "Created-By: Packages"], deadline=deadline.within(30))
    return sources_text(told.text)


def _write_sources(shop: Path, text: str) -> None:
    path = shop / "apt" / "etc" / "apt" / "sources.list.d" / "mkosi.sources"
    path.parent.mkdir(parents=True)
    path.write_text(text, encoding="utf-8")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Mkosi:
    """Runs mkosi in a workshop and moves what it makes into the cache."""

    shop: Path
    version: str
    say: Say
    deadline: Deadline

    def part(self, name: str, suffix: str, *, tools: Path | None = None) -> Path:
        """Return the tools tree or the initrd, building it when its recipe has changed."""
        build = _part_build(name, self.version, suffix)
        if not build.result.exists():
            self._run(build, tools=tools, output=f"{name}{suffix}")
        return build.result

    def image(self, build: _Build, *, tools: Path, initrd: Path) -> None:
        """Build an image."""
        self._run(build, tools=tools, output="image.raw", more=("--initrd", os.fspath(initrd)))

    def _run(self, build: _Build, *, tools: Path | None, output: str, more: Sequence[str] = ()) -> None:
        recipe = _staged(self.shop, build)
        argv = ["mkosi", "--directory", os.fspath(recipe), *self._places(tools), *more]
        argv += ["--output", output.partition(".")[0], "--force", "build"]
        build.log.write_bytes(b"")
        self.say(f"image {build.label}: building (mkosi {self.version}, log {build.log})")
        self._watch(argv, build)
        _move_in(self.shop / "out" / output, build)

    def _places(self, tools: Path | None) -> list[str]:
        for name in ("out", "tmp"):
            (self.shop / name).mkdir(exist_ok=True)
        # The option has another name since mkosi 25.
        tree = "--package-manager-tree" if self.version.startswith("24") else "--sandbox-tree"
        out = "--output-dir" if self.version.startswith("24") else "--output-directory"
        work = "--workspace-dir" if self.version.startswith("24") else "--workspace-directory"
        kept = "--package-cache-dir" if self.version.startswith("24") else "--package-cache-directory"
        argv = [
            tree,
            os.fspath(self.shop / "apt"),
            out,
            os.fspath(self.shop / "out"),
            work,
            os.fspath(self.shop / "tmp"),
        ]
        argv += [kept, os.fspath(cache_dir("images", "packages"))]
        return argv + (["--tools-tree", os.fspath(tools)] if tools else [])

    def _watch(self, argv: Sequence[str], build: _Build) -> None:
        """Run mkosi to its end and say its steps as they come."""
        proxies = {name: os.environ[name] for name in _PROXIES if name in os.environ}
        with running(argv, log=build.log, env=proxies) as mkosi, build.log.open("rb") as log:
            while mkosi.status is None:
                _say_steps(log.readlines(), build.label, self.say)
                if self.deadline.is_over:
                    message = f"image {build.label!r} was not built within {self.deadline.total_s:.0f} s"
                    raise HostError(message, evidence=build.log)
                mkosi.ends_within(min(_POLL_S, self.deadline.remaining_s))
            _say_steps(log.readlines(), build.label, self.say)
        if mkosi.status:
            raise HostError(
                f"mkosi could not build {build.label!r}: exit status {mkosi.status}, {_last_line(build.log)!r}",
                hint="read the log; if a package could not be fetched, look at the network and at this computer's apt",
                evidence=build.log,
            )


def _say_steps(lines: Sequence[bytes], label: str, say: Say) -> None:
    for line in lines:
        text = line.decode("utf-8", "backslashreplace")
        if text.startswith("‣"):
            say(f"image {label}: {text[1:].strip()[:_SHOWN]}")


def _last_line(log: Path) -> str:
    lines = log.read_bytes()[-4096:].decode("utf-8", "backslashreplace").strip().splitlines()
    return lines[-1][:_SHOWN] if lines else "nothing was written"


def _staged(shop: Path, build: _Build) -> Path:
    """Copy the recipe into the workshop, its differences laid over it; return the folder for mkosi."""
    recipes_dir = shop / "recipes"
    _remove_tree(recipes_dir)
    shutil.copytree(_folder("common"), recipes_dir / "common", symlinks=True)
    target = recipes_dir / "image"
    target.mkdir()
    for folder in build.folders:
        for entry in sorted(folder.iterdir()):
            _replace(entry, target / entry.name)
    return target


def _replace(entry: Path, place: Path) -> None:
    if place.is_dir() and not place.is_symlink():
        shutil.rmtree(place)
    if entry.is_dir():
        shutil.copytree(entry, place, symlinks=True)
    else:
        shutil.copy2(entry, place)


def _move_in(made: Path, build: _Build) -> None:
    """Rename the result into its place, read-only when it is a file, and remove what much earlier recipes left."""
    if not made.exists():
        raise HostError(f"mkosi made no {made.name!r} for {build.label!r}", evidence=build.log)
    if made.is_file():
        made.chmod(0o444)
    if build.result.is_dir():
        _remove_tree(build.result)
    made.resolve().replace(build.result)
    of_label = re.compile(rf"{re.escape(build.label)}-[0-9a-f]{{16}}(\..*)?")
    earlier = [path for path in build.result.parent.iterdir() if of_label.fullmatch(path.name) and path != build.result]
    for old in sorted(earlier, key=lambda path: path.stat().st_mtime)[:-_KEPT]:
        if old.is_dir():
            _remove_tree(old)
        else:
            old.unlink()
