"""The table of console signs, the phases of a boot, and a scanner that no guest can trick, slow down or fill."""

from __future__ import annotations

import re
import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from seatrial.errors import ConfigError
from seatrial.evidence.console import Gravity, Phase, Scanner, plain, with_reasons
from seatrial.evidence.signs import parse_table
from seatrial.layout import data_dir
from seatrial.machine.console import console_table

TABLE = console_table()
TEXT = (data_dir("qemu") / "console.toml").read_text(encoding="utf-8")

FATAL_LINES = [
    ("[    1.2] Kernel panic - not syncing: VFS: Unable to mount root fs", "kernel-panic", Phase.KERNEL),
    ("Fatal glibc error: CPU does not support x86-64-v3", "cpu-too-old", Phase.KERNEL),
    ('You are in emergency mode. After logging in, type "journalctl -xb"', "emergency-mode", Phase.INITRD),
    ("Cannot open access to console, the root account is locked.", "emergency-mode", Phase.USERSPACE),
    ("[  OK  ] Reached target emergency.target - Emergency Mode.", "emergency-mode", Phase.INITRD),
    ("[  OK  ] Reached target Rescue Mode.", "rescue-mode", Phase.USERSPACE),
    ("(initramfs) ", "initrd-shell", Phase.INITRD),
    ("ALERT!  LABEL=root does not exist.  Dropping to a shell!", "initrd-shell", Phase.INITRD),
    ("dracut:/# ", "initrd-shell", Phase.INITRD),
    ('Generating "/run/initramfs/rdsosreport.txt"', "initrd-shell", Phase.INITRD),
    ('BdsDxe: failed to load Boot0001 "UEFI Misc Device" from PciRoot(0x0): Access Denied', "secure-boot-refused",
     Phase.FIRMWARE),
    ("Verification failed: (0x1A) Security Violation", "secure-boot-refused", Phase.LOADER),
    ("error: ../kern/efi/sb.c:182:bad shim signature.", "secure-boot-refused", Phase.LOADER),
    ("grub rescue> ", "loader-shell", Phase.LOADER),
    ("grub> ", "loader-shell", Phase.LOADER),
    ("Shell> ", "uefi-shell", Phase.LOADER),
    ("UEFI Interactive Shell v2.2", "uefi-shell", Phase.LOADER),
    ("BdsDxe: No bootable option or device was found.", "no-bootable-device", Phase.FIRMWARE),
    ("No bootable device.", "no-bootable-device", Phase.FIRMWARE),
    (">>Start PXE over IPv4.", "network-boot", Phase.FIRMWARE),
    ("Failed to load ldlinux.c32", "loader-without-kernel", Phase.LOADER),
    ("error: you need to load the kernel first.", "loader-without-kernel", Phase.LOADER),
    ("No loaders found. Configuration files in \\loader\\entries\\*.conf are needed.", "loader-without-kernel",
     Phase.LOADER),
    ("!!!! X64 Exception Type - 0D(#GP - General Protection)  CPU Apic ID - 00000000 !!!!", "firmware-crash",
     Phase.FIRMWARE),
    ("-- Press any key to proceed --", "question", Phase.USERSPACE),
    ("Please enter passphrase for disk root (luks-1): ", "question", Phase.INITRD),
    ("Give root password for maintenance", "question", Phase.USERSPACE),
    ("[    4.2] device-mapper: verity: 254:2: data block 7 is corrupted", "verity-corruption", Phase.SUITE),
    ("systemd[1]: Failed to load SELinux policy.", "selinux-policy", Phase.USERSPACE),
    ("Unable to load SELinux Policy. Machine is in enforcing mode. Halting now.", "selinux-policy", Phase.INITRD),
    ("[!!!!!!] Failed to mount API filesystems, freezing.", "init-froze", Phase.USERSPACE),
    ("[   99.1] reboot: System halted", "halted", Phase.SUITE),
    ("Ignition has failed. Please ensure your config is valid.", "ignition-failed", Phase.INITRD),
    ("CRITICAL : Ignition failed: config is not valid", "ignition-failed", Phase.INITRD),
]  # fmt: skip  # one row a line
SUSPICIOUS_LINES = [
    ("[    3.1] Oops: 0000 [#1] PREEMPT SMP NOPTI", "oops"),
    ("[    3.1] BUG: kernel NULL pointer dereference, address: 0000000000000008", "oops"),
    ("[    3.1] kernel BUG at mm/slub.c:305!", "kernel-bug"),
    ("[   30.1] watchdog: BUG: soft lockup - CPU#0 stuck for 22s! [swapper/0:1]", "soft-lockup"),
    ("[   30.1] watchdog: Watchdog detected hard LOCKUP on cpu 1", "soft-lockup"),
    ("[   60.2] rcu: INFO: rcu_preempt detected stalls on CPUs/tasks:", "rcu-stall"),
    ("[   22.8] rcu: \tPossible timer handling issue on cpu=1 timer-softirq=4", "lost-timer"),
    ("[  240.1] INFO: task mount:123 blocked for more than 120 seconds.", "hung-task"),
    ("[    1.1] WARNING: CPU: 0 PID: 1 at kernel/foo.c:12 foo+0x1/0x2", "kernel-warning"),
    ("[    1.1] Call Trace:", "call-trace"),
    ("[    9.1] Out of memory: Killed process 77 (stress)", "oom"),
    ("[    2.1] EXT4-fs error (device vda2): ext4_lookup:1858: inode #2: comm ls: deleted inode", "filesystem-error"),
    ("[    2.1] XFS (vda2): Metadata corruption detected at xfs_agi", "filesystem-error"),
    ("[    2.1] BTRFS critical (device vda2): corrupt leaf", "filesystem-error"),
    ("[    2.1] erofs: (device dm-0): z_erofs_lz4_decompress failed", "filesystem-error"),
    ("[    2.1] blk_update_request: I/O error, dev vda, sector 0", "io-error"),
    ("[FAILED] Failed to start x.service - X.", "unit-failed"),
    ("[DEPEND] Dependency failed for local-fs.target - Local File Systems.", "unit-dependency"),
    ("[ TIME ] Timed out waiting for device dev-vdb.device - /dev/vdb.", "unit-timeout"),
    ("[    5.1] systemd[1]: a.service: Found ordering cycle on b.service/start", "unit-cycle"),
    ("[ SKIP ] Ordering cycle found, skipping a.service", "unit-cycle"),
    ("systemd[1]: /usr/lib/systemd/system-generators/x failed with exit status 1.", "generator-failed"),
    ("[    8.1] foo[77]: segfault at 0 ip 000055d sp 00007f error 4 in foo", "crash"),
    ("[    8.1] audit: type=1400 audit(1.1:2): avc:  denied  { read } for pid=1", "avc-denied"),
    ("sshd: no hostkeys available -- exiting.", "no-host-keys"),
    ("ignition[501]: CRITICAL : failed to fetch config", "ignition-error"),
    ("cloud-init[402]: 2026-01-01 00:00:00,000 - util.py[ERROR]: no such user", "cloud-init-error"),
]
HEALTHY = [
    "[  OK  ] Reached target emergency.target.mask",
    'BdsDxe: starting Boot0001 "UEFI Misc Device"',
    "systemd[1]: Started Emergency Shell condition check",
    "[    0.1] Kernel command line: panic=1 systemd.unit=multi-user.target",
    "[    0.5] device-mapper: verity: sha256 using implementation sha256-generic",
    "[    0.5] rcu: Hierarchical RCU implementation.",
    "[    0.5] EXT4-fs (vda2): mounted filesystem with ordered data mode. errors=remount-ro",
    "[  OK  ] Stopped target initrd.target - Initrd Default Target.",
    "[    0.5] NMI watchdog: Enabled. Permanently consumes one hw-PMU counter.",
    "[    1.0] hung_task_timeout is 120",
    "[    0.1] Kernel command line: ro rcupdate.rcu_cpu_stall_timeout=60 hung_task_panic=1 softlockup_panic=1",
]


