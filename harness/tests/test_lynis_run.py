"""Running lynis in a guest: which one, where, and that nothing of it stays. The guest's commands run really, here."""

from __future__ import annotations

import io
import os
import re
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from seatrial.clock import Deadline
from seatrial.errors import CommandTimeout, ConfigError, HostError, ObservationError, SessionLost
from seatrial.evidence.lynis import MAX_BYTES
from seatrial.guest.lynis import _free_kib, _tmpfs_mounts, run_lynis
from seatrial.guest.lynis_tree import LynisTree, find_tree, packed
from seatrial.process import run

Answer = tuple[int, bytes, bytes]

# A lynis of a few lines: it writes the report that it is told to, and shows how it was called.
FAKE = """#!/bin/sh
args="$*"
while [ $# -gt 0 ]; do
    case $1 in --report-file) report=$2 ;; --logfile) log=$2 ;; esac
    shift
done
printf 'said on the screen\\n'
printf '# Lynis Report\\nargs=%s\\npath=%s\\nwhere=%s\\nbytes=\\377\\000\\n' "$args" "$PATH" "$(pwd)" >"$report"
ls -R >"$log"
printf 'files=%s\\n' "$(tr '\\n' ' ' <"$log")" >>"$report"
{more}
"""


class Guest:
    """A shell that runs commands on this computer, in a folder that plays the guest's tmpfs."""

    def __init__(self, tmpfs: Path, *, own: bool = False, answers: dict[str, Answer] | None = None) -> None:
        self.tmpfs = tmpfs
        self.commands: list[str] = []
        self.pushed: list[tuple[str, int]] = []
        self.said: list[str] = []
        self.answers: dict[str, Answer | Exception] = {
            "command -v lynis": (0, b"/usr/sbin/lynis\n", b"") if own else (127, b"", b""),
            "cat /proc/mounts": (0, f"tmpfs {tmpfs} tmpfs rw,noexec 0 0\n".encode(), b""),
            "ls -ldn": (
                0,
                f"drwx------ 2 0 0 40 Jan 1 00:00 {tmpfs}\nHead\ntmpfs 99999 1 99998 1% {tmpfs}\n".encode(),
                b"",
            ),
            **(answers or {}),
        }

    def run(self, command: str, *, timeout_s: float | None = None) -> Answer:
        assert timeout_s is not None, "every command has a limit"
        self.commands.append(command)
        for part, answer in self.answers.items():
            if part in command:
                if isinstance(answer, Exception):
                    raise answer
                return answer
        try:
            done = run(["sh", "-c", command], deadline=Deadline(timeout_s))
        except HostError as exc:
            raise CommandTimeout(str(exc)) from exc
        return done.status, done.stdout, done.stderr

    def push(self, content: bytes, path: str, *, mode: int) -> None:
        self.pushed.append((path, mode))
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as sink:
            sink.write(content)

    @property
    def leftovers(self) -> list[str]:
        return sorted(str(path) for path in self.tmpfs.rglob("*"))


def a_tree(more: str = "", *, chosen: bool = False) -> LynisTree:
    files = {
        "lynis": FAKE.replace("{more}", more).encode(),
        "include/consts": b"c",
        "default.prf": b"p",
        "db/languages/en": b"e",
    }
    return LynisTree("a small lynis", files, chosen)


def report_of(guest: Guest, tree: LynisTree | None, deadline_s: float = 60) -> dict[str, bytes]:
    data = run_lynis(guest, tree=tree, deadline_s=deadline_s, say=guest.said.append)
    header, *lines = data.splitlines()
    assert header == b"# Lynis Report"
    return {key.decode(): value for key, _, value in (line.partition(b"=") for line in lines)}


# --- which lynis ---


def test_neither_image_nor_host_has_lynis(tmp_path: Path) -> None:
    guest = Guest(tmp_path)
    with pytest.raises(HostError, match="the image has none, and neither has this computer") as caught:
        run_lynis(guest, tree=None, deadline_s=9, say=guest.said.append)
    assert "seatrial doctor" in caught.value.hint
    assert guest.leftovers == []


def test_hosts_lynis_is_brought_run_and_removed(tmp_path: Path) -> None:
    guest = Guest(tmp_path)
    report = report_of(guest, a_tree())
    assert report["bytes"] == b"\xff\x00"
    args = report["args"].decode().split()
    assert args[:2] == ["audit", "system"]
    assert {"--quick", "--cronjob", "--no-colors", "--no-plugins", "--usecwd", "--plugindir"} <= set(args)
    assert report["where"].decode().startswith(f"{tmp_path}/seatrial-lynis-")
    assert {b"lynis", b"include:", b"consts", b"default.prf", b"plugins", b"en"} <= set(
        report["files"].replace(b"./", b"").split()
    )
    assert guest.leftovers == []
    assert "a small lynis" in guest.said[0]


