"""Copies of demo images, broken as the tables of ``fixtures/broken`` say; the edits happen outside any mount."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

from seatrial.clock import Deadline
from seatrial.images import built, built_variant
from seatrial.process import Finished, run

FIXTURES = Path(__file__).parents[2] / "fixtures"
_SECTOR = 512
_BUILD_S = 2400.0


def broken_table(name: str) -> dict[str, Any]:
    return tomllib.loads((FIXTURES / "broken" / f"{name}.toml").read_text(encoding="utf-8"))


def demo_image(name: str) -> Path:
    return built(name, say=print, deadline=Deadline(_BUILD_S))


def broken_copy(table: dict[str, Any], folder: Path) -> Path:
    """Return a copy of the table's base image in ``folder`` with the table's edits in its root file system."""
    if "variant" in table:
        recipe = FIXTURES / "images" / table["variant"]
        return built_variant(recipe, base=table["base"], say=print, deadline=Deadline(_BUILD_S))
    copy = folder / "broken.raw"
    _checked(
        ["cp", "--sparse=always", "--reflink=auto", "--no-preserve=mode", str(demo_image(table["base"])), str(copy)]
    )
    disk = f"{copy}?offset={_root_offset(copy)}"
    for number, edit in enumerate([*table.get("append", []), *table.get("write", [])]):
        before = _checked(["debugfs", "-R", f"cat {edit['path']}", disk]).stdout if "mode" not in edit else b""
        source = folder / f"edit{number}"
        source.write_bytes(before + edit["text"].encode())
        # An appended file keeps its mode and owner: only its content is written anew.
        mode = edit.get("mode") or _mode_of(disk, edit["path"])
        commands = [f"write {source} {edit['path']}", f"sif {edit['path']} mode {mode}", f"sif {edit['path']} uid 0"]
        _edit(disk, ([f"rm {edit['path']}"] if before else []) + commands, folder)
    for edit in table.get("link", []):
        _edit(disk, [f"symlink {edit['path']} {edit['target']}"], folder)
    return copy


def _root_offset(disk: Path) -> int:
    table = json.loads(_checked(["sfdisk", "--json", str(disk)]).stdout)["partitiontable"]
    root = next(part for part in table["partitions"] if part.get("name", "").startswith("root"))
    return int(root["start"]) * int(table.get("sectorsize", _SECTOR))


def _mode_of(disk: str, path: str) -> str:
    words = _checked(["debugfs", "-R", f"stat {path}", disk]).text.split()
    return "0100" + words[words.index("Mode:") + 1].lstrip("0").rjust(3, "0")


def _edit(disk: str, commands: list[str], folder: Path) -> None:
    script = folder / "commands"
    script.write_text("".join(f"{command}\n" for command in commands), encoding="utf-8")
    done = _checked(["debugfs", "-w", "-f", str(script), disk])
    complaints = [line for line in done.complaint.splitlines() if not line.startswith("debugfs 1.")]
    assert not complaints, complaints


def _checked(argv: list[str]) -> Finished:
    done = run(argv, deadline=Deadline(300))
    assert done.status == 0, done.complaint
    return done
