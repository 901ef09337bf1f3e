"""A copy whose reboot the emulator spoils, by losing a timer before anything runs: it is reset once."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, cast

import pytest
from seatrial import restore
from seatrial.errors import TimerLost
from seatrial.guest.ready import Patience
from seatrial.guest.restart import REBOOT, WayIn
from seatrial.restore import Session


class Copy:
    """A session on fakes whose guest comes back at the ``lost``-th try; ``done`` is what was done to it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, lost: int, forgives: bool = True) -> None:
        self.lost, self.done = lost, list[str]()
        watch = SimpleNamespace(
            reboot_expected=contextlib.nullcontext, forgive_lost_timer=lambda: forgives, let_in=bool
        )
        monitor = SimpleNamespace(execute=self.done.append)
        boot = SimpleNamespace(watch=watch, monitor=monitor, guard=lambda: None)
        guest = SimpleNamespace(address="address", shell="shell")
        self.session = Session(
            host=None,
            facts=cast(Any, None),
            guest=cast(Any, guest),
            boot=cast(Any, boot),
            way=cast(Any, WayIn(user="u", key=cast(Any, "key"), patience=Patience(boot_s=1, settle_s=1, command_s=1))),
            is_restored=True,
        )
        monkeypatch.setattr(restore, "told", lambda _shell, _question: "before")
        monkeypatch.setattr(restore, "order", lambda _shell, command: self.done.append(command))
        monkeypatch.setattr(restore, "came_back", self.came_back)
        monkeypatch.setattr(restore, "new_session", lambda _guest, _boot: SimpleNamespace(host="host", facts="facts"))

    @contextlib.contextmanager
    def came_back(self, *_given: object, **_more: object) -> Iterator[Any]:
        if self.lost:
            self.lost -= 1
            raise TimerLost("a timer was lost")
        yield SimpleNamespace(address="address", shell="new shell")


def test_a_reboot_that_loses_a_timer_is_reset_once(monkeypatch: pytest.MonkeyPatch) -> None:
    copy = Copy(monkeypatch, lost=1)
    copy.session.reboot()
    assert copy.done == [REBOOT, "system_reset"]
    assert copy.session.guest.shell == cast(Any, "new shell")
    assert copy.session.host == "host"


def test_a_reboot_that_loses_two_has_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    copy = Copy(monkeypatch, lost=2)
    with pytest.raises(TimerLost):
        copy.session.reboot()
    assert copy.done == [REBOOT, "system_reset"]


def test_a_timer_that_is_lost_later_is_no_reason_for_a_reset(monkeypatch: pytest.MonkeyPatch) -> None:
    copy = Copy(monkeypatch, lost=1, forgives=False)
    with pytest.raises(TimerLost):
        copy.session.power_cut()
    assert copy.done == ["system_reset"]
