"""The configuration that the running kernel was built with."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from seatrial.errors import ConfigError, ObservationError

__all__ = ["KCONFIG", "KernelConfig", "broken_options", "options_text", "parse_kconfig"]

# What the kernel itself says (/proc/config.gz) wins over files that somebody may have edited. /boot comes last: it may
# have to be mounted first. Where only files say it, they must agree.
KCONFIG: Final = (
    'r=$(uname -r); f=; set -- "/usr/lib/modules/$r/config" "/usr/lib/modules/$r/build/.config" "/boot/config-$r"; '
    'for c in /proc/config.gz "$@"; do if [ -z "$f" ] && [ -r "$c" ]; then f=$c; fi; done; '
    'echo "release $r"; echo "source ${f:-none}"; '
    'case $f in "") ;; *.gz) gzip -dc "$f" ;; *) cat "$f"; '
    'for c in "$@"; do if [ -r "$c" ] && ! cmp -s "$f" "$c"; then '
    'grep -vxFf "$f" "$c" | sed "s,^,# only $c: ,"; grep -vxFf "$c" "$f" | sed "s,^,# only $f: ,"; fi; done ;; esac'
)

_SET: Final = re.compile(r"CONFIG_([A-Za-z0-9_]+)=(.+)")
_UNSET: Final = re.compile(r"# CONFIG_([A-Za-z0-9_]+) is not set")
_TITLE: Final = re.compile(r"# Linux/\S+ (\S+) Kernel Configuration")
_ONLY: Final = re.compile(r"# only (/\S+): (.*)")
_FEWEST: Final = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelConfig:
    """Options with their values; an option that is absent or "not set" counts as ``n``.

    ``disputed`` holds by option what one file of several says of it, and another does not.
    """

    release: str
    source: str
    options: Mapping[str, str]
    disputed: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def value(self, name: str) -> str:
        """Return the value of ``name`` (without ``CONFIG_``), strings without their quotes.

        :raises ObservationError: files of the image contradict each other, and the kernel does not say which is right.
        """
        if said := self.disputed.get(name):
            raise ObservationError(
                f"files with the kernel's configuration disagree on CONFIG_{name}: {'; '.join(said)[:400]}",
                hint="ship one of them, or build the kernel with CONFIG_IKCONFIG_PROC: what it says itself wins",
            )
        return self.options.get(name, "n")


@functools.lru_cache(maxsize=2)
def parse_kconfig(text: str) -> KernelConfig:
    """Return the configuration that the answer to :data:`KCONFIG` holds.

    :raises ObservationError: the image has none, a line is none, or it belongs to another kernel.
    """
    lines = text.split("\n")
    release, source = _word(lines, 0, "release"), _word(lines, 1, "source")
    if source == "none":
        raise ObservationError(
            f"the image has no configuration of its kernel {release!r}: "
            "neither /proc/config.gz, nor a file beside the modules or in /boot",
            hint="build the kernel with CONFIG_IKCONFIG_PROC, or ship its config file",
        )
    options: dict[str, str] = {}
    disputed: dict[str, list[str]] = {}
    for line in filter(str.strip, lines[2:]):
        if only := _ONLY.fullmatch(line):
            if match := _SET.fullmatch(only[2]) or _UNSET.fullmatch(only[2]):
                disputed.setdefault(match[1], []).append(f"{only[1]} has {only[2]}")
        elif match := _SET.fullmatch(line):
            options[match[1]] = _unquoted(match[2])
        elif match := _UNSET.fullmatch(line):
            options[match[1]] = "n"
        elif not line.startswith("#"):
            raise ObservationError(f"{source} holds {line[:200]!r}, which is no kernel option")
        elif (title := _TITLE.fullmatch(line)) and _series(title[1]) != _series(release):
            raise ObservationError(f"{source} is of kernel {title[1]!r}, but {release!r} is running")
    if len(options) < _FEWEST:
        raise ObservationError(
            f"{source} holds {len(options)} options; a kernel has at least {_FEWEST}: it was cut off"
        )
    return KernelConfig(release=release, source=source, options=options, disputed=disputed)


def broken_options(config: KernelConfig, alternatives: Sequence[Mapping[str, str]]) -> list[str]:
    """Return ``CONFIG_X=seen`` for each option that breaks the nearest alternative; nothing when one of them holds.

    A wanted value ``y|m`` means one of the two; ``not set`` means that the kernel has the option, and was built
    without: what an option switches off is always on in a kernel that does not know it yet. ``absent`` as one of the
    values means that a kernel that does not know the option has no choice.

    :raises ConfigError: there is no alternative, or one that demands nothing.
    """
    if not alternatives or not all(alternatives):
        raise ConfigError("a kconfig probe demands nothing")
    broken = [
        [
            f"CONFIG_{name}={config.value(name)}" if name in config.options else f"CONFIG_{name} absent"
            for name, want in one.items()
            if not _holds(config, name, want)
        ]
        for one in alternatives
    ]
    return min(broken, key=len)


def _holds(config: KernelConfig, name: str, want: str) -> bool:
    value, is_known = config.value(name), name in config.options
    if want == "not set":
        return is_known and value == "n"
    wanted = want.split("|")
    return value in wanted if is_known or "absent" not in wanted else True


def options_text(alternatives: Sequence[Mapping[str, str]]) -> str:
    """Return what is demanded in words for people."""
    each = (
        ", ".join(
            f"CONFIG_{name} is not set" if want == "not set" else f"CONFIG_{name}={want.replace('|', ' or ')}"
            for name, want in one.items()
        )
        for one in alternatives
    )
    return "; or ".join(each)


def _series(version: str) -> str:
    """Return ``6.1`` of ``6.1.129``: Debian calls that kernel 6.1.0-32-amd64, and Ubuntu has numbers of its own."""
    return ".".join(version.split(".")[:2])


def _word(lines: Sequence[str], number: int, name: str) -> str:
    found = re.fullmatch(rf"{name} (\S+)", lines[number]) if number < len(lines) else None
    if found is None:
        seen = lines[number][:200] if number < len(lines) else "the end"
        raise ObservationError(f"the question for the kernel's configuration gave {seen!r} where its {name} belongs")
    return found[1]


def _unquoted(value: str) -> str:
    return value[1:-1] if len(value) > 1 and value[0] == value[-1] == '"' else value
