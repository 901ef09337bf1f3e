"""``sshd -T``: whom to ask it for, and what it says."""

from __future__ import annotations

import contextlib
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from seatrial.errors import ConfigError, ObservationError
from seatrial.evidence.accounts import Account, parse_groups, parse_passwd
from seatrial.evidence.settings import rule_holds, rule_text
from seatrial.evidence.sshd import (
    CONFIG_LINES,
    Caller,
    callers,
    expand_keys_file,
    parse_host_keys,
    parse_settings,
    settings_command,
)

ACCOUNTS = parse_passwd(
    "root:x:0:0::/root:/bin/sh\nann:x:1000:1000::/home/ann:/bin/sh\nbob:x:1001:1001::/home/bob:/bin/sh\n"
)
GROUPS = parse_groups("root:x:0:\nwheel:x:10:bob\nann:x:1000:\nempty:x:77:\n")
FAR = "198.51.100.7"


def extra(*lines: str) -> list[tuple[str, str]]:
    """Return user and address of the callers that ``lines`` add to root and the ordinary user."""
    return [(c.user, c.addr) for c in callers(lines, "nobody", ACCOUNTS, GROUPS)[2:]]


def test_root_and_an_ordinary_user_are_always_asked_for() -> None:
    assert [c.user for c in callers([], "nobody", ACCOUNTS, GROUPS)] == ["root", "nobody"]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("Match Address 192.0.2.0/24", [("root", "192.0.2.1"), ("nobody", "192.0.2.1")]),
        ("match address=192.0.2.9", [("root", "192.0.2.9"), ("nobody", "192.0.2.9")]),
        ("Match Address 10.*", [("root", "10.7"), ("nobody", "10.7")]),
        ("Match User ann", [("ann", FAR)]),
        ("Match User !ann,!root,*", [("bob", FAR)]),
        ("Match User deploy*", [("deployx", FAR)]),
        ("Match Group wheel", [("bob", FAR)]),
        ("Match Group ann Address 192.0.2.0/30", [("ann", "192.0.2.1")]),
        ("Match Group empty", []),
        ("Match User !ann", []),
        ("Match all", []),
        ("Match invalid-user", [("seatrial-nobody", FAR)]),
        ("Match invalid-user Address 192.0.2.9", [("seatrial-nobody", "192.0.2.9")]),
        ("Include /etc/ssh/sshd_config.d/*.conf", []),
    ],
)
def test_match_block_is_asked_for_as_somebody_whom_it_matches(line: str, expected: list[tuple[str, str]]) -> None:
    assert extra(line) == expected


def test_local_port_and_host_are_given_too() -> None:
    found = callers(["Match LocalPort 2222 Host *.example.org LocalAddress 10.1.0.0/16"], "nobody", ACCOUNTS, GROUPS)[2]
    assert (found.lport, found.host, found.laddr) == ("2222", "x.example.org", "10.1.0.1")


@pytest.mark.parametrize(
    "line", ["Match RDomain blue", "Match User", "Match Address nonsense", "Include '/opt/my sshd.conf'", "Port 22"]
)
def test_what_could_hide_settings_is_refused(line: str) -> None:
    with pytest.raises(ObservationError):
        extra(line)


def test_too_many_match_blocks_are_refused() -> None:
    with pytest.raises(ObservationError, match="more than"):
        extra(*(f"Match User u{number}" for number in range(40)))