def test_images_own_lynis_goes_before_the_hosts(tmp_path: Path) -> None:
    guest = Guest(
        tmp_path,
        own=True,
        answers={"umask 077; cd": (0, b"", b""), "wc -c": (0, b"4\n", b""), "cat /": (0, b"abcd", b"")},
    )
    assert run_lynis(guest, tree=a_tree(), deadline_s=9, say=guest.said.append) == b"abcd"
    assert guest.pushed == []
    (audit,) = [command for command in guest.commands if "audit" in command]
    assert " lynis audit system " in audit
    assert "--usecwd" not in audit
    assert guest.said == ["running the image's own lynis, /usr/sbin/lynis"]


def test_chosen_lynis_goes_before_the_images_own(tmp_path: Path) -> None:
    guest = Guest(tmp_path, own=True)
    assert b"--usecwd" in report_of(guest, a_tree(chosen=True))["args"]
    assert guest.leftovers == []


def test_guest_without_tar_gets_file_by_file(tmp_path: Path) -> None:
    guest = Guest(tmp_path, answers={"command -v tar": (127, b"", b"")})
    report = report_of(guest, a_tree())
    assert b"plugins" in report["files"]
    assert [Path(path).name for path, _ in guest.pushed] == ["lynis", "consts", "default.prf", "en"]
    assert guest.leftovers == []


def test_path_of_the_run_is_ours(tmp_path: Path) -> None:
    assert (
        report_of(Guest(tmp_path), a_tree())["path"] == b"/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    )


# --- what goes wrong ---


def fails(guest: Guest, tree: LynisTree | None, said: str, deadline_s: float = 60) -> None:
    with pytest.raises(ObservationError) as caught:
        run_lynis(guest, tree=tree, deadline_s=deadline_s, say=guest.said.append)
    assert said in caught.value.message
    assert guest.leftovers == []


def test_failed_run_shows_its_last_words(tmp_path: Path) -> None:
    fails(
        Guest(tmp_path),
        a_tree("printf 'no \\033[31mluck\\n'; exit 1"),
        "exit status 1: 'said on the screen\\\\u000ano \\\\u001b",
    )


def test_exit_status_of_a_profile_that_fails_on_warnings_is_fine(tmp_path: Path) -> None:
    assert report_of(Guest(tmp_path), a_tree("exit 78"))["bytes"] == b"\xff\x00"


def test_report_that_is_missing_is_an_error(tmp_path: Path) -> None:
    fails(Guest(tmp_path), a_tree('rm -f "$report"'), "there is no report")


def test_report_that_is_a_symlink_is_not_followed(tmp_path: Path) -> None:
    fails(Guest(tmp_path), a_tree('ln -sf /etc/hostname "$report"'), "there is no report")


def test_report_that_is_too_large_is_not_fetched(tmp_path: Path) -> None:
    guest = Guest(tmp_path)
    fails(guest, a_tree(f'truncate -s {MAX_BYTES + 1} "$report"'), f"{MAX_BYTES + 1} bytes")
    assert not [command for command in guest.commands if command.startswith("cat /") and "report" in command]


def test_report_that_comes_over_short_is_an_error(tmp_path: Path) -> None:
    guest = Guest(tmp_path, answers={"wc -c": (0, b"100000\n", b"")})
    fails(guest, a_tree(), "of 100000 bytes")


@pytest.mark.parametrize(
    ("mounts", "said"),
    [
        (b"", "seen: none"),
        (b"tmpfs /a\\040b tmpfs rw 0 0\ntmpfs /ro tmpfs ro,x 0 0\next4 / ext4 rw 0 0\n", "seen: none"),
        (b"\xff\x00 nonsense\n", "seen: none"),
    ],
)
def test_guest_without_a_tmpfs_is_an_error(tmp_path: Path, mounts: bytes, said: str) -> None:
    fails(Guest(tmp_path, answers={"cat /proc/mounts": (0, mounts, b"")}), a_tree(), said)


@pytest.mark.parametrize(
    ("listed", "free", "said"),
    [
        ("drwxrwxrwx 2 0 0", "99999", "not safe"),
        ("drwx------ 2 1000 0", "99999", "not safe"),
        ("lrwxrwxrwx 2 0 0", "99999", "not safe"),
        ("drwx------ 2 0 0", "12", "12 KiB free"),
        ("drwx------ 2 0 0", "many", "not safe"),
    ],
)
def test_tmpfs_that_is_not_safe_or_full_is_not_used(tmp_path: Path, listed: str, free: str, said: str) -> None:
    answer = f"{listed} 40 Jan 1 00:00 {tmp_path}\nHead\ntmpfs 9 1 {free} 1% {tmp_path}\n".encode()
    guest = Guest(tmp_path, answers={"ls -ldn": (0, answer, b"")})
    fails(guest, a_tree(), said)
    assert not [command for command in guest.commands if command.startswith("mkdir")]


def test_sticky_tmpfs_that_others_may_write_to_is_safe() -> None:
    assert _free_kib("drwxrwxrwt 9 0 0 40 Jan 1 00:00 /tmp\nHead\ntmpfs 9 1 77 1% /tmp\n") == 77
    assert _free_kib("") is None


def test_run_goes_before_other_tmpfs_mounts() -> None:
    mounts = "".join(f"tmpfs {path} tmpfs rw,nosuid 0 0\n" for path in ("/opt/x", "/tmp", "/dev/shm", "/mnt", "/run"))
    assert _tmpfs_mounts(mounts) == ["/run", "/dev/shm", "/tmp", "/mnt", "/opt/x"]


def test_folder_that_is_there_already_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("seatrial.guest.lynis.secrets.token_hex", lambda _: "planted")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "seatrial-lynis-planted").symlink_to(tmp_path / "elsewhere")
    guest = Guest(tmp_path)
    with pytest.raises(ObservationError, match="cannot make the folder"):
        run_lynis(guest, tree=a_tree(), deadline_s=9, say=guest.said.append)
    assert guest.leftovers == [str(tmp_path / "elsewhere"), str(tmp_path / "seatrial-lynis-planted")]


