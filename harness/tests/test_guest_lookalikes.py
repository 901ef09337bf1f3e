"""Images in another system's clothes, for real: known by what they say, let in and judged as that system is."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
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
}
FLATCAR = {
    "fs-dead-links": "fail",  # Debian's, as the demo image's flavour says
    "fs-sgid-allowlist": "fail",  # Debian's unix_chkpwd
    "imm-root-device-uuid": "fail",  # a hash tree of its own, no BIOS-BOOT and OEM-CONFIG, and Debian's labels
    "imm-usr-filesystem": "fail",  # the demo image's /usr is erofs, Flatcar's btrfs
    "imm-writable-set": "fail",  # the demo image binds /var/tmp to itself
    "kcfg-devport-kcore": "fail",  # Debian's kernel
    "kcfg-no-write-mounted": "fail",  # Debian's kernel
    "kcfg-ubsan-bounds": "fail",  # Debian's kernel
    "mac-lsm-stack": "fail",  # Debian's kernel has AppArmor where Flatcar's has SELinux
    "mac-selinux-not-disabled": "fail",  # the same
    "mac-selinux-policy": "fail",  # the same
    "mod-required-present": "fail",  # the demo image forbids squashfs
    "net-resolver": "fail",  # systemd-resolved is not installed; on the real one it is
    "svc-enabled-allowlist": "fail",  # the demo image's initrd opens verity by a unit
}


@dataclass(frozen=True, slots=True, kw_only=True)
class LookAlike:
    """A variant of a demo image, the flavour that it is known as and by what, and what of it is red."""

    name: str
    base: str
    because: str
    red: Mapping[str, str]
    options: tuple[str, ...] = ()


LOOK_ALIKES = (
    LookAlike(name="azurelinux-3", base="general", because="ID=azurelinux VERSION_ID=3.0", red=AZURELINUX_3),
    # Its initrd has no Ignition: that way in is tried with an image of its own.
    LookAlike(name="flatcar", base="immutable", because="ID=flatcar", red=FLATCAR, options=("--access", "credentials")),
)


@pytest.mark.parametrize("alike", LOOK_ALIKES, ids=lambda alike: alike.name)
def test_a_look_alike_is_known_and_judged_as_what_it_plays(alike: LookAlike, tmp_path: Path) -> None:
    image = built_variant(FIXTURES / "images" / alike.name, base=alike.base, say=print, deadline=Deadline(2400))
    # Without the suite that boots a second and a third time: what it asks does not depend on the clothes.
    suites = [word for suite in built_in_suites() if suite != "identity" for word in ("--suite", suite)]
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "seatrial",
            "gate",
            str(image),
            "--out",
            str(tmp_path / "out"),
            "-q",
            *alike.options,
            *suites,
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    kept = list((tmp_path / "out").glob("*/record.json"))
    assert len(kept) == 1, done.stderr[-3000:]
    record = json.loads(kept[0].read_text(encoding="utf-8"))
    assert (record["flavour"]["name"], record["flavour"]["recognised_by"]) == (alike.name, alike.because)
    seen = {v["control"]: v["outcome"] for v in record["verdicts"] if v["outcome"] not in ("pass", "not-applicable")}
    # Debian's sed, which is seen when a question runs it just then.
    seen.pop("bin-relro-now", None)
    assert seen == alike.red, done.stdout[-6000:]
    assert (done.returncode, record["decision"]) == (1, "reject")