def scanned(*chunks: bytes, phase: Phase = Phase.FIRMWARE) -> Scanner:
    scanner = Scanner(TABLE, phase)
    for number, chunk in enumerate(chunks):
        scanner.feed(chunk, float(number))
    return scanner


@pytest.mark.parametrize(("line", "sign", "phase"), FATAL_LINES)
def test_a_state_without_a_way_back_ends_the_boot(line: str, sign: str, phase: Phase) -> None:
    fatal = scanned(line.encode() + b"\r\n", phase=phase).fatal
    assert fatal is not None
    assert (fatal.sign.id, fatal.line) == (sign, line.strip())


@pytest.mark.parametrize(("line", "sign"), SUSPICIOUS_LINES)
def test_trouble_that_does_not_end_a_boot_is_a_finding(line: str, sign: str) -> None:
    scanner = scanned(line.encode() + b"\n", phase=Phase.USERSPACE)
    assert scanner.fatal is None
    assert [(found.sign, found.line, found.phase) for found in scanner.findings.all] == [(sign, line, "userspace")]


@pytest.mark.parametrize("line", HEALTHY)
def test_a_healthy_line_is_no_sign(line: str) -> None:
    for phase in Phase:
        scanner = scanned(line.encode() + b"\n", phase=phase)
        assert (scanner.fatal, scanner.findings.all) == (None, ())


