"""The walk over the guest's files: what it asks, and that a hostile name forges nothing."""

from __future__ import annotations

import contextlib
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from seatrial.errors import ObservationError
from seatrial.evidence.files import (
    FileState,
    acls_command,
    audit_command,
    backing_mount,
    lines_by_file,
    local_trees,
    parse_acls,
    parse_audit,
    parse_capabilities,
    parse_states,
    read_command,
    states_command,
)
from seatrial.evidence.mounts import parse_mountinfo

MOUNTS = parse_mountinfo(
    "1 0 253:4 / / rw shared:1 - ext4 /dev/vda4 rw\n"
    "2 1 254:0 / /usr ro - erofs /dev/mapper/usr ro\n"
    "3 1 0:22 / /proc rw - proc proc rw\n"
    "4 1 253:4 /var/tmp /var/tmp rw,noexec - ext4 /dev/vda4 rw\n"
    "5 1 0:37 / /boot rw - autofs systemd-1 rw\n"
    "6 5 253:1 / /boot rw - vfat /dev/vda1 rw\n"
    "7 1 0:40 / /tmp rw - tmpfs tmpfs rw\n"
    "8 7 0:41 / /tmp rw - tmpfs tmpfs rw\n"
)


def asked(command: str) -> tuple[int, str, str]:
    """Run a question on this computer, on files of the test's own."""
    done = subprocess.run(
        ["sh", "-c", command], capture_output=True, text=True, env={"LC_ALL": "C", "PATH": "/usr/bin:/bin"}, check=False
    )
    return done.returncode, done.stdout, done.stderr


def test_each_local_file_system_is_walked_once_and_others_never() -> None:
    assert local_trees(MOUNTS) == ("/", "/boot", "/tmp", "/usr")


@pytest.mark.parametrize(
    ("lines", "trees"),
    [
        (["0:30 /root /", "0:30 /home /home", "0:30 /var /var"], ("/", "/home", "/var")),
        (["254:0 / /", "253:5 /var /var", "253:5 /home /home", "253:5 /var/a /var/a"], ("/", "/home", "/var")),
        (["253:4 /ostree/deploy/x /", "253:4 / /sysroot"], ("/",)),
    ],
    ids=["subvolumes of btrfs", "pieces of one disk below another", "the whole disk below a part of it"],
)
def test_no_part_of_the_image_is_left_out(lines: list[str], trees: tuple[str, ...]) -> None:
    """Only what the walk of its parent enters: on btrfs find(1) stops at each subvolume."""
    kind = {"0:30": "btrfs", "254:0": "erofs"}
    text = "".join(f"{n} 1 {line} rw - {kind.get(line.split()[0], 'ext4')} /dev/x rw\n" for n, line in enumerate(lines))
    assert local_trees(parse_mountinfo(text)) == trees


def test_a_root_in_memory_is_no_tree_of_the_disk_and_no_error() -> None:
    usr, var = "2 1 253:3 / /usr ro - erofs /dev/dm-0 ro\n", "3 1 253:4 / /var rw - ext4 /dev/b rw\n"
    text = f"1 0 0:30 / / rw - tmpfs tmpfs rw\n{usr}{var}"
    assert local_trees(parse_mountinfo(text), without=("tmpfs",)) == ("/usr", "/var")


def test_a_folder_that_lies_below_itself_was_walked_and_any_other_complaint_counts() -> None:
    loop = "find: File system loop detected; '/sysroot/x' is part of the same file system loop as '/'.\n"
    found = parse_audit(1, "43ff root root /tmp\n", loop)
    assert [state.path for state in found] == ["/tmp"]
    with pytest.raises(ObservationError, match="Input/output error"):
        parse_audit(1, "43ff root root /tmp\n", f"{loop}find: '/etc/x': Input/output error\n")


