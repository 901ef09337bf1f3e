"""Walks over the disks, run by this computer's own shell; and the network's small questions."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from seatrial.errors import ObservationError
from seatrial.evidence.greeting import leaks
from seatrial.evidence.leftovers import disk_trees, names_command, parse_names, parse_residue, residue_command
from seatrial.evidence.links import parse_links, parse_multicast_names, parse_resolver
from seatrial.evidence.mounts import parse_mountinfo
from seatrial.evidence.sshd import parse_moduli
from suite_bench import recorded


def walked(command: str, root: Path) -> tuple[str, str]:
    """Run a walk over ``root`` as if it were the guest's, whose account file it meets."""
    (root / "etc").mkdir(exist_ok=True)
    (root / "etc/passwd").write_text("")
    here = re.sub(r"(-path '?|= |walked )/", rf"\1{root}/", command)
    done = subprocess.run(["sh", "-c", here], capture_output=True, check=False, env={"PATH": os.environ["PATH"]})
    out = done.stdout.decode("utf-8", "backslashreplace").replace(str(root), "")
    return out, done.stderr.decode()


def test_odd_names_and_dangling_links_are_found_each_on_one_line(tmp_path: Path) -> None:
    for name in ("two\nlines", "blank ", "old~", "a.dpkg-new", "\x01", "fine.conf", "dpkg-deb"):
        (tmp_path / name).touch()
    (tmp_path / "lost").symlink_to("/nonexistent")
    (tmp_path / "found").symlink_to("/dev/null")
    names = parse_names(*walked(names_command([str(tmp_path)]), tmp_path))
    assert names.dangling == ("/lost",)
    assert names.odd == ("/?", "/a.dpkg-new", "/blank ", "/old~", "/two?lines")


def test_remains_are_found_by_name_place_and_content(tmp_path: Path) -> None:
    for folder in ("etc/ssh", "root", "srv/site/.git", "usr/lib", "home/a/.aws", "var/log"):
        (tmp_path / folder).mkdir(parents=True)
    key = "-----BEGIN OPENSSH PRIVATE KEY-----\nabc\n"
    for path in ("etc/ssh/ssh_host_rsa_key", "etc/ssh/other_key", "usr/lib/x.pem", "usr/lib/x.txt", "root/notes"):
        (tmp_path / path).write_text(key)
    (tmp_path / "etc/fine.pem").write_text("-----BEGIN CERTIFICATE-----\n")
    (tmp_path / "root/.profile").write_text("")
    (tmp_path / "var/log/dpkg.log").write_text("")
    found = parse_residue(*walked(residue_command([str(tmp_path)]), tmp_path))
    assert found == (
        "/etc/ssh/other_key", "/home/a/.aws", "/root/notes", "/srv/site/.git", "/usr/lib/x.pem", "/var/log/dpkg.log",
    )  # fmt: skip


@pytest.mark.parametrize("parse", [parse_names, parse_residue])
def test_a_walk_that_saw_nothing_or_not_everything_is_an_error(parse: Callable[[str, str], object]) -> None:
    with pytest.raises(ObservationError, match="incomplete"):
        parse("", "")
    with pytest.raises(ObservationError, match="incomplete"):
        parse("walked /etc/passwd\n", "find: '/etc': Permission denied\n")
    parse("walked /etc/passwd\n", "find: '/tmp/x': No such file or directory\n")


def test_what_is_in_memory_is_not_walked() -> None:
    assert disk_trees(parse_mountinfo(recorded("hardening/mountinfo"))) == ("/", "/boot")


def test_a_greeting_leaks_names_versions_and_escapes() -> None:
    debian = {"ID": "debian", "NAME": "Debian GNU/Linux", "VERSION": "13 (trixie)"}
    assert leaks("Authorised use only.\n\\n \\l", debian, "6.12.1-amd64") == ()
    assert leaks("Welcome to DEBIAN 13 (trixie)", debian, "6.12.1-amd64") == ("debian", "13 (trixie)")
    assert leaks("\\s \\r on an \\m, 6.12.1-amd64", debian, "6.12.1-amd64") == ("\\s", "\\r", "\\m", "6.12.1-amd64")


def test_promiscuous_links_and_ports_of_bridges_are_told_apart() -> None:
    assert [link.promiscuity for link in parse_links(recorded("hardening/links"))] == [0, 0]
    text = '[{"ifname":"veth0","promiscuity":1,"master":"br0","linkinfo":{"info_slave_kind":"bridge"}},{}]'
    (link,) = parse_links(text)
    assert (link.name, link.bridge) == ("veth0", "br0")
    with pytest.raises(ObservationError, match="no interfaces"):
        parse_links('[{"ifname":"lo"}]')


def test_resolvers_are_the_stubs_servers() -> None:
    assert parse_resolver("none\n").servers == ()
    stub = "/run/systemd/resolve/stub-resolv.conf\nnameserver 127.0.0.53\nGlobal:\nLink 2 (eth0): 10.0.2.3 10.0.2.4\n"
    assert parse_resolver(stub).servers == ("10.0.2.3", "10.0.2.4")
    assert parse_multicast_names("Global: no\nLink 2 (eth0): resolve\n") == ("Link 2 (eth0): resolve",)


@given(st.text())
@pytest.mark.parametrize(
    "parse", [parse_links, parse_multicast_names, parse_resolver, parse_moduli, lambda text: parse_names(text, "")]
)
def test_any_text_is_read_or_refused(parse: Callable[[str], object], text: str) -> None:
    with contextlib.suppress(ObservationError):
        parse(text)
