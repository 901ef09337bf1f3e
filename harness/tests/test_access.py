"""How the run gets in: every route gives what its reader in the guest expects; bad combinations end before a boot."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed25519, rsa
from hypothesis import given
from hypothesis import strategies as st
from seatrial.access import ChosenAccess, way_in
from seatrial.clock import Deadline
from seatrial.errors import ConfigError
from seatrial.evidence.access import advice
from seatrial.guest.keys import load_key
from seatrial.guest.ssh import Address, connect
from seatrial.layout import data_dir
from seatrial.machine.provision import Provision, provision
from seatrial.options import resolve
from seatrial.policy.differences import Touched
from seatrial.policy.flavours import Access, Flavour, load_flavour
from ssh_server import ssh_server

LINE = "ssh-ed25519 AAAA seatrial-run"
IGNITION = {"ignition": {"version": "3.3.0"}}


def flavour(name: str = "debian-general") -> Flavour:
    folder = data_dir("suites") / "flavours"
    return load_flavour(name, lambda one: (folder / f"{one}.toml").read_text(), known=())


def chosen(name: str = "debian-general", **options: object) -> ChosenAccess:
    given_ = {f"seatrial_{key}": str(value) for key, value in options.items()}
    return way_in(flavour(name), resolve(given_.get, lambda _key: None, {}))


def key_file(folder: Path, private: Any = None, *, form: str = "OpenSSH", password: bytes = b"") -> Path:
    private = private or ed25519.Ed25519PrivateKey.generate()
    protection = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
    path = folder / "run.key"
    path.write_bytes(
        private.private_bytes(serialization.Encoding.PEM, getattr(serialization.PrivateFormat, form), protection)
    )
    return path


def config_file(folder: Path, config: object) -> Path:
    path = folder / "mine.ign"
    path.write_text(config if isinstance(config, str) else json.dumps(config))
    return path


def test_without_options_the_flavour_says_how() -> None:
    assert chosen().access == Access(route="cloud-init", user="seatrial")
    assert chosen("debian-immutable").access == Access(route="credentials", user="root")


@pytest.mark.parametrize(
    ("options", "route", "user"),
    [
        ({"access": "credentials"}, "credentials", "root"),
        ({"access": "ignition"}, "ignition", "core"),
        ({"access": "cloud-init"}, "cloud-init", "seatrial"),
        ({"access": "credentials-fw-cfg", "ssh_user": "ada"}, "credentials-fw-cfg", "ada"),
        ({"ssh_user": "ada"}, "cloud-init", "ada"),
    ],
)
def test_an_option_wins_over_the_flavour(options: dict[str, str], route: str, user: str) -> None:
    way = chosen(**options)
    assert (way.access.route, way.access.user, way.key) == (route, user, None)


def test_a_key_alone_means_a_user_that_the_image_has(tmp_path: Path) -> None:
    way = chosen(ssh_key=key_file(tmp_path), ssh_user="admin")
    assert way.access == Access(route="existing", user="admin")
    assert way.key is not None


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (
            {"access": "existing"},
            "access route 'existing' logs in as 'seatrial' .* no key was given\n  hint: --ssh-key",
        ),
        ({"access": "credentials", "ssh_key": "KEY"}, "--ssh-key does not go with access route 'credentials'"),
        ({"access": "credentials", "ignition": "CONFIG"}, "--ignition does not go with access route 'credentials'"),
        ({"ignition": "CONFIG"}, "--ignition does not go with access route 'cloud-init'"),
        ({"ssh_user": "root"}, "cloud-init shuts root's login"),
        ({"ssh_user": "not a user"}, "the way in by route 'cloud-init' as user 'not a user' is not valid: user: "),
        ({"ssh_key": "/nowhere/key"}, "--ssh-key '/nowhere/key' cannot be read: No such file"),
        ({"access": "telnet"}, "--access is 'telnet'; expected one of credentials, "),
    ],
)
def test_a_bad_combination_is_named_with_its_remedy(tmp_path: Path, options: dict[str, str], text: str) -> None:
    files = {"KEY": str(key_file(tmp_path)), "CONFIG": str(config_file(tmp_path, IGNITION))}
    with pytest.raises(ConfigError, match=text):
        chosen(**{name: files.get(value, value) for name, value in options.items()})


KINDS = {
    "ed25519 OpenSSH": (ed25519.Ed25519PrivateKey.generate, "OpenSSH"),
    "ed25519 PKCS8": (ed25519.Ed25519PrivateKey.generate, "PKCS8"),
    "ecdsa OpenSSH": (lambda: ec.generate_private_key(ec.SECP256R1()), "OpenSSH"),
    "ecdsa PEM": (lambda: ec.generate_private_key(ec.SECP384R1()), "TraditionalOpenSSL"),
    "rsa PEM": (lambda: rsa.generate_private_key(65537, 2048), "TraditionalOpenSSL"),
    "rsa OpenSSH": (lambda: rsa.generate_private_key(65537, 2048), "OpenSSH"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_key_of_any_usual_kind_and_form_logs_in(tmp_path: Path, kind: str) -> None:
    make, form = KINDS[kind]
    key = load_key(key_file(tmp_path, make(), form=form))
    with (
        ssh_server(key.public_line) as served,
        connect(Address(served.port), "admin", key, deadline=Deadline(20)) as connection,
    ):
        assert connection.is_alive


@pytest.mark.parametrize("form", ["OpenSSH", "PKCS8", "TraditionalOpenSSL"])
def test_a_key_with_a_password_is_refused_with_the_command_that_helps(tmp_path: Path, form: str) -> None:
    private = rsa.generate_private_key(65537, 2048)
    with pytest.raises(ConfigError, match=r"is protected by a password, .*\n  hint: .*ssh-keygen -p -N ''"):
        load_key(key_file(tmp_path, private, form=form, password=b"secret"))


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"ssh-ed25519 AAAA me@here\n", "is a public key; the private one is needed"),
        (b"ecdsa-sha2-nistp256 AAAA me@here\n", "is a public key"),
        (b"", "is no private key that can be read"),
        (b"PuTTY-User-Key-File-3: ssh-ed25519\n", "is no private key .*\n  hint: .*puttygen"),
        (b"-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n-----END OPENSSH PRIVATE KEY-----\n", "is no private key"),
        (b"x" * 70_000, "is larger than 65536 bytes: that is no key"),
    ],
)
def test_what_is_no_private_key_is_told_apart(tmp_path: Path, content: bytes, text: str) -> None:
    path = tmp_path / "key"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=text):
        load_key(path)


def test_a_key_that_no_server_takes_any_more_is_refused(tmp_path: Path) -> None:
    private = dsa.generate_private_key(1024)
    with pytest.raises(ConfigError, match=r"holds a key of type .*DSA"):
        load_key(key_file(tmp_path, private, form="PKCS8"))


@given(st.binary(max_size=300))
def test_no_content_of_a_key_file_breaks_the_reader(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "any.key"
    path.write_bytes(content)
    with pytest.raises(ConfigError):
        load_key(path)


def given_by(route: str, user: str, **more: str) -> Provision:
    return provision(Access.model_validate({"route": route, "user": user}), LINE, run_id="r", **more)


def smbios(found: Provision) -> dict[str, str]:
    named = (entry.removeprefix("io.systemd.credential.binary:").partition("=") for entry in found.smbios)
    return {name: base64.b64decode(value).decode() for name, _, value in named}


def test_root_gets_the_key_by_smbios_or_fw_cfg() -> None:
    assert smbios(given_by("credentials", "root")) == {"ssh.authorized_keys.root": f"{LINE}\n"}
    found = given_by("credentials-fw-cfg", "root")
    assert found.smbios == ()
    assert found.fw_cfg == (("opt/io.systemd.credentials/ssh.authorized_keys.root", f"{LINE}\n".encode()),)


def test_where_smbios_is_not_sure_to_arrive_fw_cfg_is_taken() -> None:
    found = given_by("credentials", "root", arch="aarch64")
    assert (found.smbios, len(found.fw_cfg)) == ((), 1)


def test_a_user_is_made_with_key_and_sudo_rule_by_credentials() -> None:
    found = smbios(given_by("credentials", "ada"))
    assert found["sysusers.extra"].startswith("u ada 59901 ")
    lines = {line.split()[1]: line.split() for line in found["tmpfiles.extra"].splitlines()}
    key = lines["/home/ada/.ssh/authorized_keys"]
    assert key[:5] == ["f~", "/home/ada/.ssh/authorized_keys", "0600", "ada", "ada"]
    assert base64.b64decode(key[6]).decode() == f"{LINE}\n"
    rule = lines["/etc/sudoers.d/90-seatrial-run"]
    assert (rule[2], base64.b64decode(rule[6]).decode()) == ("0440", "ada ALL=(ALL) NOPASSWD:ALL\n")


@pytest.mark.parametrize("route", ["credentials-fw-cfg", "ignition"])
@pytest.mark.parametrize("user", ["root", "core", "ada"])
def test_fw_cfg_names_are_within_qemus_limit(route: str, user: str) -> None:
    assert all(len(name) <= 55 for name, _content in given_by(route, user).fw_cfg)


def test_ignition_goes_by_both_names_that_distributions_read() -> None:
    found = given_by("ignition", "core")
    assert [name for name, _content in found.fw_cfg] == ["opt/org.flatcar-linux/config", "opt/com.coreos/config"]
    (config,) = {content for _name, content in found.fw_cfg}
    users = [{"name": "core", "sshAuthorizedKeys": [LINE]}]
    assert json.loads(config) == {"ignition": {"version": "3.3.0"}, "passwd": {"users": users}}


def test_another_user_gets_a_sudo_rule_from_ignition() -> None:
    config = json.loads(given_by("ignition", "ada").fw_cfg[0][1])
    (file,) = config["storage"]["files"]
    assert (file["path"], file["mode"]) == ("/etc/sudoers.d/90-seatrial-run", 0o440)
    assert unquote(file["contents"]["source"]) == "data:,ada ALL=(ALL) NOPASSWD:ALL\n"


def test_a_config_of_the_users_own_keeps_all_it_says() -> None:
    mine = {
        "ignition": {"version": "3.1.0"},
        "passwd": {"users": [{"name": "core", "sshAuthorizedKeys": ["ssh-rsa BBBB me"], "shell": "/bin/zsh"}]},
        "systemd": {"units": [{"name": "a.service", "enabled": True}]},
    }
    found = given_by("ignition", "core", ignition=json.dumps(mine))
    config = json.loads(found.fw_cfg[0][1])
    assert config["systemd"] == mine["systemd"]
    assert config["passwd"]["users"] == [
        {"name": "core", "sshAuthorizedKeys": ["ssh-rsa BBBB me", LINE], "shell": "/bin/zsh"}
    ]
    touched = {t for difference in found.differences for t in difference.touches}
    assert {Touched.ACCOUNTS, Touched.HOST_NAME} <= touched


@pytest.mark.parametrize(
    ("config", "text"),
    [
        ("variant: flatcar\nversion: 1.0.0\n", r"is not JSON: .*\n  hint: Butane YAML is translated by: butane"),
        ({"ignition": {"version": "2.3.0"}}, "has Ignition version '2.3.0'; version 3 was expected"),
        ({"ignition": {}}, "has Ignition version None"),
        ([1], "has Ignition version None"),
        ({**IGNITION, "passwd": {"users": {}}}, "passwd.users is no list"),
        ({**IGNITION, "passwd": []}, "passwd.users is no list"),
        ("[" * 100_000, "is not JSON"),
    ],
)
def test_a_config_that_ignition_would_not_take_is_refused_before_the_boot(
    tmp_path: Path, config: object, text: str
) -> None:
    with pytest.raises(ConfigError, match=text):
        chosen(access="ignition", ignition=config_file(tmp_path, config))


def test_an_existing_user_brings_nothing_in_and_says_so() -> None:
    found = given_by("existing", "admin")
    assert (found.smbios, found.seed, found.fw_cfg) == ((), b"", ())
    assert found.differences[0].text == "nothing was brought in: user 'admin' and its key are the image's own"


@pytest.mark.parametrize(
    ("route", "console", "text"),
    [
        ("cloud-init", "sshd started", "the console never names cloud-init"),
        ("cloud-init", "Cloud-init v. 24.1\nDataSourceNone", "cloud-init found no seed"),
        ("cloud-init", "Cloud-init v. 24.1 finished", "the guest ran cloud-init"),
        ("ignition", "sshd started", "the console never names Ignition"),
        ("ignition", "ignition[1]: failed to fetch config: x", "Ignition did not take the config"),
        ("ignition", "ignition[1]: done", "does sshd read what Ignition wrote"),
        ("existing", "", "does the image have this user"),
        ("credentials", "", "credentials by SMBIOS need systemd 252"),
        ("credentials-fw-cfg", "", "credentials by fw_cfg need systemd 251 in the image, and its kernel's module"),
    ],
)
def test_a_refused_key_gets_advice_from_the_console(route: str, console: str, text: str) -> None:
    assert advice(route, console, "root").startswith(text)


@pytest.mark.parametrize("route", ["credentials", "credentials-fw-cfg"])
def test_a_refused_key_that_credentials_bring_may_be_the_servers_choice(route: str) -> None:
    assert "does the image ship keys of root's own" in advice(route, "", "root")
    assert "does its sshd let root in (PermitRootLogin" in advice(route, "", "root")
    assert "systemd-sysusers.service" in advice(route, "", "ada")
    assert "make user 'ada' and its key" in advice(route, "", "ada")
