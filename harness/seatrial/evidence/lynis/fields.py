"""The inner structure of records: fields between pipes that lynis does not escape."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Literal

from seatrial.evidence.lynis.records import Detail, Finding, FindingKind, Record, Split

__all__ = [
    "Certificate",
    "Listener",
    "certificate_of",
    "detail_of",
    "event_of",
    "finding_of",
    "ids_of",
    "listener_of",
    "packages_of",
]

# AAAA-9999, and two pseudo ids that are no tests. Anything else between "[]=" and the first pipe is a broken record.
_TEST_ID: Final = re.compile(r"LYNIS|NONE|[A-Z][A-Z0-9]{1,15}-[0-9]{1,6}")
_LABELS: Final = ("desc", "field", "prefval", "value", "other")
_CERTIFICATE: Final = re.compile(r"(?s)(.*)\|(-?[0-9]{1,9})\|cn:(?:subject=)?(.*);notafter:(.*);\|")
_FIELDS: Final = 4


@dataclass(frozen=True, slots=True)
class Certificate:
    """A certificate file that lynis looked at, the status of its expiry check, subject and end of validity."""

    path: str
    status: int
    subject: str
    not_after: str


@dataclass(frozen=True, slots=True)
class Listener:
    """A socket that listens: protocol, address with port, process (may be empty)."""

    protocol: str
    address: str
    process: str


def finding_of(record: Record, kind: FindingKind) -> Finding:
    """Return the warning or suggestion in ``record``: ``ID|message|details|solution|``, pipes unescaped."""
    test, fields, split = _split_finding(record.value)
    if len(fields) != _FIELDS - 1:
        return Finding(line=record.line, kind=kind, test=test, message=fields[0], split=split)
    message, details, solution = fields
    solution_kind, _, text = solution.partition(":")
    known: Literal["text", "url"] | None = (
        "text" if solution_kind == "text" else "url" if solution_kind == "url" else None
    )
    said = _said(solution)
    return Finding(
        line=record.line,
        kind=kind,
        test=test,
        message=message,
        details=_said(details),
        solution_kind=(known or "plain") if said else None,
        solution=(text if known else solution) if said else None,
        split=split,
    )


def _split_finding(value: str) -> tuple[str | None, list[str], Split]:
    head, pipe, tail = value.partition("|")
    test = head if _TEST_ID.fullmatch(head) else None
    if test is None or not pipe:
        return None, [value], "unclear"
    if tail.endswith("|"):
        fields = tail[:-1].split("|")
        if len(fields) == _FIELDS - 1:
            return test, fields, "exact"
        # SSH-7408 writes alternatives as "(NO|PROHIBIT-PASSWORD)": a pipe within brackets is no border.
        fields = _joined_in_brackets(fields)
        if len(fields) == _FIELDS - 1:
            return test, fields, "by-brackets"
    return test, [tail], "unclear"


def _joined_in_brackets(fields: list[str]) -> list[str]:
    joined: list[list[str]] = []
    depth = 0
    for field in fields:
        if depth:
            joined[-1].append(field)
        else:
            joined.append([field])
        depth = max(0, depth + field.count("(") - field.count(")"))
    return ["|".join(parts) for parts in joined]


def _said(field: str) -> str | None:
    return None if field in ("", "-") else field


def detail_of(record: Record) -> Detail | None:
    """Return the row in a ``details[]`` record (``ID|service|desc:..;field:..;|``), or None if it has another form."""
    test, _, rest = record.value.partition("|")
    service, pipe, body = rest.partition("|")
    labelled = _labelled(body.removesuffix("|")) if pipe else None
    if labelled is None:
        return None
    return Detail(line=record.line, test=test or "-", service=service or "-", **labelled)


def _labelled(body: str) -> dict[str, str] | None:
    # Values hold ";" and ":" unescaped, so only the known labels, in their order, are borders.
    text = ";" + body
    places: list[tuple[str, int, int]] = []
    position = 0
    for label in _LABELS:
        found = text.find(f";{label}:", position)
        if found >= 0:
            position = found + len(label) + 2
            places.append((label, found, position))
    if not places or places[0][1] != 0:
        return None
    ends = [start for _, start, _ in places[1:]] + [len(text)]
    found_values = {label: text[begin:end] for (label, _, begin), end in zip(places, ends, strict=True)}
    last = places[-1][0]
    return {**found_values, last: found_values[last].removesuffix(";")}


def ids_of(value: str) -> Iterator[str]:
    """Return the test ids of ``tests_executed`` or ``tests_skipped`` in their order (newest first), once each."""
    return iter(dict.fromkeys(test for test in value.split("|") if test))


def event_of(value: str) -> tuple[str, str]:
    """Return both fields of an ``exception_event[]`` (``TEST-ID:NNN|text|``)."""
    test, _, text = value.partition("|")
    return test, text.removesuffix("|")


def packages_of(value: str) -> Iterator[tuple[str, str]]:
    """Return name and version of each package in ``installed_packages_array`` (``|name,version|name,version``)."""
    for item in value.split("|"):
        name, _, version = item.partition(",")
        if name:
            yield name, version.removesuffix(",")


def listener_of(value: str) -> Listener | None:
    """Return the socket in a ``network_listen[]`` record (``raw,ss,v1|tcp|0.0.0.0:22|process|``), or None."""
    fields = value.removesuffix("|").split("|", 3)
    if len(fields) != 4 or not value.endswith("|"):
        return None
    return Listener(*fields[1:])


def certificate_of(value: str) -> Certificate | None:
    """Return the certificate in a ``certificate[]`` record, or None when it has no such form."""
    match = _CERTIFICATE.fullmatch(value)
    if match is None:
        return None
    path, status, subject, not_after = match.groups()
    return Certificate(path, int(status), subject, not_after)
