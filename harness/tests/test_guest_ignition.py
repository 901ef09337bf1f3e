"""Debian's Ignition, for real: what we hand over by fw_cfg lets us in as 'core', and a wrong config fails fast."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest
import seatrial.machine.boot
from ignition_guest import ignition_guest
from micro import reachable
from seatrial.errors import BootFatal
from seatrial.guest.ready import Guest, Patience, ready_guest
from seatrial.guest.ssh import Address, RunKey
from seatrial.layout import data_dir
from seatrial.machine.accelerator import Choice
from seatrial.machine.arguments import qemu_arguments
from seatrial.machine.boot import Boot, Launch, powered_on
from seatrial.machine.definition import load_machine
from seatrial.machine.disk import Image
from seatrial.machine.features import qemu_features
from seatrial.machine.provision import KEY_COMMENT, provision
from seatrial.policy.flavours import Access
from seatrial.progress import Silent

pytestmark = pytest.mark.guest

MINE = """{"ignition": {"version": "3.3.0"},
 "storage": {"files": [{"path": "/etc/mine", "mode": 420, "contents": {"source": "data:,from%20me"}}]}}"""
PATIENCE = Patience(boot_s=240, settle_s=120, command_s=60)


@pytest.fixture
def direct(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Start the Ignition guest's kernel directly; everything else is the product's own command line."""
    guest = ignition_guest()

    def arguments(*args: object, **more: object) -> list[str]:
        product: list[str] = qemu_arguments(*args, **more)  # type: ignore[arg-type]  # passed on as they came
        words = ["-kernel", str(kernel), "-initrd", str(initrd), "-append", "console=ttyS0 quiet panic=-1"]
        return [*product, *words]

    with reachable(guest.kernel, guest.initrd) as (kernel, initrd):
        monkeypatch.setattr(seatrial.machine.boot, "qemu_arguments", arguments)
        yield


@contextlib.contextmanager
def started(folder: Path, key: RunKey, *, user: str, ignition: str) -> Iterator[Boot]:
    disk = folder / "empty.raw"
    disk.write_bytes(bytes(1 << 20))
    machine = load_machine("q35-uefi", data_dir("qemu") / "machines")
    access = Access(route="ignition", user=user)
    launch = Launch(
        features=qemu_features(machine.qemu, why="test Ignition"),
        machine=machine.model_copy(update={"firmware": "bios", "memory_mib": 768}),
        image=Image(path=disk, format="raw", file_bytes=1 << 20, disk_bytes=1 << 20),
        choice=Choice("tcg", "the test asks for it"),
        firmware=None,
        provision=provision(access, key.public_line, run_id="test", ignition=ignition),
        folder=folder,
    )
    with powered_on(launch) as boot:
        yield boot


@contextlib.contextmanager
def ready(boot: Boot, key: RunKey) -> Iterator[Guest]:
    user = boot.launch.provision.user
    with ready_guest(Address(boot.port), user, key, guard=boot.guard, patience=PATIENCE, progress=Silent()) as guest:
        yield guest


@pytest.mark.usefixtures("direct")
def test_ignition_lets_core_in_and_keeps_what_the_users_own_config_says(tmp_path: Path) -> None:
    key = RunKey(KEY_COMMENT)
    with started(tmp_path, key, user="core", ignition=MINE) as boot, ready(boot, key) as guest:
        assert guest.connection.user == "core"
        # The shell is root's, by doas; the login was core's.
        assert guest.shell.run("id -u")[:2] == (0, b"0\n")
        status, out, _err = guest.shell.run("cat /home/core/.ssh/authorized_keys.d/ignition /etc/mine")
        assert (status, out.decode()) == (0, f"{key.public_line}\nfrom me")
        assert b"core:" in guest.shell.run("grep ^core: /etc/passwd")[1]
    console = (tmp_path / "console.log").read_text(errors="backslashreplace")
    assert "Ignition Debian 2." in console
    assert "Ignition finished successfully" in console


@pytest.mark.usefixtures("direct")
def test_a_config_that_ignition_refuses_ends_the_boot_at_once(tmp_path: Path) -> None:
    key = RunKey(KEY_COMMENT)
    wrong = '{"ignition": {"version": "3.3.0"}, "storage": {"files": [{"path": "relative"}]}}'
    with started(tmp_path, key, user="core", ignition=wrong) as boot:
        with pytest.raises(BootFatal) as caught, ready(boot, key):
            pass
        assert boot.elapsed_s < PATIENCE.boot_s / 2
        assert caught.value.message.startswith("Ignition could not provision the system: the console said 'CRITICAL")
        assert any("path not absolute" in line for line in boot.console.tail(30))
