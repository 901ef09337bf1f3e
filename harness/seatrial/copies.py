"""Fixtures for checks that change the guest: each gets an isolated copy of the ready guest, or a cold boot of its own.

The second place besides the plugin that knows pytest; nothing here is imported before an image is judged.
"""

from __future__ import annotations

import contextlib
import dataclasses
import types
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import pytest

from seatrial.emulation import once_more
from seatrial.offline import booted_from as booted

if TYPE_CHECKING:
    from seatrial.guest.facts import Facts
    from seatrial.rebooted import Rebooted
    from seatrial.restore import Session

__all__ = ["MARKER", "copy_fixtures", "needs_copies", "needs_guest", "needs_spare_port", "redirect", "uses_copies"]

MARKER = "changes_guest"
# What a check gets of its own when it changes the guest, and the fixture that gives it.
_OWN = {"host": "_seatrial_own_host", "facts": "_seatrial_own_facts"}
_ASKED = frozenset({"restored", "guest", "booted_from", "rebooted"})
Started = contextlib.AbstractContextManager["Session"]


def copy_fixtures(
    ready: Callable[[], Session],
    own: Callable[[pytest.Item], Started],
    reboot: Callable[[Sequence[pytest.Item]], Rebooted],
) -> types.ModuleType:
    """Return the fixtures, as a module to register.

    :param ready: gives the guest that all checks share.
    :param own: gives a check a guest of its own: a copy, or a cold boot where a copy would falsify the answer.
    :param reboot: reboots a copy, and asks it what those of the items ask that look at a reboot.
    """
    holder = types.ModuleType("seatrial_copies")
    holder.__dict__.update(_of_one_check(own), **_of_the_session(ready, reboot))
    return holder


def _of_one_check(own: Callable[[pytest.Item], Started]) -> dict[str, Any]:
    @pytest.fixture
    def guest(request: pytest.FixtureRequest) -> Iterator[Session]:
        """The check's own guest; it can also be restarted: ``reboot()``, ``power_cut()``, ``soft_reboot()``."""
        if request.node.get_closest_marker(MARKER) is None:
            pytest.fail(f"fixture 'guest' is for checks marked {MARKER!r}: @pytest.mark.{MARKER}", pytrace=False)
        with own(request.node) as session:
            yield session

    @pytest.fixture
    def _seatrial_own_host(guest: Session) -> Any:
        return guest.host

    @pytest.fixture
    def _seatrial_own_facts(guest: Session) -> Facts:
        return guest.facts

    return {"guest": guest, "_seatrial_own_host": _seatrial_own_host, "_seatrial_own_facts": _seatrial_own_facts}


def _of_the_session(
    ready: Callable[[], Session], reboot: Callable[[Sequence[pytest.Item]], Rebooted]
) -> dict[str, Any]:
    @pytest.fixture(scope="session")
    def restored() -> Callable[[], Started]:
        """Call it for an isolated copy of the ready guest: ``with restored() as copy: copy.host...``."""
        return lambda: ready().restored()

    @pytest.fixture(scope="session")
    def cold_boots() -> Iterator[tuple[Facts, Facts]]:
        """Facts of two cold boots of the image: the shared guest's, and one more, booted when first asked for."""
        first = ready()
        with first.cold_boot() as second:
            yield first.facts, second.facts

    @pytest.fixture(scope="session")
    def rebooted(request: pytest.FixtureRequest) -> Rebooted:
        """Facts before and after one reboot of one copy of the ready guest, made when first asked for.

        Of a copy that does not come back every check that asks hears, and nobody waits for it again.
        """
        return reboot(request.session.items)

    return {
        "restored": restored,
        "cold_boots": cold_boots,
        "rebooted": rebooted,
        "booted_from": _from_changed_disks(ready),
    }


def _from_changed_disks(ready: Callable[[], Session]) -> Callable[..., object]:
    @pytest.fixture(scope="session")
    def booted_from() -> Callable[[str], Started]:
        """Call it with a shell command to boot the image, for the first time, from a disk that the command has changed.

        ``with booted_from('rm -r "$R"/var/cache') as session: session.host...``; ``$R`` is the root of the disk, with
        all that is mounted there, and ``$DISK`` the disk. That it could not be changed is an ``ObservationError``;
        whatever else is raised on entering says why it did not come up.
        """
        return lambda change: once_more(lambda: booted(ready(), change))

    return booted_from


def redirect(items: Sequence[pytest.Item]) -> None:
    """Let ``host`` and ``facts`` mean the check's own guest in every item marked ``changes_guest``.

    Every fixture that such a check uses gets the same; one of a wider scope that asks for ``host`` is refused by pytest
    (ScopeMismatch), because its value would come from the guest that others still look at.
    """
    for item in items:
        if item.get_closest_marker(MARKER) is not None and isinstance(item, pytest.Function):
            known = item.session._fixturemanager
            own = {name: known.getfixturedefs(hidden, item) or () for name, hidden in _OWN.items()}
            info = item._fixtureinfo
            item._fixtureinfo = dataclasses.replace(info, name2fixturedefs={**info.name2fixturedefs, **own})
            item._initrequest()


def uses_copies(item: pytest.Item) -> bool:
    """Return whether the check works on a guest of its own, so that its loss is nobody else's."""
    asked = set(getattr(item, "fixturenames", ()))
    return item.get_closest_marker(MARKER) is not None or bool(asked & (_ASKED | {"cold_boots"}))


def needs_guest(item: pytest.Item) -> bool:
    """Return whether a check, or a fixture that it asks for, reaches for a guest: facts cannot answer it."""
    return uses_copies(item) or "host" in getattr(item, "fixturenames", ())


def needs_copies(items: Sequence[pytest.Item]) -> bool:
    """Return whether any check will want a copy of the ready guest."""
    return any(
        item.get_closest_marker(MARKER) is not None or _ASKED & set(getattr(item, "fixturenames", ())) for item in items
    )


def needs_spare_port(items: Sequence[pytest.Item]) -> bool:
    """Return whether any check will want a disk changed before it boots, which copies see as a second one."""
    return any("booted_from" in getattr(item, "fixturenames", ()) for item in items)
