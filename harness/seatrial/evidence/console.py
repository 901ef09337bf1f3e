"""What the serial console says: plain text without escapes, the phase of the boot, and signs of trouble.

Pure, and bounded: whatever a guest writes, a byte costs the same small work, and what is kept does not grow.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Final

from seatrial.evidence.signs import Gravity, Kind, Phase, Sign, Table

__all__ = ["Finding", "Gravity", "Hit", "Kind", "Phase", "Scanner", "Table", "plain", "with_reasons"]

LONGEST_LINE: Final = 4096
_MOST_HITS: Final = 2000
_PER_SIGN: Final = 10
_IN_ALL: Final = 100
_SHOWN: Final = 300
# Every repetition is bounded: a guest must not make one escape sequence swallow the log, nor cost quadratic time.
_ESCAPES: Final = re.compile(
    rb"\x1b(?:\[[0-?]{0,64}[ -/]{0,8}[@-~]|[\]PX^_][^\x07\x1b\n]{0,256}(?:\x07|\x1b\\)|[ -/]{0,4}[0-~])?"
)
_DROPPED: Final = bytes([*range(0x09), 0x0B, 0x0C, *range(0x0E, 0x20), 0x7F])
_RETURN_IS_FEED: Final = bytes.maketrans(b"\r", b"\n")
_STAMP: Final = re.compile(r"^\[ {0,12}[0-9]{1,12}\.[0-9]{1,9}\] ?")
_VARIES: Final = re.compile(r"0x[0-9a-fA-F]{1,16}|[0-9]+")
_ORDER: Final = {phase: number for number, phase in enumerate(Phase)}


def _cleaned(raw: bytes) -> bytes:
    """Return ``raw`` without escape sequences and control characters; a carriage return ends a line."""
    if b"\x1b" in raw:
        raw = _ESCAPES.sub(b"", raw)
    return raw.translate(_RETURN_IS_FEED, _DROPPED)


def plain(raw: bytes) -> str:
    r"""Return console bytes as text that moves no cursor and hides nothing; tabs and line feeds stay.

    Escape sequences and control characters go; what is no UTF-8, and invisible or bidirectional formatting, is shown
    as an escape such as ``\xff`` or ``\u202e``. A carriage return becomes a line feed.
    """
    text = _cleaned(raw).decode("utf-8", "backslashreplace")
    if text.isascii():
        return text
    return "".join(c if c.isprintable() or c in "\n\t" else _escape(c) for c in text)


def _escape(character: str) -> str:
    return character.encode("ascii", "backslashreplace").decode("ascii")


@dataclass(frozen=True, slots=True, kw_only=True)
class Hit:
    """A line with a sign: where in the boot, and when (seconds since power-on)."""

    sign: Sign
    line: str
    phase: Phase
    at_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """Something suspicious that was seen from outside the guest. Lines that differ in numbers only are one finding.

    ``at_s`` is when it was seen first, in seconds since power-on; ``accepted`` is the policy's reason to accept it.
    """

    sign: str
    title: str
    kind: Kind
    severity: Gravity
    phase: Phase
    at_s: float
    line: str
    hint: str
    count: int = 1
    accepted: str = ""


def with_reasons(findings: Iterable[Finding], accepted: Mapping[str, str]) -> tuple[Finding, ...]:
    """Return ``findings``, those that a policy accepts with its reason.

    :param accepted: regular expressions for ``title: line``, each with the reason to accept what it finds.
    """
    patterns = [(re.compile(pattern), reason) for pattern, reason in accepted.items()]
    return tuple(
        replace(found, accepted=next((why for p, why in patterns if p.search(f"{found.title}: {found.line}")), ""))
        for found in findings
    )


class Findings:
    """A bounded collection: at most ten different lines a sign, and a hundred in all; the rest is counted."""

    def __init__(self) -> None:
        self._kept: dict[tuple[str, str], Finding] = {}
        self._lines = Counter[str]()

    def count_of(self, sign: str) -> int:
        """Return how many lines showed the sign with this id."""
        return sum(found.count for (of, _line), found in self._kept.items() if of == sign)

    def add(self, hit: Hit) -> None:
        """Take ``hit``: count it where its like is known, else keep it."""
        key = (hit.sign.id, _VARIES.sub("#", _STAMP.sub("", hit.line)))
        line = hit.line
        if key not in self._kept and (self._lines[hit.sign.id] >= _PER_SIGN or len(self._kept) >= _IN_ALL):
            key, line = (hit.sign.id, ""), "(further lines of this kind)"
        known = self._kept.get(key)
        if known is not None:
            self._kept[key] = replace(known, count=known.count + 1)
            return
        if len(self._kept) >= 2 * _IN_ALL:
            return
        self._lines[hit.sign.id] += 1
        sign = hit.sign
        self._kept[key] = Finding(
            sign=sign.id,
            title=sign.title,
            kind=sign.kind,
            severity=sign.severity,
            phase=hit.phase,
            at_s=round(hit.at_s, 2),
            line=line,
            hint=sign.hint,
        )

    @property
    def all(self) -> tuple[Finding, ...]:
        """Return the findings in the order in which they were first seen."""
        return tuple(self._kept.copy().values())


class Scanner:
    """Reads a console as it comes: follows the phase, keeps findings, and remembers the first that is fatal.

    ``restarts`` counts the starts that were seen again, ``left`` is the phase in which the last of them came.

    Cutting the stream into other chunks changes nothing of the result but the times.
    """

    def __init__(self, table: Table, phase: Phase = Phase.FIRMWARE) -> None:
        self._table = table
        self.phase = phase
        self.restarts = 0
        self.left = phase
        self.fatal: Hit | None = None
        self.findings = Findings()
        self.tolerated: frozenset[str] = frozenset()
        self._partial = bytearray()
        self._hits = Counter[bytes]()
        self._needles = table.needles

    @property
    def partial(self) -> bytes:
        """Return what came after the last line feed: perhaps a prompt."""
        return bytes(self._partial)

    def feed(self, chunk: bytes, at_s: float) -> None:
        """Take the next bytes, which came ``at_s`` seconds after power-on."""
        self._partial += chunk
        end = max(chunk.rfind(b"\n"), chunk.rfind(b"\r")) + 1
        if not end and len(self._partial) <= LONGEST_LINE:
            return
        # A line that does not end is ended here: nothing may grow because a guest forgets its line feeds.
        end = len(self._partial) - len(chunk) + end if end else len(self._partial)
        whole = _cleaned(bytes(self._partial[:end]))
        del self._partial[:end]
        for line, needles in self._lines_with_needles(whole):
            self._judge(line, needles, at_s)

    def look_at_prompt(self, at_s: float) -> None:
        """Judge an unfinished line, when nothing has come after it for a while: it may be a prompt that waits."""
        if not self._partial or self.fatal is not None:
            return
        line = _text(_cleaned(self.partial))
        sign = self._table.sign_of(line, self.phase)
        if sign is not None and sign.severity is Gravity.FATAL and sign.id not in self.tolerated:
            self._end_by(Hit(sign=sign, line=line.strip(), phase=self.phase, at_s=at_s))

    def _lines_with_needles(self, text: bytes) -> list[tuple[str, list[bytes]]]:
        """Return, in order, the lines that hold a needle: searching for literals is what is fast."""
        found: dict[int, tuple[bytes, list[bytes]]] = {}
        for needle in self._needles:
            at = text.find(needle)
            while at >= 0:
                start = text.rfind(b"\n", 0, at) + 1
                end = text.find(b"\n", at)
                end = len(text) if end < 0 else end
                start = max(start, at - LONGEST_LINE // 2)
                found.setdefault(start, (text[start : min(end, start + LONGEST_LINE)], []))[1].append(needle)
                self._hits[needle] += 1
                at = text.find(needle, end)
        if any(self._hits[needle] > _MOST_HITS for needle in self._needles):
            self._needles = tuple(n for n in self._needles if self._table.is_fatal(n) or self._hits[n] <= _MOST_HITS)
        return [(_text(found[start][0]), found[start][1]) for start in sorted(found)]

    def _judge(self, line: str, needles: list[bytes], at_s: float) -> None:
        self._follow(line, needles)
        sign = self._table.sign_of(line, self.phase, needles)
        if sign is None or self.fatal is not None:
            return
        hit = Hit(sign=sign, line=line.strip()[:_SHOWN], phase=self.phase, at_s=at_s)
        if sign.severity is Gravity.FATAL and sign.id not in self.tolerated:
            self._end_by(hit)
        else:
            self.findings.add(hit)

    def _end_by(self, hit: Hit) -> None:
        self.findings.add(hit)
        self.fatal = hit

    def _follow(self, line: str, needles: list[bytes]) -> None:
        mark = self._table.landmark_of(line, needles)
        if mark is None:
            return
        ahead = _ORDER[mark.phase] - _ORDER[self.phase]
        if ahead > 0:
            self.phase = mark.phase
        elif ahead < 0 and mark.is_start:
            self.left, self.phase = self.phase, mark.phase
            self.restarts += 1


def _text(raw: bytes) -> str:
    text = raw.decode("utf-8", "backslashreplace")
    return text if text.isascii() else "".join(c if c.isprintable() or c == "\t" else _escape(c) for c in text)
