"""The machine's parts that need no guest: arguments, firmware, accelerator, provisioning, console."""

from __future__ import annotations

import base64
import contextlib
import io
import json
import socket
from pathlib import Path
from typing import Any, Literal

import pycdlib
import pytest
from hypothesis import given
from hypothesis import strategies as st
from seatrial.clock import Deadline
from seatrial.emulation import once_more
from seatrial.errors import AcceleratorError, BootTimeout, ConfigError, HostError, TimerLost
from seatrial.evidence.disk.formats import Format
from seatrial.guest.ready import Patience, ready_guest
from seatrial.guest.ssh import Address, RunKey
from seatrial.layout import data_dir
from seatrial.machine.accelerator import Choice, choices, remember_kvm, remembered_kvm
from seatrial.machine.arguments import Attached, qemu_arguments
from seatrial.machine.definition import Machine, load_machine
from seatrial.machine.disk import Image
from seatrial.machine.firmware import Firmware, find_uefi
from seatrial.machine.provision import KEY_COMMENT, provision
from seatrial.machine.qmp import attached
from seatrial.policy.differences import Touched
from seatrial.policy.flavours import Access
from seatrial.progress import Silent
from seatrial.session import first_usable

MACHINES = data_dir("qemu") / "machines"
FIRMWARE = Firmware(description="UEFI", code=Path("/fw/code.fd"), variables=Path("/fw/vars.fd"))


def q35() -> Machine:
    return load_machine("q35-uefi", MACHINES)


def arguments(format: Format = "raw", *, seed_fd: int | None = None, smbios: tuple[str, ...] = ()) -> list[str]:
    return qemu_arguments(
        q35(),
        Image(path=Path("/images/a,b.raw"), format=format, file_bytes=1, disk_bytes=512),
        accelerator="tcg",
        firmware=FIRMWARE,
        attached=Attached(
            qmp_fd=10, console_fd=11, overlay_fd=12, base_fd=15, code_fd=16, variables_fd=13, seed_fd=seed_fd
        ),
        smbios=smbios,
    )


def blockdevs(words: list[str]) -> dict[str, dict[str, Any]]:
    found = [json.loads(words[n + 1]) for n, word in enumerate(words) if word == "-blockdev"]
    return {device["node-name"]: device for device in found}


def test_the_candidate_is_opened_read_only_at_every_layer() -> None:
    nodes = blockdevs(arguments())
    assert nodes["base-file"] == {
        "driver": "file",
        "filename": "/dev/fdset/5",
        "node-name": "base-file",
        "read-only": True,
    }
    assert nodes["base"]["read-only"] is True
    assert nodes["disk"]["backing"] == "base"
    assert nodes["overlay-file"]["filename"] == "/dev/fdset/2"


def test_a_qcow2_candidate_cannot_bring_a_backing_file() -> None:
    assert blockdevs(arguments("qcow2"))["base"]["backing"] is None


def test_qemu_starts_paused_sandboxed_and_without_default_devices() -> None:
    words = arguments()
    assert {"-S", "-nodefaults", "-no-user-config"} <= set(words)
    assert words[words.index("-sandbox") + 1].startswith("on,obsolete=deny,elevateprivileges=deny,spawn=deny")


def test_the_guest_has_no_network_and_qemu_chooses_the_port() -> None:
    words = arguments()
    assert words[words.index("-netdev") + 1] == "user,id=net,restrict=on,hostfwd=tcp:127.0.0.1:0-:22"


def test_a_comma_in_a_credential_is_doubled() -> None:
    words = arguments(smbios=("io.x=a,b",))
    assert words[words.index("-smbios") + 1] == "type=11,value=io.x=a,,b"


def test_a_seed_is_attached_only_when_there_is_one() -> None:
    assert "seed" not in blockdevs(arguments())
    assert blockdevs(arguments(seed_fd=14))["seed"]["read-only"] is True


def test_every_shipped_machine_is_valid() -> None:
    names = [path.stem for path in MACHINES.glob("*.toml")]
    assert "q35-uefi" in names
    assert all(load_machine(name, MACHINES).qemu.startswith("qemu-system-") for name in names)


def test_a_faulty_machine_names_the_key(tmp_path: Path) -> None:
    text = (MACHINES / "q35-uefi.toml").read_text().replace("memory_mib = 2048", "memory_mib = 1\nspeed = 3")
    (tmp_path / "bad.toml").write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_machine("bad", tmp_path)
    assert caught.match("memory_mib: Input should be greater than or equal to 128")
    assert caught.match("speed: Extra inputs are not permitted")


