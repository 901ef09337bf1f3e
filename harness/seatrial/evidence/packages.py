"""What the guest's package manager says: packages, the sources that it trusts, whether files are still theirs."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Final

from seatrial.errors import ObservationError

__all__ = [
    "PACKAGES",
    "REPOSITORY_FOLDERS",
    "RPM_SETTINGS",
    "SOURCES",
    "VERIFY",
    "Package",
    "Source",
    "parse_packages",
    "parse_rpm_settings",
    "parse_sources",
    "parse_verify",
]

# Neither program: an image without a package manager; "none" tells that from an answer that says nothing.
PACKAGES: Final = (
    "if command -v dpkg-query >/dev/null 2>&1; then dpkg-query -W -f '${db:Status-Status} ${Package} ${Version}\\n'; "
    "elif command -v rpm >/dev/null 2>&1; then rpm -qa --qf 'installed %{NAME} %{EVR}\\n' | sort; else echo none; fi"
)
_MIRRORS: Final = "/etc/apt/mirrors/"
# Where dnf, dnf5, tdnf and yum look for repositories unless told otherwise (reposdir= of dnf.conf(5) and dnf5.conf(5)).
REPOSITORY_FOLDERS: Final = (
    "/etc/yum.repos.d",
    "/etc/yum/repos.d",
    "/etc/distro.repos.d",
    "/usr/share/dnf5/repos.d",
)
# What dnf5 lays over them, by "dnf5 config-manager setopt" for one (dnf5.conf(5)).
_OVERRIDES: Final = ("/usr/share/dnf5/repos.override.d/", "/etc/dnf/repos.override.d/")
_ANY_REPOSITORY: Final = " ".join(f"{folder.rstrip('/')}/*.repo" for folder in (*REPOSITORY_FOLDERS, *_OVERRIDES))
# Sources of apt in both styles and the lists of mirrors that they name (apt-transport-mirror(1)), and repositories of
# rpm's programs; each line with its file.
SOURCES: Final = (
    "for f in /etc/apt/sources.list /etc/apt/sources.list.d/*.list /etc/apt/sources.list.d/*.sources "
    f'{_MIRRORS}* {_ANY_REPOSITORY}; do if [ -f "$f" ]; then echo "file $f"; sed \'s/^/ /\' "$f"; fi; done'
)
# The main settings of yum, dnf, dnf5 (drop-ins first: dnf.conf has the last word, dnf5.conf(5)) and tdnf.
RPM_SETTINGS: Final = (
    "for f in /etc/yum.conf /usr/share/dnf5/libdnf.conf.d/*.conf /etc/dnf/libdnf5.conf.d/*.conf /etc/dnf/dnf.conf "
    '/etc/tdnf/tdnf.conf; do if [ -f "$f" ]; then echo "file $f"; sed \'s/^/ /\' "$f"; fi; done'
)
# What differs from the package: its digest, or the file is gone. Kernel modules are many, and their signatures are
# judged when they are loaded.
VERIFY: Final = (
    "if command -v dpkg >/dev/null 2>&1; then "
    "dpkg --verify $(dpkg-query -W -f '${binary:Package}\\n' | grep -v '^linux-image-'); "
    "elif command -v rpm >/dev/null 2>&1; then "
    "rpm -Va --nodeps --nomtime --nordev --nouser --nogroup --nomode --nocaps; else echo none; fi"
)
_IN_MEMORY: Final = ("/run/", "/var/run/", "/proc/", "/sys/", "/dev/")
_STATES: Final = re.compile(
    "not-installed|config-files|half-installed|unpacked|half-configured|triggers-awaited|triggers-pending|installed"
)


@dataclass(frozen=True, slots=True)
class Package:
    """A package with its state (``installed``, or what is left of it: ``config-files``)."""

    name: str
    version: str
    state: str


@dataclass(frozen=True, slots=True)
class Source:
    """Where packages come from: the file that says so, one place (address, suite and components), and its options."""

    path: str
    place: str
    options: Mapping[str, str]


def parse_packages(text: str) -> tuple[Package, ...] | None:
    """Return the packages; None where there is no package manager.

    :raises ObservationError: a line is none, or there is no package at all.
    """
    if text.strip() == "none":
        return None
    found = []
    for line in filter(None, text.split("\n")):
        words = line.split(" ")
        if len(words) not in {2, 3} or not _STATES.fullmatch(words[0]) or not words[1]:
            raise ObservationError(f"a package is described by {line[:200]!r}, which is no state, name and version")
        found.append(Package(words[1], words[2] if len(words) == 3 else "", words[0]))
    if not found:
        raise ObservationError("the package manager knows no package at all")
    return tuple(found)


def parse_sources(text: str) -> tuple[Source, ...]:
    """Return the enabled package sources.

    :raises ObservationError: a line belongs to no file, or is none of a source.
    """
    found: list[Source] = []
    mirrors: dict[str, list[str]] = {}
    repositories: list[tuple[str, str, Mapping[str, str]]] = []
    overrides: dict[str, list[tuple[str, Mapping[str, str]]]] = {}
    for path, lines in _files(text):
        if path.startswith(_MIRRORS):
            mirrors[path] = [line.split()[0] for line in lines if line.strip() and not line.startswith("#")]
        elif path.endswith(".sources"):
            found += _deb822(path, lines)
        elif path.startswith(_OVERRIDES):  # a file of /etc hides that of the same name below /usr
            overrides[path.rpartition("/")[2]] = list(_sections(path, lines))
        elif path.endswith(".repo"):
            repositories += [(path, name, section) for name, section in _sections(path, lines)]
        else:
            found += [_one_line(path, line) for line in lines if re.match(r"\s*deb(-src)?\s", line)]
            if strange := [one for one in lines if not re.match(r"\s*(deb(-src)?\s|#|$)", one)]:
                raise ObservationError(f"{path} holds {strange[0][:200]!r}, which is no package source")
    laid_over = [row for _name, rows in sorted(overrides.items()) for row in rows]
    for path, name, section in repositories:
        options = dict(section)
        for pattern, settings in laid_over:
            if fnmatchcase(name, pattern):
                options.update(settings)
        found += _repository(path, options)
    return tuple(each for one in found for each in _at_mirrors(one, mirrors))


def _at_mirrors(source: Source, mirrors: Mapping[str, Sequence[str]]) -> Iterator[Source]:
    """Give ``source`` once for each address in the list of mirrors that it names, or as it is."""
    address, _blank, rest = source.place.partition(" ")
    named = re.fullmatch(r"mirror\+file:(?://)?(/.*)", address)
    if named is None or not mirrors.get(named[1]):
        yield source
        return
    for mirror in mirrors[named[1]]:
        yield replace(source, place=f"{mirror} {rest}".strip())


def parse_rpm_settings(text: str) -> Mapping[str, Mapping[str, str]]:
    """Return file to the settings of its section ``main``, in the order of :data:`RPM_SETTINGS`.

    :raises ObservationError: a line belongs to no file, or is no setting.
    """
    found: dict[str, Mapping[str, str]] = {}
    for path, lines in _files(text):
        sections = dict(_sections(path, lines))
        found[path] = sections.get("main", {})
    return found


def _files(text: str) -> Iterator[tuple[str, list[str]]]:
    path = ""
    lines: list[str] = []
    for line in text.split("\n"):
        if line.startswith("file /"):
            if path:
                yield path, lines
            path, lines = line.removeprefix("file "), []
        elif line and not (path and line.startswith(" ")):
            raise ObservationError(f"a line belongs to no file of package sources: {line[:200]!r}")
        elif line:
            lines.append(line[1:].rstrip())
    if path:
        yield path, lines


def _deb822(path: str, lines: Sequence[str]) -> Iterator[Source]:
    """Give the stanzas of a file in apt's newer style, one source for each address and suite."""
    stanza: dict[str, str] = {}
    last = ""
    for line in (*lines, ""):
        if line.startswith("#"):
            continue
        if line.strip():
            if line[0].isspace() and last:
                stanza[last] += f" {line.strip()}"
                continue
            key, colon, value = line.partition(":")
            if not colon or not key.strip():
                raise ObservationError(f"{path} holds {line[:200]!r}, which is no 'Key: value'")
            last = key.strip().lower()
            stanza[last] = value.strip()
            continue
        if stanza and stanza.get("enabled", "yes").lower() not in {"no", "false", "0", "off"}:
            for address in stanza.get("uris", "").split() or ["no address"]:
                for suite in stanza.get("suites", "").split() or ["no suite"]:
                    yield Source(path, " ".join(f"{address} {suite} {stanza.get('components', '')}".split()), stanza)
        stanza, last = {}, ""


