"""The hardening suite on a fake guest: its questions are answered from recorded texts, and its checks judged."""

from __future__ import annotations

import importlib.util
import inspect
import re
import shlex
from collections.abc import Callable, Iterator, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from types import ModuleType
from typing import Any

import hardening_answers as more
from seatrial.check import Check, NotApplicable
from seatrial.errors import ObservationError
from seatrial.evidence import (
    accounts,
    credentials,
    firewall,
    greeting,
    iptables,
    kernel,
    links,
    listeners,
    modules,
    mounts,
    os_release,
    pam,
    sshd,
    sshd_start,
    sudoers,
    sysctl,
    units,
)
from seatrial.guest.facts import Facts
from seatrial.policy.controls import Control, parse_controls
from seatrial.policy.flavours import Flavour, load_flavour
from seatrial.policy.judge import Outcome, judge

ROOT = Path(__file__).resolve().parents[2]
SUITE = ROOT / "suites" / "hardening"
RECORDED = ROOT / "fixtures" / "facts" / "hardening"
CONTROLS = parse_controls((SUITE / "controls.toml").read_text(), where="controls.toml")
Texts = dict[str, str]


def _load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"suites_hardening_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


MODULES = {path.stem: _load(path) for path in sorted(SUITE.glob("test_*.py"))}
QUESTIONS = {
    accounts.PASSWD: "passwd",
    accounts.GROUPS: "group",
    accounts.ACCOUNT_FILES: "account-files",
    accounts.LOGIN_DEFS: "login-defs",
    accounts.LOGIN_SHELL: "login-shell",
    accounts.NEW_ACCOUNTS: "new-accounts",
    accounts.SHADOW: "shadow",
    accounts.SHELLS: "shells",
    accounts.SHELL_TIMEOUT: "shell-timeout",
    firewall.RULESET: "ruleset",
    kernel.SYMBOLS: "kallsyms",
    links.LINKS: "links",
    links.MULTICAST_NAMES: "multicast-names",
    links.RADIOS: "radios",
    links.RESOLVER: "resolver",
    modules.LOADED: "modules",
    mounts.SWAPS: "swaps",
    pam.PAM_STACKS: "pam-stacks",
    pam.SECURITY_FILES: "security",
    MODULES["test_passwords"]._DICTIONARY: "dictionary",
    MODULES["test_storage"]._OWNERS_SEEN: "owners-seen",
    MODULES["test_storage"]._GREETING_LINES: "greetings",
    MODULES["test_storage"]._KERNEL_READS: "kernel-reads",
    MODULES["test_storage"]._MOUNTING_RULES: "mounting-rules",
    mounts.MOUNTINFO: "mountinfo",
    sshd.CONFIG_LINES: "sshd-lines",
    sshd_start.INSTANCES: "sshd-instances",
    sshd_start.LISTENERS: "sshd-listeners",
    sshd.host_keys_command(sshd.host_key_paths([])): "host-keys",
    greeting.KERNEL_RELEASE: "kernel-release",
    os_release.OS_RELEASE: "os-release",
    sysctl.NETWORK_SYSCTLS: "network-sysctls",
    iptables.IPTABLES: "iptables",
    sudoers.SUDOERS: "sudoers",
    listeners.LISTENERS: "listeners",
    units.UNIT_FILES: "unit-files",
    units.UNITS: "units",
    units.config_command("systemd/journald.conf"): "journald",
    units.config_command("systemd/coredump.conf"): "coredump",
    MODULES["test_privilege"]._AUTOLOGIN: "autologin",
    MODULES["test_privilege"]._CREDENTIALS: "credentials",
    credentials.BROUGHT: "brought",
    MODULES["test_files"]._LINKED: "linked",
    MODULES["test_services"]._LEGACY_PROGRAMS: "legacy",
    MODULES["test_services"]._CORE: "core",
    MODULES["test_services"]._KERNELS_OWN: "ctrl-alt-del",
    MODULES["test_logging"]._LOGS: "logs",
    MODULES["test_mac"]._LSM: "lsm",
    MODULES["test_logging"]._ROOM: "room",
    MODULES["test_mac"]._APPARMOR: "apparmor",
    MODULES["test_mac"]._APPARMOR_MODE: "apparmor-mode",
    MODULES["test_mac"]._SELINUX: "selinux",
    **more.questions(MODULES),
}


class FakeGuest:
    """Answers the suite's questions from recorded texts, as a shell in the guest would."""

    def __init__(self, texts: Texts) -> None:
        self.texts = texts

    def run(self, command: str, *, timeout_s: float | None = None) -> tuple[int, bytes, bytes]:
        if command.startswith(sshd.validate_command([])):
            complaint = self.texts.get("sshd-complaint", "")
            return (255 if complaint else 0), b"", complaint.encode()
        return 0, self._stdout(command).encode(), b""

    def _stdout(self, command: str) -> str:
        if command in QUESTIONS:
            return self.texts[QUESTIONS[command]]
        for pattern, answer in SHAPES:
            if match := re.match(pattern, command):
                return answer(self.texts, match[1])
        raise AssertionError(f"the suite asks something new: {command!r}")