def test_a_guest_without_getcap_has_no_programs_without_capabilities() -> None:
    with pytest.raises(ObservationError, match="no getcap"):
        parse_capabilities(127, "", "sh: getcap: not found\n")


def test_a_root_that_lies_elsewhere_is_an_error() -> None:
    with pytest.raises(ObservationError, match="virtiofs"):
        local_trees(parse_mountinfo("1 0 0:30 / / rw - virtiofs root rw\n2 1 0:31 / /tmp rw - tmpfs tmpfs rw\n"))


@pytest.mark.parametrize(
    ("path", "target"),
    [("/var/tmp", "/var/tmp"), ("/var", "/"), ("/boot", "/boot"), ("/tmpfs", "/"), ("/usr/bin", "/usr")],
)
def test_backing_mount_is_the_deepest(path: str, target: str) -> None:
    assert backing_mount(MOUNTS, path).target == target


def test_of_two_mounts_at_one_place_the_last_backs_it() -> None:
    assert backing_mount(MOUNTS, "/tmp").device == "0:41"


def test_walk_finds_what_an_audit_cares_for(tmp_path: Path) -> None:
    (tmp_path / "plain").write_text("x")
    for name, mode in {"open": 0o666, "suid": 0o4755, "sgid": 0o2755}.items():
        (tmp_path / name).write_text("x")
        (tmp_path / name).chmod(mode)
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder").chmod(0o777)
    (tmp_path / "link").symlink_to("plain")
    (tmp_path / "authorized_keys").write_text("key")
    (tmp_path / "authorized_keys2").write_text("")
    found = parse_audit(*asked(audit_command([str(tmp_path)])))
    assert {Path(state.path).name for state in found} == {"open", "suid", "sgid", "folder", "authorized_keys"}


def test_walk_finds_unowned_files_whatever_find_knows(tmp_path: Path) -> None:
    (tmp_path / "plain").write_text("x")
    (tmp_path / "open").write_text("x")
    (tmp_path / "open").chmod(0o666)
    command = audit_command([str(tmp_path)])
    assert "$user" in command
    # As busybox has it: the test for -nouser fails, and the known users are listed instead.
    spoilt = command.replace("-maxdepth 0 -nouser", "-maxdepth 0 -no-such-test")
    assert [state.path for state in parse_audit(*asked(spoilt))] == [str(tmp_path / "open")]


def test_name_with_a_line_break_forges_no_line(tmp_path: Path) -> None:
    evil = tmp_path / "sudo\n89ed root root "
    evil.mkdir()
    (evil / "passwd").write_text("x")
    (evil / "passwd").chmod(0o4755)
    (state,) = parse_audit(*asked(audit_command([str(tmp_path)])))
    assert state.path.startswith("(a line break in the name of inode ")
    assert state.permissions == 0o4755


def test_walk_that_could_not_see_everything_is_no_answer() -> None:
    with pytest.raises(ObservationError, match="incomplete"):
        parse_audit(1, "43ff root root /tmp\n", "find: '/x': Permission denied\n")


def test_file_that_vanished_meanwhile_is_no_fault() -> None:
    assert len(parse_audit(1, "43ff root root /tmp\n", "find: '/run/x': No such file or directory\n")) == 1


@pytest.mark.parametrize("status", [0, 127])
def test_walk_that_found_nothing_at_all_is_no_answer(status: int) -> None:
    with pytest.raises(ObservationError, match=r"not even /tmp|incomplete"):
        parse_audit(status, "", "")


def test_states_of_named_files(tmp_path: Path) -> None:
    (tmp_path / "a b.conf").write_text("x")
    (tmp_path / "a b.conf").chmod(0o640)
    (tmp_path / "to-file").symlink_to("a b.conf")
    (tmp_path / "dangling").symlink_to("nowhere")
    folder = str(tmp_path)
    status, out, _ = asked(states_command([f"{folder}/*", f"{folder}/missing"], follow=True))
    states = {Path(state.path).name: state for state in parse_states(out)}
    assert status == 0
    assert states.keys() == {"a b.conf", "to-file", "dangling"}
    assert (states["to-file"].permissions, states["to-file"].is_link, states["dangling"].is_link) == (
        0o640,
        False,
        True,
    )