def test_every_fatal_row_of_the_table_has_an_example_here() -> None:
    shown = {sign for _line, sign, _phase in FATAL_LINES}
    known = {sign.id for sign in TABLE.signs if sign.severity is Gravity.FATAL}
    assert known == shown


def test_rows_have_unique_ids_and_all_their_texts() -> None:
    ids = [sign.id for sign in TABLE.signs]
    assert len(ids) == len(set(ids))
    assert all(len(sign.hint) > 20 and len(sign.title) > 4 and sign.source for sign in TABLE.signs)


def test_no_pattern_repeats_without_a_bound() -> None:
    """An unbounded repetition costs quadratic time on a line that a guest chose."""
    rows = tomllib.loads(TEXT)
    patterns = [row["pattern"] for row in [*rows["sign"], *rows["landmark"]] if "pattern" in row]
    bare = [p for p in patterns if re.search(r"(?<!\\)[*+]", re.sub(r"\\.|\[[^]]*\]", "x", p))]
    assert bare == []


def test_a_needle_is_in_every_line_that_its_pattern_finds() -> None:
    for line, sign_id, *_ in [*FATAL_LINES, *SUSPICIOUS_LINES]:
        sign = next(sign for sign in TABLE.signs if sign.id == sign_id)
        assert sign.pattern.search(line)
        assert any(needle in line for needle in sign.needles)


@pytest.mark.parametrize(
    "fault",
    ["[[sign]]\nid='x'\n", "[[sign", "[[landmark]]\nneedle='x'\nphase='lunch'\n", TEXT.replace("hint =", "hnit =", 1)],
)
def test_a_faulty_table_is_refused(fault: str) -> None:
    with pytest.raises(ConfigError, match="the table of console signs is not valid"):
        parse_table(fault)


def test_phases_follow_the_landmarks_of_a_boot() -> None:
    boot = [
        (b'BdsDxe: loading Boot0001 "x" from y\r\n', Phase.LOADER),
        (b"EFI stub: Loaded initrd from x\r\n", Phase.KERNEL),
        (b"[    0.000000] Linux version 6.12.1\r\n", Phase.KERNEL),
        (b"\x1b[0;1;39mBooting initrd of \x1b[0mDebian\r\n", Phase.INITRD),
        (b"\x1b[0;1;39mWelcome to \x1b[0m\x1b[1mDebian GNU/Linux 13\x1b[0m!\r\n", Phase.USERSPACE),
        (b"debian login: \r\n", Phase.USERSPACE),
    ]
    scanner = Scanner(TABLE)
    seen = []
    for line, _ in boot:
        scanner.feed(line, 0.0)
        seen.append(scanner.phase)
    assert seen == [phase for _, phase in boot]
    assert scanner.restarts == 0


def test_a_start_that_is_seen_again_is_a_restart() -> None:
    boot = b"[    0.000000] Linux version 6.12.1\nWelcome to Debian!\n"
    assert scanned(boot, boot, boot).restarts == 2


def test_a_log_that_the_kernel_repeats_for_a_second_console_is_no_restart() -> None:
    assert scanned(b"Linux version 6.12.1\n" * 2).restarts == 0


def test_a_prompt_without_line_feed_counts_once_the_console_is_quiet() -> None:
    scanner = scanned(b"dropping\r\n(initramfs) ", phase=Phase.INITRD)
    assert scanner.fatal is None
    scanner.look_at_prompt(7.5)
    assert scanner.fatal is not None
    assert (scanner.fatal.sign.id, scanner.fatal.at_s) == ("initrd-shell", 7.5)


def test_a_shell_prompt_of_the_loader_is_no_sign_in_a_running_system() -> None:
    assert scanned(b"grub> \n(initramfs) \nShell> \n", phase=Phase.SUITE).fatal is None


def test_a_tolerated_state_is_only_a_finding() -> None:
    scanner = Scanner(TABLE, Phase.SUITE)
    scanner.tolerated = frozenset({"verity-corruption"})
    scanner.feed(b"device-mapper: verity: 254:2: data block 7 is corrupted\n", 1.0)
    assert scanner.fatal is None
    assert [found.sign for found in scanner.findings.all] == ["verity-corruption"]


