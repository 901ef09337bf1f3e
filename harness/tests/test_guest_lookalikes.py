"""Images in another system's clothes, for real: known by what they say, let in and judged as that system is."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from broken import FIXTURES
from seatrial.clock import Deadline
from seatrial.images import built_variant
from seatrial.suites import built_in_suites

pytestmark = [
    pytest.mark.guest,
    pytest.mark.skipif(
        "SEATRIAL_TEST_LOOKALIKES" not in os.environ, reason="minutes an image: tox -e lookalikes runs it"
    ),
]

# What is not as the real system has it: every control that may be red, and why.
AZURELINUX_3 = {
    "kcfg-devport-kcore": "fail",  # Debian's kernel has /proc/kcore, as Azure Linux's own has
    "kcfg-ubsan-bounds": "fail",  # Debian's kernel
    "log-file-integrity-tool": "fail",  # nothing of the kind is installed
    "net-resolver": "fail",  # systemd-resolved is not installed; on the real one it is
    "upd-supported": "error",  # no public document gives the day: the flavour leaves it to the user
}


@pytest.mark.parametrize(
    ("name", "base", "flavour", "because", "red"),
    [("azurelinux-3", "general", "azurelinux-3", "ID=azurelinux VERSION_ID=3.0", AZURELINUX_3)],
)
def test_a_look_alike_is_known_and_judged_as_what_it_plays(  # what is expected of it, each by its name
    name: str, base: str, flavour: str, because: str, red: dict[str, str], tmp_path: Path
) -> None:
    image = built_variant(FIXTURES / "images" / name, base=base, say=print, deadline=Deadline(2400))
    # Without the suite that boots a second and a third time: what it asks does not depend on the clothes.
    suites = [word for suite in built_in_suites() if suite != "identity" for word in ("--suite", suite)]
    done = subprocess.run(
        [sys.executable, "-m", "seatrial", "gate", str(image), "--out", str(tmp_path / "out"), "-q", *suites],
        capture_output=True,
        text=True,
        check=False,
    )
    (folder,) = (tmp_path / "out").iterdir()
    record = json.loads((folder / "record.json").read_text(encoding="utf-8"))
    assert (record["flavour"]["name"], record["flavour"]["recognised_by"]) == (flavour, because)
    seen = {v["control"]: v["outcome"] for v in record["verdicts"] if v["outcome"] not in ("pass", "not-applicable")}
    assert seen == red, done.stdout[-6000:]
    assert (done.returncode, record["decision"]) == (1, "reject")
