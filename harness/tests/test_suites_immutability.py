"""Every control of the immutability suite passes on an immutable guest, and one defect each turns it red."""

from __future__ import annotations

import os
import struct
import subprocess
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest
from gpt_tables import HEADER_GUID, entry_guid, entry_label, entry_type, rewritten
from seatrial.errors import AuthRefused, BootTimeout, GuestStopped, ObservationError, QemuExited, SessionLost
from seatrial.evidence.attempts import BOOT_ID as ASK_BOOT_ID
from seatrial.evidence.cmdline import CMDLINE
from seatrial.evidence.flipped import flip_script, read_back_script
from seatrial.evidence.gpt import TABLES
from seatrial.evidence.instance import INSTANCE_STATE
from seatrial.evidence.loader import LOADER
from seatrial.evidence.mounts import MOUNTINFO, SWAPS
from seatrial.evidence.rescue import RESCUE
from seatrial.evidence.trees import tree_command
from seatrial.evidence.verity import device_command, parse_device
from seatrial.policy.judge import Outcome
from seatrial.suites import read_flavour
from suite_bench import BOOT_ID, Guest, all_of, bench, recorded

SUITE = bench("immutability")
USR = SUITE.modules["test_usr"]
STATE = SUITE.modules["test_state"]
RESET = SUITE.modules["test_reset"]
DEVICE = device_command("254:0")
LINKS = 'for f in /bin /sbin /lib /lib64; do if [ -e $f ] || [ -h $f ]; then echo "$f $(readlink -f $f)"; fi; done'
MANAGERS = (
    "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/opt/bin; for p in "
    + " ".join(read_flavour("debian-immutable").allowed("package-managers"))
    + "; do command -v $p; done; true"
)
ETC, PRISTINE = tree_command("/etc"), tree_command("/usr/share/factory/etc")
VERITY = parse_device(recorded("immutability/device"))
FLIP = flip_script(VERITY, "254:0", boot_id=BOOT_ID)
READ_BACK = read_back_script(VERITY, "254:0", 193468, boot_id=BOOT_ID)
OLD, NEW = "a" * 64, "b" * 64
NO_WRITE = "dd: failed to open it: Operation not permitted"
READ_FAILED = "read 1 0 dd: error reading '/dev/block/254:0': Input/output error"
READ_ONLY = "Read-only file system"
USR_LINE = "168 158 254:0 / /usr ro,relatime shared:2 - erofs /dev/mapper/usr ro,"

LAYERS = "lowerdir=/run/systemd/sysext/meta/usr:/run/systemd/sysext/extensions/mutant/usr:/usr"
# A /usr that is no block device any more: nothing of verity can be said of it.
SHADOWED = {
    "imm-usr-not-shadowed",
    "imm-usr-filesystem",
    "imm-no-extensions",
    "imm-verity-active",
    "imm-verity-hash-matches",
    "imm-verity-hash-algorithm",
    "imm-verity-corruption-mode",
    "imm-verity-whole-device",
    "imm-device-readonly",
    "imm-device-write-refused",
    "imm-lower-device-claimed",
    "imm-verity-corruption-detected",
}


def emptied(change: str, *, state: str = "running", failed: str = "") -> Guest:
    assert change == RESET.EMPTY_VAR
    return Guest({RESET.FAILED: failed}, boot={"state": state})


def refused_to(error: Exception) -> Callable[[Guest], None]:
    def boot(_change: str) -> Guest:
        raise error

    return lambda g: setattr(g, "booted_from", boot)