def test_lines_that_differ_in_numbers_only_are_one_finding_with_a_count() -> None:
    scanner = scanned(*(b"[    %d.1] blk: I/O error, dev vda, sector %d\n" % (n, n) for n in range(50)))
    (found,) = scanner.findings.all
    assert (found.count, found.at_s, found.line) == (50, 0.0, "[    0.1] blk: I/O error, dev vda, sector 0")


def test_findings_are_bounded_however_much_differs() -> None:
    words = ["".join(chr(97 + int(d)) for d in f"{n:04d}") for n in range(1900)]
    scanner = scanned(*(f"[FAILED] Failed to start {word}.\n".encode() for word in words))
    found = scanner.findings.all
    assert len(found) == 11
    assert sum(one.count for one in found) == 1900
    assert found[-1].line == "(further lines of this kind)"


def test_a_flood_of_one_sign_is_dropped_and_others_still_count() -> None:
    scanner = scanned(
        b"[FAILED] Failed to start x.\n" * 9000, b"[FAILED] x\n" * 9000, b"I/O error\nKernel panic - not syncing: x\n"
    )
    assert {found.sign for found in scanner.findings.all} == {"unit-failed", "io-error", "kernel-panic"}
    assert max(found.count for found in scanner.findings.all) < 20000
    assert scanner.fatal is not None


def test_a_line_that_never_ends_does_not_grow() -> None:
    scanner = Scanner(TABLE)
    for _ in range(2000):
        scanner.feed(b"x" * 1000, 0.0)
        assert len(scanner.partial) <= 4096
    scanner.feed(b"I/O error", 0.0)
    scanner.feed(b"y" * 5000, 0.0)
    assert [found.sign for found in scanner.findings.all] == ["io-error"]


@pytest.mark.parametrize("start", [b"\x1b]0;", b"\x1b[", b"\x1bP", b"\x1b"])
def test_no_unfinished_escape_hides_what_follows(start: bytes) -> None:
    assert scanned(start * 3 + b"\nKernel panic - not syncing: x\n").fatal is not None


WORDS = st.sampled_from(
    [
        *(line.encode() for line, *_ in FATAL_LINES + SUSPICIOUS_LINES),
        *(m.needle.encode() for m in TABLE.landmarks),
        *(b"\n", b"\r\n", b"\x1b[31m", b"\x1b]0;x\x07", b"\x00", b"\xff\xfe", "\u202e".encode(), b"plain words "),
    ]
)


@given(st.lists(WORDS, max_size=30), st.lists(st.integers(0, 2000), max_size=20))
def test_how_the_stream_is_cut_changes_nothing(words: list[bytes], cuts: list[int]) -> None:
    stream = b"".join(words)[:4000] + b"\n"
    places = sorted({min(cut, len(stream)) for cut in cuts})
    pieces = [stream[a:b] for a, b in zip([0, *places], [*places, len(stream)], strict=True)]
    whole, cut = Scanner(TABLE), Scanner(TABLE)
    whole.feed(stream, 0.0)
    for piece in pieces:
        cut.feed(piece, 0.0)
    assert (whole.fatal, whole.findings.all, whole.phase) == (cut.fatal, cut.findings.all, cut.phase)


@given(st.binary(max_size=600))
def test_any_console_bytes_become_text_that_moves_no_cursor(raw: bytes) -> None:
    assert all(c.isprintable() or c in "\n\t" for c in plain(raw))


@given(st.text(max_size=200))
def test_printable_text_stays_as_it_is(text: str) -> None:
    shown = "".join(c for c in text if c.isprintable())
    assert plain(shown.encode("utf-8", "ignore")) == shown


@given(st.lists(st.binary(max_size=200), max_size=20))
def test_any_bytes_can_be_scanned(chunks: list[bytes]) -> None:
    scanner = scanned(*chunks)
    scanner.look_at_prompt(1.0)
    shown = [found.line for found in scanner.findings.all] + ([scanner.fatal.line] if scanner.fatal else [])
    assert all(c.isprintable() or c == "\t" for line in shown for c in line)


def test_a_policy_accepts_a_finding_with_its_reason() -> None:
    found = scanned(b"[FAILED] Failed to start a.\n[FAILED] Failed to start b.\n").findings.all
    reasons = [one.accepted for one in with_reasons(found, {r"^a unit failed: .*start a\.": "known"})]
    assert reasons == ["known", ""]