def test_lines_are_told_apart_by_file_even_without_a_last_line_break(tmp_path: Path) -> None:
    first, second = tmp_path / "one:two", tmp_path / "one"
    first.write_text("x:y\n\nlast")
    second.write_text("two:z")
    paths = [str(first), str(second), str(tmp_path / "missing")]
    _, out, _ = asked(read_command(paths))
    assert lines_by_file(out, paths)[str(first)] == ("x:y", "", "last", "z")
    assert sum(len(lines) for lines in lines_by_file(out, paths).values()) == 4


def test_line_of_a_file_nobody_asked_for_is_refused() -> None:
    with pytest.raises(ObservationError, match="belongs to no file"):
        lines_by_file("/etc/other:x\n", ["/etc/passwd"])


@pytest.mark.parametrize(
    ("line", "path", "capabilities"),
    [
        ("/usr/bin/ping cap_net_raw=ep", "/usr/bin/ping", "cap_net_raw=ep"),
        ("/usr/bin/ping = cap_net_raw+ep", "/usr/bin/ping", "cap_net_raw=ep"),
        ("/opt/a b cap_setgid,cap_setuid=eip", "/opt/a b", "cap_setgid,cap_setuid=eip"),
        ("/usr/bin/x =ep", "/usr/bin/x", "=ep"),
    ],
)
def test_both_forms_of_getcap_are_read(line: str, path: str, capabilities: str) -> None:
    assert parse_capabilities(0, f"{line}\n", "") == {path: capabilities}


@pytest.mark.parametrize("line", ["/usr/bin/ping", "getcap: error", "/usr/bin/x cap_setuid"])
def test_what_getcap_does_not_say_is_refused(line: str) -> None:
    with pytest.raises(ObservationError, match="getcap said"):
        parse_capabilities(0, f"{line}\n", "")


@given(st.text(alphabet=st.sampled_from("0189abef rot/:=\n\x0b\x0c\u2028"), max_size=60))
def test_no_state_gets_lost_or_invented(text: str) -> None:
    with contextlib.suppress(ObservationError):
        assert len(parse_states(text)) == len([line for line in text.split("\n") if line])


def test_state_knows_what_it_is() -> None:
    state = FileState(mode=0o104755, owner="UNKNOWN", group="root", path="/usr/bin/x")
    assert (state.is_file, state.is_dir, state.is_link, state.has_owners, state.is_system) == (
        True,
        False,
        False,
        False,
        True,
    )
    assert str(state) == "/usr/bin/x (4755 UNKNOWN:root)"


def test_an_access_control_list_is_seen_whatever_the_mode_says() -> None:
    said = (
        "-rw-r-----+ 1 root shadow   702 Nov 28 01:43 /etc/shadow\n"
        "-rw-r-----  1 root shadow   399 Nov 28 01:44 /etc/gshadow\n"
        "-rw-r-----. 1 root root     399 Nov 28 01:44 /etc/labelled\n"
        "drwxr-x--T+ 3 root root    4096 Nov 28 01:43 /root/a b\n"
    )
    assert parse_acls(said) == ("/etc/shadow", "/root/a b")


def test_files_without_a_list_and_files_that_are_not_there_have_none(tmp_path: Path) -> None:
    (tmp_path / "plain").touch()
    status, out, _ = asked(acls_command([f"{tmp_path}/*", f"{tmp_path}/missing"]))
    assert (status, out.count("plain"), parse_acls(out)) == (0, 1, ())


@given(st.text())
def test_whatever_ls_says_is_read_without_a_fault(text: str) -> None:
    assert all(path.startswith("/") for path in parse_acls(text))