def guest() -> Guest:
    return Guest(
        {
            ASK_BOOT_ID: f"{BOOT_ID}\n",
            CMDLINE: recorded("kernel/cmdline"),
            MOUNTINFO: recorded("immutability/mountinfo"),
            SWAPS: recorded("immutability/swaps"),
            TABLES: recorded("immutability/tables"),
            DEVICE: recorded("immutability/device"),
            FLIP: f"block 193468\nold {OLD}\nbelow {OLD}\nnew {NEW}\nwrote 0 \nkept {NEW}\n",
            READ_BACK: f"{READ_FAILED}\ngot {OLD}\nstatus C\n",
            LINKS: "/bin /usr/bin\n/sbin /usr/sbin\n/lib /usr/lib\n/lib64 /usr/lib64\n",
            MANAGERS: "",
            STATE.OS_RELEASE: recorded("immutability/os-release"),
            STATE.EXTENSIONS: "",
            STATE.UNVERIFIED: "",
            ETC: recorded("immutability/etc"),
            PRISTINE: recorded("immutability/etc-pristine"),
            INSTANCE_STATE: recorded("immutability/instance"),
            RESCUE: recorded("immutability/rescue"),
            LOADER: recorded("immutability/loader"),
            STATE.MACHINE_ID: recorded("immutability/machine-id"),
            STATE.PROGRAMS: recorded("immutability/programs"),
        },
        booted_from=emptied,
        tries={
            **dict.fromkeys(USR.WRITES, (2, f"sh: 1: cannot create it: {READ_ONLY}")),
            **dict.fromkeys(USR.REMOUNTS, (32, f"sh: 1: cannot create /usr/.x: {READ_ONLY}")),
            "remount /usr writable": (
                32,
                "mount: /usr: cannot remount /dev/mapper/usr read-write, is write-protected.",
            ),
            "write to the device": (1, "dd: writing to '/dev/block/254:0': Operation not permitted"),
            "write to the device after unlocking it": (1, "dd: writing to it: Operation not permitted"),
            "mount the partition under verity": (32, "mount: /tmp: fsconfig() failed: /dev/vda3: Can't open blockdev."),
            "mount the partition under verity as ext4": (32, "mount: /tmp: fsconfig() failed: Can't open blockdev."),
        },
    )


CLAIMED, AS_EXT4 = "mount the partition under verity", "mount the partition under verity as ext4"


@pytest.mark.parametrize(
    ("said", "as_ext4", "outcome"),
    [
        ("mount: /tmp: mount(2) system call failed: File exists.", "mount: /dev/vda3 already mounted.", Outcome.PASS),
        ("mount: /tmp: mount(2) system call failed: File exists.", "mount: /tmp: wrong fs type.", Outcome.FAIL),
        ("mount: /tmp: wrong fs type, bad superblock.", "mount: /dev/vda3 already mounted.", Outcome.FAIL),
    ],
)
def test_a_file_system_that_is_mounted_elsewhere_does_not_show_that_its_device_is_claimed(
    said: str, as_ext4: str, outcome: Outcome
) -> None:
    old = guest()
    old.tries.update({CLAIMED: (32, said), AS_EXT4: (32, as_ext4)})
    assert SUITE.outcome("imm-lower-device-claimed", old) is outcome


@pytest.mark.parametrize(("exempt", "outcome"), [((), Outcome.FAIL), (("/data",), Outcome.PASS)])
def test_a_writable_disk_may_be_exempt_by_name(exempt: tuple[str, ...], outcome: Outcome) -> None:
    lax = guest()
    mounted("99 1 254:7 / /data rw,relatime - ext4 /dev/vdb1 rw")(lax)
    lax.expect["privileged-mounts"] = exempt
    assert SUITE.outcome("imm-writable-nosuid", lax) is outcome


def edit(question: str, old: str, new: str) -> Callable[[Guest], None]:
    return lambda g: g.replace(question, old, new)


def works(title: str) -> Callable[[Guest], None]:
    return lambda g: g.tries.update({title: (0, "")})


def table(at: int, new: bytes) -> Callable[[Guest], None]:
    return lambda g: g.answers.update({TABLES: rewritten(g.answers[TABLES], at, new)})


def mounted(line: str) -> Callable[[Guest], None]:
    return lambda g: g.add(MOUNTINFO, line)


