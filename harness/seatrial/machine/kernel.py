"""A kernel that QEMU starts itself, past the boot loader, with or without a disk beside it."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from seatrial.errors import ConfigError
from seatrial.machine.disk import Image
from seatrial.policy.differences import Difference, Kind, Touched

__all__ = ["DirectKernel", "kernel_image", "open_kernel"]

# (offset, magic): Linux Documentation/arch/x86/boot.rst, Documentation/arch/arm64/booting.rst, and any EFI program.
_MAGICS: Final = ((0x202, b"HdrS"), (0x38, b"ARM\x64"), (0, b"MZ"))
_LONGEST: Final = 2048  # COMMAND_LINE_SIZE of x86


@dataclass(frozen=True, slots=True, kw_only=True)
class DirectKernel:
    """The files that QEMU loads, and the kernel's command line."""

    kernel: Path
    initrd: Path | None
    append: str

    @property
    def files(self) -> tuple[Path, ...]:
        """Return the kernel and, where there is one, the initrd."""
        return (self.kernel, self.initrd) if self.initrd else (self.kernel,)

    @property
    def difference(self) -> Difference:
        """Return how a start past the boot loader of an image differs from how the image starts."""
        files = " and ".join(str(path) for path in self.files)
        return Difference(
            kind=Kind.COMMAND_LINE,
            text=f"kernel started directly, past the boot loader of the image: {files}, command line {self.append!r}",
            touches=(Touched.BOOT_TIMES,),
        )


def open_kernel(kernel: Path | None, initrd: Path | None, append: str | None, *, console: str) -> DirectKernel | None:
    """Return what to start directly, None when no kernel was given.

    :param console: the machine's serial console, which the command line names when ``append`` is not given.
    :raises ConfigError: there is no kernel for the initrd or the command line, a file is missing or empty, or the
        kernel is none.
    """
    if kernel is None:
        for option, value in (("--initrd", initrd), ("--append", append)):
            if value is not None:
                raise ConfigError(
                    f"{option} was given without --kernel",
                    hint="a kernel that is started directly gets them; an image's own boot loader has its own",
                )
        return None
    head = _head(kernel, "kernel")
    if not any(head[at : at + len(magic)] == magic for at, magic in _MAGICS):
        raise ConfigError(
            f"kernel {str(kernel)!r} is none that QEMU can start: no bzImage, arm64 Image or EFI program",
            hint=f"it begins with {head[:16].hex(' ')}; an uncompressed vmlinux does not start, its bzImage does",
        )
    if initrd is not None:
        _head(initrd, "initrd")
    line = append if append is not None else f"console={console}"
    if len(line) > _LONGEST or not line.isprintable():
        raise ConfigError(f"--append has {len(line)} characters; expected at most {_LONGEST}, all printable")
    return DirectKernel(kernel=kernel, initrd=initrd, append=line)


def kernel_image(direct: DirectKernel) -> Image:
    """Return the candidate that a kernel without a disk is."""
    size = sum(path.stat().st_size for path in direct.files)
    return Image(path=direct.kernel, format="raw", file_bytes=size, disk_bytes=0, parts=direct.files)


def _head(path: Path, what: str) -> bytes:
    try:
        # O_NONBLOCK: opening a FIFO must not wait for a writer.
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:  # noqa: PTH123 -- from a descriptor
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise ConfigError(f"{what} {str(path)!r} is no regular file")
            head = file.read(1024)
    except OSError as exc:
        raise ConfigError(
            f"{what} {str(path)!r} cannot be read: {exc.strerror}", hint="check the path and mode"
        ) from exc
    if not head:
        raise ConfigError(f"{what} {str(path)!r} is empty (0 bytes)", hint="did the build end early?")
    return head
