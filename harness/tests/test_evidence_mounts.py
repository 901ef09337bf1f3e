"""Reading mounts and swap."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from seatrial.errors import ObservationError
from seatrial.evidence.mounts import beneath_extensions, block_number, mount_at, parse_mountinfo, parse_swaps
from suite_bench import recorded

LINE = "36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue"


def test_recorded_mounts_are_read() -> None:
    usr = mount_at(parse_mountinfo(recorded("immutability/mountinfo")), "/usr")
    assert usr is not None
    assert (usr.device, usr.kind, usr.source, usr.is_writable) == ("254:0", "erofs", "/dev/mapper/usr", False)


def test_optional_fields_may_be_none_or_many() -> None:
    for fields in ("", "shared:1 ", "shared:1 master:2 unbindable "):
        (mount,) = parse_mountinfo(LINE.replace("master:1 ", fields) + "\n")
        assert (mount.root, mount.target, mount.kind) == ("/mnt1", "/mnt2", "ext3")


def test_btrfs_lies_on_the_disk_that_it_names() -> None:
    line = "70 64 0:29 / /usr ro - btrfs /dev/mapper/usr ro"
    (usr,) = parse_mountinfo(line)
    asked: list[str] = []

    def answer(question: str) -> str:
        asked.append(question)
        return "254:0\n"

    assert usr.is_on_disk
    assert block_number(usr, answer) == "254:0"
    assert "/dev/mapper/usr" in asked[0]
    with pytest.raises(ObservationError, match="no device number"):
        block_number(usr, lambda _question: "")
    (plain,) = parse_mountinfo(LINE)
    assert block_number(plain, lambda _question: "not asked") == "98:0"
    (memory,) = parse_mountinfo("1 0 0:22 / /tmp rw - tmpfs tmpfs rw")
    assert not memory.is_on_disk


def test_octal_numbers_are_characters() -> None:
    (mount,) = parse_mountinfo(LINE.replace("/mnt2", r"/a\040b\134c"))
    assert mount.target == r"/a b\c"


@pytest.mark.parametrize(
    ("options", "super_options", "writable"),
    [("rw", "rw", True), ("ro", "rw", False), ("rw", "ro,acl", False), ("rw,nosuid", "rw,ro_fallback", True)],
)
def test_mount_is_writable_only_when_both_say_so(options: str, super_options: str, writable: bool) -> None:
    (mount,) = parse_mountinfo(f"1 0 98:0 / /x {options} - ext4 /dev/a {super_options}\n")
    assert mount.is_writable is writable


def test_last_mount_hides_the_others() -> None:
    mounts = parse_mountinfo(f"{LINE}\n{LINE.replace('ext3', 'tmpfs')}\n")
    assert mount_at(mounts, "/mnt2") == mounts[1]
    assert mount_at(mounts, "/mnt") is None


USR = "70 64 253:0 / /usr ro,nodev,relatime shared:2 - erofs /dev/mapper/usr ro,acl"
TREES = "/run/systemd/sysext/meta/usr:/run/systemd/sysext/extensions/docker-flatcar/usr:/usr"
OVER = f"139 70 0:40 / /usr ro,nodev,relatime shared:79 - overlay sysext ro,lowerdir={TREES},redirect_dir=on"


def test_what_lies_under_system_extensions_is_seen() -> None:
    mounts = parse_mountinfo(f"{USR}\n{OVER}\n{OVER}\n")
    assert mounts[1].extensions == {"docker-flatcar"}
    assert beneath_extensions(mounts, "/usr") == mounts[0]
    assert beneath_extensions(mounts, "/opt") is None
    newer = OVER.replace(f"lowerdir={TREES}", "lowerdir+=" + TREES.replace(":", ",lowerdir+="))
    assert parse_mountinfo(f"{newer}\n")[0].extensions == {"docker-flatcar"}


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("ro,lowerdir", "rw,upperdir=/var/u,workdir=/var/w,lowerdir"),
        ("/run/systemd/sysext/meta/usr", "/var/evil"),
        ("/run/systemd/sysext/meta/usr", "/run/systemd/sysext/meta/../../evil/usr"),
        (":/usr,", ":/run/systemd/sysext/meta/usr,"),
        ("- overlay", "- tmpfs"),
    ],
)
def test_any_other_overlay_hides_what_lies_under_it(old: str, new: str) -> None:
    mounts = parse_mountinfo(f"{USR}\n{OVER.replace(old, new)}\n")
    assert mounts[1].extensions == frozenset()
    assert beneath_extensions(mounts, "/usr") == mounts[1]


@pytest.mark.parametrize(
    "text", ["", "rubbish\n", LINE.replace(" - ", " "), LINE.replace("98:0", "x"), "1 0 9:0 / rel rw - a b c"]
)
def test_unreadable_mounts_are_an_error(text: str) -> None:
    with pytest.raises(ObservationError, match="mountinfo"):
        parse_mountinfo(text)


def test_swaps_are_read_below_their_header() -> None:
    assert parse_swaps(recorded("immutability/swaps")) == ()
    assert parse_swaps("Filename Type Size Used Priority\n/dev/vda5 partition 10 0 -2\n") == ("/dev/vda5",)


@pytest.mark.parametrize("text", ["", "/dev/vda5 partition 10 0 -2\n", "Filename Type\n/dev/vda5\n"])
def test_swaps_without_header_or_columns_are_an_error(text: str) -> None:
    with pytest.raises(ObservationError, match="/proc/swaps"):
        parse_swaps(text)


@given(st.text())
def test_any_text_is_read_or_refused(text: str) -> None:
    for parse in (parse_mountinfo, parse_swaps):
        with contextlib.suppress(ObservationError):
            assert isinstance(parse(text), tuple)
