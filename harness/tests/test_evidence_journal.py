"""Reading the journal, and telling trouble from noise."""

from __future__ import annotations

import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from seatrial.errors import ConfigError, ObservationError
from seatrial.evidence.journal import (
    KERNEL_TROUBLE,
    OOM,
    UNCLEAN,
    Entry,
    failed_unmounts,
    parse_journal,
    troubles,
    unexpected,
    way_down,
)
from suite_bench import recorded


def test_entry_is_who_said_what() -> None:
    (entry,) = parse_journal('{"PRIORITY":"3","SYSLOG_IDENTIFIER":"agent","MESSAGE":"cannot open"}\n')
    assert entry == Entry("agent", "cannot open", 3)
    assert str(entry) == "agent: cannot open"


@pytest.mark.parametrize(
    ("message", "text"),
    [([104, 105, 255], "hi\\xff"), (["a", "b"], "a; b"), (None, ""), (7, "7"), ([], "")],
)
def test_message_of_any_kind_becomes_text(message: object, text: str) -> None:
    (entry,) = parse_journal(json.dumps({"MESSAGE": message}))
    assert entry.message == text


@pytest.mark.parametrize("text", ["prose\n", "[1]\n", '{"MESSAGE":', '"a"'])
def test_line_that_is_no_entry_is_an_error(text: str) -> None:
    with pytest.raises(ObservationError, match="journalctl said"):
        parse_journal(text)


def test_accepted_message_is_found_by_who_and_what() -> None:
    entries = [Entry("agent", "cannot open /dev/agent", 3), Entry("other", "cannot open /dev/agent", 3)]
    assert unexpected(entries, ["^agent: cannot open"]) == ["other: cannot open /dev/agent"]


def test_faulty_pattern_of_a_policy_is_named() -> None:
    with pytest.raises(ConfigError, match=r"'\(' is no regular expression"):
        unexpected([Entry("a", "b", 3)], ["("])


def test_good_kernel_log_has_no_trouble() -> None:
    assert troubles(recorded("boot/kernel").split("\n"), (*KERNEL_TROUBLE, *OOM, *UNCLEAN)) == []


@pytest.mark.parametrize(
    "line",
    [
        "BUG: kernel NULL pointer dereference, address: 0000000000000000",
        "Oops: 0002 [#1] SMP NOPTI",
        "WARNING: CPU: 0 PID: 1 at fs/inode.c:417 drop_nlink+0x2c/0x40",
        "rcu: INFO: rcu_preempt self-detected stall on CPU",
        "rcu: INFO: rcu_sched detected expedited stalls on CPUs/tasks: { 1-... } 21 jiffies s: 5 root: 0x2/.",
        "rcu: rcu_preempt kthread starved for 2500 jiffies! g1 f0x0 RCU_GP_WAIT_FQS(5) ->state=0x0 ->cpu=1",
        "INFO: task jbd2/vda4-8:123 blocked for more than 120 seconds.",
        "EXT4-fs error (device vda4): ext4_lookup:1855: inode #2: comm ls",
        "device-mapper: verity: 253:3: data block 12 is corrupted",
        "BUG: KASAN: slab-use-after-free in x",
    ],
)
def test_trouble_is_told_from_noise(line: str) -> None:
    assert len(troubles([line], KERNEL_TROUBLE)) == 1


def test_what_the_kernel_echoes_of_its_command_line_is_no_trouble() -> None:
    words = "rcupdate.rcu_cpu_stall_timeout=60 hung_task_panic=1 softlockup_panic=1"
    words += " mount.usrfstype=erofs systemd.verity_usr_options=ignore-corruption"
    for echo in ("Kernel command line", "Command line"):
        assert troubles([f"{echo}: ro {words}"], KERNEL_TROUBLE) == []
    assert len(troubles(["erofs (device dm-0): corrupted compressed data"], KERNEL_TROUBLE)) == 1


@pytest.mark.parametrize(
    "line",
    [
        "EXT4-fs (vda2): recovery complete",
        "EXT4-fs (vda2): INFO: recovery required on readonly filesystem",
        "/dev/vda2: recovering journal",
        "XFS (vda2): Starting recovery (logdev: internal)",
        "BTRFS info (device vda2): start tree-log replay",
        "root was not cleanly unmounted, check forced.",
        "FAT-fs (vda1): Volume was not properly unmounted. Some data may be corrupt. Please run fsck.",
        "0x41: Dirty bit is set. Fs was not properly unmounted and some data may be corrupt.",
        "root: ***** FILE SYSTEM WAS MODIFIED *****",
        "File /var/log/journal/0/system.journal corrupted or uncleanly shut down, renaming and replacing.",
    ],
)
def test_what_an_unclean_end_leaves_is_known(line: str) -> None:
    assert len(troubles([line], UNCLEAN)) == 1


@pytest.mark.parametrize(
    "line",
    [
        "root: clean, 13094/131072 files, 155633/524288 blocks",
        "XFS (vda2): Ending clean mount",
        "EXT4-fs (vda2): mounted filesystem 6e4a8eb5 ro with ordered data mode. Quota mode: none.",
        "md0: recovery of RAID array md0",
        "jbd2/vda2-8 started",
    ],
)
def test_what_a_clean_end_leaves_is_no_trouble(line: str) -> None:
    assert troubles([line], UNCLEAN) == []


def test_mounts_that_stayed_are_told_by_their_paths() -> None:
    lines = [
        "Unmounted tmp.mount - Temporary Directory /tmp.",
        "Failed unmounting home.mount - /home.",
        "Failed unmounting var-lib-a\\x2db.mount - Some thing.",
        "Failed unmounting -.mount - Root Mount.",
        "Failed unmounting /srv.",
    ]
    assert failed_unmounts(lines) == ["/home", "/var/lib/a-b", "/"]


def test_the_end_of_a_boot_is_asked_for_by_its_id() -> None:
    assert "-b 0123456789abcdef0123456789abcdef " in way_down("01234567-89ab-cdef-0123-456789abcdef")


@given(st.text())
def test_any_answer_is_a_boot_id_or_refused(text: str) -> None:
    with contextlib.suppress(ObservationError):
        assert set(way_down(text).split()[2]) <= set("0123456789abcdef")
    assert all(path.startswith("/") for path in failed_unmounts([text, f"Failed unmounting {text}.mount - x."]))


@given(st.text())
def test_any_text_is_read_or_refused(text: str) -> None:
    with contextlib.suppress(ObservationError):
        assert all(isinstance(entry.message, str) for entry in parse_journal(text))


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


@given(st.dictionaries(st.sampled_from(["MESSAGE", "PRIORITY", "SYSLOG_IDENTIFIER", "_TRANSPORT"]), VALUES))
def test_any_field_is_read(fields: dict[str, object]) -> None:
    (entry,) = parse_journal(json.dumps(fields))
    assert 0 <= entry.priority <= 7