# One defect: what is broken, and the controls that see it.
DEFECTS: dict[str, tuple[Callable[[Guest], None], set[str]]] = {
    "the mount of /usr is writable": (edit(MOUNTINFO, "/usr ro,relatime", "/usr rw,relatime"), {"imm-usr-readonly"}),
    "/usr and its file system are writable": (
        edit(MOUNTINFO, USR_LINE, USR_LINE.replace("ro,", "rw,")),
        {"imm-usr-readonly", "imm-writable-set", "imm-writable-nosuid"},
    ),
    **{f"it works to {what}": (works(what), {"imm-usr-write-fails"}) for what in USR.WRITES},
    "a write fails for another reason": (
        lambda g: g.tries.update({"create a file in /usr": (2, "sh: cannot create it: No space left on device")}),
        {"imm-usr-write-fails"},
    ),
    **{f"it works to {what}": (works(what), {"imm-remount-fails"}) for what in USR.REMOUNTS},
    "another file system": (edit(MOUNTINFO, "- erofs", "- ext4"), {"imm-usr-filesystem"}),
    "a bind mount below /usr": (
        mounted("300 168 253:4 /extra /usr/local ro,nosuid - ext4 /dev/vda4 rw"),
        {"imm-usr-not-shadowed"},
    ),
    "an overlay over /usr": (
        mounted("300 168 0:77 / /usr ro,nodev - overlay sysext ro,lowerdir=/a"),
        SHADOWED,
    ),
    "an overlay that takes writes, called as those of extensions": (
        mounted(f"300 168 0:77 / /usr ro,nodev - overlay sysext rw,{LAYERS},upperdir=/var/x,workdir=/var/y"),
        SHADOWED | {"imm-usr-readonly"},
    ),
    "an extension that the flavour does not name": (
        # Verity is seen through it: what it adds is what is wrong.
        mounted(f"300 168 0:77 / /usr ro,nodev - overlay sysext ro,{LAYERS}"),
        {"imm-usr-not-shadowed", "imm-no-extensions"},
    ),
    "/lib is a folder of its own": (edit(LINKS, "/lib /usr/lib\n", "/lib /lib\n"), {"imm-merged-usr"}),
    "verity found corruption": (edit(DEVICE, "verity V", "verity C"), {"imm-verity-active"}),
    "a linear target in the place of verity": (
        lambda g: g.answers.update(
            {DEVICE: "name usr\nsectors 8\nro 1\ntable 0 8 linear 253:3 0\nstatus 0 8 linear \n"}
        ),
        {
            "imm-verity-active",
            "imm-verity-hash-matches",
            "imm-verity-hash-algorithm",
            "imm-verity-corruption-mode",
            "imm-verity-whole-device",
            "imm-lower-device-claimed",
            "imm-verity-corruption-detected",
        },
    ),
    "another root hash on the command line": (
        edit(CMDLINE, "usrhash=0c5d", "usrhash=1c5d"),
        {"imm-verity-hash-matches"},
    ),
    "no root hash on the command line": (edit(CMDLINE, "usrhash=", "nohash="), {"imm-verity-hash-matches"}),
    "a weak digest": (edit(DEVICE, " sha256 ", " sha1 "), {"imm-verity-hash-algorithm"}),
    "no salt": (
        edit(DEVICE, "76776637dd0b2d58c15f0883bea5e578dc53dc77b5b78ab4852fa984b504e6d3", "-"),
        {"imm-verity-hash-algorithm"},
    ),
    "corruption is ignored": (
        edit(DEVICE, "fa984b504e6d3", "fa984b504e6d3 1 ignore_corruption"),
        {"imm-verity-corruption-mode"},
    ),
    "the changed bytes come back": (
        lambda g: g.answers.update({READ_BACK: f"read 0 512 \ngot {NEW}\nstatus C\n"}),
        {"imm-verity-corruption-detected"},
    ),
    "bytes of nobody come back": (
        lambda g: g.answers.update({READ_BACK: f"read 0 512 \ngot {'c' * 64}\nstatus V\n"}),
        {"imm-verity-corruption-detected"},
    ),
    "a unit needs what was in /var": (
        lambda g: setattr(
            g, "booted_from", lambda c: emptied(c, state="degraded", failed="app.service loaded failed failed app\n")
        ),
        {"imm-empty-var-boots"},
    ),
    "the system never settles without its /var": (
        lambda g: setattr(g, "booted_from", lambda c: emptied(c, state="starting")),
        {"imm-empty-var-boots"},
    ),
    "no login without its /var": (
        refused_to(BootTimeout("no SSH server answered on port 40022 within 90 s")),
        {"imm-empty-var-boots"},
    ),
    "no key without its /var": (refused_to(AuthRefused("the SSH server refuses the key")), {"imm-empty-var-boots"}),
    "verity is told to look away": (edit(CMDLINE, " rw", " rw systemd.verity=0"), {"imm-verity-corruption-mode"}),
    "verity covers a part": (edit(DEVICE, "sectors 386936", "sectors 386944"), {"imm-verity-whole-device"}),
    "the device is writable": (edit(DEVICE, "ro 1", "ro 0"), {"imm-device-readonly"}),
    "the device can be written to": (works("write to the device"), {"imm-device-write-refused"}),
    "the device can be unlocked": (works("write to the device after unlocking it"), {"imm-device-write-refused"}),
    "the lower partition can be mounted": (works("mount the partition under verity"), {"imm-lower-device-claimed"}),
    "a writable place that nobody planned": (
        mounted("300 158 0:99 / /srv/state rw,nosuid,nodev - tmpfs tmpfs rw"),
        {"imm-writable-set"},
    ),
    "set-id programs on the root disk": (
        edit(MOUNTINFO, " / / rw,nosuid,nodev", " / / rw,nodev"),
        {"imm-writable-nosuid"},
    ),
    "a program from /var": (
        edit(STATE.PROGRAMS, "/usr/sbin/sshd\n", "/usr/sbin/sshd\n/var/lib/agent/agent\n"),
        {"imm-programs-from-usr"},
    ),
    "process 1 from elsewhere": (
        edit(STATE.PROGRAMS, "/usr/lib/systemd/systemd\n", "/sbin/init\n"),
        {"imm-programs-from-usr"},
    ),
    "a package manager": (lambda g: g.add(MANAGERS, "/usr/bin/dpkg"), {"imm-no-package-manager"}),
    "os-release is a file of its own": (
        edit(STATE.OS_RELEASE, "/usr/lib/os-release", "/etc/os-release"),
        {"imm-os-release"},
    ),
    "os-release of another image": (edit(STATE.OS_RELEASE, "VARIANT_ID=", "VARIANT_ID=x"), {"imm-os-release"}),
    "os-release without a version": (edit(STATE.OS_RELEASE, "IMAGE_VERSION=", "VERSION_OF="), {"imm-os-release"}),
    "a disk GUID that somebody wrote": (
        table(HEADER_GUID, uuid.UUID("00000000-0000-4000-8000-000000000001").bytes_le),
        {"imm-disk-uuid-random"},
    ),
    "a partition's GUID that somebody wrote": (table(entry_guid(4), b"\1" + bytes(15)), {"imm-disk-uuid-random"}),
    "a hash tree of another type": (
        table(entry_type(2), uuid.UUID("0fc63daf-8483-4772-8e79-3d69d8477de4").bytes_le),
        {"imm-root-device-uuid"},
    ),
    "a partition by another name": (table(entry_label(4), "rooz".encode("utf-16-le")), {"imm-root-device-uuid"}),
    "a partition more": (
        table(entry_type(5), uuid.uuid4().bytes_le * 2 + struct.pack("<QQ", 1587600, 1587601)),
        {"imm-root-device-uuid"},
    ),
    "swap on a disk": (lambda g: g.add(SWAPS, "/dev/vda5 partition 1048572 0 -2"), {"imm-no-swap"}),
    "an extension waits": (lambda g: g.add(STATE.EXTENSIONS, "tools.raw"), {"imm-no-extensions"}),
    "an extension that nobody verifies": (
        all_of(
            lambda g: g.add(STATE.UNVERIFIED, "/var/lib/extensions/tools"), lambda g: g.add(STATE.EXTENSIONS, "tools")
        ),
        {"imm-sysext-verified", "imm-no-extensions"},
    ),
    "a file in /etc that no build made": (
        lambda g: g.answers.update({ETC: f"81a4 0 0 './mutant'\n{g.answers[ETC]}"}),
        {"imm-etc-default-drift"},
    ),
    "other rights in /etc": (
        edit(ETC, "8180 0 0 './ssh/sshd_config'", "81a4 0 0 './ssh/sshd_config'"),
        {"imm-etc-default-drift"},
    ),
    "a lease of the build machine": (
        edit(INSTANCE_STATE, "btime", "1590000000 1795703441 /var/lib/dhcp/dhclient.leases\nbtime"),
        {"imm-no-instance-state"},
    ),
    "a host key of the build machine": (
        edit(INSTANCE_STATE, "1795703441 1795703441", "1795703441 1590000000"),
        {"imm-no-instance-state"},
    ),
    "emergency mode is forced open": (
        edit(RESCUE, "Environment=HOME=/root\nId=emergency", "Environment=SYSTEMD_SULOGIN_FORCE=1\nId=emergency"),
        {"ib-emergency-auth"},
    ),
    "a shell in the initrd": (edit(CMDLINE, " rw", " rw rd.break=pre-mount"), {"ib-emergency-auth"}),
    "the editor is on": (edit(LOADER, "editor no", "editor yes"), {"ib-loader-locked"}),
    "nobody speaks of the editor": (edit(LOADER, "editor no\n", ""), {"ib-loader-locked"}),
    "GRUB without a password": (
        lambda g: g.answers.update({LOADER: "esp\ngrub\nsuperusers\nthe end\n"}),
        {"ib-loader-locked"},
    ),
    "the machine id came with the image": (
        edit(STATE.MACHINE_ID, "written 1795476009", "written 1795000000"),
        {"imm-machine-id-empty"},
    ),
    "D-Bus's machine id came with the image": (
        edit(STATE.MACHINE_ID, "btime ", "dbus 1795000000\nbtime "),
        {"imm-machine-id-empty"},
    ),
    "sulogin is forced for every unit": (edit(RESCUE, "LANG=", "SYSTEMD_SULOGIN_FORCE=1 LANG="), {"ib-emergency-auth"}),
    "no machine id": (edit(STATE.MACHINE_ID, "id 7e2abc5c41684ecd805358c8b9968e4a", "id "), {"imm-machine-id-empty"}),
}


