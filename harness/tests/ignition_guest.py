"""The micro guest with Debian's Ignition in its initramfs: a second archive behind the micro guest's own."""

from __future__ import annotations

import fcntl
import gzip
import hashlib
import shutil
import tempfile
from pathlib import Path
from typing import Final

import micro
from seatrial.layout import cache_dir, data_dir

__all__ = ["ignition_guest"]

RECIPE: Final = data_dir("qemu") / "images" / "ignition"
_BUILDER: Final = "3"  # goes up when this module would build another guest from the same recipe
_LIBRARIES: Final = "usr/lib/x86_64-linux-gnu"
_PAM: Final = "".join(f"{kind} required pam_permit.so\n" for kind in ("auth", "account", "session"))


def ignition_guest() -> micro.Micro:
    """Return the guest, building it when its recipe or the micro guest has changed."""
    base = micro.micro_guest()
    place = cache_dir("micro-ignition")
    with (place / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        content = b"\0".join(path.read_bytes() for path in sorted(RECIPE.iterdir()))
        name = hashlib.sha256(f"{_BUILDER} {base.initrd.name} ".encode() + content).hexdigest()[:16]
        made = place / f"initrd-{name}.gz"
        if not made.is_file():
            for old in place.glob("initrd-*"):
                old.unlink()
            with tempfile.TemporaryDirectory(dir=place) as work:
                # The kernel unpacks one archive after the other; the later one's files win.
                part = Path(work, "initrd")
                part.write_bytes(base.initrd.read_bytes() + gzip.compress(_archive(Path(work)), 6, mtime=0))
                part.replace(made)
    return micro.Micro(kernel=base.kernel, initrd=made)


def _archive(work: Path) -> bytes:
    tree, root, debs = work / "tree", work / "root", work / "debs"
    debs.mkdir(mode=0o755)
    names = [line for line in (RECIPE / "packages.list").read_text().splitlines() if line and line[0] != "#"]
    micro._run(["apt-get", "download", "-q", "-o", "APT::Sandbox::User=root", *names], cwd=debs)
    for package in sorted(debs.glob("*.deb")):
        micro._run(["dpkg-deb", "-x", str(package), str(tree)])
    for folder in ("usr/bin", "usr/sbin", f"{_LIBRARIES}/security", "etc/pam.d", "etc/default"):
        (root / folder).mkdir(parents=True)
    shutil.copy(next(tree.glob("**/30ignition/ignition")), root / "usr/bin/ignition")
    shutil.copy(next(tree.glob("**/bin/doas")), root / "usr/bin/doas")
    for name in ("useradd", "usermod", "groupadd"):
        shutil.copy(next(tree.glob(f"**/sbin/{name}")), root / "usr/sbin" / name)
    for library in tree.glob("**/x86_64-linux-gnu/*.so*"):
        shutil.copy(library.resolve(), root / _LIBRARIES / library.name)
    shutil.copy(next(tree.glob("**/pam_permit.so")), root / _LIBRARIES / "security")
    (root / "etc/pam.d/doas").write_text(_PAM)
    (root / "etc/default/useradd").write_text("SHELL=/bin/sh\n")
    (root / "etc/doas.conf").write_text("permit nopass core\n")
    shutil.copy(RECIPE / "init", root / "init")
    (root / "init").chmod(0o755)
    return micro._cpio(root)
