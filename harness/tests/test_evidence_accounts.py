"""Account files, login.defs, login shells and sudoers: read wholly, or refused; never silently skipped."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from seatrial.errors import ObservationError
from seatrial.evidence.accounts import (
    Account,
    Secret,
    parse_groups,
    parse_login_defs,
    parse_login_shell,
    parse_new_accounts,
    parse_passwd,
    parse_shadow,
    parse_shell_timeout,
    parse_shells,
    people,
    uid_min,
)
from seatrial.evidence.sudoers import parse_sudoers

ROOT = "root:x:0:0:root:/root:/bin/bash"
GUEST_TEXT = st.text(alphabet=st.sampled_from("ab:x0/,=\\#!* \t\n\x0b\x0c\x85\u2028@$5'\"[]()"), max_size=80)
PARSERS: tuple[Callable[[str], object], ...] = (
    parse_passwd,
    parse_groups,
    parse_shadow,
    parse_login_defs,
    parse_login_shell,
    parse_new_accounts,
    parse_shell_timeout,
    parse_shells,
)


@given(text=GUEST_TEXT, parser=st.sampled_from(PARSERS))
def test_any_text_is_read_or_refused_as_unreadable(text: str, parser: Callable[[str], object]) -> None:
    with contextlib.suppress(ObservationError):
        assert parser(text) is not None


@given(text=GUEST_TEXT)
def test_no_passwd_line_gets_lost(text: str) -> None:
    try:
        accounts = parse_passwd(text)
    except ObservationError:
        return
    names = {line.split(":")[0] for line in text.split("\n") if line}
    assert {account.name for account in accounts} == names


def test_passwd_entry_is_read() -> None:
    assert parse_passwd(f"{ROOT}\n") == (
        Account(name="root", password="x", uid=0, gid=0, home="/root", shell="/bin/bash"),
    )


def test_entry_that_two_sources_repeat_counts_once() -> None:
    assert len(parse_passwd(f"{ROOT}\nroot:x:0:0:root:/root:/bin/sh\n")) == 1


@pytest.mark.parametrize(
    "line", ["root:x:0:0:root:/root", "root:x:zero:0:r:/:/bin/sh", ":x:0:0:r:/:/bin/sh", "x", "root:x:-1:0:r:/:/"]
)
def test_line_that_is_no_passwd_entry_is_named(line: str) -> None:
    with pytest.raises(ObservationError, match="no 'name:x:uid:gid") as caught:
        parse_passwd(f"{ROOT}\n{line}\n")
    assert repr(line) in str(caught.value)


def test_vertical_tab_starts_no_new_entry() -> None:
    # str.splitlines would see two entries here, the second of which the guest does not have.
    (account,) = parse_passwd("root:x:0:0:a\x0btoor:/root:/bin/bash\n")
    assert (account.name, account.home) == ("root", "/root")


@pytest.mark.parametrize(
    ("shell", "lets_in"),
    [
        ("/bin/bash", True),
        ("", True),
        ("/usr/sbin/nologin", False),
        ("/sbin/nologin", False),
        ("/bin/false", False),
        ("/bin/sync", False),
        ("/home/x/sync", True),
    ],
)
def test_login_shell_is_whatever_lets_somebody_in(shell: str, lets_in: bool) -> None:
    assert Account(name="a", password="x", uid=1, gid=1, home="/", shell=shell).has_login_shell is lets_in


@pytest.mark.parametrize(
    ("field", "locked", "scheme"),
    [
        ("!", True, None),
        ("!!", True, None),
        ("!*", True, None),
        ("*", True, None),
        ("!$6$salt$hash", True, "6"),
        ("$y$j9T$salt$hash", False, "y"),
        ("$1$salt$hash", False, "1"),
        ("ab1234567890.", False, "des"),
        ("*NP*", True, None),
        ("", False, None),
    ],
)
def test_password_field_is_understood(field: str, locked: bool, scheme: str | None) -> None:
    secret = Secret(name="a", field=field)
    assert (secret.is_locked, secret.scheme, secret.is_empty) == (locked, scheme, field == "")


def test_shadow_fault_does_not_show_the_hash() -> None:
    with pytest.raises(ObservationError) as caught:
        parse_shadow("somebody-with-name:$6$salt$SECRETHASH:1:2\n")
    assert "SECRETHASH" not in str(caught.value)


def test_nis_entry_names_no_account_but_one_with_an_id_does() -> None:
    # getent repeats '+::::::'; it must not keep the other controls from being judged.
    accounts = parse_passwd(f"{ROOT}\n+::::::\n-ann\n+toor:x:0:0::/root:/bin/sh\n")
    assert [account.name for account in accounts] == ["root", "+toor"]


def test_last_login_defs_setting_wins() -> None:
    assert parse_login_defs("UMASK 022\n # UMASK 000\nUMASK\t027 \n") == {"UMASK": "027"}


def test_a_comment_behind_a_value_is_a_part_of_it() -> None:
    """useradd cannot parse such a number, and leaves the setting out."""
    assert parse_login_defs("PASS_MAX_DAYS 365 # a year\n") == {"PASS_MAX_DAYS": "365 # a year"}


def test_uid_min_must_be_a_number() -> None:
    with pytest.raises(ObservationError, match="UID_MIN 'x'"):
        uid_min({"UID_MIN": "x"})


def test_people_are_root_persons_and_whoever_can_log_in() -> None:
    passwd = (
        f"{ROOT}\ndaemon:x:1:1::/:/usr/sbin/nologin\ncore:x:500:500::/home/core:/bin/bash\n"
        "ann:x:1000:1000::/home/ann:/bin/false\n"
    )
    assert [account.name for account in people(f"{passwd}nobody:x:65534:65534::/:/usr/sbin/nologin\n", "")] == [
        "root",
        "core",
        "ann",
    ]


def test_login_shell_answer_survives_what_profiles_print() -> None:
    shell = parse_login_shell("Welcome!\n\nseatrial-umask=0027\nseatrial-path=/usr/bin::.\n")
    assert (shell.umask, shell.path) == (0o027, ("/usr/bin", "", "."))


def test_sudoers_comments_continuations_and_numbers() -> None:
    sudoers = parse_sudoers(
        {
            "/etc/sudoers": [
                "# NOPASSWD: here is a comment",
                "ann ALL=(ALL) \\",
                "  NOPASSWD: ALL # why",
                "#1000 ALL=(ALL) ALL",
            ]
        }
    )
    assert [rule for _, rule in sudoers.rules] == ["ann ALL=(ALL)    NOPASSWD: ALL", "#1000 ALL=(ALL) ALL"]


def test_last_sudo_default_wins_and_lists_are_split() -> None:
    sudoers = parse_sudoers(
        {
            "/etc/sudoers": [
                'Defaults use_pty, secure_path="/a,b:/c"',
                "Defaults: ann, bob !use_pty, env_reset",
                "Defaults timestamp_timeout=5",
                "Defaults !env_reset",
            ]
        }
    )
    assert sudoers.default("use_pty") is True
    assert sudoers.exceptions("use_pty") == ((":ann,bob", False),)
    assert (sudoers.default("env_reset"), sudoers.exceptions("env_reset")) == (False, ((":ann,bob", True),))
    assert sudoers.default("secure_path") == "/a,b:/c"
    assert sudoers.default("timestamp_timeout") == "5"
    assert sudoers.default("syslog") is None


def test_file_that_sudo_ignores_is_ignored() -> None:
    assert (
        parse_sudoers({"/etc/sudoers.d/x.bak": ["ann ALL=NOPASSWD: ALL"], "/etc/sudoers.d/x~": ["bob ALL=ALL"]}).rules
        == ()
    )


@pytest.mark.parametrize("line", ["@include /opt/more", "#include /opt/more", "@includedir /opt/sudoers.d"])
def test_included_file_that_was_not_read_is_a_fault(line: str) -> None:
    with pytest.raises(ObservationError, match="/opt/"):
        parse_sudoers({"/etc/sudoers": [line]})


@given(st.lists(GUEST_TEXT.map(lambda text: text.replace("\n", "")), max_size=8))
def test_any_sudoers_line_is_a_rule_a_default_or_refused(lines: list[str]) -> None:
    with contextlib.suppress(ObservationError):
        sudoers = parse_sudoers({"/etc/sudoers": lines})
        assert all(rule for _, rule in sudoers.rules)


def test_shells_are_listed_or_the_usual_ones() -> None:
    assert parse_shells("# shells\n/bin/bash # good\n") == {"/bin/bash"}
    assert parse_shells("") == {"/bin/sh", "/bin/csh"}


def test_defaults_for_new_accounts_must_name_inactivity() -> None:
    assert parse_new_accounts("GROUP=100\nINACTIVE=30\n")["INACTIVE"] == "30"
    with pytest.raises(ObservationError, match="did not say INACTIVE"):
        parse_new_accounts("GROUP=100\n")


def test_time_out_of_a_shell_counts_only_when_the_shell_came_to_its_end() -> None:
    said = "hello\nseatrial-timeout=900\nseatrial-exported=900\nseatrial-changed\nseatrial-tried\n"
    timeout = parse_shell_timeout(said)
    assert (timeout.seconds, timeout.is_exported, timeout.escapes) == (900, True, ("changed",))
    assert parse_shell_timeout(said.replace("timeout=900", "timeout=none")).seconds is None
    with pytest.raises(ObservationError, match="did not say its time-out"):
        parse_shell_timeout(said.replace("seatrial-tried\n", ""))
