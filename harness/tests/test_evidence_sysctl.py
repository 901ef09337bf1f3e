"""Reading kernel parameters, and what sysctl.d says of them."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from seatrial.errors import ConfigError, ObservationError
from seatrial.evidence.sysctl import (
    NETWORK_SYSCTLS,
    SYSCTLS,
    interfaces,
    is_without_ipv6,
    known_path,
    matching_paths,
    parse_sysctl_d,
    parse_sysctls,
    path_of,
    question_for,
    sysctls_command,
)
from suite_bench import recorded


def test_recorded_parameters_are_read() -> None:
    running = parse_sysctls(recorded("kernel/sysctls"))
    assert running["kernel/randomize_va_space"] == "2"
    assert len(running) > 200


def test_blanks_and_lines_become_single_spaces() -> None:
    assert parse_sysctls("kernel/printk:4\t4  1\t7\nkernel/x:a\nkernel/x:b\nthe end\n") == {
        "kernel/printk": "4 4 1 7",
        "kernel/x": "a b",
    }


def test_empty_value_is_not_an_absent_key() -> None:
    assert parse_sysctls("kernel/hotplug:\nthe end\n") == {"kernel/hotplug": ""}


@pytest.mark.parametrize("text", ["", "kernel/a:1\n", "kernel/a\nthe end\n", "rubbish:1\nthe end\n", "the end\nx"])
def test_cut_or_strange_list_is_an_error(text: str) -> None:
    with pytest.raises(ObservationError, match="the list of kernel parameters"):
        parse_sysctls(text)


@pytest.mark.parametrize(
    ("key", "path"),
    [
        ("kernel.sysrq", "kernel/sysrq"),
        ("net.ipv4.conf.eth0/100.rp_filter", "net/ipv4/conf/eth0.100/rp_filter"),
        ("net/ipv4/conf/eth0.100/rp_filter", "net/ipv4/conf/eth0.100/rp_filter"),
    ],
)
def test_first_separator_says_which_one_separates(key: str, path: str) -> None:
    assert path_of(key) == path


def test_key_outside_of_what_is_read_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"'abi\.vsyscall32' lies outside"):
        known_path("abi.vsyscall32")


def test_the_network_has_a_question_of_its_own() -> None:
    assert question_for(known_path("net.ipv4.ip_forward")) == NETWORK_SYSCTLS
    assert question_for(known_path("net.core.bpf_jit_harden")) == SYSCTLS


def test_a_star_is_every_interface_but_loopback() -> None:
    running = {f"net/ipv4/conf/{name}/rp_filter": "1" for name in ("all", "default", "eth0.5", "lo")}
    running |= {"net/ipv4/conf/eth0/other": "0", "net/ipv6/conf/eth1/rp_filter": "0"}
    assert [path.split("/")[3] for path in matching_paths("net/ipv4/conf/*/rp_filter", running)] == [
        "all",
        "default",
        "eth0.5",
    ]
    assert matching_paths("net/ipv4/conf/all/rp_filter", running) == ("net/ipv4/conf/all/rp_filter",)
    assert matching_paths("net/ipv4/conf/*/absent", running) == ()
    assert interfaces(running) == ("eth0", "eth0.5")
    assert not is_without_ipv6(running)


def test_interfaces_without_what_all_have_in_common_are_an_error() -> None:
    with pytest.raises(ObservationError, match="without 'all' or 'default'"):
        matching_paths("net/ipv4/conf/*/x", {"net/ipv4/conf/eth0/x": "1"})


def test_later_file_wins_and_patterns_promise_nothing() -> None:
    patterns = "-net.ipv4.conf.*.rp_filter = 2\n-net.ipv4.conf.all.rp_filter\n"
    text = f"# a\nkernel.sysrq = 438\n{patterns};b\nkernel/sysrq=0\n-fs.x = 1\n"
    assert parse_sysctl_d(text) == {"kernel/sysrq": "0", "fs/x": "1"}


def test_line_that_is_none_of_sysctl_d_is_an_error() -> None:
    with pytest.raises(ObservationError, match=r"'kernel\.sysrq 0', which is no 'key = value'"):
        parse_sysctl_d("kernel.sysrq 0\n")


@pytest.mark.parametrize("path", ["a/$(reboot)", "../../etc/shadow", "a b", "-r", "a;b", ""])
def test_path_from_the_guest_cannot_become_a_command(path: str) -> None:
    with pytest.raises(ObservationError, match="no path of a kernel parameter"):
        sysctls_command([path])


@given(st.text())
def test_any_list_is_read_or_refused(text: str) -> None:
    with contextlib.suppress(ObservationError):
        assert all("/" in path for path in parse_sysctls(text))


@given(st.text())
def test_any_configuration_is_read_or_refused(text: str) -> None:
    with contextlib.suppress(ObservationError):
        assert all(path for path in parse_sysctl_d(text))
