"""Credentials that an image brings: where they are, what they do, and that no text of the guest breaks the reading."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from seatrial.evidence.cmdline import Cmdline, parse_cmdline
from seatrial.evidence.credentials import Credential, parse_brought


@pytest.mark.parametrize(
    ("line", "name"),
    [
        ("stored /etc/credstore/ssh.authorized_keys.root", "ssh.authorized_keys.root"),
        ("stored /usr/lib/credstore.encrypted/passwd.hashed-password.root.cred", "passwd.hashed-password.root"),
        ("/etc/systemd/system/a.service.d/b.conf:SetCredential=agetty.autologin:root", "agetty.autologin"),
        ("/run/systemd/system/a.service:  SetCredentialEncrypted = login.noauth: \\", "login.noauth"),
        ("/etc/systemd/system/a.service:LoadCredential=ssh.ephemeral-authorized_keys-all:/opt/keys", None),
    ],
)
def test_stores_and_units_are_read(line: str, name: str | None) -> None:
    (found,) = parse_brought(f"{line}\n", Cmdline(()))
    assert found.name == (name or "ssh.ephemeral-authorized_keys-all")
    assert [found.is_ssh_key, found.is_password, found.is_login].count(True) == 1


@pytest.mark.parametrize(
    "line",
    [
        "/usr/lib/systemd/system/a.service:LoadCredential=passwd.hashed-password.root",
        "/usr/lib/systemd/system/a.service:LoadCredential=ssh.authorized_keys.root:ssh.authorized_keys.root",
        "/usr/lib/systemd/system/a.service:ImportCredential=ssh.*",
        "stored nothing",
    ],
)
def test_what_passes_on_the_platforms_credentials_brings_none(line: str) -> None:
    assert parse_brought(f"{line}\n", Cmdline(())) == ()


def test_the_command_line_brings_credentials_as_text_and_as_base64() -> None:
    words = [
        "quiet",
        "systemd.set-credential=ssh.authorized_keys.root:ssh-ed25519",
        "systemd.set_credential=nothing",
        "-- systemd.set_credential_binary=passwd.plaintext-password.root:eA==",
    ]
    found = parse_brought("", parse_cmdline(" ".join(words)))
    assert [(one.name, one.where) for one in found] == [
        ("ssh.authorized_keys.root", "command line"),
        ("passwd.plaintext-password.root", "command line"),
    ]


@given(st.text(), st.lists(st.tuples(st.sampled_from(["systemd.set_credential", "quiet"]), st.text())))
def test_whatever_the_guest_says_is_read_without_a_fault(text: str, words: list[tuple[str, str]]) -> None:
    assert all(one.where for one in parse_brought(text, Cmdline(words)))


def test_a_name_that_only_ends_like_a_login_is_none() -> None:
    names = ["tty.serial.ttyS0.agetty.autologin", "login.noauth", "my-login.noauth"]
    assert [Credential(name=name, where="x").is_login for name in names] == [True, True, False]