def _one_line(path: str, line: str) -> Source:
    match = re.fullmatch(r"deb(?:-src)?\s+(?:\[([^\]]*)\]\s+)?(\S.*)", line.partition("#")[0].strip())
    if not match:
        raise ObservationError(f"{path} holds {line[:200]!r}, which is no package source")
    options = dict(word.lower().partition("=")[::2] for word in (match[1] or "").split())
    return Source(path, " ".join(match[2].split()), options)


def _repository(path: str, options: Mapping[str, str]) -> Iterator[Source]:
    """Give the places of a repository in the style of yum and dnf, if it is enabled."""
    if options.get("enabled", "1").lower() not in {"0", "no", "false", "off"}:
        named = " ".join(options.get(key, "") for key in ("baseurl", "metalink", "mirrorlist"))
        for place in re.split(r"[\s,]+", named.strip()) if named.strip() else ["no address"]:
            yield Source(path, place, options)


def _sections(path: str, lines: Sequence[str]) -> Iterator[tuple[str, Mapping[str, str]]]:
    """Give name and settings of each section; a line that begins with a blank goes on with the value before it."""
    section: dict[str, str] = {}
    name = last = ""
    for line in (*lines, "[end]"):
        if re.fullmatch(r"\[[^\]]+\]", line):
            if name:
                yield name, section
            name, section, last = line[1:-1], {}, ""
        elif line[:1].isspace() and last:
            section[last] = f"{section[last]} {line.strip()}".strip()
        elif line and line[0] not in "#;":
            key, equals, value = line.partition("=")
            if not equals or not name:
                raise ObservationError(f"{path} holds {line[:200]!r}, which is no 'key=value' of a section")
            last = key.strip().lower()
            section[last] = value.strip()


def parse_verify(text: str) -> tuple[str, ...] | None:
    """Return the files that are not as their package has them, ``missing PATH`` or ``changed PATH``; configuration is
    left out, and what no image holds because it lies in memory. None where there is no package manager.

    :raises ObservationError: a line is none.
    """
    if text.strip() == "none":
        return None
    found = []
    for line in filter(None, text.split("\n")):
        match = re.fullmatch(r"(missing|[.?A-Z0-9]{8,9})\s+(?:([acdglmr])\s+)?(/.*?)(?: \([^)]*\))?", line)
        if not match:
            raise ObservationError(f"the package manager said {line[:200]!r}, which is no verdict on a file")
        # Of a file that became a link rpm compares only where it leads. Artifacts are what a build leaves of itself.
        if match[3].startswith(_IN_MEMORY):
            continue
        if match[2] not in {"a", "c"} and (match[1] == "missing" or {"5", "L"} & set(match[1])):
            found.append(f"{'missing' if match[1] == 'missing' else 'changed'} {match[3]}")
    return tuple(found)
