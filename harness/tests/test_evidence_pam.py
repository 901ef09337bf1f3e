"""Reading PAM's stacks."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from seatrial.errors import ObservationError
from seatrial.evidence.pam import Entry, options_of, parse_services
from suite_bench import recorded


def modules(text: str, service: str, kind: str) -> list[str]:
    return [entry.module for entry in parse_services(text).stack(service, kind)]


def test_recorded_stacks_are_followed_through_what_they_include() -> None:
    services = parse_services(recorded("hardening/pam-stacks"))
    assert [entry.module for entry in services.stack("su-l", "auth")] == [
        "pam_rootok", "pam_wheel", "pam_faillock", "pam_unix", "pam_faillock", "pam_deny", "pam_permit",
    ]  # fmt: skip
    wheel = services.stack("su", "auth")[1]
    assert wheel == Entry(kind="auth", control="required", module="pam_wheel", arguments=("use_uid", "group=sudo"))


def test_include_takes_one_kind_and_at_include_all() -> None:
    text = "/etc/pam.d/a:auth include b\n/etc/pam.d/c:@include b\n/etc/pam.d/b:auth required pam_x.so\n"
    text += "/etc/pam.d/b:-session optional /lib/security/pam_y.so\n"
    assert modules(text, "a", "auth") == ["pam_x"]
    assert modules(text, "a", "session") == []
    assert modules(text, "c", "session") == ["pam_y"]


def test_administrators_file_wins_and_other_stands_in() -> None:
    text = "/usr/lib/pam.d/a:auth required pam_old.so\n/etc/pam.d/a:auth required pam_new.so\n"
    text += "/usr/lib/pam/pam.d/a:auth required pam_vendor.so\n/usr/lib/pam/pam.d/b:auth required pam_vendor.so\n"
    assert modules(text, "b", "auth") == ["pam_vendor"]
    text += "/etc/pam.d/other:auth required pam_deny.so\n"
    assert modules(text, "a", "auth") == ["pam_new"]
    assert modules(text, "unknown", "auth") == ["pam_deny"]


def test_continued_lines_and_brackets_are_one_entry() -> None:
    text = "/etc/pam.d/a:auth [success=1 default=ignore] \\\n/etc/pam.d/a:  pam_unix.so  [text=a b] nullok # no\n"
    (entry,) = parse_services(text).stack("a", "auth")
    assert entry.arguments == ("text=a b", "nullok")
    assert entry.may_skip


@pytest.mark.parametrize(
    ("control", "accepted", "refused", "may_skip"),
    [
        ("required", "ok", "bad", False),
        ("requisite", "ok", "die", False),
        ("sufficient", "done", "ignore", True),
        ("optional", "ok", "ignore", False),
        ("[success=2 default=ignore]", "2", "ignore", True),
        ("[user_unknown=ignore success=ok ignore=ignore default=bad]", "ok", "bad", False),
        ("[success=ignore default=1]", "ignore", "1", False),
        ("[default=die]", "die", "die", False),
        ("[auth_err=ignore]", "bad", "ignore", False),
    ],
)
def test_what_becomes_of_a_stack(control: str, accepted: str, refused: str, may_skip: bool) -> None:
    entry = Entry(kind="auth", control=control, module="pam_x", arguments=())
    assert (entry.action("success"), entry.action("auth_err"), entry.may_skip) == (accepted, refused, may_skip)


@pytest.mark.parametrize(
    "text",
    ["", "/etc/pam.d/a:auth pam_x.so\n", "/etc/pam.d/a:@include a\n", "/etc/pam.d/a:auth include gone\n"],
)
def test_what_cannot_be_followed_is_an_error(text: str) -> None:
    with pytest.raises(ObservationError):
        parse_services(text).stack("a", "auth")


def test_arguments_win_over_the_file() -> None:
    entry = Entry(kind="auth", control="required", module="pam_faillock", arguments=("preauth", "deny=9"))
    assert options_of(entry, ["deny = 3 # few", "# silent", "even_deny_root"]) == {
        "deny": "9",
        "even_deny_root": "",
        "preauth": "",
    }


@given(st.lists(st.text(st.characters(exclude_characters="\n"))))
def test_any_stack_is_read_or_refused(lines: list[str]) -> None:
    with contextlib.suppress(ObservationError):
        parse_services("".join(f"/etc/pam.d/a:{line}\n" for line in lines)).stack("a", "auth")
