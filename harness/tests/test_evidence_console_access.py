"""Rescue mode and the boot loader as the guest describes them: what opens a shell is found, nonsense is refused."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from seatrial.errors import ObservationError
from seatrial.evidence.loader import parse_loader
from seatrial.evidence.rescue import parse_rescue
from suite_bench import recorded

HEALTHY = recorded("immutability/rescue")
SYSTEMD_BOOT = "loader systemd-boot 257.7-1\nesp\n{}the end\n"


def test_units_of_a_healthy_guest_open_no_door() -> None:
    modes = parse_rescue(HEALTHY)
    assert {mode.unit for mode in modes} == {"emergency.service", "rescue.service"}
    assert [mode.commands[0][0].rpartition("/")[2] for mode in modes] == ["systemd-sulogin-shell"] * 2
    assert [mode.open_doors() for mode in modes] == [[], []]


@pytest.mark.parametrize(
    ("old", "new", "door"),
    [
        ("Environment=", "Environment=SYSTEMD_SULOGIN_FORCE=1 ", "emergency.service sets SYSTEMD_SULOGIN_FORCE"),
        ("Environment=", 'Environment="SYSTEMD_SULOGIN_FORCE=yes" ', "emergency.service sets SYSTEMD_SULOGIN_FORCE"),
        ("argv[]=/usr/lib/systemd/systemd-sulogin-shell", "argv[]=/bin/sh -l", "emergency.service starts /bin/sh -l"),
        (
            "argv[]=/usr/lib/systemd/systemd-sulogin-shell",
            "argv[]=-/usr/sbin/sulogin --force",
            "emergency.service starts -/usr/sbin/sulogin --force",
        ),
    ],
)
def test_a_shell_without_a_password_is_told(old: str, new: str, door: str) -> None:
    doors = [one for mode in parse_rescue(HEALTHY.replace(old, new, 1)) for one in mode.open_doors()]
    assert len(doors) == 1
    assert doors[0].startswith(door)


@pytest.mark.parametrize("value", ["SYSTEMD_SULOGIN_FORCE=0", "OTHER=1", "MY_SYSTEMD_SULOGIN_FORCE=1"])
def test_other_variables_open_nothing(value: str) -> None:
    modes = parse_rescue(HEALTHY.replace("Environment=", f"Environment={value} "))
    assert all(mode.open_doors() == [] for mode in modes)


def test_a_masked_unit_gives_no_shell() -> None:
    masked = "\n\n".join(f"Environment=\nId={name}.service\nLoadState=masked" for name in ("rescue", "emergency"))
    assert [mode.open_doors() for mode in parse_rescue(f"{masked}\n\nId=manager\nEnvironment=\n")] == [[], []]


def test_a_variable_of_the_manager_reaches_both_units() -> None:
    modes = parse_rescue(HEALTHY.replace("LANG=C.UTF-8", "SYSTEMD_SULOGIN_FORCE=true"))
    assert [len(mode.open_doors()) for mode in modes] == [1, 1]


@pytest.mark.parametrize(
    "text",
    [
        "",
        HEALTHY.partition("\n\n")[0],
        HEALTHY.replace("ExecStart={ path", "ExecStart={ what"),
        HEALTHY.replace("Id=rescue.service", "Id=other.service"),
        "no property\n",
    ],
)
def test_rescue_mode_that_cannot_be_read_is_refused(text: str) -> None:
    with pytest.raises(ObservationError):
        parse_rescue(text)


@given(st.text())
def test_rescue_mode_takes_any_text(text: str) -> None:
    with contextlib.suppress(ObservationError):
        for mode in parse_rescue(text):
            assert isinstance(mode.open_doors(), list)


@pytest.mark.parametrize(
    ("lines", "is_off"),
    [
        ("", False),
        ("editor no\n", True),
        ("editor 0\n", True),
        ("editor yes\n", False),
        ("editor no\neditor yes\n", False),
        ("editor yes\neditor no\n", True),
    ],
)
def test_last_word_on_the_editor_counts(lines: str, is_off: bool) -> None:
    loader = parse_loader(SYSTEMD_BOOT.format(lines))
    assert (loader.is_systemd_boot, loader.esp_seen, loader.editor_is_off) == (True, True, is_off)


def test_a_value_that_is_neither_yes_nor_no_is_refused() -> None:
    with pytest.raises(ObservationError, match="editor maybe"):
        assert parse_loader(SYSTEMD_BOOT.format("editor maybe\n")).editor_is_off


def test_every_configuration_of_grub_is_kept_apart() -> None:
    loader = parse_loader("grub\nsuperusers\npassword\ngrub\nsuperusers\nthe end\n")
    assert [sorted(words) for words in loader.grubs] == [["password", "superusers"], ["superusers"]]
    assert not loader.is_systemd_boot


def test_a_configuration_that_only_leads_to_another_is_no_menu_of_its_own() -> None:
    debian = parse_loader("grub\nsuperusers\npassword\ngrub\nstub\nby grub\nthe end\n")
    assert (len(debian.grubs), debian.by_grub) == (1, True)
    assert [sorted(words) for words in parse_loader("grub\nstub\nthe end\n").grubs] == [["stub"]]


@pytest.mark.parametrize("text", ["", "esp\n", "the end", "superusers\nthe end\n", "what\nthe end\n"])
def test_an_answer_about_the_loader_that_makes_no_sense_is_refused(text: str) -> None:
    with pytest.raises(ObservationError):
        parse_loader(text)


@given(st.text(alphabet="esp grubditowl\n").map(lambda text: f"{text}\nthe end\n"))
def test_the_loader_takes_any_text(text: str) -> None:
    with contextlib.suppress(ObservationError):
        assert parse_loader(text).grubs is not None
