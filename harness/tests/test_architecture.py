"""The house keeps its floors (import only downwards) and its doors (one foreign library, one place)."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "seatrial"
ROOT = PACKAGE.parents[1]

FLOORS = (
    {"errors", "clock", "emulation", "process", "layout", "progress", "__init__"},
    {"policy", "evidence"},
    {"guest", "machine"},
    {
        "access",
        "options",
        "check",
        "suites",
        "plan",
        "session",
        "restore",
        "gate",
        "report",
        "doctor",
        "images",
        "lynis",
        "interactive",
        "rehearsal",
        "rebooted",
        "again",
        "breakin",
        "handover",
        "replay",
        "waiver_file",
        "first_look",
        "identity",
        "listing",
        "mutants_file",
        "mutation",
        "mutation_changes",
        "mutation_files",
        "mutation_groups",
        "mutation_results",
        "matrix",
        "boot_budget",
        "boot_picture",
        "boot_sample",
        "boot_time",
        "boot_time_run",
        "writes",
        "parameters",
        "workshop",
        "offline",
    },
    {"plugin", "hooks", "copies", "mutation_run", "cli", "__main__"},
)
DOORS = {
    "paramiko": {"guest/ssh.py"},
    "qemu": {"machine/qmp.py"},
    "testinfra": {"guest/backend.py"},
    "yaml": {"mutants_file.py"},
    "elftools": {"evidence/elf.py"},
    "lxml": {"evidence/", "report/"},
    "pytest": {"plugin.py", "hooks.py", "copies.py", "mutation_run.py", "options.py"},
    "subprocess": {"process.py"},
}
ONE_PLACE = {
    "time.sleep": "clock.py",
    "time.monotonic": "clock.py",
    "time.time": "clock.py",
    "datetime.now": "clock.py",
}


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def floor_of(path: Path) -> int:
    top = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    return next(number for number, names in enumerate(FLOORS) if top in names)


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_module_imports_only_downwards(path: Path) -> None:
    own = floor_of(path)
    upwards = [
        name for name in imports(path) if name.startswith("seatrial.") and floor_of(PACKAGE / name.split(".")[1]) > own
    ]
    assert upwards == []


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_foreign_library_is_used_only_at_its_door(path: Path) -> None:
    place = str(path.relative_to(PACKAGE))
    used = {name.partition(".")[0] for name in imports(path)}
    wrong = [lib for lib, doors in DOORS.items() if lib in used and not any(place.startswith(door) for door in doors)]
    assert wrong == []


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_only_the_clock_sleeps_and_reads_time(path: Path) -> None:
    calls = {ast.unparse(node.func) for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)}
    assert [call for call in calls if ONE_PLACE.get(call, path.name) != path.name] == []


@pytest.mark.parametrize("module", ["policy", "evidence"])
def test_pure_packages_touch_no_file_and_no_process(module: str) -> None:
    impure = {"os", "socket", "subprocess", "tempfile", "shutil", "pytest", "seatrial.clock", "seatrial.process"}
    used = {name for path in (PACKAGE / module).rglob("*.py") for name in imports(path)}
    assert used & impure == set()


@pytest.mark.parametrize("folder", ["qemu", "suites", "fixtures", "reports"])
def test_data_folders_are_no_packages(folder: str) -> None:
    """A top-level package named qemu would hide qemu.qmp; the others are names on the package index."""
    assert list((ROOT / folder).rglob("__init__.py")) == []


def test_file_is_at_most_500_lines() -> None:
    long = {str(p): n for p in modules() if (n := len(p.read_text(encoding="utf-8").splitlines())) > 500}
    assert long == {}


def test_function_is_at_most_50_lines() -> None:
    long = {
        f"{path.name}:{node.name}": length
        for path in modules()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef) and (length := (node.end_lineno or 0) - node.lineno + 1) > 50
    }
    assert long == {}


@pytest.mark.parametrize("folder", ["qemu", "suites", "fixtures", "reports"])
def test_data_folders_hold_no_links(folder: str) -> None:
    """A link cannot be carried by a wheel, and one that points nowhere breaks the build of every install."""
    assert [path for path in (ROOT / folder).rglob("*") if path.is_symlink() and "out" not in path.parts] == []
