"""Whether an SSH server greets on a port: cheap to ask again and again, and bounded whatever answers."""

from __future__ import annotations

import socket
from dataclasses import dataclass
from typing import Final

from seatrial.clock import Deadline

__all__ = ["Address", "read_banner"]

# RFC 4253, section 4.2: the identification line has at most 255 characters; other lines may come before it.
_LONGEST_LINE: Final = 255
_MOST_BYTES: Final = 16_384
_SHOWN: Final = 60


@dataclass(slots=True)
class Address:
    """Where the guest's SSH server is, and the host key of the first login: another one later is refused.

    ``trouble`` says why the last look found no server; it is empty when there was one.
    """

    port: int
    host_key: tuple[str, bytes] | None = None
    host: str = "127.0.0.1"
    trouble: str = ""


def read_banner(address: Address, *, timeout_s: float) -> str | None:
    """Return the identification line of the SSH server, or None while there is none; ``address.trouble`` says why.

    An open port proves nothing: QEMU accepts connections for a guest that is still in its firmware.
    """
    deadline = Deadline(timeout_s)
    try:
        with socket.create_connection((address.host, address.port), timeout=timeout_s) as sock:
            found, address.trouble = _identification(sock, deadline)
    except TimeoutError:
        found, address.trouble = None, f"no connection within {timeout_s:.0f} s"
    except OSError as exc:
        found, address.trouble = None, f"{exc.strerror or type(exc).__name__}".lower()
    return found


def _identification(sock: socket.socket, deadline: Deadline) -> tuple[str | None, str]:
    """Return the line that begins with ``SSH-2.0-``, and why there is none; the deadline is for all of it."""
    heard = bytearray()
    while len(heard) < _MOST_BYTES:
        sock.settimeout(max(0.01, deadline.remaining_s))
        try:
            piece = b"" if deadline.is_over else sock.recv(1024)
        except TimeoutError:
            continue
        heard += piece
        *lines, _rest = bytes(heard).split(b"\n")
        for line in lines:
            if line.startswith(b"SSH-2.0-") and len(line) <= _LONGEST_LINE:
                return line.rstrip(b"\r").decode("ascii", "backslashreplace"), ""
            if line.startswith(b"SSH-"):
                return None, f"it speaks {_shown(line)}, and SSH 2.0 is needed"
        if not piece:
            return None, _silence(heard, deadline.is_over)
    return None, f"it sends lines without end and never its SSH version; the first: {_shown(bytes(heard))}"


def _silence(heard: bytearray, timed_out: bool) -> str:
    end = "then said no more" if timed_out else "then closed the connection"
    if heard:
        return f"it said {_shown(bytes(heard))}, which is no SSH version, {end}"
    return "the port is open, and nothing greets there" if timed_out else "the connection was closed without a greeting"


def _shown(text: bytes) -> str:
    return repr(text[:_SHOWN].split(b"\n")[0].decode("ascii", "backslashreplace"))
