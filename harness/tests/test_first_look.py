"""What a candidate without a flavour is taken for: looked at once, remembered, and let in by what opened."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
from seatrial import first_look
from seatrial.errors import AuthRefused, ConfigError
from seatrial.first_look import with_flavour
from seatrial.machine.provision import every_way
from seatrial.options import Settings, resolve
from seatrial.progress import Silent

GPT = b"\0" * 510 + b"\x55\xaa" + b"EFI PART" + b"\0" * 1_048_064

GONE = '{"flavour": "gone", "because": "", "route": "", "user": ""}'


def settings(image: Path | None = None, **options: str) -> Settings:
    given = {f"seatrial_{key}": value for key, value in options.items()}
    made = resolve(given.get, lambda _key: None, {"SEATRIAL_ACCEL": "tcg"})
    return dataclasses.replace(made, image=image, out=image.parent / "out" if image else None)


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SEATRIAL_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "disk.raw"
    path.write_bytes(GPT)
    return path


def seen_as(monkeypatch: pytest.MonkeyPatch, *seen: str) -> list[str]:
    """Let a look see this (flavour, why, route, user), and return a list that grows with each look."""
    looks: list[str] = []

    def look(_candidate: object, _progress: object) -> object:
        looks.append(seen[0])
        return first_look._Seen(*seen)

    monkeypatch.setattr(first_look, "_asked", look)
    return looks


def test_a_flavour_that_is_given_is_not_looked_for(disk: Path) -> None:
    chosen = settings(disk, flavour="flatcar")
    assert with_flavour(chosen, Silent()) is chosen
    assert with_flavour(nothing := settings(), Silent()) is nothing


def test_what_a_known_image_says_counts_and_is_remembered(disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looks = seen_as(monkeypatch, "flatcar", "ID=flatcar", "credentials", "root")
    for _time in range(2):
        chosen = with_flavour(settings(disk), Silent())
        # The flavour says how to get in; by what the look did is of no account.
        assert (chosen.flavour, chosen.access, chosen.ssh_user) == ("flatcar", None, None)
    assert looks == ["flatcar"]
    disk.write_bytes(GPT + b"another one")
    with_flavour(settings(disk), Silent())
    assert looks == ["flatcar", "flatcar"]


def test_an_unknown_image_is_entered_by_the_way_that_opened(disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen_as(monkeypatch, "general-purpose", "no flavour claims it", "ignition", "core")
    chosen = with_flavour(settings(disk), Silent())
    assert (chosen.flavour, chosen.access, chosen.ssh_user) == ("general-purpose", "ignition", "core")
    own = with_flavour(settings(disk, access="cloud-init", ssh_user="ada"), Silent())
    assert (own.flavour, own.access, own.ssh_user) == ("general-purpose", "cloud-init", "ada")


@pytest.mark.parametrize("note", ["", "[]", '{"flavour": "flatcar"}', GONE])
def test_a_note_that_says_nothing_is_made_anew(disk: Path, monkeypatch: pytest.MonkeyPatch, note: str) -> None:
    looks = seen_as(monkeypatch, "flatcar", "ID=flatcar", "ignition", "core")
    with_flavour(settings(disk), Silent())
    (path,) = (disk.parent / "cache" / "recognised").iterdir()
    path.write_text(note)
    assert with_flavour(settings(disk), Silent()).flavour == "flatcar"
    assert len(looks) == 2


def test_bad_input_is_found_before_the_look(disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looks = seen_as(monkeypatch, "flatcar", "ID=flatcar", "ignition", "core")
    with pytest.raises(ConfigError, match="unknown machine"):
        with_flavour(settings(disk, machine="z80"), Silent())
    disk.write_bytes(b"")
    with pytest.raises(ConfigError):
        with_flavour(settings(disk), Silent())
    assert looks == []


def test_when_nobody_is_let_in_the_hint_is_to_name_the_flavour(disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_arguments: object) -> object:
        raise AuthRefused("no way in", hint="see the console")

    monkeypatch.setattr(first_look, "first_usable", refused)
    with pytest.raises(AuthRefused) as caught:
        with_flavour(settings(disk), Silent())
    assert caught.value.hint.startswith("--flavour NAME says what it is (azure-container-linux, ")
    assert caught.value.hint.endswith("; see the console")
    # What the guest wrote stays for whoever looks for the reason.
    assert [path.name.split("-", 1)[1][:10] for path in (disk.parent / "out").iterdir()] == ["first-look"]


def test_every_way_brings_the_key_by_each_route_at_once() -> None:
    ways = every_way("ssh-ed25519 AAAA seatrial-run", run_id="r", arch="x86_64")
    assert ways.routes == {"root": "credentials", "seatrial": "cloud-init", "core": "ignition"}
    assert [text.partition("=")[0] for text in ways.together.smbios] == [
        "io.systemd.credential.binary:ssh.authorized_keys.root"
    ]
    assert b"CIDATA" in ways.together.seed
    configs = [json.loads(content) for _name, content in ways.together.fw_cfg]
    assert [config["passwd"]["users"][0]["name"] for config in configs] == ["core", "core"]
    assert len(ways.together.differences) == 3
