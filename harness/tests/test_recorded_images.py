"""Facts of the demo images, recorded from real boots, come to the verdicts that are written here by hand."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from seatrial.layout import data_dir

FACTS = Path(__file__).resolve().parents[2] / "fixtures" / "facts"
# By suite and area, what a reviewer reads off the recorded answers; the image is healthy, so most of it holds.
IMMUTABLE: Mapping[str, str] = {
    # for general-purpose images only
    "acct-password-aging": "not-applicable",
    "acct-sudo-auth": "not-applicable",
    "fs-cron-perms": "not-applicable",
    "bh-cloud-init-ok": "not-applicable",
    # there is no sudo
    "acct-sudo-hygiene": "not-applicable",
    # 'getent passwd' has one line with UID 0; /etc/shadow has '!' and '*' only
    "acct-uid0-only-root": "pass",
    "acct-no-default-password": "pass",
    # 'sshd -T' for root and for nobody: permitrootlogin without-password, passwordauthentication no
    "ssh-root-login": "pass",
    "ssh-no-password-auth": "pass",
    # /proc/self/mountinfo: /usr is erofs, ro, on /dev/mapper/usr; /dev/shm is rw,nosuid,nodev,noexec
    "imm-usr-readonly": "pass",
    "imm-usr-filesystem": "pass",
    "fs-dev-shm": "pass",
    # two lists of /etc differ by the machine id, the SSH host key and a link; no extension; 'editor no' in loader.conf
    "imm-etc-default-drift": "pass",
    "imm-sysext-verified": "pass",
    "ib-loader-locked": "pass",
    # emergency and rescue mode start systemd-sulogin-shell; host key and journal are younger than the boot
    "ib-emergency-auth": "pass",
    "imm-no-instance-state": "pass",
    # the run gave neither a TPM nor Secure Boot
    "ib-tpm-measured": "not-applicable",
    "ib-secureboot-on": "not-applicable",
    # the device-mapper table says verity with the hash that usrhash= has
    "imm-verity-active": "pass",
    "imm-verity-hash-matches": "pass",
    # the kernel has IPE, and no policy of it
    "ib-ipe-enforcing": "not-applicable",
    # /proc/sys: kptr_restrict 2, dmesg_restrict 1
    "sysctl-kptr": "pass",
    "sysctl-dmesg": "pass",
    "sysctl-persisted": "pass",
    # /proc/cmdline: vsyscall=none, module.sig_enforce=1, no mitigations=off
    "kcmd-vsyscall": "pass",
    "kcmd-mitigations-on": "pass",
    "mod-signature-enforced": "pass",
    # systemctl: running, no failed unit
    "bh-running": "pass",
    "bh-no-failed-units": "pass",
    # under TCG the processor offers no fast clock but tsc, which runs
    "bh-clocksource": "pass",
    # /proc/cmdline has ia32_emulation=0 and proc_mem.force_override=never
    "kcfg-ia32": "pass",
    "kcfg-proc-mem": "pass",
    # /sys/fs/cgroup is cgroup2; every interface has accept_redirects 0
    "sb-cgroup2": "pass",
    "net-accept-redirects": "pass",
    # too large to be kept here: the bytes of programs
    "bin-pie": "not-checked",
}
GENERAL: Mapping[str, str] = {
    # for immutable hosts only
    "imm-usr-readonly": "not-applicable",
    "imm-verity-active": "not-applicable",
    "kcfg-verity": "not-applicable",
    "sysctl-panic": "not-applicable",
    # 'sshd -T' for root and for the run's user: permitrootlogin no, passwordauthentication no
    "ssh-root-login": "pass",
    "ssh-no-password-auth": "pass",
    # /etc/sudoers.d lets the run's user in without a password, and the flavour knows that user
    "acct-sudo-hygiene": "pass",
    # result.json of cloud-init: "errors": [] in every stage
    "bh-cloud-init-ok": "pass",
    # /proc/self/mountinfo: /tmp is a tmpfs, rw,nosuid,nodev,noexec
    "fs-tmp": "pass",
    # /sys/kernel/security/lsm begins with lockdown,capability,landlock,yama,apparmor
    # /proc/cmdline has lockdown=integrity, vsyscall=none, slab_nomerge
    "mac-lsm-stack": "pass",
    "mac-enforcing": "pass",
    "ib-lockdown-active": "pass",
    "kcmd-vsyscall": "pass",
    "kcmd-slab": "pass",
    "bh-running": "pass",
    "bh-no-failed-units": "pass",
    # auditctl -s: enabled 2; the default target is multi-user.target
    "log-audit-active": "pass",
    "svc-no-desktop": "pass",
    # too large to be kept here: what dpkg --verify says
    "upd-pkgdb-intact": "not-checked",
}
LIVE = {
    "bh-clock-sane",
    "ib-ipe-blocks-exec",
    "ib-lockdown-behaviour",
    "imm-usr-write-fails",
    "imm-remount-fails",
    "imm-device-write-refused",
}
# A seeded defect: in the answers to questions that hold the first text, the second becomes the third.
SEEDS = (
    ("/proc/sys && ", "kernel/kptr_restrict:2", "kernel/kptr_restrict:0"),
    ("getent passwd", "root:x:0:0:", "toor:x:0:0::/:/usr/sbin/nologin\nroot:x:0:0:"),
    ("sshd -T -C", "permitrootlogin without-password", "permitrootlogin yes"),
    ("/proc/self/mountinfo", "/dev/shm rw,nosuid,nodev,noexec", "/dev/shm rw,nosuid,nodev"),
    ("cat /proc/cmdline", "usrhash=", "mitigations=off usrhash="),
)
BROKEN = {
    "sysctl-kptr",
    "sysctl-persisted",
    "acct-uid0-only-root",
    "acct-unique-ids",
    "ssh-root-login",
    "fs-dev-shm",
    "kcmd-mitigations-on",
    "kcmd-matches-image",
}


def judged(facts: Path, out: Path) -> tuple[int, dict[str, Any]]:
    """Return exit status and record of ``seatrial judge`` on ``facts``, as what their os-release says they are of."""
    command = [sys.executable, "-m", "seatrial", "judge", str(facts), f"--out={out}", "-q"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    found = list(out.glob("*/record.json"))
    assert len(found) == 1, done.stdout + done.stderr
    return done.returncode, json.loads(found[0].read_text(encoding="utf-8"))


def outcomes(record: dict[str, Any]) -> dict[str, str]:
    return {verdict["control"]: verdict["outcome"] for verdict in record["verdicts"]}


@pytest.mark.parametrize("name", sorted(path.parent.name for path in FACTS.glob("*/facts.json")))
def test_recorded_facts_fit_the_published_schema(name: str) -> None:
    schema = json.loads((data_dir("reports") / "facts.schema.json").read_text(encoding="utf-8"))
    facts = json.loads((FACTS / name / "facts.json").read_text(encoding="utf-8"))
    assert [fault.message for fault in Draft202012Validator(schema).iter_errors(facts)] == []


@pytest.mark.parametrize(
    ("name", "flavour", "by_hand", "live"),
    [
        ("demo-immutable", "debian-immutable", IMMUTABLE, LIVE),
        ("demo-general", "debian-general", GENERAL, {"bh-clock-sane", "ib-lockdown-behaviour"}),
    ],
)
def test_a_demo_image_is_judged_from_its_facts_as_a_reviewer_would(
    tmp_path: Path, name: str, flavour: str, by_hand: Mapping[str, str], live: set[str]
) -> None:
    _status, record = judged(FACTS / name / "facts.json", tmp_path)
    found = outcomes(record)
    assert record["flavour"]["name"] == flavour
    assert {control: found[control] for control in by_hand} == by_hand
    assert set(record["replay"]["left_out"]) >= live
    # A control that came later asks what nobody asked then: it is not checked. Nothing fails and nothing breaks.
    rest = {outcome for control, outcome in found.items() if control not in by_hand}
    assert rest <= {"pass", "not-checked", "not-applicable"}
    assert sum(outcome == "pass" for outcome in found.values()) >= 150


def test_defects_seeded_in_recorded_facts_turn_exactly_their_controls_red(tmp_path: Path) -> None:
    facts = json.loads((FACTS / "demo-immutable" / "facts.json").read_text(encoding="utf-8"))
    for question, old, new in SEEDS:
        touched = [a for a in facts["answers"] if question in a["command"] and old in a["stdout"]]
        assert touched, question
        for answer in touched:
            answer["stdout"] = answer["stdout"].replace(old, new)
    path = tmp_path / "facts.json"
    path.write_text(json.dumps(facts))
    status, record = judged(path, tmp_path / "out")
    assert (status, record["decision"]) == (1, "reject")
    assert {control for control, outcome in outcomes(record).items() if outcome in {"fail", "error"}} == BROKEN
