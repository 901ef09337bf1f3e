"""One table of options: command-line flags, ini keys, environment and help all come from it."""

from __future__ import annotations

import keyword
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from seatrial.errors import ConfigError

if TYPE_CHECKING:
    import pytest

__all__ = ["OPTIONS", "TCG_FACTOR", "TCG_HANG_FACTOR", "Option", "Settings", "add_options", "environment", "resolve"]

# Measured: a guest under TCG takes 5 to 20 times as long as under KVM; limits stretch by this.
TCG_FACTOR = 8
# Half of it: a wait inside the guest takes no longer under TCG, only work does.
TCG_HANG_FACTOR = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What the user asked for, checked. Limits are seconds under KVM; under TCG they are multiplied by 8."""

    image: Path | None
    kernel: Path | None
    initrd: Path | None
    append: str | None
    facts: Path | None
    flavour: str | None
    accel: Literal["auto", "kvm", "tcg"]
    machine: str | None
    firmware: str | None
    tpm: Literal["on", "off"] | None
    disk_bus: str | None
    memory: int | None
    cpus: int | None
    network: bool
    access: Literal["credentials", "credentials-fw-cfg", "cloud-init", "ignition", "existing"] | None
    ssh_user: str | None
    ssh_key: Path | None
    ignition: Path | None
    lynis: bool
    break_: bool
    repeat_failed: int
    waivers: Path | None
    boot_timeout: float
    hang_timeout: float
    settle_timeout: float
    command_timeout: float
    out: Path | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """One option. ``parse`` turns the text of a flag, an ini key or the environment into the value."""

    name: str
    help: str
    parse: Callable[[str], Any] = str
    default: Any = None
    choices: tuple[str, ...] = ()
    metavar: str | None = None

    @property
    def field(self) -> str:
        """Return the field of :class:`Settings` that holds the value."""
        return f"{self.name}_" if keyword.iskeyword(self.name) else self.name

    @property
    def flag(self) -> str:
        """Return the option as it is typed."""
        return f"--{self.name.replace('_', '-')}"

    @property
    def variable(self) -> str:
        """Return the name of the environment variable."""
        return f"SEATRIAL_{self.name.upper()}"

    @property
    def ini(self) -> str:
        """Return the key in pytest's ini file."""
        return f"seatrial_{self.name}"


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 < value < 86_400:
        raise ValueError("a number of seconds between 0 and 86400 was expected")
    return value


def _repeats(text: str) -> int:
    value = int(text) if text.isascii() and text.isdigit() else -1
    if not 0 <= value <= 1000:
        raise ValueError("a number between 0 and 1000 was expected")
    return value


def _mebibytes(text: str) -> int:
    match = re.fullmatch(r"([0-9]{1,6})([MG]?)", text.strip().upper().removesuffix("IB").removesuffix("B"))
    if match is None:
        raise ValueError("a size such as 2048, 512M or 4G was expected")
    return int(match[1]) * (1024 if match[2] == "G" else 1)