def test_immutable_guest_passes_every_control() -> None:
    assert SUITE.red(guest(), "immutable-host") == {}


@pytest.mark.parametrize("name", DEFECTS)
def test_defect_turns_exactly_its_controls_red(name: str) -> None:
    seed, expected = DEFECTS[name]
    broken = guest()
    seed(broken)
    red = SUITE.red(broken, "immutable-host")
    assert red.keys() == expected, red
    assert all(why.startswith("fail") for why in red.values()), red


def test_every_control_has_a_defect() -> None:
    assert set().union(*(controls for _seed, controls in DEFECTS.values())) == SUITE.controls.keys()


@pytest.mark.parametrize("title", [next(iter(USR.WRITES)), next(iter(USR.REMOUNTS)), "write to the device"])
def test_attempt_that_could_not_be_made_is_an_error(title: str) -> None:
    broken = guest()
    broken.tries[title] = (127, "sh: 1: unshare: not found")
    assert [why.split(":")[0] for why in SUITE.red(broken, "immutable-host").values()] == ["error"]


def test_attempts_without_a_boot_id_are_not_made() -> None:
    broken = guest()
    broken.answers[ASK_BOOT_ID] = "\n"
    assert SUITE.outcome("imm-usr-write-fails", broken) == Outcome.ERROR


