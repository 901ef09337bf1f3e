"""A kernel that QEMU starts itself: refused early when it is none, known by its content, part of the digest."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest
from seatrial.errors import ConfigError
from seatrial.machine.digest import sha256_of_all
from seatrial.machine.kernel import kernel_image, open_kernel

BZIMAGE = b"\0" * 0x202 + b"HdrS" + b"\0" * 600
ARM64 = b"\0" * 0x38 + b"ARM\x64" + b"\0" * 600


@pytest.mark.parametrize("content", [BZIMAGE, ARM64, b"MZ" + b"\0" * 600])
def test_a_kernel_is_known_by_its_content(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "k").write_bytes(content)
    direct = open_kernel(tmp_path / "k", None, None, console="ttyAMA0")
    assert direct is not None
    assert (direct.append, direct.files) == ("console=ttyAMA0", (tmp_path / "k",))


def test_without_a_kernel_there_is_nothing_to_start() -> None:
    assert open_kernel(None, None, None, console="ttyS0") is None


@pytest.mark.parametrize(
    ("kernel", "initrd", "append", "text"),
    [
        (None, "i", None, "--initrd was given without --kernel"),
        (None, None, "quiet", "--append was given without --kernel"),
        ("missing", None, None, "cannot be read: No such file or directory"),
        ("folder", None, None, "cannot be read: Is a directory"),
        ("fifo", None, None, "is no regular file"),
        ("empty", None, None, "is empty (0 bytes)"),
        ("vmlinux", None, None, "is none that QEMU can start"),
        ("k", "empty", None, "initrd * is empty (0 bytes)"),
        ("k", "missing", None, "initrd * cannot be read"),
        ("k", None, "two\nlines", "all printable"),
        ("k", None, "x" * 3000, "--append has 3000 characters"),
    ],
)
def test_bad_input_is_refused(
    tmp_path: Path, kernel: str | None, initrd: str | None, append: str | None, text: str
) -> None:
    (tmp_path / "k").write_bytes(BZIMAGE)
    (tmp_path / "vmlinux").write_bytes(b"\x7fELF" + b"\0" * 2000)
    (tmp_path / "empty").touch()
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(ConfigError) as caught:
        open_kernel(
            tmp_path / kernel if kernel else None, tmp_path / initrd if initrd else None, append, console="ttyS0"
        )
    pytest.LineMatcher([caught.value.message]).fnmatch_lines([f"*{text}*"])


def test_the_digest_covers_kernel_and_initrd(tmp_path: Path) -> None:
    kernel, initrd = tmp_path / "k", tmp_path / "i"
    kernel.write_bytes(BZIMAGE)
    initrd.write_bytes(b"one")
    direct = open_kernel(kernel, initrd, None, console="ttyS0")
    assert direct is not None
    image = kernel_image(direct)
    lines = "".join(f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n" for path in (kernel, initrd))
    assert sha256_of_all(image.parts) == hashlib.sha256(lines.encode()).hexdigest()
    initrd.write_bytes(b"two")
    assert sha256_of_all(image.parts) != hashlib.sha256(lines.encode()).hexdigest()