def _count(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise ValueError("a whole number was expected") from None


def _switch(text: str) -> bool:
    known = {"1": True, "true": True, "yes": True, "on": True, "0": False, "false": False, "no": False, "off": False}
    try:
        return known[text.strip().lower()]
    except KeyError:
        raise ValueError("one of on, off, yes, no, true, false, 1, 0 was expected") from None


OPTIONS = (
    Option(
        name="image",
        parse=Path,
        metavar="FILE",
        help="candidate image (raw, qcow2, VHD, VHDX, VMDK, each also compressed by gz, xz, bz2, zstd); only ever read",
    ),
    Option(name="facts", parse=Path, metavar="FILE", help="judge these facts of an earlier run; nothing is booted"),
    Option(
        name="kernel",
        parse=Path,
        metavar="FILE",
        help="start this kernel directly: a candidate of its own without --image, else instead of the boot loader",
    ),
    Option(name="initrd", parse=Path, metavar="FILE", help="the initial RAM disk for --kernel"),
    Option(name="append", metavar="TEXT", help="the command line for --kernel (default: the serial console)"),
    Option(name="flavour", metavar="NAME", help="what the image is: the policy to judge it by"),
    Option(
        name="accel",
        choices=("auto", "kvm", "tcg"),
        default="auto",
        help="how QEMU runs the guest; auto takes KVM when a guest really runs on it, else TCG (emulation)",
    ),
    Option(
        name="machine",
        metavar="NAME|FILE",
        help="virtual hardware: a name of qemu/machines, or a definition of your own (.toml); else the flavour's",
    ),
    Option(
        name="firmware",
        metavar="KIND|FILES",
        help="uefi, uefi-secure (Secure Boot, keys enrolled), bios; or files of your own: CODE:VARIABLES, or a BIOS",
    ),
    Option(name="tpm", choices=("on", "off"), help="give the guest a TPM 2.0 (swtpm), or none"),
    Option(
        name="disk_bus",
        choices=("virtio-blk", "virtio-scsi", "nvme", "ahci"),
        help="what the guest finds its disk on, instead of the machine's bus",
    ),
    Option(name="memory", parse=_mebibytes, metavar="SIZE", help="the guest's memory: MiB, or with a suffix as in 4G"),
    Option(name="cpus", parse=_count, metavar="NUMBER", help="the guest's number of virtual CPUs"),
    Option(
        name="network",
        parse=_switch,
        default=False,
        help="let the guest reach the world (without it, it reaches nothing)",
    ),
    Option(
        name="access",
        choices=("credentials", "credentials-fw-cfg", "cloud-init", "ignition", "existing"),
        help="how the run gets in; by default as the flavour says. 'existing' is a user and key that the image has",
    ),
    Option(
        name="ssh_user", metavar="NAME", help="who logs in; by default the flavour's user, or the route's usual one"
    ),
    Option(
        name="ssh_key",
        parse=Path,
        metavar="FILE",
        help="private key, without a password, that the image lets in already; it alone means --access existing",
    ),
    Option(
        name="ignition",
        parse=Path,
        metavar="FILE",
        help="your own Ignition config (JSON, version 3), which the run's user is added to; for --access ignition",
    ),
    Option(name="lynis", parse=_switch, default=False, help="also run lynis in the guest and judge its report"),
    Option(
        name="waivers",
        parse=Path,
        metavar="FILE",
        help="accepted failures; by default IMAGE.waivers.toml beside the image, where there is one",
    ),
    Option(
        name="break",
        parse=_switch,
        default=False,
        help="stop at a failing check with the guest held as it is, and show a person how to get in",
    ),
    Option(
        name="repeat_failed",
        parse=_repeats,
        default=0,
        metavar="NUMBER",
        help="repeat a failing check so often from a snapshot and report how often it fails; it stays failed",
    ),
    Option(
        name="boot_timeout",
        parse=_seconds,
        default=120.0,
        metavar="SECONDS",
        help=f"give up when nobody could log in by then (KVM seconds; times {TCG_FACTOR} under TCG)",
    ),
    Option(
        name="hang_timeout",
        parse=_seconds,
        default=100.0,
        metavar="SECONDS",
        help="before a login, call a boot or restart hung when console and disk have been still for so long "
        f"(times {TCG_HANG_FACTOR} under TCG), or for 30 s with the CPU still too",
    ),
    Option(
        name="settle_timeout",
        parse=_seconds,
        default=60.0,
        metavar="SECONDS",
        help=f"wait so long for start-up jobs after the login (times {TCG_FACTOR} under TCG)",
    ),
    Option(
        name="command_timeout",
        parse=_seconds,
        default=30.0,
        metavar="SECONDS",
        help=f"kill a command in the guest after this long (times {TCG_FACTOR} under TCG)",
    ),
    Option(name="out", parse=Path, metavar="DIR", help="where run folders go (default: reports/out)"),
)


def add_options(parser: pytest.Parser) -> None:
    """Add every option to pytest's command line and ini keys."""
    group = parser.getgroup("seatrial", "seatrial: gate an operating-system image")
    for option in OPTIONS:
        extra: dict[str, Any] = {"help": f"{option.help} [{option.variable}]", "dest": f"seatrial_{option.name}"}
        if option.parse is _switch:
            group.addoption(option.flag, action="store_const", const="on", default=None, **extra)
        else:
            group.addoption(option.flag, action="store", default=None, metavar=option.metavar, **extra)
        parser.addini(option.ini, help=option.help, default=None)


def resolve(flags: Callable[[str], str | None], ini: Callable[[str], str | None], env: Mapping[str, str]) -> Settings:
    """Return the settings: a flag before the environment, the environment before the ini file, else the default.

    :raises ConfigError: a value is not of its option's form; the text names where it came from.
    """
    return Settings(**{option.field: _value(option, flags, ini, env) for option in OPTIONS})


def _value(
    option: Option, flags: Callable[[str], str | None], ini: Callable[[str], str | None], env: Mapping[str, str]
) -> Any:
    sources = (
        (option.flag, flags(f"seatrial_{option.name}")),
        (f"environment variable {option.variable}", env.get(option.variable)),
        (f"ini key {option.ini}", ini(option.ini)),
    )
    for source, text in sources:
        if text is None or text == "":
            continue
        if option.choices and text not in option.choices:
            raise ConfigError(f"{source} is {text!r}; expected one of {', '.join(option.choices)}")
        try:
            return option.parse(text)
        except ValueError as exc:
            raise ConfigError(f"{source} is {text!r}; {exc}") from exc
    return option.default


def environment() -> Mapping[str, str]:
    """Return the environment that options are read from."""
    return os.environ
