"""A boot from a disk that was changed before: what is changed, what is booted, and whose fault a failure is."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import seatrial.offline
from seatrial.errors import BootTimeout, GuestStopped, ObservationError
from seatrial.machine.disk import nameless_overlay
from seatrial.offline import booted_from, changed_disk
from seatrial.restore import Origin

SIZE = 1 << 20


class Shell:
    """A root shell that fails when it is told to, and keeps what it was told."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def run(self, command: str, *, timeout_s: float | None = None) -> tuple[int, bytes, bytes]:
        assert timeout_s
        self.told.append(command)
        return (1, b"", b"cannot do it\n") if "fail" in command else (0, b"", b"")


class Ready:
    """A ready guest, as far as a changed disk needs one; its cold boots are named by the first bytes of their disk."""

    def __init__(self, folder: Path) -> None:
        self.shell = Shell()
        self.origin: Origin | None = None
        self.boot = SimpleNamespace(launch=SimpleNamespace(image=SimpleNamespace(disk_bytes=SIZE), folder=folder))
        self.booted: list[bytes] = []
        self.trouble: Exception | None = None

    @contextlib.contextmanager
    def cold_boot(self, *, disk: int) -> Iterator[str]:
        if self.trouble is not None:
            raise self.trouble
        self.booted.append(os.pread(disk, 7, 0))
        yield "booted"


@pytest.fixture
def ready(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a guest whose workshop marks each disk that it mounts."""

    @contextlib.contextmanager
    def mounted(ready: Any, overlay: int) -> Iterator[tuple[Any, str]]:
        yield ready, "/dev/vdb"
        os.pwrite(overlay, os.pread(overlay, 3, 0) + b"/use", 0)

    monkeypatch.setattr(seatrial.offline, "mounted", mounted)
    return Ready(tmp_path)


def test_command_is_told_root_and_disk_and_its_disk_is_booted(ready: Any) -> None:
    session: Any
    with booted_from(ready, 'rm -rf "$R/var"') as session:
        assert session == "booted"
    (command,) = ready.shell.told
    assert command == """export R=/run/seatrial-image DISK=/dev/vdb; cd / && sh -c 'rm -rf "$R/var"'"""
    assert ready.booted == [b"QFI/use"]


def test_change_that_failed_is_not_taken_for_a_boot_that_did(ready: Any) -> None:
    with pytest.raises(ObservationError, match="could not be changed before it boots: exit status 1, cannot do it"):
        booted_from(ready, "fail").__enter__()
    assert ready.booted == []


def test_guest_that_dies_while_it_changes_the_disk_says_nothing_about_the_image(ready: Any) -> None:
    def die(_shell: object, _device: str) -> None:
        raise GuestStopped("the guest restarted by itself")

    with pytest.raises(ObservationError, match="could not be changed before it boots: the guest restarted by itself"):
        changed_disk(ready, die).__enter__()


def test_image_that_does_not_come_up_says_why(ready: Any) -> None:
    ready.trouble = BootTimeout("not ready in time")
    with pytest.raises(BootTimeout, match="not ready in time"):
        booted_from(ready, "true").__enter__()


def test_guest_from_a_changed_disk_has_its_own_disk_changed_as_it_was_before(ready: Any, tmp_path: Path) -> None:
    with nameless_overlay(SIZE, tmp_path) as first:
        os.pwrite(first, b"one", 0)
        ready.origin = Origin(ready=ready, disk=first, boot=lambda disk: ready.cold_boot(disk=disk))
        with booted_from(ready, "true"):
            pass
        assert ready.booted == [b"one/use"]
        assert os.pread(first, 3, 0) == b"one"
        assert os.pread(first, 7, 0) != b"one/use"
