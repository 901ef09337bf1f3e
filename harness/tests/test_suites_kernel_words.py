"""What the kernel is told and built with: words, builds and the lockdown that make up for each other."""

from __future__ import annotations

import pytest
from kernel_bench import (
    OPEN,
    SUITE,
    guest,
    told,
)
from seatrial.evidence.cmdline import CMDLINE
from seatrial.evidence.kconfig import KCONFIG
from seatrial.evidence.kernel import LOCKDOWN
from seatrial.evidence.sysctl import SYSCTL_D, sysctls_command
from seatrial.policy.judge import Outcome


@pytest.mark.parametrize(
    ("control", "word"),
    [
        ("kcmd-mitigations-on", "tsa=off"),
        ("kcmd-mitigations-on", "mitigations=auto;no_user_kernel"),
        ("kcmd-mitigations-on", "kpti=0"),
        ("kcmd-no-init-override", "rd.shell"),
        ("kcmd-no-init-override", "-b"),
        ("kcmd-no-init-override", "break=init"),
        ("kcmd-no-init-override", "systemd.run=/bin/sh"),
        ("kcmd-debug-off", "rd.systemd.debug_shell"),
        ("kcmd-debug-off", "systemd.wants=debug-shell.service"),
        ("kcmd-no-kaslr-off", "clearcpuid=smep,smap"),
        ("kcmd-iommu", "iommu.passthrough=on"),
        ("kcfg-cet", "nousershstk"),
        ("kcfg-cet", "ibt=warn"),
    ],
)
def test_every_way_to_say_it_counts(control: str, word: str) -> None:
    weak = guest()
    weak.replace(CMDLINE, "\n", f" {word}\n")
    assert SUITE.outcome(control, weak) is Outcome.FAIL


@pytest.mark.parametrize(
    ("running", "configured", "outcome"),
    [
        ("3\t4\t1\t7", "3", Outcome.PASS),
        ("3\t4\t1\t7", "3 4 1 7", Outcome.PASS),
        ("3\t4\t1\t7", "3 4 2", Outcome.FAIL),
        ("16", "0x10", Outcome.PASS),
        ("16", "10", Outcome.FAIL),
        ("", "", Outcome.PASS),
        ("x", "", Outcome.FAIL),
    ],
)
def test_a_parameter_is_what_was_configured_however_the_kernel_writes_it(
    running: str, configured: str, outcome: Outcome
) -> None:
    told = guest()
    told.answers[SYSCTL_D] = f"kernel.printk = {configured}\n"
    told.answers[sysctls_command(["kernel/printk"])] = f"kernel/printk:{running}\nthe end\n"
    assert SUITE.outcome("sysctl-persisted", told) is outcome


@pytest.mark.parametrize(
    ("build", "word", "outcome"),
    [
        ("# CONFIG_HARDENED_USERCOPY_DEFAULT_ON is not set", "quiet", Outcome.FAIL),
        ("# CONFIG_HARDENED_USERCOPY_DEFAULT_ON is not set", "hardened_usercopy=on", Outcome.PASS),
        ("CONFIG_HARDENED_USERCOPY_DEFAULT_ON=y", "quiet", Outcome.PASS),
        ("# CONFIG_OTHER is not set", "quiet", Outcome.PASS),
    ],
)
def test_a_check_that_is_built_in_may_be_off_by_default(build: str, word: str, outcome: Outcome) -> None:
    newer = guest()
    newer.add(KCONFIG, build)
    newer.answers[CMDLINE] = f"{word}\n"
    assert SUITE.outcome("kcfg-usercopy", newer) is outcome


def test_the_nearest_alternative_is_named() -> None:
    arm = guest()
    arm.add(KCONFIG, "CONFIG_ARM64=y\nCONFIG_MITIGATE_SPECTRE_BRANCH_HISTORY=y")
    told = SUITE.red(arm, "immutable-host")["kcfg-mitigations"]
    assert "CONFIG_UNMAP_KERNEL_AT_EL0 absent" in told
    assert "RETPOLINE" not in told


@pytest.mark.parametrize(("word", "outcome"), [("once=1", Outcome.PASS), ("once=2", Outcome.FAIL)])
def test_words_of_the_first_boot_are_no_stranger_s(word: str, outcome: Outcome) -> None:
    first = guest()
    first.replace(CMDLINE, "\n", f" {word}\n")
    first.expect["first-boot-words"] = ("once=1",)
    assert SUITE.outcome("kcmd-matches-image", first) is outcome


def test_command_line_can_make_up_for_the_build() -> None:
    made_up = guest()
    made_up.replace(KCONFIG, "CONFIG_INIT_ON_ALLOC_DEFAULT_ON=y", "# CONFIG_INIT_ON_ALLOC_DEFAULT_ON is not set")
    assert SUITE.outcome("kcfg-init-on-alloc", made_up) == Outcome.FAIL
    made_up.replace(CMDLINE, "\n", " init_on_alloc=1\n")
    assert SUITE.outcome("kcfg-init-on-alloc", made_up) == Outcome.PASS


