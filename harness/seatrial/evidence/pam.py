"""What PAM asks of whom: the stacks of each service with all that they include, and the files beside them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from seatrial.errors import ObservationError
from seatrial.evidence.files import lines_by_file

__all__ = ["PAM_STACKS", "SECURITY_FILES", "Entry", "Services", "options_of", "parse_services"]

# What an administrator writes wins over what packages bring: the folders are in PAM's order, the vendor's own last
# (meson's vendordir: Flatcar has /usr/lib/pam, openSUSE /usr/etc).
_FOLDERS: Final = ("/etc/pam.d", "/usr/lib/pam.d", "/usr/lib/pam/pam.d", "/usr/etc/pam.d", "/usr/share/pam.d")
PAM_STACKS: Final = f"grep -asHEv '^[[:space:]]*(#|$)' {' '.join(f'{folder}/*' for folder in _FOLDERS)}; true"
# The fragments of pwquality.conf are read before it: the file itself has the last word.
SECURITY_FILES: Final = (
    "grep -asH '' /etc/security/pwquality.conf.d/*.conf /etc/security/pwquality.conf /etc/security/faillock.conf "
    "/etc/security/pwhistory.conf /dev/null; true"
)
_ENTRY: Final = re.compile(
    r"-?(?P<kind>auth|account|password|session)\s+(?P<control>\[[^\]]*\]|\S+)\s+(?P<module>\S+)(?P<rest>(\s.*)?)",
    re.IGNORECASE,
)
# What the plain words mean when the module accepts, and when it refuses.
_WORDS: Final = {"requisite": ("ok", "die"), "sufficient": ("done", "ignore"), "optional": ("ok", "ignore")}
_WORD: Final = re.compile(r"\[[^\]]*\]|\S+")
_DEEPEST: Final = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One line of a stack: ``auth``, ``requisite``, ``pam_unix``, and the module's arguments."""

    kind: str
    control: str
    module: str
    arguments: tuple[str, ...]

    @property
    def must_succeed(self) -> bool:
        """Return whether nobody gets through the stack when the module refuses."""
        return self.control in {"required", "requisite"}

    @property
    def may_skip(self) -> bool:
        """Return whether the entries behind it may be passed over when the module accepts somebody else than root."""
        action = self.action("success")
        return self.module != "pam_rootok" and (action == "done" or action.isdigit())

    def action(self, result: str) -> str:
        """Return what becomes of the stack when the module gives ``result`` (``success``, ``auth_err``): pam.d(5).

        That is ``ok``, ``bad``, ``ignore``, ``die`` (fails at once), ``done`` (ends at once), or how many are skipped.
        """
        succeeded, failed = _WORDS.get(self.control, ("ok", "bad"))
        if not self.control.startswith("["):
            return succeeded if result == "success" else failed
        actions: dict[str, str] = dict(re.findall(r"(\w+)\s*=\s*(\w+)", self.control))
        return actions.get(result, actions.get("default", "bad"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """The lines of all services, by name: entries, and names of others that they include."""

    lines: Mapping[str, tuple[Entry, ...]]

    def names(self) -> tuple[str, ...]:
        """Return the services that have a file."""
        return tuple(sorted(self.lines))

    def stack(self, service: str, kind: str) -> tuple[Entry, ...]:
        """Return what ``service`` asks for ``kind`` (``auth``, ``password``, ...), in order; ``other`` for want of it.

        :raises ObservationError: it includes what is not there, or itself.
        """
        return tuple(self._expanded(service if service in self.lines else "other", kind, depth=0))

    def _expanded(self, service: str, kind: str, *, depth: int) -> Iterator[Entry]:
        if depth > _DEEPEST or service not in self.lines:
            raise ObservationError(f"PAM's service {service[:100]!r} is included, but is missing or includes itself")
        for entry in self.lines[service]:
            if entry.control == "@include" or (entry.kind == kind and entry.control in {"include", "substack"}):
                yield from self._expanded(entry.module, kind, depth=depth + 1)
            elif entry.kind == kind:
                yield entry


def parse_services(text: str) -> Services:
    """Return the services of the answer to :data:`PAM_STACKS`.

    :raises ObservationError: a line is none of a stack, or there is no service at all.
    """
    found: dict[str, tuple[Entry, ...]] = {}
    files = lines_by_file(text)
    for folder in reversed(_FOLDERS):
        for path, lines in files.items():
            above, _, name = path.rpartition("/")
            if above == folder:
                found[name] = tuple(_entry(line, path) for line in _joined(lines))
    if not found:
        raise ObservationError("the guest has no PAM service at all: how it lets people in is unknown")
    return Services(lines=found)


def options_of(entry: Entry, lines: Sequence[str]) -> Mapping[str, str]:
    """Return the settings of a module: those of its file (``lines``), then those of its arguments.

    A setting without a value, such as ``enforce_for_root``, has an empty one.
    """
    settings: dict[str, str] = {}
    for line in (*(line.partition("#")[0] for line in lines), *entry.arguments):
        name, _, value = line.partition("=")
        if name.strip():
            settings[name.strip()] = value.strip()
    return settings


def _joined(lines: Sequence[str]) -> Iterator[str]:
    carried = ""
    for line in lines:
        carried += line
        if not carried.endswith("\\"):
            yield carried
            carried = ""
        else:
            carried = carried[:-1] + " "
    if carried.strip():
        yield carried


def _entry(line: str, path: str) -> Entry:
    text = line.partition(" #")[0].strip()
    if match := re.fullmatch(r"@include\s+(\S+)", text):
        return Entry(kind="", control="@include", module=match[1], arguments=())
    match = _ENTRY.fullmatch(text)
    if match is None:
        raise ObservationError(f"{path[:200]!r} holds {line[:200]!r}, which is no line of a PAM stack")
    control = match["control"].lower()
    module = match["module"]
    if control not in {"include", "substack"}:
        module = module.rpartition("/")[2].removesuffix(".so")
    arguments = tuple(word.strip("[]") for word in _WORD.findall(match["rest"]))
    return Entry(kind=match["kind"].lower(), control=control, module=module, arguments=arguments)
