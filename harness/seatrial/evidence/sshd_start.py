"""The options that the guest's SSH servers were started with: they win over the configuration that names them."""

from __future__ import annotations

import re
import shlex
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from seatrial.errors import ObservationError
from seatrial.evidence.files import lines_by_file, read_command

__all__ = ["INSTANCES", "LISTENERS", "environment_command", "options_of_instances", "options_of_listeners"]

Options = tuple[str, ...]

# A server that listens shows how it was started (since OpenSSH 8.2 behind its name); what serves a connection does not.
LISTENERS: Final = "grep -ashE '^(sshd: )?/[^ ]*/sshd' /proc/[0-9]*/cmdline | tr '\\000' ' '; true"
# Servers of one connection, as a socket starts them.
INSTANCES: Final = (
    "if command -v systemctl >/dev/null 2>&1; then "
    "systemctl show --no-pager -p Id -p ExecStart -p Environment -p EnvironmentFiles 'ssh*@*.service'; fi"
)
# sshd(8). Only options that change how somebody is treated are told to 'sshd -T'.
_OPTION: Final = re.compile(r"-(?=.)[46DGQRTVdeiqrt]*(?:([CEbcfghkopu])(.*))?")
_TELLING: Final = frozenset("cfgho")
_USUAL_FILES: Final = frozenset(
    {"/etc/ssh/sshd_config", "/usr/etc/ssh/sshd_config", "/usr/lib/ssh/sshd_config", "/usr/share/openssh/sshd_config"}
)
_VARIABLE: Final = re.compile(r"\$\{(\w+)\}|\$(\w+)")


def options_of_listeners(text: str) -> tuple[Options, ...]:
    """Return the options of each server of :data:`LISTENERS`, those that 'sshd -T' must be told.

    :raises ObservationError: a line names no program, or an option is not known or names another configuration.
    """
    found = []
    for line in filter(None, text.split("\n")):
        program, *words = line.removeprefix("sshd: ").partition(" [listener]")[0].split(" ")
        if not program.startswith("/"):
            raise ObservationError(f"an SSH server shows itself as {line[:200]!r}, which names no program")
        if program.rpartition("/")[2] == "sshd":
            found.append(_telling(words))
    return tuple(dict.fromkeys(found))


def environment_command(text: str) -> str:
    """Return the question for the files of variables that the units of :data:`INSTANCES` name.

    :raises ObservationError: a line is no property of a unit.
    """
    return read_command(sorted({path for unit in _units(text) for path in _environment_files(unit)}))


def options_of_instances(text: str, files: str) -> tuple[Options, ...]:
    """Return the options that the units of :data:`INSTANCES` start sshd with, as :func:`options_of_listeners` does.

    :param files: the answer to :func:`environment_command`.
    :raises ObservationError: what starts sshd is not understood.
    """
    lines = lines_by_file(files)
    found = []
    for unit in _units(text):
        variables = dict(_assignments(_split(" ".join(unit.get("Environment", ())))))
        for path in _environment_files(unit):
            variables.update(_assignments(lines.get(path, ())))
        for command in unit.get("ExecStart", ()):
            argv = re.search(r"argv\[\]=(.*?) ; ignore_errors=", command)
            if argv is None:
                raise ObservationError(f"systemd says that it starts {command[:200]!r}, which shows no arguments")
            program, *words = _split(argv[1])
            if program.rpartition("/")[2] == "sshd":
                found.append(_telling(list(_expanded(words, variables))))
    return tuple(dict.fromkeys(found))


def _telling(words: Sequence[str]) -> Options:
    left = deque(word for word in words if word)
    told: list[str] = []
    while left:
        letter, value = _taken_apart(left.popleft())
        if not letter:
            continue
        # A value's own blanks part words as well; sshd takes no word but options and their values.
        parts = [value] if value else []
        while left and not (parts and left[0].startswith("-")):
            parts.append(left.popleft())
        value = " ".join(parts)
        _expect_known_file(letter, value)
        if letter in _TELLING:
            told += [f"-{letter}", value]
    return tuple(told)


def _taken_apart(word: str) -> tuple[str, str]:
    """Return the option in ``word`` that takes a value, and what of the value is in the word; nothing without such."""
    match = _OPTION.fullmatch(word)
    if match is None:
        raise ObservationError(
            f"an SSH server of the guest was started with {word[:100]!r}, which sshd(8) does not know"
        )
    return match[1] or "", match[2] or ""


def _expect_known_file(letter: str, value: str) -> None:
    keyword = re.split(r"[\s=]", value, maxsplit=1)[0].lower()
    if (letter == "f" and value not in _USUAL_FILES) or (letter == "o" and keyword in {"include", "match"}):
        raise ObservationError(
            f"an SSH server was started with -{letter} {value[:100]!r}, whose Match blocks were not read",
            hint="let the server read /etc/ssh/sshd_config and /etc/ssh/sshd_config.d",
        )


def _units(text: str) -> list[Mapping[str, Sequence[str]]]:
    """Return the properties of each unit; some of them repeat."""
    units: list[Mapping[str, Sequence[str]]] = []
    for block in filter(str.strip, text.split("\n\n")):
        found: dict[str, list[str]] = {}
        for line in filter(None, block.split("\n")):
            name, equals, value = line.partition("=")
            if not equals:
                raise ObservationError(f"systemctl show said {line[:200]!r}, which is no property")
            found.setdefault(name, []).append(value)
        units.append(found)
    return units


def _environment_files(unit: Mapping[str, Sequence[str]]) -> list[str]:
    return [value.rpartition(" (ignore_errors=")[0] for value in unit.get("EnvironmentFiles", ()) if value]


def _assignments(lines: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Give name and value of each assignment (systemd.exec(5), EnvironmentFile=)."""
    for line in (line.strip() for line in lines):
        name, equals, value = line.partition("=")
        if equals and not line.startswith(("#", ";")):
            yield name, " ".join(_split(value))


def _expanded(words: Sequence[str], variables: Mapping[str, str]) -> Iterator[str]:
    """Give ``words`` as systemd starts them: ``$NAME`` alone becomes several words (systemd.service(5))."""
    for word in words:
        if (alone := _VARIABLE.fullmatch(word)) and alone[2]:
            yield from variables.get(alone[2], "").split()
        else:
            yield _VARIABLE.sub(lambda match: variables.get(match[1] or match[2], ""), word)


def _split(text: str) -> list[str]:
    try:
        return shlex.split(text)
    except ValueError as exc:
        raise ObservationError(f"what starts the SSH server holds {text[:200]!r}: {exc}") from exc
