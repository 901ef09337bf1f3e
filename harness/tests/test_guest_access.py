"""Ways in for real that no other guest test takes: root by fw_cfg, and a user of the run's own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from broken import demo_image
from micro_run import LONG_S, started

pytestmark = pytest.mark.guest


def test_a_credential_by_fw_cfg_lets_root_in(tmp_path: Path) -> None:
    """The micro guest takes it as systemd does; the whole way is tried on a demo image below."""
    with started(tmp_path, "repeats", "--access", "credentials-fw-cfg") as run:
        assert run.ends(LONG_S) == 1
    assert run.left() == [], run.shown
    assert run.verdicts()["repeats-holds"]["outcome"] == "pass"
    assert "by fw_cfg: one public key" in run.record["differences"][0]["text"]


@pytest.mark.parametrize(
    ("image", "access", "user", "told"),
    [
        ("immutable", "credentials-fw-cfg", "root", "systemd credentials ssh.authorized_keys.root by fw_cfg"),
        ("general", "credentials", "ada", "systemd credentials sysusers.extra, tmpfiles.extra by SMBIOS type 11"),
    ],
)
def test_systemd_lets_the_run_in_by_a_way_that_the_flavour_does_not_take(
    image: str, access: str, user: str, told: str, tmp_path: Path
) -> None:
    flavour, out = f"debian-{image}", tmp_path / "out"
    subject = [str(demo_image(image)), "--flavour", flavour, "--access", access, "--ssh-user", user]
    command = [sys.executable, "-m", "seatrial", "gate", *subject, "--suite", "kernel", "--out", str(out), "-q"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    print(done.stdout[-3000:], done.stderr[-3000:])
    (folder,) = out.iterdir()
    record: dict[str, Any] = json.loads((folder / "record.json").read_text("utf-8"))
    assert (done.returncode, record["decision"]) == (0, "release")
    assert record["differences"][0]["text"].startswith(told)
    assert json.loads((folder / "facts.json").read_text("utf-8"))["user"] == user