# --- what stays ---


def marked() -> list[str]:
    """Return the processes of this computer that a run of ours started."""
    found = []
    for environ in Path("/proc").glob("[0-9]*/environ"):
        try:
            if b"SEATRIAL_LYNIS=" in environ.read_bytes():
                found.append(environ.parent.name)
        except OSError:
            continue
    return found


def test_run_that_takes_too_long_is_killed_with_all_its_children(tmp_path: Path) -> None:
    guest = Guest(tmp_path)
    before = marked()
    with pytest.raises(CommandTimeout, match=r"lynis in the guest did not end within [23] s; it was killed"):
        run_lynis(guest, tree=a_tree("sleep 300 & sleep 300"), deadline_s=3, say=guest.said.append)
    assert marked() == before
    assert guest.leftovers == []


def test_lost_session_is_told_and_does_not_hide_behind_the_removal(tmp_path: Path) -> None:
    guest = Guest(tmp_path, answers={"umask 077; cd": (1, b"", b"")})
    guest.answers["ours()"] = SessionLost("gone")
    with pytest.raises(ObservationError, match="exit status 1"):
        run_lynis(guest, tree=a_tree(), deadline_s=9, say=guest.said.append)
    assert re.fullmatch(r"could not remove .*seatrial-lynis-[0-9a-f]{16} from the guest: gone", guest.said[-1])


def test_removal_that_fails_is_told(tmp_path: Path) -> None:
    guest = Guest(tmp_path)
    guest.answers["ours()"] = (1, b"", b"rm: busy\n")
    report_of(guest, a_tree())
    assert guest.said[-1].endswith("from the guest: rm: busy")


# --- the host's copy ---


def installed(root: Path, program: str = "usr/sbin/lynis") -> Path:
    for name in (program, "usr/share/lynis/include/consts", "usr/share/lynis/db/tests.db", "etc/lynis/default.prf"):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    for language in ("en", "de"):
        (root / "usr/share/lynis/db/languages").mkdir(exist_ok=True)
        (root / "usr/share/lynis/db/languages" / language).write_bytes(b"")
    return root


@pytest.mark.parametrize("program", ["usr/sbin/lynis", "usr/bin/lynis"])
def test_installed_lynis_is_laid_out_as_its_release(tmp_path: Path, program: str) -> None:
    tree = find_tree(root=installed(tmp_path, program))
    assert tree is not None
    assert sorted(tree.files) == ["db/languages/en", "db/tests.db", "default.prf", "include/consts", "lynis"]
    assert tree.files["lynis"] == program.encode()
    assert tree.folders == ("db", "db/languages", "include", "plugins")
    assert not tree.is_chosen


def without(name: str) -> Callable[[Path], None]:
    return lambda root: (root / name).unlink()


@pytest.mark.parametrize("missing", ["usr/sbin/lynis", "etc/lynis/default.prf"])
def test_half_an_installation_is_none(tmp_path: Path, missing: str) -> None:
    without(missing)(installed(tmp_path))
    assert find_tree(root=tmp_path) is None


def test_folder_of_the_user_is_chosen_and_brings_its_profile(tmp_path: Path) -> None:
    for name in ("lynis", "include/consts", "db/tests.db", "default.prf", "custom.prf"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    tree = find_tree(tmp_path)
    assert tree is not None
    assert tree.is_chosen
    assert "custom.prf" in tree.files


def test_folder_without_lynis_is_the_users_fault(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="holds no lynis"):
        find_tree(tmp_path)


def test_archive_belongs_to_root_and_is_closed_to_others() -> None:
    with tarfile.open(fileobj=io.BytesIO(packed(a_tree()))) as archive:
        members = archive.getmembers()
    assert {(m.uid, m.gid, m.uname, m.gname) for m in members} == {(0, 0, "root", "root")}
    assert {m.mode for m in members if m.isfile()} == {0o600}
    assert {m.mode for m in members if m.isdir()} == {0o700}
    assert "plugins" in [m.name for m in members]


def test_digest_names_the_contents() -> None:
    assert a_tree().digest == a_tree(chosen=True).digest
    assert a_tree().digest != a_tree("true").digest
    assert packed(a_tree()) == packed(a_tree())