@pytest.mark.parametrize("question", [MOUNTINFO, SWAPS, DEVICE, LINKS, STATE.PROGRAMS, STATE.MACHINE_ID])
def test_empty_answer_never_passes(question: str) -> None:
    broken = guest()
    broken.answers[question] = ""
    assert any(why.startswith("error") for why in SUITE.red(broken, "immutable-host").values())


def test_disk_without_a_table_of_guids_lacks_what_was_promised_and_has_no_guid() -> None:
    plain = guest()
    plain.answers[TABLES] = ""
    assert SUITE.outcome("imm-root-device-uuid", plain) == Outcome.FAIL
    assert SUITE.outcome("imm-disk-uuid-random", plain) == Outcome.NOT_APPLICABLE


def test_usr_on_the_root_file_system_is_judged_as_the_root() -> None:
    broken = guest()
    lines = broken.answers[MOUNTINFO].split("\n")
    broken.answers[MOUNTINFO] = "\n".join(line for line in lines if not line.startswith(USR_LINE))
    assert SUITE.outcome("imm-usr-readonly", broken) == Outcome.FAIL


def refused(g: Guest) -> None:
    g.replace(FLIP, "wrote 0 ", f"wrote 1 {NO_WRITE}\nwrote 1 {NO_WRITE}")
    g.replace(FLIP, f"kept {NEW}", f"kept {OLD}")


