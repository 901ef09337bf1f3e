"""A disk that is changed before it boots: what only a first boot makes shows itself, and the image stays as it was."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from broken import demo_image
from test_guest_gate import digest, qemus

pytestmark = pytest.mark.guest

TABLE = """
mutants:
- id: M1
  stage: I
  change: >-
    test -b "$DISK" && echo 0123456789abcdef0123456789abcdef > $R/etc/machine-id
    && touch -d 2020-01-01 $R/etc/machine-id
  caught_by: [imm-machine-id-empty]
- id: M2
  stage: I
  change: touch $R/usr/bin/more-than-was-verified
  caught_by: [imm-usr-write-fails]
- id: M3
  stage: I
  change: test -d $R/etc
  caught_by: [imm-machine-id-empty]
"""


def test_what_a_first_boot_makes_is_judged_on_a_disk_that_was_changed_before(tmp_path: Path) -> None:
    image = demo_image("immutable")
    before, running = digest(image), qemus()
    table, results = tmp_path / "mutants.yaml", tmp_path / "results.json"
    table.write_text(TABLE)
    subject = ["--image", str(image), "--flavour", "debian-immutable", "--suite", "immutability"]
    done = subprocess.run(
        [sys.executable, "-m", "seatrial", "mutants", "--mutants", str(table), *subject, "--json", str(results)],
        capture_output=True,
        text=True,
        check=False,
    )
    print(done.stdout[-6000:], done.stderr[-3000:])
    # Each comes when it is through.
    found = {one["id"]: one for one in json.loads(results.read_text())}
    shipped, verified, nothing = found["M1"], found["M2"], found["M3"]
    assert (shipped["result"], shipped["killed_by"], shipped["unexpected"]) == ("killed", ["imm-machine-id-empty"], [])
    assert verified["result"] == "not-applicable"
    assert "Read-only file system" in verified["error"]
    assert nothing["result"] == "not-applicable"
    assert "wrote nothing" in nothing["error"]
    assert done.returncode == 0
    assert digest(image) == before
    assert qemus() == running