@pytest.mark.parametrize("shell", ["sh", "bash --posix"])
def test_match_blocks_are_found_wherever_an_include_leads(tmp_path: Path, shell: str) -> None:
    files = {
        "sshd_config": "Include sshd_config.d/*.conf\nMatch User a\nInclude=deeper/*.conf other.conf sshd_config\n",
        "sshd_config.d/10-a.conf": "  include $R/policies/*.config\n",
        "sshd_config.d/20-b.conf": None,
        "vendor/20-b.conf": "Match User b\n",
        "policies/x.config": "MATCH Group c\n# Match User z\n",
        "deeper/d.conf": "Port 22\nMatch User d\n",
        "other.conf": "Match User e\n",
        "unused.conf": "Match User z\n",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        if text is not None:
            (tmp_path / name).write_text(text.replace("$R", str(tmp_path)))
    (tmp_path / "sshd_config.d/20-b.conf").symlink_to(tmp_path / "vendor/20-b.conf")
    script = CONFIG_LINES.replace("/etc/ssh", str(tmp_path))
    found = subprocess.run([*shell.split(), "-c", script], capture_output=True, text=True, check=True).stdout
    blocks = sorted(line for line in found.splitlines() if line.lower().startswith("match"))
    assert blocks == ["MATCH Group c", "Match User a", "Match User b", "Match User d", "Match User e"]


def test_question_is_quoted() -> None:
    assert "'user=a;reboot," in settings_command(Caller(user="a;reboot"))


def test_settings_keep_every_value_of_a_repeated_keyword() -> None:
    settings = parse_settings("port 22\nhostkey /a\nhostkey /b\nbanner none\n")
    assert settings["hostkey"] == ("/a", "/b")


@pytest.mark.parametrize("text", ["", "permitrootlogin no\n", "port 22\nBad configuration option\n"])
def test_unreadable_settings_are_refused(text: str) -> None:
    with pytest.raises(ObservationError, match="sshd -T"):
        parse_settings(text)


def test_host_key_line_is_read() -> None:
    (key,) = parse_host_keys("1795476002 /etc/ssh/ssh_host_rsa_key 3072 SHA256:abc root@a b (RSA)\n")
    assert (key.made_s, key.path, key.bits, key.kind) == (1795476002, "/etc/ssh/ssh_host_rsa_key", 3072, "RSA")


def test_host_key_that_ssh_keygen_cannot_read_is_refused() -> None:
    with pytest.raises(ObservationError, match="host key"):
        parse_host_keys("1795476002 /etc/ssh/ssh_host_rsa_key is not a public key file.\n")


@pytest.mark.parametrize(
    ("pattern", "path"),
    [
        (".ssh/authorized_keys", "/home/ann/.ssh/authorized_keys"),
        ("%h/keys", "/home/ann/keys"),
        ("/etc/ssh/keys/%u", "/etc/ssh/keys/ann"),
        ("/k/%%/%U", "/k/%/1000"),
    ],
)
def test_keys_file_pattern_is_expanded(pattern: str, path: str) -> None:
    ann = Account(name="ann", password="x", uid=1000, gid=1000, home="/home/ann", shell="/bin/sh")
    assert expand_keys_file(pattern, ann) == path


@given(st.lists(st.text(alphabet=st.sampled_from("Match Useradrs!*?,=/.0129:\"'\\"), max_size=50), max_size=5))
def test_any_match_lines_give_callers_or_are_refused(lines: list[str]) -> None:
    with contextlib.suppress(ObservationError):
        assert len(callers([f"Match {line}" for line in lines], "nobody", ACCOUNTS, GROUPS)) >= 2


@pytest.mark.parametrize(
    ("rule", "value", "holds"),
    [
        ({"in": ["no", "prohibit-password"]}, "NO", True),
        ({"in": ["no"]}, "yes", False),
        ({"min": 1, "max": 60}, "60", True),
        ({"min": 1, "max": 60}, "0", False),
        ({"max": 4}, "50", False),
        ({"max": 4}, "four", False),
        ({"max": 4}, "-1", False),
        ({"within": ["a", "b"]}, "a,b", True),
        ({"within": ["a", "b"]}, "a,c", False),
        ({"within": ["a"]}, "", False),
    ],
)
def test_rule_judges_a_value(rule: dict[str, object], value: str, holds: bool) -> None:
    assert rule_holds(rule, value) is holds


@pytest.mark.parametrize("rule", [{}, {"minimum": 3}])
def test_rule_that_says_nothing_known_is_a_fault_of_the_table(rule: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="known: in, max, min, within"):
        rule_holds(rule, "x")


def test_rule_is_told_in_words() -> None:
    assert rule_text({"min": 1, "max": 60}) == "at least 1 and at most 60"
