"""Copies of a real guest: isolated, at the right time, with randomness of their own, and there in moments."""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from micro_boot import micro_session
from seatrial.errors import SessionError
from seatrial.guest.restart import BOOT_ID
from seatrial.restore import Restores, Session

pytestmark = pytest.mark.guest

ON_DISK = "dd if=/dev/vda bs=512 skip=100 count=1 2>/dev/null | tr -d '\\0'"


def text(session: Session, command: str) -> str:
    status, out, err = session.shell.run(command)
    assert status == 0, (command, err)
    return out.decode().strip()


def restores(session: Session) -> Restores:
    assert session.restorer is not None
    found = session.restorer.restores
    assert found is not None
    return found


@pytest.fixture(scope="module")
def ready(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Session]:
    with micro_session(tmp_path_factory.mktemp("micro")) as session:
        text(session, BOOT_ID)  # made by the kernel when it is first read
        yield session


def test_copies_are_the_same_guest_and_see_nothing_of_each_other(ready: Session) -> None:
    with ready.restored() as one, ready.restored() as two:
        assert text(one, BOOT_ID) == text(two, BOOT_ID) == text(ready, BOOT_ID)
        text(one, "echo one >/run/mine; echo disk | dd of=/dev/vda bs=512 seek=100 conv=notrunc 2>/dev/null; sync")
        assert text(two, f"ls /run; {ON_DISK}") == ""
        assert (
            text(one, "cat /run/mine; dd if=/dev/vda bs=512 skip=100 count=1 2>/dev/null | tr -d '\\0'") == "one\ndisk"
        )
    assert text(ready, f"ls /run; {ON_DISK}") == ""
    with ready.restored() as later:
        assert text(later, "ls /run") == ""


def test_a_kernel_that_does_not_notice_that_it_was_copied_is_on_record(ready: Session) -> None:
    """Debian 12's cloud kernel has no driver for the generation id, and the micro guest no program for the ioctl."""
    with ready.restored():
        pass
    assert restores(ready).reseeded is False


def test_the_clock_of_a_copy_is_right(ready: Session) -> None:
    with ready.restored() as copy:
        before = time.time()
        shown = float(text(copy, "date +%s"))
        assert before - 2 <= shown <= time.time() + 2


def test_a_guest_without_bash_is_copied_by_the_best_way_and_answers_over_ssh(ready: Session) -> None:
    with ready.restored() as copy:
        assert text(copy, "echo here") == "here"
    found = restores(ready)
    assert (found.method, found.lifeline) == ("template", False)
    assert "no bash" in found.reason


def test_copies_start_in_parallel_from_any_thread_and_the_first_guest_goes_on(ready: Session) -> None:
    heard: list[str] = []

    def one(number: int) -> None:
        with ready.restored() as copy:
            heard.append(text(copy, f"echo {number}"))

    threads = [threading.Thread(target=one, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(heard) == ["0", "1", "2"]
    assert text(ready, "echo alive") == "alive"


def test_a_copy_is_there_in_a_fraction_of_a_boot(ready: Session) -> None:
    with ready.restored():
        pass
    found = restores(ready)
    assert found.freeze_s < ready.guest.ready_s / 2
    assert statistics.median(found.seconds) < ready.guest.ready_s


def test_a_power_cut_is_noticed_and_a_new_host_key_refused(ready: Session) -> None:
    """The micro guest makes new host keys at each start: after a restart that is no longer the server we knew."""
    with ready.restored() as copy, pytest.raises(SessionError, match="the guest's SSH host key changed"):
        copy.power_cut()


@pytest.mark.parametrize("way", ["mapped-ram"])
def test_a_machine_that_was_not_made_for_it_is_copied_through_a_file(tmp_path: Path, way: str) -> None:
    with micro_session(tmp_path, is_cloneable=False) as session:
        with session.restored() as one, session.restored() as two:
            text(one, "echo one >/run/mine")
            assert text(two, "ls /run") == ""
        found = restores(session)
    assert found.method == way
    assert found.reason.startswith("template: ")
