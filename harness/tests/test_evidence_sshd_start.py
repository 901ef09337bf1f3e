"""What the SSH server was started with, by its own title or by systemd's words, and what of it 'sshd -T' must hear."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from seatrial.errors import ObservationError
from seatrial.evidence.sshd_start import environment_command, options_of_instances, options_of_listeners

# What OpenSSH 9.2 showed that was started with '-D -h KEY -p 2299 -o "PermitRootLogin yes" -oMaxAuthTries=9'.
TITLE = (
    "sshd: /usr/sbin/sshd -D -h /etc/ssh/key -p 2299 -o PermitRootLogin yes -oMaxAuthTries=9 [listener] 0 of 10-100"
    " startups       \n"
)
INSTANCE = (
    "ExecStart={ path=/usr/sbin/sshd ; argv[]=/usr/sbin/sshd -i $SSHD_OPTS ${ONE} ; ignore_errors=yes ;"
    " start_time=[n/a] ; stop_time=[n/a] ; pid=0 ; code=(null) ; status=0/0 }\n"
    "Environment=ONE=-4\nEnvironmentFiles=/etc/default/ssh (ignore_errors=yes)\n"
    "Id=ssh@0-10.0.2.15:22-10.0.2.2:40000.service\n"
)


@pytest.mark.parametrize(
    ("text", "options"),
    [
        ("sshd: /usr/sbin/sshd -D [listener] 0 of 10-100 startups  \n", [()]),
        (TITLE, [("-h", "/etc/ssh/key", "-o", "PermitRootLogin yes", "-o", "MaxAuthTries=9")]),
        ("/usr/sbin/sshd -D -o X=y \n", [("-o", "X=y")]),
        (
            "sshd: /usr/sbin/sshd -De -E /var/log/sshd -f /etc/ssh/sshd_config [listener]\n",
            [("-f", "/etc/ssh/sshd_config")],
        ),
        ("sshd: /usr/sbin/sshd -D [listener] 0\nsshd: /opt/sshd -Dp 2222 -o A b [listener] 0\n", [(), ("-o", "A b")]),
        ("/usr/lib/openssh/sshd-session -D -o X=y -R \n", []),
        ("", []),
    ],
)
def test_a_listener_shows_its_options(text: str, options: list[tuple[str, ...]]) -> None:
    assert list(options_of_listeners(text)) == options


@pytest.mark.parametrize("words", ["-D -f /etc/other", "-o Include=/etc/x", "-o Match all", "-Z", "rubbish", "-"])
def test_options_that_hide_settings_are_an_error(words: str) -> None:
    with pytest.raises(ObservationError, match="was started with"):
        options_of_listeners(f"sshd: /usr/sbin/sshd {words} [listener] 0 of 10-100 startups\n")


@pytest.mark.parametrize(
    ("files", "options"),
    [
        ("", [()]),
        ("/etc/default/ssh:# -o X=y\n/etc/default/ssh:SSHD_OPTS=\n", [()]),
        ("/etc/default/ssh:SSHD_OPTS='-o PermitRootLogin=yes -u0'\n", [("-o", "PermitRootLogin=yes")]),
        ("/etc/default/ssh:ONE=-oX=y\n/etc/default/ssh:SSHD_OPTS=-6 -oA=b\n", [("-o", "A=b", "-o", "X=y")]),
    ],
)
def test_a_server_of_one_connection_is_known_by_its_unit(files: str, options: list[tuple[str, ...]]) -> None:
    assert environment_command(INSTANCE) == "grep -asH '' /etc/default/ssh /dev/null; true"
    assert list(options_of_instances(INSTANCE, files)) == options
    other = INSTANCE.replace("/usr/sbin/sshd", "/usr/bin/ssh-keygen")
    assert list(options_of_instances(f"{INSTANCE}\n{other}\n{INSTANCE}", files)) == options


@pytest.mark.parametrize("files", ["/etc/default/ssh:SSHD_OPTS='-o\n", "/etc/default/ssh:SSHD_OPTS=-f /etc/x\n"])
def test_a_unit_that_hides_settings_is_an_error(files: str) -> None:
    with pytest.raises(ObservationError):
        options_of_instances(INSTANCE, files)
    with pytest.raises(ObservationError, match="shows no arguments"):
        options_of_instances("ExecStart=rubbish\n", files)


@given(st.text(), st.lists(st.sampled_from(["-o", "-f", "-D", "-", "$A", "${A}", "'", "X=y", "[listener]", "\n"])))
def test_any_text_gives_options_or_our_error(text: str, words: list[str]) -> None:
    command = " ".join(words)
    for hostile in (
        text,
        command,
        f"sshd: /x/sshd {command}",
        f"ExecStart={{ argv[]=/x/sshd {command} ; ignore_errors=",
    ):
        with contextlib.suppress(ObservationError):
            options_of_listeners(hostile)
        with contextlib.suppress(ObservationError):
            environment_command(hostile)
        with contextlib.suppress(ObservationError):
            options_of_instances(hostile, f"/etc/x:A={command.splitlines()[0] if command.strip() else ''}")
