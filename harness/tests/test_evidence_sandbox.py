"""What untrusted code can reach: system calls by number, groups, helpers of the kernel, runtimes, boot entries."""

from __future__ import annotations

import contextlib
import os
import platform
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from seatrial.clock import Deadline
from seatrial.errors import ConfigError, ObservationError
from seatrial.evidence.boot_entries import BOOT_ENTRIES, Entries, parse_entries
from seatrial.evidence.cgroups import parse_bitten, parse_cgroups
from seatrial.evidence.modules import parse_signatures
from seatrial.evidence.runtimes import below_floor, parse_runtime_versions, parse_sockets
from seatrial.evidence.syscalls import (
    SYSCALLS,
    Answered,
    landlock_abi_of,
    parse_answers,
    parse_syscalls,
    program,
)
from seatrial.evidence.usermode import parse_usermode
from seatrial.process import run

PARSERS: tuple[Callable[[str], object], ...] = (
    parse_bitten,
    parse_cgroups,
    parse_entries,
    parse_runtime_versions,
    parse_signatures,
    parse_sockets,
    parse_syscalls,
    parse_usermode,
    lambda text: parse_answers(text, expected=4),
)
here = pytest.mark.skipif(platform.machine() != "x86_64", reason="the program is for x86-64")


@pytest.mark.parametrize("parse", PARSERS)
@given(text=st.text(max_size=200))
def test_a_parser_reads_or_refuses_whatever_a_guest_says(parse: Callable[[str], object], text: str) -> None:
    with contextlib.suppress(ObservationError):
        parse(text)


@given(st.text(alphabet='boctl enrygusmi[]{}":,true\n', max_size=80))
def test_boot_entries_are_read_or_refused(text: str) -> None:
    with contextlib.suppress(ObservationError):
        parse_entries(f"bootctl {text}\nthe end\n")


@here
def test_the_program_makes_the_calls_and_says_what_came_of_them(tmp_path: Path) -> None:
    """getppid, a write of bytes found through a list of addresses, close of nothing, getrandom into own bytes."""
    vector = struct.pack("<QQ", 0, 6)
    calls = [(110, ()), (20, (2, vector, 1)), (3, (999,)), (318, (bytes(8), 8, 0))]
    path = tmp_path / "calls"
    path.write_bytes(program(calls, [(vector, [(0, b"hello\n")])]))
    path.chmod(0o755)
    done = run(["sh", "-c", f"{path} | od -An -v -td8"], deadline=Deadline(20))
    shell, written, closed, drawn = map(int, done.text.replace("hello", "").split())
    assert shell > 1
    assert shell != os.getpid()
    assert (written, closed, drawn) == (6, -9, 8)


def test_question_and_answers_fit_each_other() -> None:
    calls = parse_syscalls("release 6.12.1-x\nanswers -1 -38 3 6\n")
    assert calls.release == "6.12.1-x"
    assert [(name, answer.is_refused) for name, answer in calls.answers.items()] == [
        ("io_uring_setup", True),
        ("bpf", True),
        ("userfaultfd", False),
        ("landlock_create_ruleset", False),
    ]
    assert parse_syscalls("release 6.12.1\nanswers\n").answers == {}
    assert "'" in SYSCALLS
    assert len(SYSCALLS) < 4000  # one argument of a shell


@pytest.mark.parametrize(("result", "shown"), [(-1, "EPERM"), (-38, "ENOSYS"), (-22, "errno 22"), (3, "returned 3")])
def test_an_answer_names_its_error(result: int, shown: str) -> None:
    assert str(Answered(result)) == shown


@pytest.mark.parametrize(
    ("release", "abi"),
    [("5.10.0", 0), ("5.13", 1), ("6.1.0-1-amd64", 2), ("6.6.134.1-1.azl3", 3), ("6.12.3+deb13", 6), ("6.18-rc1", 7)],
)
def test_landlock_came_with_releases(release: str, abi: int) -> None:
    assert landlock_abi_of(release) == abi


@pytest.mark.parametrize("release", ["", "six", "6", "6.x"])
def test_no_release_is_an_error(release: str) -> None:
    with pytest.raises(ObservationError, match="no release"):
        landlock_abi_of(release)


@pytest.mark.parametrize(
    ("version", "floor"),
    [
        ((1, 2, 8), ""),
        ((1, 2, 9), ""),
        ((1, 2, 7), "1.2.8"),
        ((1, 1, 99), "1.2.8"),
        ((1, 3, 2), "1.3.3"),
        ((1, 3, 3), ""),
        ((1, 4, 0), ""),
        ((2, 0, 0), ""),
    ],
)
def test_each_series_has_a_floor_of_its_own(version: tuple[int, int, int], floor: str) -> None:
    assert below_floor("runc", version, ["runc 1.2.8", "runc 1.3.3", "crun 1.20.0"]) == floor


