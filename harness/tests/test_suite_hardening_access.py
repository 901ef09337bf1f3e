"""Who gets in, as the hardening suite sees it: sshd as it was started, keys and what gives some, consoles."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
from hardening_answers import add, sub
from hardening_bench import MODULES, flavour_named, healthy, outcomes
from seatrial.policy.judge import Outcome


def test_options_that_sshd_was_started_with_win_over_its_configuration() -> None:
    texts = healthy()
    texts["sshd-listeners"] = sub("-D", "-D -o PermitEmptyPasswords=yes")(texts["sshd-listeners"])
    changed = sub("^permitemptypasswords no", "permitemptypasswords yes")(texts["sshd-settings"])
    texts["sshd-settings -o PermitEmptyPasswords=yes"] = changed
    seen = outcomes(texts, flavour_named("debian-general"))
    assert {name for name, outcome in seen.items() if outcome is Outcome.FAIL} == {"ssh-empty-passwords"}


def test_a_server_of_which_nobody_knows_how_it_was_started_is_not_judged() -> None:
    texts = {**healthy(), "sshd-listeners": ""}
    seen = outcomes(texts, flavour_named("debian-general"))
    assert {seen["ssh-root-login"], seen["ssh-effective-config-parses"]} == {Outcome.ERROR}


def test_host_keys_are_those_that_sshd_names() -> None:
    texts = healthy()
    texts["sshd-settings"] = sub("^hostkey .*\n", "")(texts["sshd-settings"]) + "hostkey /usr/share/acme/key\n"
    texts["states"] = add("81a4 root root /usr/share/acme/key")(texts["states"])
    assert outcomes(texts, flavour_named("debian-general"))["ssh-hostkey-perms"] is Outcome.FAIL


@pytest.mark.parametrize(
    ("command", "keys", "outcome"),
    [
        ("/usr/local/bin/keys", "", Outcome.FAIL),
        ("/usr/bin/userdbctl ssh-authorized-keys %u", "", Outcome.PASS),
        ("/usr/bin/userdbctl ssh-authorized-keys %u", "ssh-ed25519 AAAAC3Nz vendor@build\n", Outcome.FAIL),
        ("/usr/bin/userdbctl ssh-authorized-keys --chain %u /x", "", Outcome.FAIL),
    ],
)
def test_a_command_that_gives_keys_is_asked_or_refused(command: str, keys: str, outcome: Outcome) -> None:
    texts = {**healthy(), "record-keys": keys}
    given = sub("^authorizedkeyscommand none$", f"authorizedkeyscommand {command}")
    texts["sshd-settings"] = given(texts["sshd-settings"])
    assert outcomes(texts, flavour_named("debian-general"))["acct-no-baked-keys"] is outcome


def test_sshd_that_was_built_without_gssapi_cannot_use_it() -> None:
    texts = healthy()
    texts["sshd-settings"] = sub("^(gssapi|kerberos).*\n", "")(texts["sshd-settings"])
    assert outcomes(texts, flavour_named("debian-general"))["ssh-gssapi-kerberos"] is Outcome.PASS


def test_a_list_of_groups_that_was_emptied_is_none() -> None:
    texts = {**healthy(), "moduli": "groups\n"}
    assert outcomes(texts, flavour_named("debian-general"))["ssh-moduli"] is Outcome.FAIL


def test_without_moduli_nobody_may_be_able_to_ask_for_a_group() -> None:
    texts = {**healthy(), "moduli": ""}
    assert outcomes(texts, flavour_named("debian-general"))["ssh-moduli"] is Outcome.PASS
    more = sub("^kexalgorithms ", "kexalgorithms diffie-hellman-group-exchange-sha256,")
    texts["sshd-settings"] = more(texts["sshd-settings"])
    assert outcomes(texts, flavour_named("debian-general"))["ssh-moduli"] is Outcome.FAIL


def test_the_groups_bits_of_the_umask_harm_nobody_with_a_group_of_ones_own_only() -> None:
    texts = {**healthy(), "user-shell": healthy()["user-shell"].replace("umask=0027", "umask=0007")}
    assert outcomes(texts, flavour_named("debian-general"))["acct-umask"] is Outcome.PASS
    texts["passwd"] = re.sub(r"(?m)^seatrial:x:1000:1000:", "seatrial:x:1000:100:", texts["passwd"])
    assert texts["passwd"] != healthy()["passwd"]
    assert outcomes(texts, flavour_named("debian-general"))["acct-umask"] is Outcome.FAIL


RECEPTION = MODULES["test_logging"]._RECEPTION
FORWARDS = 'destination d_remote {\n  network("logs.corp.example" port(6514));\n};\n'


@pytest.mark.parametrize(
    ("sources", "is_found"),
    [
        ("source s_sys { system(); internal(); };\n", False),
        ("source s_sys {\n  system();\n};\n", False),
        ("source s_net { network(ip(0.0.0.0)); };\n", True),
        ("source s_net {\n  udp();\n};\n", True),
        ("# source s_net { udp(); };\nsource s_sys { system(); };\n", False),
    ],
)
def test_what_syslog_ng_takes_from_the_network_is_told_from_what_it_sends_there(
    tmp_path: Path, sources: str, is_found: bool
) -> None:
    (tmp_path / "syslog-ng.conf").write_text(sources + FORWARDS)
    question = RECEPTION.replace("/etc/syslog-ng", str(tmp_path))
    found = subprocess.run(["sh", "-c", question], capture_output=True, text=True, check=True).stdout
    assert bool(found) is is_found
    assert "logs.corp" not in found


GETTY = MODULES["test_privilege"]._AUTOLOGIN
UNIT = "[Service]\nExecStart=-/sbin/{}\n"


@pytest.mark.parametrize(
    ("starts", "is_found"),
    [
        ("agetty --autologin root %I $TERM", True),
        ("agetty -a root %I $TERM", True),
        ("agetty -n -l /bin/bash --noclear %I $TERM", True),
        ("agetty --skip-login --login-options '-f root' %I", True),
        ("login -f root", True),
        ("agetty -o '-- \\\\u' --noreset --noclear --issue-file=/etc/issue:/run/issue.d - $TERM", False),
        ("agetty -o '-p -- \\\\u' --keep-baud 115200,57600,38400,9600 - $TERM", False),
    ],
)
def test_units_that_log_somebody_in_are_found(tmp_path: Path, starts: str, is_found: bool) -> None:
    (tmp_path / "getty@.service").write_text(UNIT.format(starts))
    found = subprocess.run(
        ["sh", "-c", GETTY.replace("/etc/systemd/system", str(tmp_path), 1)], capture_output=True, text=True, check=True
    ).stdout
    assert (starts in found) is is_found


@pytest.mark.parametrize(
    ("answer", "said", "control"),
    [
        ("brought", "stored /etc/credstore/ssh.authorized_keys.root", "acct-no-baked-keys"),
        ("brought", "/etc/systemd/system/a.service:SetCredential=ssh.authorized_keys.root:x", "acct-no-baked-keys"),
        ("cmdline", "systemd.set_credential=ssh.authorized_keys.root:ssh-ed25519", "acct-no-baked-keys"),
        ("brought", "stored /usr/lib/credstore/passwd.hashed-password.root", "acct-no-default-password"),
        ("cmdline", "systemd.set_credential=passwd.plaintext-password.root:x", "acct-no-default-password"),
        ("brought", "/etc/systemd/system/g@.service.d/a.conf:SetCredential=login.noauth:yes", "acct-no-autologin"),
    ],
)
def test_credentials_of_the_images_own_let_nobody_in(answer: str, said: str, control: str) -> None:
    texts = healthy()
    texts[answer] = f"{texts[answer].rstrip()}{' ' if answer == 'cmdline' else chr(10)}{said}\n"
    seen = outcomes(texts, flavour_named("debian-general"))
    assert {name for name, outcome in seen.items() if outcome is Outcome.FAIL} == {control}
