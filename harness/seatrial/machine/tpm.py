"""A TPM 2.0 for a guest, by swtpm. Its state is a file without a name, so that no end of a run leaves it behind."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from seatrial.clock import Deadline
from seatrial.errors import HostError, TpmLost
from seatrial.process import Child, Confinement, require_program, run, running

__all__ = ["Tpm", "tpm_running"]

_ANSWER_S = 20.0
_MOST_STATE = 16 * 2**20
_CMD_GET_CAPABILITY = (1).to_bytes(4, "big")  # swtpm's tpm_ioctl.h; the answer is 4 bytes of status and 8 of flags


@dataclass(frozen=True, slots=True, kw_only=True)
class Tpm:
    """A running TPM: the descriptor of its control channel for QEMU, and its process."""

    control_fd: int
    state_fd: int
    process: Child
    log: Path

    def state(self) -> bytes:
        """Return the TPM's permanent state as it is now (keys, NV indices; no PCRs: QEMU migrates those itself)."""
        return os.pread(self.state_fd, _MOST_STATE, 0)

    def trouble(self) -> TpmLost | None:
        """Return what happened when swtpm ended, None while it is there."""
        if self.process.status is None:
            return None
        return TpmLost(
            f"swtpm, which emulates the guest's TPM, ended with exit status {self.process.status}",
            hint="without its TPM the guest cannot be judged; run it again, or with --tpm off",
            evidence=self.log,
        )


@contextlib.contextmanager
def tpm_running(folder: Path, *, state: bytes = b"", confined: Confinement | None = None) -> Iterator[Tpm]:
    """Run a TPM that starts from ``state`` (a new one when empty); its log goes to ``folder``.

    :raises HostError: swtpm is missing, too old, or does not start.
    """
    swtpm = require_program("swtpm", why="give the guest a TPM (or run with --tpm off)")
    _check_backend(swtpm)
    log = folder / "swtpm.log"
    with contextlib.ExitStack() as stack:
        memory = os.memfd_create("seatrial-tpm")
        stack.callback(os.close, memory)
        _write_all(memory, state)
        ours, theirs = socket.socketpair()
        stack.callback(ours.close)
        stack.callback(theirs.close)
        words: list[str | Path] = [
            *(swtpm, "socket", "--tpm2", "--tpmstate", f"backend-uri=file:///proc/self/fd/{memory}"),
            *("--ctrl", f"type=unixio,clientfd={theirs.fileno()}"),
        ]
        process = stack.enter_context(
            running(words, log=log, pass_fds=(memory, theirs.fileno()), confined=confined),
        )
        theirs.close()
        _greet(ours, process, log)
        yield Tpm(control_fd=ours.fileno(), state_fd=memory, process=process, log=log)


def _check_backend(swtpm: Path) -> None:
    said = run([swtpm, "socket", "--print-capabilities"], deadline=Deadline(_ANSWER_S))
    if "nvram-backend-file" not in said.text:
        raise HostError(
            "this swtpm cannot keep its state in one file; version 0.7 or newer is needed",
            hint="'seatrial doctor' names the command that installs it; or run with --tpm off",
        )


def _greet(control: socket.socket, process: Child, log: Path) -> None:
    """Wait until swtpm answers, so that a failure to start is told here and not by QEMU."""
    control.settimeout(_ANSWER_S)
    try:
        control.sendall(_CMD_GET_CAPABILITY)
        answer = control.recv(12)
    except OSError as exc:
        answer, cause = b"", f": {exc}"
    else:
        cause = ""
    finally:
        control.settimeout(None)
    if answer[:4] != bytes(4):
        process.ends_within(1.0)
        said = log.read_text(encoding="utf-8", errors="backslashreplace").strip().splitlines()[-3:]
        raise HostError(f"swtpm did not start{cause}: {' / '.join(said) or 'it said nothing'}", evidence=log)


def _write_all(descriptor: int, content: bytes) -> None:
    done = 0
    while done < len(content):
        done += os.pwrite(descriptor, content[done:], done)
