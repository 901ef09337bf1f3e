"""The guest's bytes as text that XML 1.0, a terminal and a person can bear, and back again without loss."""

from __future__ import annotations

import re
from typing import Final

__all__ = ["decode", "encode", "escape", "is_utf8", "shorten", "unescape"]

# What XML 1.0 forbids or changes (C0, surrogates, U+FFFE, U+FFFF, line ends), what a terminal obeys (C1), what turns
# text around or hides in it (bidirectional marks, line separators, zero-width no-break space), and the escape itself.
_UNSAFE: Final = re.compile(
    "[\\\\\x00-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ufffe\uffff\ud800-\udfff]",
)
_RAW_BYTE: Final = re.compile("[\udc80-\udcff]")
_ESCAPED: Final = re.compile(r"\\(?:x([0-9a-f]{2})|u([0-9a-f]{4})|(\\))")


def decode(raw: bytes) -> str:
    """Return ``raw`` as text; bytes that are no UTF-8 become lone surrogates, so :func:`encode` gives them back."""
    return raw.decode("utf-8", "surrogateescape")


def encode(text: str) -> bytes:
    """Return the bytes that :func:`decode` made ``text`` of."""
    return text.encode("utf-8", "surrogateescape")


def is_utf8(text: str) -> bool:
    """Return whether decoded ``text`` came from valid UTF-8."""
    return _RAW_BYTE.search(text) is None


def escape(text: str) -> str:
    r"""Return ``text`` with all that is unsafe written out: ``\xNN`` a byte, ``\uNNNN`` a character, ``\\`` itself."""
    return _UNSAFE.sub(_written_out, text)


def unescape(text: str) -> str:
    """Return what :func:`escape` was given."""
    return _ESCAPED.sub(_meant, text)


def shorten(text: str, longest: int) -> str:
    """Return ``text`` cut to ``longest`` characters, the cut made visible."""
    return text if len(text) <= longest else text[: longest - 1] + "…"


def _written_out(match: re.Match[str]) -> str:
    char = match.group()
    if char == "\\":
        return "\\\\"
    number = ord(char)
    return f"\\x{number - 0xDC00:02x}" if 0xDC80 <= number <= 0xDCFF else f"\\u{number:04x}"


def _meant(match: re.Match[str]) -> str:
    byte, char, _ = match.groups()
    if byte:
        return chr(0xDC00 + int(byte, 16))
    return chr(int(char, 16)) if char else "\\"
