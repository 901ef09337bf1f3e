"""Reading loaded modules, and what modprobe would do."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from seatrial.clock import Deadline
from seatrial.errors import ConfigError, ObservationError
from seatrial.evidence.modules import dry_run_command, module_name, parse_dry_runs, parse_loaded
from seatrial.process import run
from suite_bench import recorded

MISSING = "modprobe: FATAL: Module x not found in directory /lib/modules/6.12"


@pytest.mark.parametrize(
    ("said", "status", "meaning"),
    [
        ("install /bin/false \n", 0, "barred"),
        ("install /usr/bin/true\n", 0, "barred"),
        (f"{MISSING}\n", 1, "missing"),
        ("insmod /lib/modules/6.12/kernel/net/sctp/sctp.ko.xz \n", 0, "loadable"),
        (
            "insmod /lib/modules/6.12/kernel/net/sctp/sctp.ko.xz \ngone /lib/modules/6.12/kernel/net/sctp/sctp.ko.xz\n",
            0,
            "missing",
        ),
        ("install /sbin/load-it-anyway\n", 0, "loadable"),
        ("", 0, "built-in"),
        ("builtin ext4\n", 0, "built-in"),
        ("loaded ax25\n", 0, "loaded"),
        ("by name insmod /lib/modules/6.12/kernel/net/ax25/ax25.ko.xz \n", 0, "barred"),
        ("by name install /bin/false \n", 0, "barred"),
        ("by name modprobe: FATAL: Module off not found in directory /lib/modules/6\n", 0, "barred"),
        ("by name builtin ax25\n", 0, "built-in"),
        ("by name \n", 0, "built-in"),
        ("by name insmod /lib/a.ko \nloaded b\n", 0, "loaded"),
        ("insmod /lib/a.ko \ninstall /bin/false \n", 0, "barred"),
    ],
)
def test_answer_of_modprobe_is_understood(said: str, status: int, meaning: str) -> None:
    assert parse_dry_runs(f"module x\n{said}status {status}\n") == {"x": meaning}


def test_a_module_of_the_index_whose_file_is_gone_is_missing(tmp_path: Path) -> None:
    present = tmp_path / "here.ko"
    present.touch()
    modprobe = f'modprobe() {{ echo "insmod {tmp_path}/first.ko"; echo "insmod {tmp_path}/$3.ko option=1"; }}'
    done = run(["sh", "-c", f"{modprobe}; {dry_run_command(['here', 'away'])}"], deadline=Deadline(10))
    assert parse_dry_runs(done.stdout.decode()) == {"here": "loadable", "away": "missing"}


@pytest.mark.parametrize(
    "text",
    [
        "rubbish\n",
        "module x\n",
        "module x\nmodprobe: ERROR: could not open modules.dep\nstatus 1\n",
        f"module x\n{MISSING}\nmodprobe: FATAL: something else\nstatus 1\n",
        "module x\nstatus 1\n",
    ],
)
def test_modprobe_that_cannot_tell_is_an_error(text: str) -> None:
    with pytest.raises(ObservationError):
        parse_dry_runs(text)


def test_what_is_kept_from_an_alias_is_asked_for_by_name() -> None:
    modprobe = (
        'modprobe() { case "$*" in "-R net-pf-3") echo ax25 ;; "-R net-pf-6") echo netrom ;; '
        '"-n -v ax25") echo "insmod /lib/ax25.ko" ;; "-n -v netrom") echo "builtin netrom" ;; esac; }'
    )
    done = run(["sh", "-c", f"{modprobe}; {dry_run_command(['net-pf-3', 'net-pf-6'])}"], deadline=Deadline(10))
    assert parse_dry_runs(done.stdout.decode()) == {"net-pf-3": "barred", "net-pf-6": "built-in"}


def test_recorded_modules_are_read() -> None:
    loaded = parse_loaded(recorded("kernel/modules"))
    assert loaded["dm_verity"] == ""
    assert len(loaded) > 20


def test_taint_flags_are_kept() -> None:
    assert parse_loaded("zfs 1 0 - Live 0x0000000000000000 (POE)\n") == {"zfs": "POE"}


def test_line_that_is_no_module_is_an_error() -> None:
    with pytest.raises(ObservationError, match="no loaded module"):
        parse_loaded("Module Size Used by\n")


@pytest.mark.parametrize("name", ["a b", "$(reboot)", "-r", ""])
def test_name_of_no_module_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="no name of a kernel module"):
        dry_run_command([name])


def test_dash_and_underscore_name_one_module() -> None:
    assert module_name("usb-storage") == "usb_storage"


@given(st.text())
def test_any_answer_is_read_or_refused(text: str) -> None:
    for parse in (parse_dry_runs, parse_loaded):
        with contextlib.suppress(ObservationError):
            assert isinstance(parse(text), dict)
