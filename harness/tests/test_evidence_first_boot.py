"""What tells a first boot from a later one, and whether its marks are as they were."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from seatrial.errors import ObservationError
from seatrial.evidence.first_boot import (
    conditions_met,
    first_boot_units,
    made_anew,
    parse_marks,
    signs_of_a_first_boot,
    unit_conditions,
)

FILES = """\
/etc/systemd/system/agent.service:ConditionFirstBoot=yes
/usr/lib/systemd/system/first-boot-complete.target:ConditionFirstBoot=yes
/usr/lib/systemd/system/later.service:ConditionFirstBoot=no
/usr/lib/systemd/system/mixed.service:ConditionFirstBoot=|yes
/usr/lib/systemd/system/not.service:ConditionFirstBoot=!yes
/usr/lib/systemd/system/keys@.service:ConditionFirstBoot=yes
/usr/lib/systemd/system/disk.service.d/10-once.conf:ConditionFirstBoot=true
/lib/systemd/system/first-boot-complete.target:ConditionFirstBoot=yes
/usr/lib/systemd/system/x; reboot.service:ConditionFirstBoot=yes
"""
UNITS = ("agent.service", "disk.service", "first-boot-complete.target")


def block(unit: str, result: str, stamp: int) -> str:
    return f"Id={unit}\nConditionResult={result}\nConditionTimestampMonotonic={stamp}\n"


def test_units_of_the_first_boot_are_those_that_only_it_starts() -> None:
    assert first_boot_units(FILES) == UNITS
    assert first_boot_units("") == ()
    assert unit_conditions(UNITS).endswith(
        "ConditionTimestampMonotonic agent.service disk.service first-boot-complete.target"
    )


@pytest.mark.parametrize("text", ["grep: no such file\n", "/a.service:ConditionFirstBoot\n"])
def test_what_is_no_condition_is_an_error(text: str) -> None:
    with pytest.raises(ObservationError, match="no condition of a unit file"):
        first_boot_units(text)


def test_more_units_than_any_system_has_are_an_error() -> None:
    text = "".join(f"/etc/systemd/system/u{n}.service:ConditionFirstBoot=yes\n" for n in range(201))
    with pytest.raises(ObservationError, match="201 units"):
        first_boot_units(text)


def test_a_unit_ran_when_its_conditions_were_looked_at_and_met() -> None:
    told = [block(UNITS[0], "yes", 7), block(UNITS[1], "no", 9), block(UNITS[2], "yes", 0)]
    assert conditions_met("\n".join(told), UNITS) == ["agent.service"]


@pytest.mark.parametrize("text", ["", block(UNITS[0], "no", 1), "\n".join(["Id=a.service\n"] * 3)])
def test_a_unit_that_is_not_told_of_did_not_stay_away(text: str) -> None:
    with pytest.raises(ObservationError, match="conditions of 3 units"):
        conditions_met(text, UNITS)


@pytest.mark.parametrize(
    ("line", "signs"),
    [
        ("root=LABEL=ROOT quiet", []),
        ("root=LABEL=ROOT flatcar.first_boot=detected", ["flatcar.first_boot=detected"]),
        ("flatcar.first_boot=0", []),
        ("ignition.firstboot", ["ignition.firstboot"]),
        ("ignition.firstboot=1 ignition.platform.id=qemu", ["ignition.firstboot=1"]),
        ("systemd.condition-first-boot=no", []),
        ("systemd.condition_first_boot=yes", ["systemd.condition_first_boot=yes"]),
        ("quiet\n/run/systemd/first-boot", ["/run/systemd/first-boot"]),
    ],
)
def test_a_first_boot_shows_itself(line: str, signs: list[str]) -> None:
    assert signs_of_a_first_boot(f"{line}\n") == signs


def test_marks_are_files_with_their_times() -> None:
    assert parse_marks("12 /etc/machine-id\n15 /etc/a b\n") == {"/etc/machine-id": 12, "/etc/a b": 15}
    with pytest.raises(ObservationError, match="expected a time and a file"):
        parse_marks("stat: no such file\n")


def test_a_mark_that_is_gone_new_or_anew_is_named() -> None:
    before, after = {"/a": 1, "/b": 1, "/c": 1}, {"/a": 1, "/b": 2, "/d": 1}
    assert made_anew(before, before) == []
    assert made_anew(before, after) == ["/c is gone", "/d is new", "/b was made anew"]


@given(st.text(), st.text())
def test_any_answer_is_read_or_refused(text: str, more: str) -> None:
    with contextlib.suppress(ObservationError):
        units = first_boot_units(text)
        assert not {" ", ";", "$", "`", "\n"} & set("".join(units))
    with contextlib.suppress(ObservationError):
        conditions_met(text, UNITS)
    with contextlib.suppress(ObservationError):
        marks = parse_marks(text)
        assert made_anew(marks, marks) == []
    assert len(signs_of_a_first_boot(f"{text} {more}")) <= len(f"{text} {more}".split())


@given(st.text(alphabet="/abs.:;$(){}`| =yesConditionFirstBoot\n-@", max_size=200))
def test_a_unit_s_name_is_never_a_command(text: str) -> None:
    with contextlib.suppress(ObservationError):
        units = first_boot_units(f"/etc/systemd/system/{text}")
        assert not set(" ;$(){}`|=\n/") & set("".join(units))