def test_block_that_nobody_may_change_is_safe() -> None:
    careful = guest()
    refused(careful)
    del careful.answers[READ_BACK]
    assert SUITE.outcome("imm-verity-corruption-detected", careful) == Outcome.PASS


@pytest.mark.parametrize(
    ("seed", "why"),
    [
        (edit(FLIP, f"kept {NEW}", f"kept {OLD}"), "the write worked, and the partition now holds"),
        (all_of(refused, edit(FLIP, "Operation not permitted", "No space left on device")), "No space left on device"),
        (all_of(refused, edit(FLIP, f"kept {OLD}", f"kept {'c' * 64}")), "was not changed as it should"),
        (edit(FLIP, f"below {OLD}", f"below {NEW}"), "is not where verity reads it"),
        (edit(FLIP, NEW, OLD), "was not changed as it should"),
        (lambda g: g.answers.update({FLIP: "lacks dd\n"}), "the guest lacks dd"),
        (lambda g: g.answers.update({FLIP: ""}), "0 lines 'block'"),
        (edit(READ_BACK, "Input/output error", "No such file or directory"), "No such file or directory"),
        (edit(READ_BACK, "status C", "status V"), "not by verity's word 'V'"),
        (edit(READ_BACK, READ_FAILED, "read 0 512 "), "the bytes of before came back"),
        (edit(READ_BACK, READ_FAILED, "read 0 0 "), "gave 0 of 512 bytes"),
        (lambda g: g.answers.update({READ_BACK: ""}), "0 lines 'read'"),
        (lambda g: g.deadly.update({READ_BACK: SessionLost("the connection broke")}), "the connection broke"),
    ],
)
def test_change_that_shows_nothing_is_an_error(seed: Callable[[Guest], None], why: str) -> None:
    unclear = guest()
    seed(unclear)
    outcome, because = SUITE.explained("imm-verity-corruption-detected", unclear)
    assert (outcome, why in because) == (Outcome.ERROR, True), because


def test_verity_that_stops_the_system_has_noticed() -> None:
    stopped = guest()
    stopped.deadly[READ_BACK] = GuestStopped("the guest restarted by itself")
    assert SUITE.outcome("imm-verity-corruption-detected", stopped) == Outcome.ERROR
    stopped.boot["console"] = "[ 99.0] reboot: Restarting system with command 'dm-verity device corrupted'\n"
    assert SUITE.outcome("imm-verity-corruption-detected", stopped) == Outcome.PASS


@pytest.mark.parametrize("error", [ObservationError("the disk could not be changed"), QemuExited("QEMU was killed")])
def test_boot_without_var_that_was_not_made_is_an_error(error: Exception) -> None:
    unclear = guest()
    refused_to(error)(unclear)
    assert SUITE.outcome("imm-empty-var-boots", unclear) == Outcome.ERROR


def test_var_is_emptied_of_everything(tmp_path: Path) -> None:
    for place in ("var/lib/app", "var/lib/.hidden folder", "var/tmp"):
        (tmp_path / place).mkdir(parents=True)
    (tmp_path / "var/lib/app/state of it").write_text("x")
    (tmp_path / "var/run").symlink_to("../run")
    (tmp_path / "etc").mkdir()
    subprocess.run(["sh", "-c", RESET.EMPTY_VAR], env={**os.environ, "R": str(tmp_path)}, check=True)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["etc", "var"]


@pytest.mark.parametrize("make", [lambda path: None, lambda path: path.symlink_to("elsewhere")])
def test_place_without_a_var_of_its_own_is_refused(tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(tmp_path / "var")
    done = subprocess.run(
        ["sh", "-c", RESET.EMPTY_VAR], env={**os.environ, "R": str(tmp_path)}, check=False, capture_output=True
    )
    assert (done.returncode, done.stderr) == (1, b"/var is no directory on the disk\n")
