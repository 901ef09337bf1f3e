"""Looking at a computer: versions, user namespaces, the facts on disk."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
import seatrial.doctor
from hypothesis import given
from hypothesis import strategies as st
from seatrial.clock import Deadline
from seatrial.doctor.host import _user, _user_namespace_fault, look, parse_version
from seatrial.process import run


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("QEMU emulator version 10.0.2 (Debian 1:10.0.2+ds-2+deb13u1~bpo12+1)\n", (10, 0, 2)),
        ("mkosi 25.3", (25, 3)),
        ("mkosi 24~devel", (24,)),
        ("no number here", (0,)),
    ],
)
def test_versions_are_read_as_programs_write_them(text: str, version: tuple[int, ...]) -> None:
    assert parse_version(text) == version


@given(st.text(max_size=200))
def test_any_text_has_a_version_of_small_numbers(text: str) -> None:
    version = parse_version(text)
    assert 1 <= len(version) <= 4
    assert all(0 <= part < 10**6 for part in version)


def _computer(root: Path, *, knobs: dict[str, str] | None = None, subordinate: str | None = None) -> tuple[Path, Path]:
    proc_sys, etc = root / "sys", root / "etc"
    etc.mkdir()
    for name, value in (knobs or {}).items():
        (proc_sys / name).parent.mkdir(parents=True, exist_ok=True)
        (proc_sys / name).write_text(f"{value}\n")
    for table in ("subuid", "subgid"):
        (etc / table).write_text(f"{_user()}:100000:65536\n" if subordinate is None else subordinate)
    return proc_sys, etc


def test_open_user_namespaces_have_no_fault(tmp_path: Path) -> None:
    assert _user_namespace_fault(*_computer(tmp_path, knobs={"user/max_user_namespaces": "96365"})) == ""


@pytest.mark.parametrize(
    ("knob", "value"),
    [
        ("user/max_user_namespaces", "0"),
        ("kernel/unprivileged_userns_clone", "0"),
        ("kernel/apparmor_restrict_unprivileged_userns", "1"),
    ],
)
def test_closed_user_namespaces_are_named_by_their_knob(tmp_path: Path, knob: str, value: str) -> None:
    fault = _user_namespace_fault(*_computer(tmp_path, knobs={knob: value}))
    assert fault == f"unprivileged user namespaces are closed: {knob.replace('/', '.')} is {value}"


@pytest.mark.parametrize("table", ["", "somebody-else:100000:65536\n", f"{os.getuid()}:100000:1000\n", "nonsense\n"])
def test_a_user_without_subordinate_ids_cannot_build(tmp_path: Path, table: str) -> None:
    assert "subordinate ids" in _user_namespace_fault(*_computer(tmp_path, subordinate=table))


def test_looking_finds_programs_on_path_and_their_versions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _program(tmp_path / "bin" / "qemu-system-x86_64", "echo 'QEMU emulator version 8.1.2 (somewhere)'")
    _program(tmp_path / "bin" / "lynis", "exit 1")
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("SEATRIAL_CACHE", str(tmp_path / "cache"))
    host = look()
    assert host.present["qemu-system-x86_64"] == (8, 1, 2)
    assert host.present["lynis"] == ()
    assert host.cache == tmp_path / "cache"
    assert host.free_gib > 0


def test_the_doctor_starts_without_any_installed_package() -> None:
    package = Path(seatrial.doctor.__file__).parents[2]
    program = f"import sys; sys.path.insert(0, {os.fspath(package)!r}); import seatrial.doctor.__main__"
    done = run([sys.executable, "-S", "-I", "-c", program], deadline=Deadline(20))
    assert (done.status, done.complaint) == (0, "")


def _program(path: Path, script: str) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
