"""The micro guest: Debian's cloud kernel and an initramfs of busybox and dropbear; it answers after some seconds.

Built from packages that apt on this computer fetches, and cached by what it is made of.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import lzma
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from seatrial.clock import Deadline
from seatrial.layout import cache_dir, data_dir
from seatrial.process import run

__all__ = ["QUICK", "Micro", "micro_guest", "reachable"]

# For the kernel's command line: no self-tests and no probing for what is not there, which cost an emulated CPU seconds.
QUICK = "console=ttyS0 quiet cryptomgr.notests nokaslr mitigations=off no_timer_check i8042.nokbd i8042.noaux"

RECIPE = data_dir("qemu") / "images" / "micro"
LINES = Path(__file__).parents[2] / "fixtures" / "console" / "micro.lines"
_FETCH_S = 600.0
_KEPT = 6  # files of earlier recipes: another checkout may be at work with them
_BUILDER = "3"  # goes up when this module would build another guest from the same recipe


@dataclass(frozen=True, slots=True, kw_only=True)
class Micro:
    """The two files that QEMU starts directly (``-kernel``, ``-initrd``)."""

    kernel: Path
    initrd: Path


@contextlib.contextmanager
def reachable(*files: Path) -> Iterator[list[Path]]:
    """Yield copies that every user may read: QEMU runs as one who may not look into root's home."""
    with tempfile.TemporaryDirectory(prefix="seatrial-micro-") as place:
        os.chmod(place, 0o755)
        yield [Path(shutil.copyfile(file, Path(place, file.name))) for file in files]


