"""Options: one table, three sources, faults that name where the value came from."""

from __future__ import annotations

from pathlib import Path

import pytest
from seatrial.errors import ConfigError
from seatrial.options import OPTIONS, Settings, resolve


def settings(
    flags: dict[str, str] | None = None, ini: dict[str, str] | None = None, env: dict[str, str] | None = None
) -> Settings:
    return resolve((flags or {}).get, (ini or {}).get, env or {})


def test_without_anything_the_defaults_hold() -> None:
    found = settings()
    assert (found.image, found.accel, found.lynis, found.boot_timeout) == (None, "auto", False, 120.0)


def test_a_flag_wins_over_the_environment_and_that_over_the_ini_file() -> None:
    ini, env, flags = {"seatrial_flavour": "c"}, {"SEATRIAL_FLAVOUR": "b"}, {"seatrial_flavour": "a"}
    assert settings(ini=ini).flavour == "c"
    assert settings(ini=ini, env=env).flavour == "b"
    assert settings(ini=ini, env=env, flags=flags).flavour == "a"


def test_an_empty_variable_counts_as_unset() -> None:
    assert settings(env={"SEATRIAL_IMAGE": ""}).image is None


def test_values_get_their_types() -> None:
    found = settings(env={"SEATRIAL_IMAGE": "/a/b", "SEATRIAL_LYNIS": "on", "SEATRIAL_BOOT_TIMEOUT": "2.5"})
    assert (found.image, found.lynis, found.boot_timeout) == (Path("/a/b"), True, 2.5)


@pytest.mark.parametrize(
    ("env", "text"),
    [
        ({"SEATRIAL_ACCEL": "hvf"}, "environment variable SEATRIAL_ACCEL is 'hvf'; expected one of auto, kvm, tcg"),
        ({"SEATRIAL_BOOT_TIMEOUT": "-1"}, "SEATRIAL_BOOT_TIMEOUT is '-1'; a number of seconds between 0 and 86400"),
        ({"SEATRIAL_BOOT_TIMEOUT": "nan"}, "a number of seconds between 0 and 86400"),
        ({"SEATRIAL_BOOT_TIMEOUT": "soon"}, "SEATRIAL_BOOT_TIMEOUT is 'soon'"),
        ({"SEATRIAL_LYNIS": "maybe"}, "SEATRIAL_LYNIS is 'maybe'; one of on, off"),
    ],
)
def test_a_faulty_value_names_its_source_and_what_was_expected(env: dict[str, str], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        settings(env=env)


def test_every_option_explains_itself() -> None:
    assert all(len(option.help) > 20 for option in OPTIONS)
    assert {option.field for option in OPTIONS} == set(Settings.__slots__)