def descriptor(folder: Path, name: str, features: list[str], machines: list[str]) -> Path:
    for file in ("code.fd", "vars.fd"):
        (folder / file).write_bytes(b"x")
    described = {
        "description": name,
        "interface-types": ["uefi"],
        "mapping": {
            "device": "flash",
            "executable": {"filename": str(folder / "code.fd"), "format": "raw"},
            "nvram-template": {"filename": str(folder / "vars.fd"), "format": "raw"},
        },
        "targets": [{"architecture": "x86_64", "machines": machines}],
        "features": features,
    }
    (folder / f"{name}.json").write_text(json.dumps(described))
    return folder


def test_firmware_is_chosen_by_feature_and_board(tmp_path: Path) -> None:
    descriptor(tmp_path, "10-secure", ["secure-boot", "requires-smm"], ["pc-q35-*"])
    descriptor(tmp_path, "20-other", [], ["microvm"])
    descriptor(tmp_path, "30-plain", ["acpi-s3"], ["pc-i440fx-*", "pc-q35-*"])
    (tmp_path / "05-broken.json").write_text("{")
    assert find_uefi("x86_64", "q35", folders=[tmp_path]).description == "30-plain"


def test_without_firmware_the_host_is_at_fault(tmp_path: Path) -> None:
    with pytest.raises(
        HostError,
        match=r"no UEFI firmware without Secure Boot for x86_64 .*\n  hint: 'seatrial doctor' names the package",
    ):
        find_uefi("x86_64", "q35", folders=[descriptor(tmp_path, "a", ["secure-boot"], ["pc-q35-*"])])


def test_auto_tries_kvm_and_then_tcg(tmp_path: Path) -> None:
    found = choices("auto", tmp_path, device=Path("/dev/null"))
    assert [choice.accelerator for choice in found] == ["kvm", "tcg"]


def test_auto_without_the_device_takes_tcg_and_says_why(tmp_path: Path) -> None:
    (only,) = choices("auto", tmp_path, device=tmp_path / "kvm")
    assert only == Choice("tcg", f"{tmp_path}/kvm does not exist on this host")


def test_kvm_on_demand_is_never_replaced(tmp_path: Path) -> None:
    assert [c.accelerator for c in choices("kvm", tmp_path, device=Path("/dev/null"))] == ["kvm"]
    with pytest.raises(ConfigError, match=r"--accel kvm: .* does not exist on this host"):
        choices("kvm", tmp_path, device=tmp_path / "kvm")


def test_a_host_on_which_kvm_failed_is_remembered_until_it_is_booted_again(tmp_path: Path) -> None:
    boot_id = tmp_path / "boot_id"
    boot_id.write_text("one\n")
    remember_kvm(tmp_path, works=False, reason="no guest ran", boot_id=boot_id)
    assert remembered_kvm(tmp_path, boot_id=boot_id) == Choice("tcg", "no guest ran")
    boot_id.write_text("two\n")
    assert remembered_kvm(tmp_path, boot_id=boot_id) is None


