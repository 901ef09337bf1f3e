"""Makes text from anywhere, a hostile guest included, fit for XML, HTML and terminals alike."""

from __future__ import annotations

__all__ = ["duration", "one_line", "shortened", "size", "visible"]


def visible(text: str) -> str:
    r"""Return ``text`` with everything that is no plain character shown as an escape, such as ``\x1b`` or ``\u202e``.

    That covers control characters (terminal escapes, NUL), bidirectional and invisible formatting, separators that look
    like a space, surrogates and unassigned code points: what remains is valid in XML 1.0 and moves no cursor. Line
    feeds stay, CR LF becomes one, a tab becomes four spaces.
    """
    unified = text.replace("\r\n", "\n").replace("\t", "    ")
    if unified.isprintable():
        return unified
    return "".join(c if c.isprintable() or c == "\n" else _escape(c) for c in unified)


def one_line(text: str) -> str:
    """Return :func:`visible` ``text`` with line feeds shown as escapes too."""
    return visible(text).replace("\n", r"\n")


def _escape(character: str) -> str:
    if character == "\r":
        return r"\r"
    code = ord(character)
    if code <= 0xFF:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"


def shortened(text: str, limit: int) -> str:
    """Return :func:`visible` ``text``, cut in the middle to about ``limit`` characters; what is left out is counted."""
    shown = visible(text)
    if len(shown) <= limit:
        return shown
    head, tail = shown[: limit * 2 // 3], shown[-(limit // 3) :]
    return f"{head} […{len(shown) - len(head) - len(tail)} characters…] {tail}"


def duration(seconds: float) -> str:
    """Return ``seconds`` for people: ``0.8 s``, ``2 min 13 s``, ``1 h 02 min``."""
    if seconds < 99.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def size(number: int) -> str:
    """Return ``number`` bytes for people: ``512 B``, ``3.2 MiB``."""
    amount = float(number)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if amount < 1024:
            return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1024
    return f"{amount:.1f} TiB"
