"""Every control of the immutability suite passes on an immutable guest, and one defect each turns it red."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from seatrial.evidence.attempts import BOOT_ID as ASK_BOOT_ID
from seatrial.evidence.cmdline import CMDLINE
from seatrial.evidence.instance import INSTANCE_STATE
from seatrial.evidence.loader import LOADER
from seatrial.evidence.mounts import MOUNTINFO, SWAPS
from seatrial.evidence.rescue import RESCUE
from seatrial.evidence.trees import tree_command
from seatrial.evidence.verity import device_command
from seatrial.policy.judge import Outcome
from seatrial.suites import read_flavour
from suite_bench import BOOT_ID, Guest, all_of, bench, recorded

SUITE = bench("immutability")
USR = SUITE.modules["test_usr"]
STATE = SUITE.modules["test_state"]
DEVICE = device_command("254:0")
LINKS = 'for f in /bin /sbin /lib /lib64; do if [ -e $f ] || [ -h $f ]; then echo "$f $(readlink -f $f)"; fi; done'
MANAGERS = (
    "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/opt/bin; for p in "
    + " ".join(read_flavour("debian-immutable").allowed("package-managers"))
    + "; do command -v $p; done; true"
)
ETC, PRISTINE = tree_command("/etc"), tree_command("/usr/share/factory/etc")
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
}


def guest() -> Guest:
    return Guest(
        {
            ASK_BOOT_ID: f"{BOOT_ID}\n",
            CMDLINE: recorded("kernel/cmdline"),
            MOUNTINFO: recorded("immutability/mountinfo"),
            SWAPS: recorded("immutability/swaps"),
            DEVICE: recorded("immutability/device"),
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
        },
    )


def edit(question: str, old: str, new: str) -> Callable[[Guest], None]:
    return lambda g: g.replace(question, old, new)


def works(title: str) -> Callable[[Guest], None]:
    return lambda g: g.tries.update({title: (0, "")})


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
            "imm-verity-whole-device",
            "imm-lower-device-claimed",
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


def test_usr_on_the_root_file_system_is_judged_as_the_root() -> None:
    broken = guest()
    lines = broken.answers[MOUNTINFO].split("\n")
    broken.answers[MOUNTINFO] = "\n".join(line for line in lines if not line.startswith(USR_LINE))
    assert SUITE.outcome("imm-usr-readonly", broken) == Outcome.FAIL
