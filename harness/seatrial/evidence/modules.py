"""Kernel modules: what is loaded, and what ``modprobe`` would do."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from seatrial.errors import ConfigError, ObservationError

__all__ = [
    "LOADED",
    "SIGNATURES",
    "Signatures",
    "dry_run_command",
    "module_name",
    "parse_dry_runs",
    "parse_loaded",
    "parse_signatures",
]

LOADED: Final = "cat /proc/modules"
SIGNATURES: Final = (
    # The list is read once: udev may load another while this is asked.
    "set -- $(cut -d' ' -f1 /proc/modules); echo \"loaded $#\"; "
    'sed -n "s/.* asymmetri /trusted /p" /proc/keys; '
    'command -v modinfo >/dev/null || exit 127; modinfo "$@" 2>/dev/null | '
    "grep -E '^(filename|sig_id|signer|sig_key):'; echo 'the end'"
)
_NAME: Final = re.compile(r"[a-z0-9][a-z0-9_-]*")
_BARRED: Final = re.compile(r"install (/usr)?/bin/(false|true)\s*")
_NOT_BY_ALIAS: Final = re.compile(r"by name (insmod /.*|install (/usr)?/bin/(false|true)\s*|modprobe: FATAL: .*)")
_MISSING: Final = re.compile(r"modprobe: FATAL: Module \S+ not found in directory \S+")


def module_name(name: str) -> str:
    """Return ``name`` as the kernel writes it: ``-`` and ``_`` are one."""
    return name.replace("-", "_")


def dry_run_command(names: Iterable[str]) -> str:
    """Return the question what ``modprobe`` would do for each of ``names`` (modules or aliases); nothing is loaded.

    Where it would do nothing and says nothing, the names behind the alias are asked for: a module may be loaded
    already, or a ``blacklist`` keeps it from being loaded by an alias (modprobe.d(5)).

    :raises ConfigError: a name is none of a module.
    """
    words = list(names)
    for word in words:
        if not _NAME.fullmatch(word):
            raise ConfigError(f"{word!r} is no name of a kernel module")
    # kmod tells a missing module with exit status 1, a missing program is 127.
    return (
        f"command -v modprobe >/dev/null || exit 127; for m in {' '.join(words)}; do "
        """echo "module $m"; o=$(modprobe -n -v "$m" 2>&1); s=$?; [ -z "$o" ] || printf '%s\\n' "$o"; """
        # modprobe believes its index: it does not look whether the file is there.
        'f=${o##*insmod }; [ "$f" = "$o" ] || [ -e "${f%% *}" ] || echo "gone ${f%% *}"; '
        'if [ -z "$o" ] && [ $s = 0 ]; then for r in $(modprobe -R "$m" 2>/dev/null); do '
        'if grep -q "^$(echo "$r" | tr - _) " /proc/modules; then echo "loaded $r"; '
        'else echo "by name $(modprobe -n -v "$r" 2>&1 | tail -n 1)"; fi; done; fi; echo "status $s"; done'
    )


def parse_dry_runs(text: str) -> Mapping[str, str]:
    """Return module to ``barred``, ``missing``, ``built-in``, ``loaded`` or ``loadable``.

    :raises ObservationError: a block is not as :func:`dry_run_command` asks, or modprobe failed for another reason.
    """
    found: dict[str, str] = {}
    for block in re.split(r"(?m)^(?=module )", text):
        if not block.strip():
            continue
        match = re.fullmatch(r"module (\S+)\n((?:.*\n)*?)status (\d{1,3})\n*", block)
        if match is None:
            raise ObservationError(f"the question for modules gave {block[:200]!r}, which is no block of one module")
        found[match[1]] = _meaning(match[1], match[2], int(match[3]))
    return found


def _meaning(name: str, said: str, status: int) -> str:
    lines = [line.strip() for line in said.split("\n") if line.strip()]
    if status != 0:
        if lines and all(_MISSING.fullmatch(line) for line in lines):
            return "missing"
        raise ObservationError(f"modprobe could not tell about {name!r}: exit status {status}, {said[:200]!r}")
    if lines and lines[-1].startswith("gone "):
        return "missing"
    if any(line.startswith("loaded ") for line in lines):
        return "loaded"
    if lines and all(map(_NOT_BY_ALIAS.fullmatch, lines)):
        return "barred"
    if not lines or lines[-1].startswith(("builtin ", "by name")):
        return "built-in"  # in the kernel: either way it is there
    return "barred" if _BARRED.fullmatch(lines[-1]) else "loadable"


def parse_loaded(text: str) -> Mapping[str, str]:
    """Return module to taint flags (``OE``; empty for most) of ``/proc/modules``.

    :raises ObservationError: a line is none of it.
    """
    loaded = {}
    for line in filter(None, text.split("\n")):
        match = re.fullmatch(r"(\S+) \d+ -?\d+ \S+ \S+ 0x[0-9a-f]+(?: \(([A-Z+-]+)\))?", line)
        if match is None:
            raise ObservationError(f"/proc/modules holds {line[:200]!r}, which is no loaded module")
        loaded[match[1]] = (match[2] or "").strip("+-")
    return loaded


@dataclass(frozen=True, slots=True)
class Signatures:
    """How many modules are loaded, file to signer and key of those whose file was found, and the keys of the kernel."""

    loaded: int
    of_files: Mapping[str, tuple[str, str]]
    trusted: tuple[str, ...]

    def is_trusted(self, signer: str) -> bool:
        """Return whether the kernel has a key of ``signer``."""
        return any(key.startswith(f"{signer}: ") for key in self.trusted)


def parse_signatures(text: str) -> Signatures:
    """Return what :data:`SIGNATURES` found; a module without a signature has an empty signer and key.

    :raises ObservationError: a line is none, the number of modules or the end is missing, or the image's modinfo sees
        that a module is signed and cannot read by whom.
    """
    first, *lines = text.rstrip("\n").split("\n")
    loaded = re.fullmatch(r"loaded ([0-9]{1,5})", first)
    if loaded is None or not lines or lines[-1] != "the end":
        raise ObservationError(f"the modules' signatures gave {text[:200]!r}, expected their number, and an end")
    found: dict[str, tuple[str, str]] = {}
    trusted, signed, name = [], [], ""
    for line in lines[:-1]:
        kind, _, rest = line.partition(" ")
        if kind == "trusted":
            trusted.append(rest.strip())
        elif kind == "filename:":
            name = rest.strip()
            found[name] = ("", "")
        elif kind == "sig_id:" and name:
            signed.append(name)
        elif kind in ("signer:", "sig_key:") and name:
            signer, key = found[name]
            found[name] = (rest.strip(), key) if kind == "signer:" else (signer, rest.strip())
        else:
            raise ObservationError(f"the modules' signatures hold {line[:200]!r}, which belongs to none")
    if unread := [name for name in signed if not any(found[name])]:
        raise ObservationError(
            f"modinfo cannot read the signatures of {len(unread)} modules, the first {unread[0][:200]!r}: "
            "it names neither signer nor key",
            hint="kmod reads them only when it was built with OpenSSL (./configure --with-openssl)",
        )
    return Signatures(int(loaded[1]), found, tuple(trusted))
