"""Compressed files as streams of plain bytes: in bounded pieces, to the last stream, and never past a cut."""

from __future__ import annotations

import bz2
import lzma
import zlib
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO, Final, Protocol

from seatrial.errors import ConfigError, HostError
from seatrial.evidence.disk.formats import Packing

__all__ = ["plain_pieces"]

_PIECE: Final = 1 << 20
_READ: Final = 256 << 10
# zstd cannot be told how much to give at once: from so few bytes of input it makes at most 16 MiB.
_ZSTD_READ: Final = 512
_XZ_MEMORY: Final = 256 << 20


class _Stream(Protocol):
    """One compressed stream: pieces of what ``data`` adds, whether its end was reached, and what came after that."""

    eof: bool

    def pieces(self, data: bytes) -> Iterator[bytes]: ...

    @property
    def rest(self) -> bytes: ...


def plain_pieces(file: BinaryIO, packing: Packing, consumed: Callable[[bytes], None]) -> Iterator[bytes]:
    """Yield what ``file`` holds, decompressed; ``consumed`` is given every compressed byte as it is read.

    Several streams in a row are one content, as the programs of these formats treat them; zeroes between are padding.

    :raises ConfigError: the file is cut off, damaged, or goes on with something else.
    """
    new, errors = _methods(packing)
    size = _ZSTD_READ if packing == "zstd" else _READ
    stream: _Stream | None = None
    number = 0
    data = b""
    try:
        while data or (data := _read(file, size, consumed)):
            if stream is None:
                data = data.lstrip(b"\0") if number else data
                if not data:
                    continue
                stream, number = new(), number + 1
            yield from stream.pieces(data)
            data = stream.rest if stream.eof else b""
            stream = None if stream.eof else stream
    except errors as exc:
        what = "is damaged" if number < 2 else "is damaged, or has something else behind its first stream"
        raise ConfigError(f"{what}: {packing} says {str(exc)!r}", hint=_AGAIN) from exc
    if stream is not None:
        raise ConfigError(f"is cut off: the {packing} data ends before its end mark", hint=_AGAIN)


_AGAIN: Final = "compare the file's size and digest with what the build made; was the copy or download complete?"


def _read(file: BinaryIO, size: int, consumed: Callable[[bytes], None]) -> bytes:
    data = file.read(size)
    consumed(data)
    return data


def _methods(packing: Packing) -> tuple[Callable[[], _Stream], tuple[type[Exception], ...]]:
    if packing == "gzip":
        return _Gzip, (zlib.error,)
    if packing == "bzip2":
        return (lambda: _Bounded(bz2.BZ2Decompressor())), (OSError, ValueError, EOFError)
    if packing == "xz":
        return (lambda: _Bounded(lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_XZ_MEMORY))), (lzma.LZMAError,)
    try:
        import zstandard  # noqa: PLC0415 -- only who has such an image needs the package
    except ImportError as exc:
        raise HostError(
            "the image is compressed with zstd, and the Python package 'zstandard' is not installed",
            hint="pip install zstandard, or unpack the image first: unzstd FILE",
        ) from exc
    return (lambda: _Zstd(zstandard.ZstdDecompressor().decompressobj())), (zstandard.ZstdError,)


class _Gzip:
    def __init__(self) -> None:
        self._object = zlib.decompressobj(wbits=31)
        self.eof = False

    def pieces(self, data: bytes) -> Iterator[bytes]:
        while data and not self.eof:
            yield self._object.decompress(data, _PIECE)
            data, self.eof = self._object.unconsumed_tail, self._object.eof
            # What is left of a piece that was full can come without further input.
            while not data and not self.eof and (more := self._object.decompress(b"", _PIECE)):
                yield more
                self.eof = self._object.eof

    @property
    def rest(self) -> bytes:
        return self._object.unused_data


class _Bounded:
    """bzip2 and xz, whose objects have one interface."""

    def __init__(self, decompressor: bz2.BZ2Decompressor | lzma.LZMADecompressor) -> None:
        self._object = decompressor
        self.eof = False

    def pieces(self, data: bytes) -> Iterator[bytes]:
        yield self._object.decompress(data, _PIECE)
        while not self._object.eof and not self._object.needs_input:
            yield self._object.decompress(b"", _PIECE)
        self.eof = self._object.eof

    @property
    def rest(self) -> bytes:
        return self._object.unused_data


class _Zstd:
    def __init__(self, decompressor: Any) -> None:
        self._object = decompressor
        self.eof = False

    def pieces(self, data: bytes) -> Iterator[bytes]:
        yield self._object.decompress(data)
        self.eof = self._object.eof

    @property
    def rest(self) -> bytes:
        return bytes(self._object.unused_data)