@given(st.binary(max_size=200))
def test_a_damaged_memory_is_no_memory(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    folder = tmp_path_factory.mktemp("memory")
    (folder / "kvm.json").write_bytes(content)
    assert remembered_kvm(folder) is None


class Starts:
    """Starts guests on accelerators; KVM runs none."""

    def __init__(self) -> None:
        self.tried: list[str] = []

    def __call__(self, choice: Choice) -> Any:
        self.tried.append(choice.accelerator)
        if choice.accelerator == "kvm":
            raise AcceleratorError("failed to set MSR")
        return contextlib.nullcontext(choice)


def test_when_kvm_runs_no_guest_tcg_does_and_it_is_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEATRIAL_CACHE", str(tmp_path))
    starts = Starts()
    with first_usable((Choice("kvm", "there"), Choice("tcg", "else")), starts, Silent()) as used:
        assert used.accelerator == "tcg"
    assert starts.tried == ["kvm", "tcg"]
    known = remembered_kvm(tmp_path)
    assert known is not None
    assert "failed to set MSR" in known.reason


def test_when_only_kvm_is_allowed_its_failure_is_the_run_s(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEATRIAL_CACHE", str(tmp_path))
    with pytest.raises(AcceleratorError), first_usable((Choice("kvm", "asked for"),), Starts(), Silent()):
        pass


class LosesTimers:
    """Starts guests, the first of which lose a timer."""

    def __init__(self, lost: int) -> None:
        self.lost = lost
        self.reasons: list[str] = []

    def __call__(self, choice: Choice) -> contextlib.AbstractContextManager[int]:
        self.reasons.append(choice.reason)
        if len(self.reasons) <= self.lost:
            raise TimerLost("a timer was lost")
        return contextlib.nullcontext(len(self.reasons))


def test_a_boot_in_which_the_emulator_lost_a_timer_is_repeated_and_the_record_says_so() -> None:
    starts = LosesTimers(1)
    with first_usable((Choice("tcg", "asked for"),), starts, Silent()) as number:
        assert number == 2
    assert starts.reasons == ["asked for", "asked for; the second boot: a timer was lost"]


def test_a_boot_is_repeated_once_only() -> None:
    starts = LosesTimers(2)
    with pytest.raises(TimerLost), first_usable((Choice("tcg", "asked for"),), starts, Silent()):
        pass
    assert len(starts.reasons) == 2


def test_what_starts_a_guest_is_called_once_more_when_a_timer_was_lost() -> None:
    starts = LosesTimers(1)
    with once_more(lambda: starts(Choice("tcg", "x"))) as number:
        assert number == 2
    with pytest.raises(TimerLost), once_more(lambda: LosesTimers(9)(Choice("tcg", "x"))):
        pass


def test_a_timer_that_is_lost_in_use_starts_nothing_again() -> None:
    starts = LosesTimers(0)
    with pytest.raises(TimerLost), once_more(lambda: starts(Choice("tcg", "x"))):
        raise TimerLost("later")
    assert len(starts.reasons) == 1


def test_a_credential_carries_the_key_for_root() -> None:
    key = RunKey(KEY_COMMENT)
    given_ = provision(Access(route="credentials", user="root"), key.public_line, run_id="r")
    name, _, value = given_.smbios[0].partition("=")
    assert name == "io.systemd.credential.binary:ssh.authorized_keys.root"
    assert base64.b64decode(value).decode() == f"{key.public_line}\n"
    assert given_.seed == b""


def test_a_seed_is_a_cidata_volume_with_a_user_of_our_own() -> None:
    given_ = provision(Access(route="cloud-init", user="seatrial"), "ssh-ed25519 AAAA seatrial-run", run_id="run-1")
    iso = pycdlib.PyCdlib()
    iso.open_fp(io.BytesIO(given_.seed))
    files = {}
    for name in ("user-data", "meta-data"):
        content = io.BytesIO()
        iso.get_file_from_iso_fp(content, joliet_path=f"/{name}")
        files[name] = content.getvalue().decode()
    assert iso.pvd.volume_identifier.decode().strip() == "CIDATA"
    iso.close()
    first, _, rest = files["user-data"].partition("\n")
    assert first == "#cloud-config"
    (user,) = json.loads(rest)["users"]
    assert (user["name"], user["lock_passwd"], user["ssh_authorized_keys"]) == (
        "seatrial",
        True,
        ["ssh-ed25519 AAAA seatrial-run"],
    )
    assert json.loads(files["meta-data"]) == {"instance-id": "run-1"}
    assert json.loads(rest)["preserve_hostname"] is True


@pytest.mark.parametrize("route", ["credentials", "cloud-init"])
def test_a_way_in_touches_nothing_but_the_runs_own_user(route: Literal["credentials", "cloud-init"]) -> None:
    given_ = provision(Access(route=route, user="root"), "ssh-ed25519 AAAA seatrial-run", run_id="r")
    assert {touched for difference in given_.differences for touched in difference.touches} == {Touched.RUN_USER}


def test_each_run_has_a_key_of_its_own() -> None:
    assert RunKey("a").public_line != RunKey("a").public_line


def test_a_qemu_that_never_greets_is_given_up() -> None:
    ours, theirs = socket.socketpair()
    with pytest.raises(HostError, match="QEMU gave no QMP greeting"), attached(ours, deadline=Deadline(0.3)):
        pass
    theirs.close()


def test_a_guest_that_never_answers_is_given_up_with_a_reason() -> None:
    patience = Patience(boot_s=0.3, settle_s=1, command_s=1)
    with (
        socket.create_server(("127.0.0.1", 0)) as silent,
        pytest.raises(BootTimeout, match=r"no SSH server answered on port \d+ within 0 s of power-on"),
        ready_guest(
            Address(silent.getsockname()[1]),
            "root",
            RunKey("x"),
            guard=lambda: None,
            patience=patience,
            progress=Silent(),
        ),
    ):
        pass