def _settings(texts: Texts, address: str) -> str:
    return texts.get(f"sshd-settings {address}", texts["sshd-settings"])


def _states(texts: Texts, patterns: str) -> str:
    return _picked(texts["states"], shlex.split(patterns), lambda line: line.split(" ", 3)[-1])


def _acls(texts: Texts, patterns: str) -> str:
    return _picked(texts["acls"], shlex.split(patterns), lambda line: line.rpartition(" ")[2])


def _lines(texts: Texts, paths: str) -> str:
    return _picked(texts["lines"], shlex.split(paths), lambda line: line.partition(":")[0])


SHAPES: tuple[tuple[str, Callable[[Texts, str], str]], ...] = (
    (r"head -vc 1024 (.*) \| od .*", more.heads),
    (r"p\(\) \{ (.*)", more.pieces),
    (r".*sshd -T -C \S*\baddr=([^,]+)", _settings),
    (
        r".*setpriv --reuid=\d+ --regid=\d+ --clear-groups env -i HOME=/ USER=(\S+)",
        lambda texts, _: texts["user-shell"],
    ),
    (r"(userdbctl) ssh-authorized-keys", lambda texts, _: texts["record-keys"]),
    (r"for f in (.*?/usr/share/acme/key); do if \[ -e .* ssh-keygen", lambda texts, _: texts["host-keys"]),
    (r".*sshd -T (-o \S+) -C ", lambda texts, options: texts[f"sshd-settings {options}"]),
    (r"(race=); .*; if find / -maxdepth 0 -nouser", lambda texts, _: texts["walk"]),
    (r"(race=); .*; getcap ", lambda texts, _: texts["capabilities"]),
    (r"ls -Lld (.*) 2>/dev/null; true", _acls),
    (r"for f in (.*?); do if \[ -e", _states),
    (r"grep -asH '' (.*) /dev/null; true", _lines),
    (r"(sed) -n 's/\^btime", lambda texts, _: texts["first-boot"]),
    (r"(find) / /boot -xdev \\\( -path /etc/passwd -o", lambda texts, _: texts["names"]),
    (r"(find) / /boot -xdev \\\( -path /etc/passwd -exec", lambda texts, _: texts["residue"]),
    (r"if \[ -e (\S+) \]; then echo groups && awk", lambda texts, _: texts["moduli"]),
)


def _picked(text: str, patterns: list[str], path_of: Callable[[str], str]) -> str:
    lines = [line for line in text.splitlines() if any(fnmatchcase(path_of(line), pattern) for pattern in patterns)]
    return "".join(f"{line}\n" for line in lines)


def healthy() -> Texts:
    return {path.stem: path.read_text() for path in RECORDED.glob("*.txt")}


def flavour_named(name: str) -> Flavour:
    folder = ROOT / "suites" / "flavours"
    return load_flavour(name, lambda one: (folder / f"{one}.toml").read_text(), known=())


def checks() -> Iterator[tuple[Control, Callable[..., None]]]:
    """Give each control with its check function, paired as the plugin pairs them."""
    rows = {control.id: control for control in CONTROLS}
    for module in MODULES.values():
        for function in vars(module).values():
            for mark in getattr(function, "pytestmark", ()):
                if mark.name == "control":
                    yield rows[mark.args[0]], function
                elif mark.name == "probe":
                    yield from ((row, function) for row in CONTROLS if row.probe_kind == mark.args[0])


def outcomes(texts: Texts, flavour: Flavour) -> dict[str, Outcome]:
    facts = Facts(FakeGuest(texts))
    given = more.live(facts, texts)
    # Taking programs apart is slow, and most defects lie elsewhere.
    about = (tuple(texts.get(name) for name in more.ABOUT_PROGRAMS), str(sorted(flavour.expect.items())))
    found = {}
    for control, function in checks():
        if function.__module__.endswith("test_binaries"):
            key = (control.id, *about)
            if key not in KNOWN:
                KNOWN[key] = outcome_of(control, function, given, flavour)
            found[control.id] = KNOWN[key]
        else:
            found[control.id] = outcome_of(control, function, given, flavour)
    return found


KNOWN: dict[tuple[object, ...], Outcome] = {}


def outcome_of(
    control: Control, function: Callable[..., None], live: Mapping[str, object], flavour: Flavour
) -> Outcome:
    check = Check()
    given: dict[str, Any] = {**live, "check": check, "flavour": flavour, "row": control}
    try:
        function(**{name: given[name] for name in inspect.signature(function).parameters})
    except NotApplicable:
        return Outcome.NOT_APPLICABLE
    except ObservationError:
        return Outcome.ERROR
    return judge(check.observations)[0]