@pytest.mark.parametrize("floors", [[], ["crun 1.20.0"], ["runc 1.2"], ["lxc 1.2.3"]])
def test_a_runtime_without_a_floor_is_a_fault_of_the_policy(floors: list[str]) -> None:
    with pytest.raises(ConfigError):
        below_floor("runc", (1, 2, 3), floors)


def test_versions_are_found_in_what_runtimes_say() -> None:
    text = (
        "runc runc version 1.2.8+ds1\ncontainerd containerd github.com/containerd/containerd/v2 v2.1.9 abc\n"
        "dockerd Docker version 28.3.3, build 1\npodman podman version 5.6\nthe end\n"
    )
    assert parse_runtime_versions(text) == {
        "runc": (1, 2, 8),
        "containerd": (2, 1, 9),
        "dockerd": (28, 3, 3),
        "podman": (5, 6, 0),
    }


def test_words_of_the_platform_and_the_loader_are_not_the_images() -> None:
    entries = Entries(lines=("a b=1 b=2", "other"), added=("x=1",))
    assert entries.difference("BOOT_IMAGE=/vmlinuz b=2 a b=1 x=1\n") == ()
    assert entries.difference("a b=1 b=1 x=1 x=1") == ("+b=1", "+x=1", "-b=2")


def test_the_chosen_entry_counts_alone_where_bootctl_names_it() -> None:
    text = 'bootctl [{"isSelected":false,"options":"no"},{"isSelected":true,"options":"o","cmdline":"a b"}]\n'
    assert parse_entries(f"{text}entry c\nsmbios x=1 y\nthe end\n") == Entries(("a b",), ("x=1", "y"))
    both = "variable d=1\nvariable d=2\n"
    assert parse_entries(f"bootctl []\nentry c\ngrub $d\n{both}the end\n").are_open


@pytest.mark.parametrize(
    ("also", "line"),
    [
        ("", "root=x ro quiet net.ifnames=0"),
        ("variable a=$a more\n", "root=x $a net.ifnames=0"),
    ],
)
def test_a_file_that_grub_loads_counts_more_than_what_its_script_sets_without_it(also: str, line: str) -> None:
    text = (
        "grub root=x $a $b\nvariable a=net.ifnames=0 vendor\nvariable b=net.ifnames=0\n"
        f"{also}loaded a=ro quiet\nthe end\n"
    )
    assert parse_entries(text).lines == (line,)


def test_the_files_that_grub_loads_are_found_beside_its_script(tmp_path: Path) -> None:
    boot = tmp_path / "boot"
    (boot / "grub2").mkdir(parents=True)
    (boot / "grub2" / "grub.cfg").write_text(
        "if [ -f  $p/a.cfg ]; then\n\tload_env -f $p/a.cfg\nelse\n\tset a=b\nfi\n linux $p/k root=x $a $m\n"
        "load_env -f $p/grub2/missing.cfg; load_env -f $p/m.cfg\n"
    )
    (boot / "a.cfg").write_text("# GRUB Environment Block\na=ro quiet\n####\n")
    (boot / "m.cfg").write_text("# GRUB Environment Block\nm=init=/x\n")
    question = BOOT_ENTRIES.replace("/boot", str(boot)).replace("/efi", str(tmp_path / "efi"))
    assert parse_entries(run(["sh", "-c", question], deadline=Deadline(20)).text).lines == ("root=x ro quiet init=/x",)


def test_variables_of_grub_have_the_values_that_its_files_give_them() -> None:
    text = (
        "grub root=UUID=1 ${words} $kernelopts $nobody x\n"
        'variable words="ro lockdown=integrity"\nvariable kernelopts=console=ttyS0 quiet\nthe end\n'
    )
    entries = parse_entries(text)
    assert not entries.are_open
    told = "BOOT_IMAGE=/vmlinuz root=UUID=1 ro lockdown=integrity console=ttyS0 quiet x"
    assert entries.difference(told) == ()
    assert entries.difference(f"{told} init=/bin/sh") == ("+init=/bin/sh",)


def test_signatures_belong_to_their_files() -> None:
    found = parse_signatures(
        "loaded 2\ntrusted Maker: 0a: X509.rsa 0a []\nfilename:  /a.ko\nsigner:  Maker\nsig_key:  01:02\n"
        "filename:  /b.ko\nthe end\n"
    )
    assert found.of_files == {"/a.ko": ("Maker", "01:02"), "/b.ko": ("", "")}
    assert found.is_trusted("Maker")
    assert not found.is_trusted("Mak")