def micro_guest() -> Micro:
    """Return the micro guest, building it when its recipe has changed."""
    place = cache_dir("micro")
    with (place / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        name = _recipe_digest()
        made = Micro(kernel=place / f"vmlinuz-{name}", initrd=place / f"initrd-{name}.cpio")
        if not (made.kernel.is_file() and made.initrd.is_file()):
            for old in sorted(place.glob("*-*"), key=lambda path: path.stat().st_mtime)[:-_KEPT]:
                old.unlink()
            _build(made)
        return made


def _recipe_digest() -> str:
    content = b"\0".join(
        path.read_bytes() for path in [*sorted(RECIPE.iterdir()), *([LINES] if LINES.is_file() else [])]
    )
    return hashlib.sha256(_BUILDER.encode() + content).hexdigest()[:16]


def _build(made: Micro) -> None:
    with tempfile.TemporaryDirectory(dir=made.kernel.parent) as place:
        tree = Path(place, "tree")
        for package in _packages(Path(place, "packages")):
            _run(["dpkg-deb", "-x", str(package), str(tree)])
        root = Path(place, "root")
        (kernel,) = tree.glob("boot/vmlinuz-*")
        _fill(root, tree, kernel.name.removeprefix("vmlinuz-"))
        archive = Path(place, "initrd")
        archive.write_bytes(_cpio(root))  # unpacking costs an emulated CPU seconds
        archive.replace(made.initrd)
        shutil.copy(kernel, Path(place, "kernel"))
        Path(place, "kernel").replace(made.kernel)


def _packages(folder: Path) -> list[Path]:
    folder.mkdir(mode=0o755)
    depends = _run(["apt-cache", "depends", "--important", "linux-image-cloud-amd64"])
    kernel = re.search(r"Depends: (linux-image-\S+)", depends)
    assert kernel, f"apt on this computer knows no linux-image-cloud-amd64:\n{depends}"
    words = [line for line in (RECIPE / "packages.list").read_text().splitlines() if line and line[0] != "#"]
    names = [kernel[1] if word == "%KERNEL%" else word for word in words]
    _run(["apt-get", "download", "-q", "-o", "APT::Sandbox::User=root", *names], cwd=folder)
    return sorted(folder.glob("*.deb"))


def _run(argv: list[str], cwd: Path | None = None) -> str:
    done = run(argv, deadline=Deadline(_FETCH_S), cwd=cwd)
    assert done.status == 0, f"{' '.join(argv)}: {done.complaint}"
    return done.text


def _fill(root: Path, tree: Path, release: str) -> None:
    for folder in ("bin", "sbin", "usr/bin", "usr/sbin", "lib64", "usr/lib/x86_64-linux-gnu", "etc", "root"):
        (root / folder).mkdir(parents=True)
    (root / "lib").symlink_to("usr/lib")
    shutil.copy(next(tree.glob("**/bin/busybox")), root / "bin/busybox")
    for name in ("dropbear", "dropbearkey"):
        shutil.copy(next(tree.glob(f"**/{name}")), root / "usr/sbin" / name)
    for library in tree.glob("**/x86_64-linux-gnu/*.so*"):
        shutil.copy(library.resolve(), root / "usr/lib/x86_64-linux-gnu" / library.name)
    shutil.copy(root / "usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2", root / "lib64")
    (root / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n")
    (root / "etc/group").write_text("root:x:0:\nnogroup:x:65534:\n")
    (root / "etc/shells").write_text("/bin/sh\n")
    (root / "etc/os-release").write_text('ID=micro\nNAME="Seatrial micro guest"\nVERSION_ID=1\n')
    if LINES.is_file():
        shutil.copy(LINES, root / "etc/micro.lines")
    for name, place in (("init", root), ("words", root / "bin"), ("fault", root / "bin"), ("provoked", root / "bin")):
        shutil.copy(RECIPE / name, place / name)
        (place / name).chmod(0o755)
    _copy_modules(next(tree.glob(f"**/modules/{release}")), root / "usr/lib/modules" / release)


def _copy_modules(source: Path, target: Path) -> None:
    """Copy the listed modules and what they need, unpacked, with the ``modules.dep`` that modprobe reads."""
    files = {path.name.partition(".")[0].replace("-", "_"): path for path in source.glob("kernel/**/*.ko*")}
    needs: dict[str, list[str]] = {}
    todo = [line.replace("-", "_") for line in (RECIPE / "modules.list").read_text().splitlines() if line[:1] != "#"]
    while todo:
        name = todo.pop()
        if name in files and name not in needs:
            content = _module(files[name])
            found = re.search(rb"\0depends=([^\0]*)\0", content)
            needs[name] = [
                other.replace("-", "_") for other in (found[1].decode() if found else "").split(",") if other
            ]
            todo += needs[name]
            place = target / f"{name}.ko"
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(content)
    lines = [f"{name}.ko: {' '.join(f'{other}.ko' for other in _all_needs(name, needs))}\n" for name in sorted(needs)]
    (target / "modules.dep").write_text("".join(lines))


def _module(path: Path) -> bytes:
    raw = path.read_bytes()
    return lzma.decompress(raw) if path.suffix == ".xz" else raw


def _all_needs(name: str, needs: dict[str, list[str]]) -> list[str]:
    """Return what ``name`` needs, the deepest last, as depmod(8) writes it."""
    order: list[str] = []
    todo = list(needs[name])
    while todo:
        other = todo.pop(0)
        order = [one for one in order if one != other] + [other]
        todo += needs.get(other, [])
    return [one for one in order if one in needs]


def _cpio(root: Path) -> bytes:
    """Return the tree as a cpio archive in the kernel's "newc" form (Documentation/driver-api/early-userspace)."""
    out = bytearray()
    for number, path in enumerate(_walk(root), start=1):
        found = path.lstat()
        content = b""
        if stat.S_ISLNK(found.st_mode):
            content = os.readlink(path).encode()
        elif stat.S_ISREG(found.st_mode):
            content = path.read_bytes()
        _entry(out, str(path.relative_to(root)), number, found.st_mode, content)
    _entry(out, "TRAILER!!!", 0, 0, b"")
    return bytes(out)


def _walk(root: Path) -> Iterator[Path]:
    for path in sorted(root.iterdir()):
        yield path
        if path.is_dir() and not path.is_symlink():
            yield from _walk(path)


def _entry(out: bytearray, name: str, number: int, mode: int, content: bytes) -> None:
    fields = (number, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(name) + 1, 0)
    out += b"070701" + b"".join(b"%08X" % field for field in fields) + name.encode() + b"\0"
    out += b"\0" * (-len(out) % 4) + content
    out += b"\0" * (-len(out) % 4)
