"""A check once more, on a copy of the guest as it was when it was ready: does it fail each time?"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace
from typing import Literal

from seatrial.breakin import hold
from seatrial.check import Check, NotApplicable, NotChecked
from seatrial.clock import monotonic_s
from seatrial.errors import SeatrialError
from seatrial.offline import booted_from
from seatrial.plan import Ended
from seatrial.policy.flavours import Flavour
from seatrial.policy.judge import Outcome, Verdict, judge
from seatrial.rebooted import Rebooted
from seatrial.rehearsal import Rehearsal
from seatrial.session import Session

__all__ = ["broken_into", "called", "repeated"]


def called(check: Rehearsal, session: Session, flavour: Flavour, *, rebooted: Rebooted | None = None) -> Ended:
    """Call ``check`` with the guest of ``session`` and return how it ended.

    :param rebooted: what that guest answered before and after a reboot, for a check that asks for it.
    """
    observing = Check()
    offered = {
        "facts": session.facts,
        "check": observing,
        "flavour": flavour,
        "boot": session.boot_facts if "boot" in check.needs else None,
        "host": session.host,
        "row": check.row,
        "guest": session,
        "booted_from": functools.partial(booted_from, session),
        "rebooted": rebooted,
    }
    began, error, said = monotonic_s(), None, None
    try:
        check.function(**{name: offered[name] for name in check.needs})
    except NotApplicable as exc:
        said = (str(Outcome.NOT_APPLICABLE), str(exc))
    except NotChecked as exc:
        said = (str(Outcome.NOT_CHECKED), str(exc))
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as exc:  # noqa: BLE001 -- pytest.fail and pytest.skip raise no Exception; all end up in the verdict
        error = exc
    outcome = judge(observing.observations)[0]
    return Ended(
        error=error,
        said=said,
        observations=tuple(observing.observations),
        seconds=monotonic_s() - began,
        judged=error is None and outcome is not Outcome.PASS,
        skipped=type(error).__name__ == "Skipped",
        reason=str(error or ""),
    )


def repeated(
    verdict: Verdict,
    check: Rehearsal,
    session: Session,
    *,
    judge_again: Callable[[Ended], Verdict],
    flavour: Flavour,
    times: int,
) -> Verdict:
    """Return ``verdict`` with how often the check fails when it is repeated ``times`` times, each on a fresh copy.

    The outcome stays what it is: a check that passes now and then is a flake, and no pass. The first copy that does not
    come up ends it: what is known until then counts.
    """
    done = failed = 0
    trouble = ""
    for _ in range(times):
        try:
            with session.restored() as copy:
                again = judge_again(called(check, copy, flavour))
        except SeatrialError as exc:
            trouble = f"; a further copy did not come up: {exc.message}"
            break
        done += 1
        failed += again.outcome is not Outcome.PASS
    because = f"{verdict.because} (repeated {_times(done)} from the snapshot, {_told(done, failed)}{trouble})"
    return replace(verdict, because=because, repeats=done, repeats_failed=failed)


def _told(done: int, failed: int) -> str:
    if done == 0:
        return "which says nothing"
    if failed == done:
        return f"failed {_times(failed)}: each time"
    fresh = ", so it may be what an earlier check left in the guest" if failed == 0 else ""
    return f"failed {_times(failed)}: a flake, it passed {_times(done - failed)}{fresh}"


def _times(number: int) -> str:
    return f"{number} time{'s' * (number != 1)}"


def broken_into(
    verdict: Verdict,
    check: Rehearsal | None,
    session: Session,
    *,
    judge_again: Callable[[Ended], Verdict],
    flavour: Flavour,
) -> Literal["continue", "quit"]:
    """Let a person look at the guest that ``verdict`` is about, and repeat the check on copies as often as wanted.

    A guest that is lost meanwhile, by the person's own doing or not, ends the looking: the next check meets the loss.

    :param check: None for a check that cannot be called outside its own run.
    """
    while True:
        try:
            choice = hold(session, verdict, can_repeat=check is not None)
        except SeatrialError as exc:
            print(f"seatrial: the guest was lost: {exc}")
            return "continue"
        if choice != "repeat" or check is None:
            return "quit" if choice == "quit" else "continue"
        try:
            with session.restored() as copy:
                again = judge_again(called(check, copy, flavour))
                print(f"seatrial: in a fresh copy: {again.outcome}: {again.because}")
                if again.outcome is not Outcome.PASS and hold(copy, again, can_repeat=False) == "quit":
                    return "quit"
        except SeatrialError as exc:
            print(f"seatrial: the fresh copy was lost: {exc}")
