"""Reading the journal, and telling trouble from noise."""

from __future__ import annotations

import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from seatrial.errors import ConfigError, ObservationError
from seatrial.evidence.journal import KERNEL_TROUBLE, OOM, Entry, parse_journal, troubles, unexpected
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
    assert troubles(recorded("boot/kernel").split("\n"), (*KERNEL_TROUBLE, *OOM)) == []


@pytest.mark.parametrize(
    "line",
    [
        "BUG: kernel NULL pointer dereference, address: 0000000000000000",
        "Oops: 0002 [#1] SMP NOPTI",
        "WARNING: CPU: 0 PID: 1 at fs/inode.c:417 drop_nlink+0x2c/0x40",
        "rcu: INFO: rcu_preempt self-detected stall on CPU",
        "INFO: task jbd2/vda4-8:123 blocked for more than 120 seconds.",
        "EXT4-fs error (device vda4): ext4_lookup:1855: inode #2: comm ls",
        "device-mapper: verity: 253:3: data block 12 is corrupted",
        "BUG: KASAN: slab-use-after-free in x",
    ],
)
def test_trouble_is_told_from_noise(line: str) -> None:
    assert len(troubles([line], KERNEL_TROUBLE)) == 1


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
