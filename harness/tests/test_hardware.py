"""Virtual hardware by feature: firmware descriptors, buses, TPM, overrides, what QEMU can do, confinement."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from seatrial.clock import Deadline
from seatrial.errors import ConfigError, HostError, TpmLost
from seatrial.layout import data_dir
from seatrial.machine.arguments import Attached, devices_in, differences, qemu_arguments
from seatrial.machine.confinement import confinement, largest_file
from seatrial.machine.definition import Machine, firmware_override, load_machine, overridden
from seatrial.machine.disk import Image
from seatrial.machine.features import Features, parse_answers, qemu_features, require_devices
from seatrial.machine.firmware import Firmware, descriptor_folders, find_uefi, usable_firmware
from seatrial.machine.tpm import Tpm, tpm_running
from seatrial.policy.differences import Difference, Touched
from seatrial.process import Confinement, bound, run, running

MACHINES = data_dir("qemu") / "machines"
IMAGE = Image(path=Path("/x"), format="raw", file_bytes=1, disk_bytes=512)
ALL = Attached(
    qmp_fd=10, console_fd=11, overlay_fd=12, base_fd=13, code_fd=14, variables_fd=15, tpm_fd=16, kvm_fd=17, seed_fd=18
)
GIB = 2**30


def machine(name: str = "q35-uefi", **changes: Any) -> Machine:
    return overridden(load_machine(name, MACHINES), changes)


def words(of: Machine, *, secure: bool = False, accelerator: Any = "tcg", attached: Attached = ALL) -> list[str]:
    firmware = Firmware(
        description="f", code=Path("/c"), code_format="qcow2", variables=Path("/v"), variables_format="raw", smm=secure
    )
    return qemu_arguments(of, IMAGE, accelerator=accelerator, firmware=firmware, attached=attached, smbios=())


def after(option: str, found: list[str]) -> list[str]:
    return [found[n + 1] for n, word in enumerate(found) if word == option]


def nodes(found: list[str]) -> dict[str, Any]:
    return {entry["node-name"]: entry for entry in map(json.loads, after("-blockdev", found))}


@pytest.mark.parametrize(
    ("bus", "devices"),
    [
        ("virtio-blk", ["virtio-blk-pci,drive=disk,bootindex=1"]),
        ("virtio-scsi", ["virtio-scsi-pci,id=scsi", "scsi-hd,bus=scsi.0,drive=disk,bootindex=1"]),
        ("nvme", ["nvme,serial=seatrial,drive=disk,bootindex=1"]),
        ("ahci", ["ide-hd,bus=ide.0,drive=disk,bootindex=1"]),
    ],
)
def test_each_bus_carries_the_disk(bus: str, devices: list[str]) -> None:
    assert after("-device", words(machine(disk=bus)))[: len(devices)] == devices


def test_no_disk_takes_the_place_in_the_boot_order_that_qemu_gives_a_kernel() -> None:
    for bus in ("virtio-blk", "virtio-scsi", "nvme", "ahci"):
        assert not [word for word in words(machine(disk=bus)) if "bootindex=0" in word]


def test_secure_boot_needs_smm_and_flash_that_only_smm_writes() -> None:
    found = words(machine("q35-uefi-secureboot"), secure=True)
    assert after("-machine", found) == ["q35,smm=on,pflash0=code,pflash1=variables"]
    assert after("-global", found) == ["driver=cfi.pflash01,property=secure,value=on", "ICH9-LPC.disable_s3=1"]
    assert after("-global", words(machine())) == []


def test_flash_files_are_handed_over_in_their_own_format() -> None:
    found = nodes(words(machine()))
    assert (found["code"]["driver"], found["code"]["read-only"], found["code"]["backing"]) == ("qcow2", True, None)
    assert (found["variables"]["driver"], found["variables"]["read-only"]) == ("raw", False)
    assert "backing" not in found["variables"]


def test_a_bios_of_the_user_is_given_by_descriptor() -> None:
    attached = Attached(qmp_fd=1, console_fd=2, overlay_fd=3, base_fd=4, code_fd=5)
    found = words(machine("q35-bios"), attached=attached)
    assert after("-bios", found) == ["/proc/self/fd/5"]
    assert after("-machine", found) == ["q35,graphics=off"]


def test_a_tpm_is_on_its_own_channel() -> None:
    found = words(machine("q35-uefi-tpm"))
    assert "socket,id=tpm-control,fd=16" in after("-chardev", found)
    assert after("-tpmdev", found) == ["emulator,id=tpm,chardev=tpm-control"]
    assert "tpm-crb,tpmdev=tpm" in after("-device", found)
    assert after("-tpmdev", words(machine())) == []


def test_kvm_is_handed_over_open_where_qemu_takes_it() -> None:
    assert after("-accel", words(machine(), accelerator="kvm")) == ["kvm,device=/dev/fdset/7"]
    none = Attached(qmp_fd=1, console_fd=2, overlay_fd=3, base_fd=4)
    assert after("-accel", words(machine(), accelerator="kvm", attached=none)) == ["kvm"]


def test_an_aarch64_machine_has_its_own_board_tpm_and_program() -> None:
    found = words(machine("virt-uefi-tpm", disk="ahci"))
    assert found[0] == "qemu-system-aarch64"
    assert after("-machine", found)[0].startswith("virt,")
    assert {"ahci", "ide-hd", "tpm-tis-device"} <= set(devices_in(found))
    assert machine("virt-uefi").console == "ttyAMA0"


def test_optional_devices_come_only_when_wanted() -> None:
    plain = set(devices_in(words(machine(pvpanic=False, vmgenid=False))))
    every = set(devices_in(words(machine(pvpanic=True, vmgenid=True, watchdog=True, display="vga"))))
    assert every - plain == {"pvpanic-pci", "vmgenid", "i6300esb", "VGA"}


def said(of: Machine) -> dict[str, Difference]:
    return {found.text: found for found in differences(of, "tcg")}


def test_every_difference_of_the_hardware_is_said() -> None:
    found = said(machine("q35-uefi-tpm", disk="nvme", memory_mib=1024, open_network=True))
    assert "changed by an option: disk nvme instead of virtio-blk" in found
    assert "changed by an option: memory_mib 1024 instead of 2048" in found
    assert "QEMU user networking, open to whatever this host reaches" in found
    assert "pvpanic device, which tells QEMU when the kernel panics" in found
    assert found["TPM 2.0 (crb) without a history, emulated by swtpm"].touches == (Touched.TPM,)


def test_a_plain_machine_is_cut_off_and_has_no_tpm() -> None:
    assert "QEMU user networking, cut off from everything but the forwarded SSH port" in said(machine())
    assert not any("TPM" in text for text in said(machine()))


def test_nothing_changed_is_no_override() -> None:
    assert machine(disk="virtio-blk", tpm=None).overrides == ()


@pytest.mark.parametrize(
    ("name", "changes", "text"),
    [
        ("virt-uefi", {"firmware": "bios"}, "aarch64 boots by UEFI only"),
        ("virt-uefi", {"tpm": "crb"}, "aarch64 has 'tis' only"),
        ("virt-uefi", {"board": "q35"}, "aarch64 has board 'virt'"),
        ("q35-uefi", {"memory_mib": 1}, "memory_mib: Input should be greater than or equal to 128"),
        ("q35-bios", {"firmware_files": firmware_override("/c:/v")["firmware_files"]}, "a BIOS is one file"),
        ("q35-uefi", {"firmware_files": firmware_override("/c")["firmware_files"]}, "needs a file of variables"),
    ],
)
def test_hardware_that_does_not_fit_together_is_refused(name: str, changes: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        machine(name, **changes)


def test_a_definition_of_the_user_is_a_path_and_its_files_lie_beside_it(tmp_path: Path) -> None:
    text = (MACHINES / "q35-uefi.toml").read_text()
    (tmp_path / "mine.toml").write_text(f'{text}\n[firmware_files]\ncode = "c.fd"\nvariables = "v.qcow2"\n')
    (tmp_path / "c.fd").write_bytes(b"code")
    (tmp_path / "v.qcow2").write_bytes(b"QFI\xfb")
    found = usable_firmware(load_machine(str(tmp_path / "mine.toml"), MACHINES))
    assert found is not None
    assert (found.code, found.code_format, found.variables_format) == (tmp_path / "c.fd", "raw", "qcow2")


@pytest.mark.parametrize("key", ["open_network = true", "overrides = []", 'name = "x"'])
def test_a_definition_cannot_say_what_only_the_command_line_may(tmp_path: Path, key: str) -> None:
    (tmp_path / "mine.toml").write_text(f"{key}\n{(MACHINES / 'q35-uefi.toml').read_text()}")
    with pytest.raises(ConfigError, match="unknown keys"):
        load_machine(str(tmp_path / "mine.toml"), MACHINES)


def test_a_missing_definition_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        load_machine(str(tmp_path / "none.toml"), MACHINES)


def test_missing_firmware_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="firmware file '/none/c' cannot be read"):
        usable_firmware(machine(**firmware_override("/none/c:/none/v")))


def test_the_firmware_option_takes_a_kind_or_files() -> None:
    assert firmware_override(None) == {}
    assert firmware_override("uefi-secure") == {"firmware": "uefi-secure"}
    assert firmware_override("/b/seabios.bin")["firmware"] == "bios"
    assert str(firmware_override("c:v")["firmware_files"]) == "c:v"


def described(folder: Path, name: str, **changes: Any) -> None:
    for file in ("code.fd", "vars.fd"):
        (folder / file).write_bytes(b"x")
    table = {
        "description": name,
        "interface-types": ["uefi"],
        "mapping": {
            "device": "flash",
            "executable": {"filename": str(folder / "code.fd"), "format": "raw"},
            "nvram-template": {"filename": str(folder / "vars.fd"), "format": "raw"},
        },
        "targets": [{"architecture": "x86_64", "machines": ["pc-q35-*"]}],
        "features": [],
    }
    (folder / f"{name}.json").write_text(json.dumps({**table, **changes}))


SECURE = ["secure-boot", "enrolled-keys", "requires-smm", "acpi-s3"]


def test_secure_firmware_is_the_one_with_keys_enrolled(tmp_path: Path) -> None:
    described(tmp_path, "10-empty", features=["secure-boot", "requires-smm"])
    described(tmp_path, "20-tdx", features=[*SECURE, "intel-tdx"])
    described(tmp_path, "30-keys", features=SECURE)
    found = find_uefi("x86_64", "q35", secure=True, folders=[tmp_path])
    assert (found.description, found.smm) == ("30-keys", True)


def test_stateless_and_memory_firmware_is_passed_over(tmp_path: Path) -> None:
    described(tmp_path, "10-memory", mapping={"device": "memory", "filename": str(tmp_path / "code.fd")})
    whole = {"filename": str(tmp_path / "code.fd"), "format": "raw"}
    described(tmp_path, "20-stateless", mapping={"device": "flash", "mode": "stateless", "executable": whole})
    described(tmp_path, "30-arm", targets=[{"architecture": "aarch64", "machines": ["virt-*"]}])
    described(tmp_path, "40-plain")
    assert find_uefi("x86_64", "q35", folders=[tmp_path]).description == "40-plain"
    assert find_uefi("aarch64", "virt", folders=[tmp_path]).description == "30-arm"


def test_qcow2_firmware_is_taken(tmp_path: Path) -> None:
    (tmp_path / "c").mkdir()
    described(
        tmp_path,
        "10",
        mapping={
            "device": "flash",
            "executable": {"filename": str(tmp_path / "code.fd"), "format": "qcow2"},
            "nvram-template": {"filename": str(tmp_path / "vars.fd"), "format": "qcow2"},
        },
    )
    found = find_uefi("x86_64", "q35", folders=[tmp_path])
    assert (found.code_format, found.variables_format) == ("qcow2", "qcow2")


def test_an_empty_descriptor_of_the_user_hides_the_distribution_s(tmp_path: Path) -> None:
    mine, theirs = tmp_path / "mine", tmp_path / "theirs"
    for folder in (mine, theirs):
        folder.mkdir()
    described(theirs, "10-a")
    described(theirs, "20-b")
    (mine / "10-a.json").touch()
    assert find_uefi("x86_64", "q35", folders=[mine, theirs]).description == "20-b"


def test_the_user_s_descriptors_come_first() -> None:
    assert descriptor_folders({"XDG_CONFIG_HOME": "/c"})[0] == Path("/c/qemu/firmware")
    assert descriptor_folders({"HOME": "/h"})[0] == Path("/h/.config/qemu/firmware")


@given(
    st.binary(max_size=200)
    | st.recursive(
        st.none() | st.integers() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.sampled_from(["mapping", "features", "targets", "device", "interface-types"]), inner)
        ),
        max_leaves=8,
    ).map(lambda value: json.dumps(value).encode())
)
def test_no_descriptor_breaks_the_search(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    folder = tmp_path_factory.mktemp("descriptors")
    (folder / "a.json").write_bytes(content)
    with pytest.raises(HostError):
        find_uefi("x86_64", "q35", folders=[folder])


ANSWERS = [
    {"QMP": {}},
    {"return": {}},
    {"return": {"qemu": {"major": 9, "minor": 1, "micro": 0}, "package": "Distro 9.1"}, "id": "version"},
    {
        "return": [
            {"name": "migrate", "meta-type": "command"},
            {"name": "7", "meta-type": "enum", "values": ["x-ignore-shared", "mapped-ram"]},
        ],
        "id": "schema",
    },
    {"return": [{"name": "nvme", "parent": "device"}], "id": "devices"},
    {"return": [{"name": "device", "type": "string"}], "id": "kvm"},
]


def lines(answers: list[Any]) -> str:
    return "\n".join(map(json.dumps, answers))


def test_features_are_read_from_what_qemu_says_of_itself() -> None:
    found = parse_answers(lines(ANSWERS))
    assert found == Features(
        version=(9, 1, 0),
        version_text="9.1.0 (Distro 9.1)",
        devices=frozenset({"nvme"}),
        migration=frozenset({"x-ignore-shared", "mapped-ram"}),
        commands=frozenset({"migrate"}),
        kvm_by_descriptor=True,
    )
    assert found.has_mapped_ram


def test_a_qemu_without_kvm_answers_an_error_which_is_no_fault() -> None:
    without = [*ANSWERS[:-1], {"error": {"class": "DeviceNotFound"}, "id": "kvm"}]
    assert not parse_answers(lines(without)).kvm_by_descriptor


@given(st.text(max_size=100) | st.lists(st.sampled_from(ANSWERS[2:]), max_size=2).map(lines))
def test_unreadable_answers_are_a_host_error(text: str) -> None:
    with pytest.raises(HostError, match="QEMU's answers cannot be read"):
        parse_answers(text)


def fake_qemu(folder: Path, answers: list[Any]) -> None:
    folder.mkdir(exist_ok=True)
    program = folder / "qemu-fake"
    program.write_text(f"#!/bin/sh\necho asked >> {folder}/asked\ncat <<'E'\n{lines(answers)}\nE\n")
    program.chmod(0o755)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SEATRIAL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    return tmp_path / "bin"


def test_a_qemu_is_asked_once_and_again_when_it_changes(place: Path) -> None:
    fake_qemu(place, ANSWERS)
    assert qemu_features("qemu-fake", why="test") == qemu_features("qemu-fake", why="test")
    assert (place / "asked").read_text() == "asked\n"
    fake_qemu(place, [*ANSWERS, {"return": [], "id": "other"}])
    qemu_features("qemu-fake", why="test")
    assert (place / "asked").read_text() == "asked\nasked\n"


def test_an_old_qemu_is_refused_with_what_is_needed(place: Path) -> None:
    old = {"return": {"qemu": {"major": 6, "minor": 2, "micro": 0}, "package": ""}, "id": "version"}
    fake_qemu(place, [old, *ANSWERS[3:]])
    with pytest.raises(HostError, match=r"is QEMU 6\.2\.0; 7\.2 or newer is needed"):
        qemu_features("qemu-fake", why="test")


def test_a_missing_qemu_names_the_program() -> None:
    with pytest.raises(HostError, match="'qemu-system-none' is not installed; it is needed to boot images"):
        qemu_features("qemu-system-none", why="boot images")


def test_a_missing_qemu_of_another_architecture_names_its_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda *_args, **_more: None)
    with pytest.raises(HostError, match=r"'qemu-system-aarch64' is not installed.*\n  hint: install qemu-system-arm"):
        qemu_features("qemu-system-aarch64", why="boot images")


def test_a_device_that_qemu_lacks_is_named() -> None:
    features = parse_answers(lines(ANSWERS))
    require_devices(features, ["nvme"])
    with pytest.raises(HostError, match="built without 'i6300esb'"):
        require_devices(features, ["nvme", "i6300esb"])


def test_an_overlay_may_grow_to_the_disk_but_must_leave_room() -> None:
    assert 10 * GIB < largest_file(10 * GIB, 1, free=100 * GIB) < 11 * GIB
    assert largest_file(100 * GIB, 1, free=11 * GIB) == 10 * GIB
    assert largest_file(100 * GIB, 1, free=GIB) == GIB * 3 // 4
    assert largest_file(1, 4 * GIB, free=GIB) > 4 * GIB


def test_a_confined_child_has_no_core_dumps_and_small_files(tmp_path: Path) -> None:
    script = f"ulimit -c; head -c 5000 /dev/zero > {tmp_path}/big; grep NoNewPrivs /proc/self/status"
    done = run([*bound(Confinement(file_bytes=1000)), "sh", "-c", script], deadline=Deadline(20))
    assert done.text.splitlines() == ["0", "NoNewPrivs:\t1"]
    assert (tmp_path / "big").stat().st_size == 1000


def test_a_file_that_grows_too_large_is_an_error_and_no_death(tmp_path: Path) -> None:
    script = f"head -c 5000 /dev/zero > {tmp_path}/big; echo survived with $?"
    with running(["sh", "-c", script], log=tmp_path / "log", confined=Confinement(file_bytes=1000)) as child:
        assert child.ends_within(20)
    assert "File too large" in (tmp_path / "log").read_text()
    assert "survived with 1" in (tmp_path / "log").read_text()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_started_by_root_the_child_is_nobody(tmp_path: Path) -> None:
    found = confinement(disk_bytes=1, memory_bytes=1, folder=tmp_path, opens_kvm=False)
    done = run([*bound(found), "id", "-u"], deadline=Deadline(20))
    assert found.user is not None
    assert done.text.strip() == str(found.user[0]) != "0"


needs_swtpm = pytest.mark.skipif(shutil.which("swtpm") is None, reason="swtpm is not installed")


def started(tpm: Tpm) -> bytes:
    """Start the TPM as QEMU does (CMD_INIT of swtpm's tpm_ioctl.h) and return its state."""
    with socket.socket(fileno=os.dup(tpm.control_fd)) as control:
        control.sendall(bytes([0, 0, 0, 2, 0, 0, 0, 0]))
        assert control.recv(4) == bytes(4)
    return tpm.state()


def changed(before: bytes, after: bytes) -> int:
    """Return how many bytes differ: a start counts a few counters up, a new TPM has other seeds."""
    assert len(before) == len(after)
    return sum(a != b for a, b in zip(before, after, strict=True))


@needs_swtpm
def test_a_tpm_keeps_its_state_in_a_file_without_a_name(tmp_path: Path) -> None:
    with tpm_running(tmp_path) as tpm:
        state = started(tpm)
        assert tpm.trouble() is None
    assert len(state) > 1000
    assert [path.name for path in tmp_path.iterdir()] == ["swtpm.log"]
    with tpm_running(tmp_path, state=state) as again, tpm_running(tmp_path) as other:
        assert changed(state, started(again)) < 16 < changed(state, started(other))


@needs_swtpm
def test_a_tpm_that_dies_is_said_so(tmp_path: Path) -> None:
    with tpm_running(tmp_path) as tpm:
        os.kill(tpm.process.pid, signal.SIGKILL)
        assert tpm.process.ends_within(10)
        lost = tpm.trouble()
        assert isinstance(lost, TpmLost)
        assert "swtpm, which emulates the guest's TPM, ended with exit status -9" in str(lost)


def fake_swtpm(place: Path, script: str) -> None:
    place.mkdir()
    (place / "swtpm").write_text(f"#!/bin/sh\n{script}\n")
    (place / "swtpm").chmod(0o755)


def test_an_old_swtpm_is_refused_with_the_way_out(place: Path, tmp_path: Path) -> None:
    fake_swtpm(place, "echo '{}'")
    with pytest.raises(HostError, match=r"0\.7 or newer is needed\n  hint: .*--tpm off"), tpm_running(tmp_path):
        pass


def test_a_swtpm_that_does_not_start_says_why(place: Path, tmp_path: Path) -> None:
    fake_swtpm(place, 'case "$*" in *print*) echo nvram-backend-file;; *) echo out of luck; exit 1;; esac')
    with pytest.raises(HostError, match=r"swtpm did not start.*: out of luck"), tpm_running(tmp_path):
        pass
