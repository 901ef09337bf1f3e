"""Every control of the kernel suite passes on a hardened guest, and one defect each turns it red."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from kernel_bench import (
    COPIED,
    EVENTS,
    HIBERNATION,
    KCONFIG_ROWS,
    LOG_NAME,
    MODULE_ROWS,
    OPEN,
    PCRS,
    PERSISTED,
    PRELOADED,
    REQUIRED,
    SIG_ENFORCE,
    STATE,
    SUITE,
    SYSCTL_ROWS,
    UNSIGNED,
    edit,
    events,
    guest,
    measured_as,
    modules_of,
    said,
    shown,
    told,
    with_data,
    without,
)
from seatrial.evidence.boot_entries import BOOT_ENTRIES
from seatrial.evidence.cmdline import CMDLINE
from seatrial.evidence.efi import SECURE_BOOT
from seatrial.evidence.event_log import EventKind
from seatrial.evidence.ipe import IPE
from seatrial.evidence.kconfig import KCONFIG
from seatrial.evidence.kernel import LOCKDOWN, TAINTED, VULNERABILITIES
from seatrial.evidence.modules import LOADED, SIGNATURES
from seatrial.evidence.mounts import MOUNTINFO
from seatrial.evidence.sysctl import SYSCTL_D, SYSCTLS
from seatrial.evidence.tpm import EVENT_LOG, REGISTERS, TPM
from seatrial.policy.controls import Control
from seatrial.policy.judge import Outcome
from suite_bench import Guest, all_of, recorded

DEFECTS: dict[str, tuple[Callable[[Guest], None], set[str]]] = {
    "mitigations=off": (said("mitigations=off"), {"kcmd-mitigations-on"}),
    "mitigations off among others": (said("mitigations=auto,off"), {"kcmd-mitigations-on"}),
    "nokaslr": (said("nokaslr"), {"kcmd-no-kaslr-off"}),
    "slab merging asked for": (said("slab_merge"), {"kcmd-slab"}),
    "slab_nomerge gone": (told(" slab_nomerge", ""), {"kcmd-slab"}),
    "init_on_alloc=0": (said("init_on_alloc=0"), {"kcmd-init-alloc"}),
    "shuffling off": (said("page_alloc.shuffle=0"), {"kcmd-page-shuffle"}),
    "shuffling gone": (told(" page_alloc.shuffle=1", ""), {"kcmd-page-shuffle"}),
    "stack offset off": (said("randomize_kstack_offset=off"), {"kcmd-kstack-offset"}),
    "vsyscall back": (said("vsyscall=emulate"), {"kcmd-vsyscall"}),
    "lockdown=none": (said("lockdown=none"), {"kcmd-modules-lockdown", "ib-lockdown-active"}),
    "lsm without lockdown": (said("lsm=yama,integrity,selinux"), {"kcmd-modules-lockdown"}),
    "module.sig_enforce=0": (said("module.sig_enforce=0"), {"kcmd-modules-lockdown"}),
    "debug shell": (said("systemd.debug_shell=1"), {"kcmd-debug-off"}),
    "rd.break": (said("rd.break"), {"kcmd-no-init-override"}),
    "init=/bin/sh": (said("init=/bin/sh"), {"kcmd-no-init-override"}),
    "IOMMU off": (said("intel_iommu=off"), {"kcmd-iommu"}),
    "no console": (told("console=ttyS0", "console=tty0"), {"kcmd-console"}),
    "a daemon undid a parameter": (edit(PERSISTED, "4194304", "32768"), {"sysctl-persisted"}),
    "a foreign module": (
        lambda g: g.add(LOADED, "zfs 5500928 0 - Live 0x0000000000000000 (POE)"),
        {"mod-loaded-untainted", "mod-loaded-allowlist"},
    ),
    "a rare module is loaded": (
        lambda g: g.add(LOADED, "usb_storage 90112 0 - Live 0x0000000000000000"),
        {"mod-usb-storage", "mod-loaded-allowlist"},
    ),
    "signatures only by lockdown, which is off": (
        all_of(edit(SIG_ENFORCE, "Y", "N"), edit(LOCKDOWN, "none [integrity]", "[none] integrity")),
        {"mod-signature-enforced", "ib-lockdown-active"},
    ),
    "the image says another command line": (
        edit(BOOT_ENTRIES, "lockdown=integrity", "lockdown=none"),
        {"kcmd-matches-image"},
    ),
    "a word from nowhere": (edit(CMDLINE, "lockdown=integrity", "lockdown=integrity x=1"), {"kcmd-matches-image"}),
    "a module nobody expects": (
        lambda g: g.add(LOADED, "usbip_host 45056 0 - Live 0x0000000000000000"),
        {"mod-loaded-allowlist"},
    ),
    "an unsigned module is looked at": (
        lambda g: g.tries.update({UNSIGNED: (1, "insmod: ERROR: could not insert module x: Invalid module format")}),
        {"mod-unsigned-refused"},
    ),
    "an unsigned module is loaded": (lambda g: g.tries.update({UNSIGNED: (0, "")}), {"mod-unsigned-refused"}),
    "a second key": (
        lambda g: g.answers.update({SIGNATURES: g.answers[SIGNATURES].replace("12:9A", "13:9A", 1)}),
        {"mod-signatures-valid"},
    ),
    "a signer whom the kernel does not know": (
        edit(SIGNATURES, "trusted Build time", "trusted Some other"),
        {"mod-signatures-valid"},
    ),
    "a loaded module whose file is gone": (edit(SIGNATURES, "loaded ", "loaded 9"), {"mod-signatures-valid"}),
    "loading is closed": (
        edit(SYSCTLS, "kernel/modules_disabled:0", "kernel/modules_disabled:1"),
        {"mod-loading-locked"},
    ),
    "a required module is missing": (
        lambda g: g.answers.update(
            {REQUIRED: "module overlay\nmodprobe: FATAL: Module overlay not found in directory /lib/6\nstatus 1\n"}
        ),
        {"mod-required-present"},
    ),
    "lockdown off": (edit(LOCKDOWN, "none [integrity]", "[none] integrity"), {"ib-lockdown-active"}),
    "memory can be read": (
        lambda g: g.tries.update({"read /dev/mem": (0, "1+0 records in")}),
        {"ib-lockdown-behaviour"},
    ),
    "hibernation works": (edit(HIBERNATION, "[disabled]", "[platform] shutdown"), {"ib-lockdown-behaviour"}),
    "ipe.enforce=0": (said("ipe.enforce=0"), {"ib-ipe-enforcing"}),
    "IPE does not enforce": (edit(IPE, "enforce 1", "enforce 0"), {"ib-ipe-enforcing"}),
    "IPE's policy is not active": (edit(IPE, "policy 1", "policy 0"), {"ib-ipe-enforcing"}),
    "a copied program runs": (lambda g: g.tries.update({COPIED: (0, "")}), {"ib-ipe-blocks-exec"}),
    "a copied library is mapped": (lambda g: g.tries.update({PRELOADED: (0, "")}), {"ib-ipe-blocks-exec"}),
    "Secure Boot is off": (edit(SECURE_BOOT, "00 00 00 01", "00 00 00 00"), {"ib-secureboot-on"}),
    "Secure Boot in setup mode": (edit(SECURE_BOOT, "00 00 00 00\n", "00 00 00 01\n"), {"ib-secureboot-on"}),
    "firmware that knows no Secure Boot": (
        lambda g: g.answers.update(
            {SECURE_BOOT: "".join(f"{line}\n" for line in recorded("kernel/secure-boot").split("\n") if "@" in line)}
        ),
        {"ib-secureboot-on"},
    ),
    "the TPM is not seen": (lambda g: g.answers.update({TPM: ""}), {"ib-tpm-measured"}),
    "programs cannot reach the TPM": (edit(TPM, "/dev/tpmrm0\n", ""), {"ib-tpm-measured"}),
    "no event log": (
        edit(TPM, "/sys/kernel/security/tpm0/binary_bios_measurements\n", ""),
        {"ib-tpm-measured"},
    ),
    "an empty event log": (
        lambda g: g.answers.update({EVENT_LOG: LOG_NAME}),
        {"ib-tpm-measured"},
    ),
    "PCRs of SHA-1 alone": (edit(TPM, "/sys/class/tpm/tpm0/pcr-sha256\n", ""), {"ib-tpm-measured"}),
    **{
        f"PCR {number} was extended by somebody else": (
            edit(REGISTERS, f"{number} {held}", f"{number} {'A5' * 32}"),
            {"ib-tpm-measured"},
        )
        for number, held in enumerate(PCRS)
    },
    "nothing was measured into PCR 7": (edit(REGISTERS, f"7 {PCRS[7]}", f"7 {'0' * 64}"), {"ib-tpm-measured"}),
    "nothing was measured at all": (measured_as(without(*EVENTS.events)), {"ib-tpm-measured"}),
    "an event is missing in the log": (
        lambda g: g.answers.update({EVENT_LOG: shown(without(EVENTS.events[-1]))}),
        {"ib-tpm-measured"},
    ),
    "PCR 5 was never closed": (measured_as(without(*events(5, EventKind.SEPARATOR))), {"ib-tpm-measured"}),
    "measuring into PCR 2 failed": (
        measured_as(with_data(events(2, EventKind.SEPARATOR), b"\1\0\0\0")),
        {"ib-tpm-measured"},
    ),
    "the loader was not measured": (
        measured_as(without(*events(4, EventKind.EFI_BOOT_SERVICES_APPLICATION))),
        {"ib-tpm-measured"},
    ),
    "tainted by an oops": (edit(TAINTED, "0", "128"), {"ib-kernel-untainted"}),
    "spectre is open": (
        edit(VULNERABILITIES, "spectre_v1:Mitigation", "spectre_v1:Vulnerable: Mitigation"),
        {"kernel-software-mitigations"},
    ),
    "addresses of symbols": (
        lambda g: g.add(STATE.SYMBOLS, "ffffffff81000000 T _text"),
        {"kernel-symbols-hidden"},
    ),
    "spectre is open in a part": (
        edit(VULNERABILITIES, "BHI: Not affected", "BHI: Vulnerable"),
        {"kernel-software-mitigations"},
    ),
    "KFENCE is off": (edit(STATE.KFENCE, "100", "0"), {"kcfg-kfence"}),
    "no KFENCE": (edit(STATE.KFENCE, "100", "none"), {"kcfg-kfence"}),
    "usercopy is not checked": (said("hardened_usercopy=off"), {"kcmd-no-kaslr-off"}),
    "a word behind the two dashes": (said("-- systemd.debug_shell=ttyS0"), {"kcmd-debug-off"}),
    "sulogin is forced by systemd's word": (
        said("systemd.setenv=SYSTEMD_SULOGIN_FORCE=1"),
        {"kcmd-no-init-override"},
    ),
    "the command line undoes the build": (
        all_of(lambda g: g.add(KCONFIG, "CONFIG_PROC_MEM_NO_FORCE=y"), said("proc_mem.force_override=always")),
        {"kcfg-proc-mem"},
    ),
    "debugfs is mounted": (
        lambda g: g.add(MOUNTINFO, "57 50 0:8 / /sys/kernel/debug rw,nosuid shared:15 - debugfs debugfs rw"),
        {"kernel-debugfs-closed"},
    ),
    "a second kernel": (lambda g: g.add(STATE.KERNELS, "6.1.0-1-cloud-amd64"), {"bh-kernel-is-newest"}),
}


def test_hardened_guest_passes_every_control() -> None:
    assert SUITE.red(guest(), "immutable-host") == {}


@pytest.mark.parametrize("name", DEFECTS)
def test_defect_turns_exactly_its_controls_red(name: str) -> None:
    seed, expected = DEFECTS[name]
    broken = guest()
    seed(broken)
    red = SUITE.red(broken, "immutable-host")
    assert red.keys() == expected, red
    assert all(why.startswith("fail") for why in red.values()), red


@pytest.mark.parametrize("row", KCONFIG_ROWS, ids=lambda row: row.id)
def test_every_option_of_a_row_counts(row: Control) -> None:
    """Flipping one option, and whatever could stand in for it, fails the row."""
    assert row.probe is not None
    words = row.probe.get("or-cmdline", [])
    first, *others = row.probe["kconfig"]
    stand_ins = {name: want for other in others for name, want in other.items() if name not in first}
    for name, want in first.items():
        broken = guest()
        broken.answers[CMDLINE] = " ".join(w for w in broken.answers[CMDLINE].split() if w not in words) + "\n"
        broken.answers[LOCKDOWN] = OPEN
        for option, wanted in {**stand_ins, name: want}.items():
            is_off = wanted in {"n", "not set"}
            broken.add(KCONFIG, f"CONFIG_{option}=y" if is_off else f"# CONFIG_{option} is not set")
        red = SUITE.red(broken, "immutable-host")
        assert red[row.id].startswith("fail"), red
        assert f"CONFIG_{name}" in red[row.id]
        assert not {other.id for other in KCONFIG_ROWS} & red.keys() - {row.id}


@pytest.mark.parametrize("row", SYSCTL_ROWS, ids=lambda row: row.id)
def test_every_key_of_a_row_counts(row: Control) -> None:
    assert row.probe is not None
    keys = row.probe["sysctl"]
    for key in [keys] if isinstance(keys, str) else keys:
        path = key.replace(".", "/")
        bad = "0" if row.probe.get("in", ["0"])[0] != "0" or "in" not in row.probe else "1"
        broken = guest()
        lines = [line for line in broken.answers[SYSCTLS].split("\n") if not line.startswith(f"{path}:")]
        broken.answers[SYSCTLS] = "\n".join([f"{path}:{bad}", *lines])
        assert SUITE.red(broken, "immutable-host").keys() == {row.id}


@pytest.mark.parametrize("row", SYSCTL_ROWS, ids=lambda row: row.id)
def test_missing_parameter_is_no_pass_unless_the_row_says_so(row: Control) -> None:
    assert row.probe is not None
    keys = row.probe["sysctl"]
    first = (keys if isinstance(keys, str) else keys[0]).replace(".", "/")
    broken = guest()
    lines = [line for line in broken.answers[SYSCTLS].split("\n") if not line.startswith(f"{first}:")]
    broken.answers[SYSCTLS] = "\n".join(lines)
    expected = Outcome.PASS if row.probe.get("absent") == "ok" else Outcome.FAIL
    assert SUITE.outcome(row.id, broken) == expected


@pytest.mark.parametrize("row", MODULE_ROWS, ids=lambda row: row.id)
def test_every_module_of_a_row_counts(row: Control) -> None:
    assert row.probe is not None
    question = modules_of(row.id)
    for name in row.probe["modules"]:
        broken = guest()
        blocks = broken.answers[question].split("module ")
        loadable = f"{name}\ninsmod /lib/modules/6.12/kernel/{name}.ko.xz \nstatus 0\n"
        broken.answers[question] = "module ".join(loadable if b.startswith(f"{name}\n") else b for b in blocks)
        assert SUITE.red(broken, "immutable-host").keys() == {row.id}


def test_every_control_has_a_defect() -> None:
    seeded = set().union(*(controls for _seed, controls in DEFECTS.values()))
    rows = {row.id for row in (*KCONFIG_ROWS, *SYSCTL_ROWS, *MODULE_ROWS)}
    assert seeded | rows == SUITE.controls.keys()


@pytest.mark.parametrize(
    ("control", "question"),
    [
        ("kcfg-rwx", KCONFIG),
        ("kcmd-console", CMDLINE),
        ("sysctl-aslr", SYSCTLS),
        ("mod-rare-fs", LOADED),
        ("ib-lockdown-active", LOCKDOWN),
        ("ib-lockdown-active", CMDLINE),
        ("ib-kernel-untainted", TAINTED),
        ("kernel-software-mitigations", VULNERABILITIES),
        ("kernel-debugfs-closed", MOUNTINFO),
        ("bh-kernel-is-newest", STATE.KERNELS),
        ("kernel-symbols-hidden", STATE.SYMBOLS),
        ("kcfg-kfence", STATE.KFENCE),
        ("sysctl-persisted", SYSCTL_D),
        ("ib-tpm-measured", REGISTERS),
        ("ib-tpm-measured", EVENT_LOG),
        ("ib-ipe-enforcing", IPE),
        ("ib-ipe-blocks-exec", IPE),
    ],
)
def test_empty_answer_is_an_error_and_never_a_pass(control: str, question: str) -> None:
    broken = guest()
    broken.answers[question] = "" if question != LOADED else "\x00"
    assert SUITE.outcome(control, broken) == Outcome.ERROR


@pytest.mark.parametrize(
    ("control", "given", "reason"),
    [("ib-tpm-measured", "tpm", "no TPM"), ("ib-secureboot-on", "firmware", "this run's firmware is")],
)
def test_what_the_machine_was_not_given_is_not_asked_for(control: str, given: str, reason: str) -> None:
    plain = guest()
    plain.boot[given] = {"tpm": "none", "firmware": "uefi"}[given]
    for question in (MOUNTINFO, SECURE_BOOT, TPM, REGISTERS, EVENT_LOG):
        del plain.answers[question]
    outcome, why = SUITE.explained(control, plain)
    assert outcome == Outcome.NOT_APPLICABLE
    assert reason in why


@pytest.mark.parametrize(
    ("control", "seed"),
    [
        ("ib-secureboot-on", edit(MOUNTINFO, " - efivarfs efivarfs ", " - tmpfs tmpfs ")),
        ("ib-secureboot-on", edit(SECURE_BOOT, "06 00 00 00 01", "06 00 00 00 07")),
        ("ib-tpm-measured", lambda g: g.answers.update({TPM: "/dev/tpmrm0\n/sys/class/tpm/tpm0\n"})),
        ("ib-tpm-measured", edit(EVENT_LOG, " 45 76 65 6e 74 30 33", " 45 76 65 6e 74 30 32")),
    ],
    ids=["no efivarfs", "neither on nor off", "a kernel that shows no PCRs", "a log of another form"],
)
def test_firmware_that_cannot_be_asked_is_an_error(control: str, seed: Callable[[Guest], None]) -> None:
    mute = guest()
    seed(mute)
    assert SUITE.outcome(control, mute) == Outcome.ERROR


IPE_CONTROLS = ("ib-ipe-enforcing", "ib-ipe-blocks-exec")


@pytest.mark.parametrize("answer", ["none\n", "enforce 1\n"])
def test_a_kernel_without_a_policy_of_ipe_is_none_of_its_business(answer: str) -> None:
    unused = guest()
    unused.answers[IPE] = answer
    assert {SUITE.outcome(control, unused) for control in IPE_CONTROLS} == {Outcome.NOT_APPLICABLE}


@pytest.mark.parametrize("answer", ["none\n", "enforce 0\n"])
def test_ipe_that_is_asked_to_be_off_is_seen_without_a_policy(answer: str) -> None:
    unused = guest()
    unused.answers[IPE] = answer
    said("ipe.enforce=0")(unused)
    assert SUITE.outcome("ib-ipe-enforcing", unused) == Outcome.FAIL


@pytest.mark.parametrize("answer", ["none\n", "enforce 1\n", "enforce 1\npolicy 1 1.0.0 another\n"])
def test_a_policy_that_the_flavour_promises_must_be_active(answer: str) -> None:
    other = guest()
    other.expect["ipe-policies"] = ("seatrial_test",)
    assert SUITE.outcome("ib-ipe-enforcing", other) == Outcome.PASS
    other.answers[IPE] = answer
    assert SUITE.outcome("ib-ipe-enforcing", other) == Outcome.FAIL


def test_an_attempt_that_failed_for_another_reason_is_no_proof() -> None:
    broken = guest()
    broken.tries[COPIED] = (3, "mount: /run: permission denied.")
    assert SUITE.outcome("ib-ipe-blocks-exec", broken) == Outcome.ERROR
