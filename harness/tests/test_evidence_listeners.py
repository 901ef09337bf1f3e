"""Listening sockets, from ss or from the kernel's tables; units and configuration, from systemd."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from seatrial.errors import ObservationError
from seatrial.evidence.listeners import Listener, is_expected, parse_listeners
from seatrial.evidence.units import matching_units, parse_config, parse_unit_files, parse_units

SS = """\
udp UNCONN 0      0         127.0.0.53%lo:53   0.0.0.0:* users:(("systemd-resolve",pid=430,fd=18))
udp UNCONN 0      0      10.0.2.15%enp0s2:68   0.0.0.0:* users:(("systemd-network",pid=450,fd=30))
tcp LISTEN 0      128                [::]:22      [::]:* users:(("sshd",pid=500,fd=7),("systemd",pid=1,fd=9))
tcp LISTEN 0      128                   *:80         *:*
"""
PROC = """\
/proc/net/tcp:  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
/proc/net/tcp:   0: 00000000:0016 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1 1 0 100 0
/proc/net/tcp:   1: 0F02000A:0016 0202000A:D431 01 00000000:00000000 02:00000000 00000000     0        0 1 4 0 20 4
/proc/net/tcp6:  sl  local_address                         remote_address                        st tx_queue rx_queue
/proc/net/tcp6:   0: 00000000000000000000000001000000:1F90 00000000000000000000000000000000:0000 0A 00000000:00000000 00
/proc/net/udp:   sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref
/proc/net/udp:  107: 3500007F:0035 00000000:0000 07 00000000:00000000 00:00000000 00000000   991        0 1 2 0 0
/proc/net/udp:  122: 0F02000A:0044 0202000A:0043 01 00000000:00000000 00:00000000 00000000   998        0 1 2 0 0
"""


def tcp(port: int, *programs: str, address: str = "0.0.0.0") -> Listener:
    return Listener(protocol="tcp", address=address, port=port, processes=programs)


def test_ss_is_read() -> None:
    resolver, dhcp, ssh, web = parse_listeners(SS)
    assert (resolver.is_local, dhcp.address, dhcp.port, dhcp.is_local) == (True, "10.0.2.15", 68, False)
    assert (ssh.processes, ssh.address) == (("sshd", "systemd"), "::")
    assert (web.address, web.port, web.processes) == ("::", 80, ())


def test_kernel_tables_are_read_where_ss_is_missing() -> None:
    assert [(x.protocol, x.address, x.port) for x in parse_listeners(PROC)] == [
        ("tcp", "0.0.0.0", 22),
        ("tcp", "::1", 8080),
        ("udp", "127.0.0.53", 53),
    ]


@pytest.mark.parametrize(
    "line",
    [
        "tcp ESTAB 0 0 10.0.2.15:22 10.0.2.2:1",
        "icmp UNCONN 0 0 *:58 *:*",
        "tcp LISTEN 0 1 0.0.0.0:http 0.0.0.0:*",
        "/proc/net/tcp:  junk",
        "x",
    ],
)
def test_line_that_is_no_listener_is_refused(line: str) -> None:
    with pytest.raises(ObservationError, match=r"describes no|local port"):
        parse_listeners(f"{line}\n")


@pytest.mark.parametrize(
    ("listener", "expected"),
    [
        (tcp(22, "sshd"), True),
        (tcp(22, "systemd"), True),
        (tcp(22, "sshd", "systemd"), True),
        (tcp(22), True),
        (tcp(22, "nc"), False),
        (tcp(22, "sshd", "nc"), False),
        (tcp(80, "anything"), True),
        (tcp(443, "sshd"), False),
        (Listener(protocol="udp", address="::", port=22, processes=("sshd",)), False),
        (tcp(40001, "containerd"), True),
        (tcp(40001), False),
        (tcp(40001, "nc"), False),
    ],
)
def test_allow_list_names_port_and_program(listener: Listener, expected: bool) -> None:
    assert is_expected(listener, ("tcp/22 sshd", "tcp/22 systemd", "tcp/80", "tcp/* containerd")) is expected


@pytest.mark.parametrize(
    ("address", "is_local"), [("::ffff:127.0.0.1", True), ("::ffff:192.0.2.1", False), ("*", False)]
)
def test_an_address_of_the_other_family_is_what_it_stands_for(address: str, is_local: bool) -> None:
    assert Listener(protocol="tcp", address=address, port=1, processes=()).is_local is is_local


UNIT_LINES = "a.service disabled disabled\nb.service static -\nc.service disabled disabled\nd.service static -\n"


def test_a_link_starts_a_unit_whatever_its_install_section_says() -> None:
    links = (
        "/etc/systemd/system/multi-user.target.wants/b.service",
        "/run/systemd/generator/local-fs.target.requires/a.service",
        "/usr/lib/systemd/system/sysinit.target.wants/c.service",
        "/usr/lib/systemd/system/sysinit.target.wants/d.service",
        "/usr/lib/systemd/system/initrd.target.wants/e.service",
        "/etc/systemd/system/getty.target.wants/getty@tty1.service",
    )
    files = parse_unit_files(UNIT_LINES + "e.service disabled -\n" + "".join(f"pulled-in {link}\n" for link in links))
    assert files == {
        "a.service": "enabled",
        "b.service": "enabled",
        "c.service": "wanted",
        "d.service": "static",
        "e.service": "disabled",
    }
    with pytest.raises(ObservationError, match="pulls a unit in"):
        parse_unit_files(f"{UNIT_LINES}pulled-in nowhere\n")


GUEST_TEXT = st.text(alphabet=st.sampled_from("tcpudLISTENUNO 0123:.*[]%/\n\x0b\u2028=[]#;aK"), max_size=90)


@given(text=GUEST_TEXT, parser=st.sampled_from([parse_listeners, parse_unit_files, parse_units, parse_config]))
def test_any_text_is_read_or_refused_as_unreadable(text: str, parser: Callable[[str], object]) -> None:
    with contextlib.suppress(ObservationError):
        assert parser(text) is not None


def test_unit_files_are_read() -> None:
    files = parse_unit_files("ssh.service enabled enabled\nctrl-alt-del.target masked enabled\n-.mount generated -\n")
    assert files == {"ssh.service": "enabled", "ctrl-alt-del.target": "masked", "-.mount": "generated"}


def test_units_are_read_with_their_marks() -> None:
    units = parse_units("ssh.service loaded active running OpenSSH\n● bad.service not-found inactive dead bad\n")
    assert units == {"ssh.service": "active", "bad.service": "inactive"}


@pytest.mark.parametrize("text", ["", "Failed to connect to bus\n", "ssh.service perhaps enabled\n"])
def test_systemctl_that_says_something_else_is_refused(text: str) -> None:
    with pytest.raises(ObservationError, match="systemctl"):
        parse_unit_files(text)


def test_units_are_found_by_pattern_and_state() -> None:
    units = {"cups.service": "enabled", "cups.path": "disabled", "ssh.service": "enabled"}
    assert matching_units(units, ("cups.*",), frozenset({"enabled"})) == ["cups.service (enabled)"]


def test_last_configuration_value_wins() -> None:
    text = "# /etc/a.conf\n[Journal]\n#Storage=auto\nStorage=persistent\n\n# b.conf\n[Journal]\nStorage = volatile\n"
    assert parse_config(text) == {"Journal.Storage": "volatile"}


def test_what_stands_before_the_first_section_of_a_file_counts_for_nothing() -> None:
    text = (
        "# /etc/a.conf\n[Journal]\nStorage=auto\n\n# /etc/a.conf.d/b.conf\nStorage=none\n# /etc/c\n[Journal]\nSeal=no\n"
    )
    assert parse_config(text) == {"Journal.Storage": "auto", "Journal.Seal": "no"}
    comment = "# /etc/a.conf\n[Journal]\nStorage=auto\n\n# /var/log/journal\nSeal=no\n"
    assert parse_config(comment) == {"Journal.Storage": "auto", "Journal.Seal": "no"}
    assert parse_config("Storage=none\n") == {}


@pytest.mark.parametrize("text", ["[Journal]\nnonsense\n"])
def test_configuration_that_systemd_would_not_read_so_is_refused(text: str) -> None:
    with pytest.raises(ObservationError, match="Key=value"):
        parse_config(text)
