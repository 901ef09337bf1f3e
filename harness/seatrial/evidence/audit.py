"""The kernel's audit rules and state, as auditctl prints them, and the daemon's configuration."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from seatrial.errors import ObservationError

__all__ = [
    "RULES",
    "STATUS",
    "AuditRule",
    "parse_audit_rules",
    "parse_auditd",
    "parse_status",
    "silencers",
    "untraced",
    "unwatched",
]

# Without the program no rule can be listed, and none was loaded by the usual way.
STATUS: Final = "if command -v auditctl >/dev/null 2>&1; then auditctl -s; else echo none; fi"
RULES: Final = "if command -v auditctl >/dev/null 2>&1; then auditctl -l; else echo none; fi"


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditRule:
    """A rule that records: system calls of one architecture, or what happens to a path.

    ``fields`` are the other conditions as they are written (``auid>=1000``, ``exit=-EACCES``). ``is_folder`` says that
    whatever lies below ``path`` is meant as well: ``path=`` alone means one file (auditctl(8)).
    """

    calls: frozenset[str] = frozenset()
    architecture: str = ""
    path: str = ""
    is_folder: bool = False
    access: frozenset[str] = frozenset()
    fields: frozenset[str] = frozenset()


def parse_audit_rules(text: str) -> tuple[AuditRule, ...]:
    """Return the rules that record something; those that keep events out are no help and are left out.

    :raises ObservationError: a line is no rule.
    """
    return tuple(_rule(options) for _line, options in _listed(text) if not _keeps_out(options))


def silencers(text: str) -> list[str]:
    """Return the rules that keep everything out, whatever others say; see auditctl(8), "DISABLED BY DEFAULT".

    :raises ObservationError: a line is no rule.
    """
    listed = _listed(text)
    last = max((number for number, (_line, options) in enumerate(listed) if not _keeps_out(options)), default=-1)
    return [
        line
        for number, (line, options) in enumerate(listed)
        if _keeps_out(options)
        and all(_holds_always(option, value) for option, value in options)
        # The first rule that fits decides, but a task without a context never meets a rule for its calls.
        and (number < last or any("task" in value for option, value in options if option == "-a"))
    ]


def _holds_always(option: str, value: str) -> bool:
    """Return whether a rule's word leaves nothing out; auditctl shows ``-k`` as a field where no file is watched.

    A rule for one architecture silences all its calls: a 64-bit system makes hardly any others.
    """
    if option == "-F":
        return value.startswith("key=") or value in {"arch=b64", "arch=x86_64", "arch=aarch64"}
    return option in {"-a", "-k"} or (option, value) == ("-S", "all")


def _listed(text: str) -> list[tuple[str, list[tuple[str, str]]]]:
    found = []
    for line in filter(None, text.split("\n")):
        if line in {"none", "No rules"}:
            continue
        words = line.split()
        if len(words) < 2 or len(words) % 2 or not all(re.fullmatch(r"-[a-zA-Z]", word) for word in words[::2]):
            raise ObservationError(f"auditctl said {line[:200]!r}, which is no rule")
        found.append((line, list(zip(words[::2], words[1::2], strict=True))))
    return found


def _keeps_out(options: Sequence[tuple[str, str]]) -> bool:
    return any(option == "-a" and "never" in value for option, value in options)


def _rule(options: Sequence[tuple[str, str]]) -> AuditRule:
    calls: set[str] = set()
    fields: set[str] = set()
    named: dict[str, str] = {}
    for option, value in options:
        if option == "-S":
            calls |= set(value.split(","))
        elif option == "-w":
            named["watch"] = value
        elif option == "-p":
            named["perm"] = value
        elif option == "-F" and (match := re.fullmatch(r"(arch|path|dir|perm)=(.*)", value)):
            named[match[1]] = match[2]
        elif option in {"-F", "-C"}:
            fields.add(value if option == "-F" else f"{value} compared")
    path = named.get("watch") or named.get("path") or named.get("dir") or ""
    return AuditRule(
        calls=frozenset(calls),
        architecture=named.get("arch", ""),
        path=path.rstrip("/"),
        is_folder="dir" in named or "watch" in named,
        access=frozenset(named.get("perm", "rwxa")),
        fields=frozenset(field for field in fields if not field.startswith("key=")),
    )


def unwatched(rules: Sequence[AuditRule], paths: Iterable[str], access: str) -> list[str]:
    """Return those of ``paths`` that no rule watches for ``access`` (letters of ``rwxa``)."""
    return [path for path in paths if not any(_watches(rule, path, frozenset(access)) for rule in rules)]


def _watches(rule: AuditRule, path: str, access: frozenset[str]) -> bool:
    # Programs of the other architecture are few, and rules for some calls are no watch.
    narrowed = bool(rule.calls - {"all"}) or rule.architecture not in {"", "b64"} or any(map(_narrows, rule.fields))
    covers = rule.path and (rule.path == path or (rule.is_folder and path.startswith(f"{rule.path}/")))
    return bool(covers) and access <= rule.access and not narrowed


def _narrows(field: str) -> bool:
    return not field.startswith("auid") or field.endswith(" compared")


def untraced(
    rules: Sequence[AuditRule], calls: Iterable[str], architectures: Iterable[str], *, with_field: str = ""
) -> list[str]:
    """Return ``architecture call`` for each of ``calls`` that no rule records, or none ``with_field``."""
    wanted = [(architecture, call) for architecture in architectures for call in calls]
    return [
        " ".join(filter(None, (architecture, call, with_field)))
        for architecture, call in wanted
        if not any(_traces(rule, architecture, call, with_field) for rule in rules)
    ]


def _traces(rule: AuditRule, architecture: str, call: str, with_field: str) -> bool:
    # The only clock that can be set is the first one, CLOCK_REALTIME (clock_settime(2)): benchmarks say so.
    harmless = {"a0=0x0", "a0=0"} if call == "clock_settime" else set()
    others = {field for field in rule.fields - harmless if _narrows(field) and field != with_field}
    has_field = not with_field or with_field in rule.fields
    of_call = bool({call, "all"} & rule.calls) and rule.architecture in {"", architecture}
    return of_call and not rule.path and not others and has_field


def parse_status(text: str) -> Mapping[str, str]:
    """Return name to value of ``auditctl -s``; empty where there is no such program.

    :raises ObservationError: a line is none.
    """
    found = {}
    for line in filter(None, text.split("\n")):
        name, _, value = line.partition(" ")
        if line != "none" and (not value or not re.fullmatch(r"[a-z_]+", name)):
            raise ObservationError(f"auditctl said {line[:200]!r}, which is no part of its status")
        if value:
            found[name] = value
    return found


def parse_auditd(text: str) -> Mapping[str, str]:
    """Return the settings of auditd.conf, in lower case.

    :raises ObservationError: a line is none.
    """
    found = {}
    for line in (one.strip() for one in text.split("\n")):
        name, equals, value = line.partition("=")
        if line and not line.startswith("#"):
            if not equals:
                raise ObservationError(f"auditd.conf holds {line[:200]!r}, which is no setting")
            found[name.strip().lower()] = value.strip().lower()
    return found