@pytest.mark.parametrize(("word", "outcome"), [("", Outcome.PASS), ("=0", Outcome.FAIL)])
def test_a_bare_word_is_no_value(word: str, outcome: Outcome) -> None:
    enforcing = guest()
    enforcing.replace(KCONFIG, "CONFIG_MODULE_SIG_FORCE=y", "# CONFIG_MODULE_SIG_FORCE is not set")
    told("module.sig_enforce=1", f"module.sig_enforce{word}")(enforcing)
    enforcing.answers[LOCKDOWN] = OPEN
    assert SUITE.outcome("kcfg-modsig-force", enforcing) == outcome


@pytest.mark.parametrize(
    ("mode", "outcome"),
    [
        ("none [integrity] confidentiality\n", Outcome.PASS),
        ("none integrity [confidentiality]\n", Outcome.PASS),
        (OPEN, Outcome.FAIL),
        ("", Outcome.FAIL),  # the kernel has no lockdown
    ],
)
@pytest.mark.parametrize("row", ["kcfg-modsig-force", "kcfg-module-force-load", "kcfg-kexec"])
def test_lockdown_makes_up_for_the_build_however_it_came(row: str, mode: str, outcome: Outcome) -> None:
    locked = guest()
    locked.replace(KCONFIG, "CONFIG_MODULE_SIG_FORCE=y", "# CONFIG_MODULE_SIG_FORCE is not set")
    locked.add(KCONFIG, "CONFIG_MODULE_FORCE_LOAD=y\nCONFIG_KEXEC=y")
    locked.answers[CMDLINE] = "quiet\n"
    locked.answers[LOCKDOWN] = mode
    assert SUITE.outcome(row, locked) is outcome


@pytest.mark.parametrize(
    ("row", "build", "word"),
    [
        (
            "kcfg-ia32",
            "CONFIG_IA32_EMULATION=y\n# CONFIG_IA32_EMULATION_DEFAULT_DISABLED is not set",
            "ia32_emulation=0",
        ),
        ("kcfg-proc-mem", "# CONFIG_PROC_MEM_NO_FORCE is not set", "proc_mem.force_override=never"),
        ("kcfg-no-write-mounted", "CONFIG_BLK_DEV_WRITE_MOUNTED=y", "bdev_allow_write_mounted=0"),
    ],
)
def test_a_word_counts_only_in_a_kernel_that_knows_it(row: str, build: str, word: str) -> None:
    *rest, newest = build.split("\n")
    known, unknown = guest(), guest()
    for one in (known, unknown):
        option = newest.removeprefix("# ").split("=")[0].split(" ")[0]
        one.answers[KCONFIG] = "".join(f"{line}\n" for line in one.answers[KCONFIG].splitlines() if option not in line)
        one.answers[CMDLINE] = f"{word}\n"
    known.add(KCONFIG, build)
    unknown.add(KCONFIG, "\n".join(rest))
    assert SUITE.outcome(row, known) is Outcome.PASS
    assert SUITE.outcome(row, unknown) is Outcome.FAIL


@pytest.mark.parametrize(
    ("row", "build"),
    [
        ("kcfg-kaslr", ["CONFIG_RANDOMIZE_BASE=y"]),
        ("kcfg-mitigations", ["CONFIG_UNMAP_KERNEL_AT_EL0=y", "CONFIG_MITIGATE_SPECTRE_BRANCH_HISTORY=y"]),
        ("kcfg-cet", ["CONFIG_ARM64_PTR_AUTH_KERNEL=y", "CONFIG_ARM64_BTI=y"]),
        ("kcfg-mmap-min", ["CONFIG_DEFAULT_MMAP_MIN_ADDR=32768"]),
    ],
)
def test_options_of_arm64_count_there(row: str, build: list[str]) -> None:
    arm = guest()
    x86 = ("RANDOMIZE_", "RETPOLINE", "PAGE_TABLE_ISOLATION", "SPECTRE_BHI", "X86", "DEFAULT_MMAP_MIN_ADDR")
    arm.answers[KCONFIG] = "".join(
        f"{line}\n" for line in arm.answers[KCONFIG].splitlines() if not any(name in line for name in x86)
    )
    arm.add(KCONFIG, "CONFIG_ARM64=y")
    assert SUITE.outcome(row, arm) is Outcome.FAIL
    for line in build:
        arm.add(KCONFIG, line)
    assert SUITE.outcome(row, arm) is Outcome.PASS


@pytest.mark.parametrize(
    ("row", "option"), [("kcfg-tty", "LEGACY_TIOCSTI"), ("kcfg-no-write-mounted", "BLK_DEV_WRITE_MOUNTED")]
)
def test_an_option_that_the_kernel_does_not_know_yet_switches_nothing_off(row: str, option: str) -> None:
    old = guest()
    old.answers[CMDLINE] = old.answers[CMDLINE].replace(" bdev_allow_write_mounted=0", "")
    old.answers[KCONFIG] = "".join(
        f"{line}\n" for line in old.answers[KCONFIG].splitlines() if f"CONFIG_{option}" not in line
    )
    outcome, why = SUITE.explained(row, old)
    assert outcome == Outcome.FAIL
    assert f"CONFIG_{option} absent" in why
