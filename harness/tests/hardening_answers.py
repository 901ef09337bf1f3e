"""What the fake guest of the hardening suite answers about programs, services, auditing and cryptography, and the
defects that are seeded there.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Mapping
from types import ModuleType, SimpleNamespace

from seatrial.evidence import attempts, audit, cmdline, elf, environment, randomness, systemd, verity
from seatrial.evidence.elf import parse_pieces
from seatrial.guest.facts import Facts

Edit = Callable[[str], str]
BOOT_ID = "9d1a62a6-0f0f-4c5a-8f6e-2f0d3b6f3c11"
REFUSED = (1, "Call failed: Interactive authentication required.")
# Answers that no lines of a file can be: they hold the outcome of tries, by title.
TRIES = "tries"


def questions(modules: Mapping[str, ModuleType]) -> dict[str, str]:
    """Return question to the name of its recorded answer."""
    binaries, crypto, audits = modules["test_binaries"], modules["test_crypto"], modules["test_audit"]
    units, logging, mac = modules["test_units"], modules["test_logging"], modules["test_mac"]
    return {
        attempts.BOOT_ID: "boot-id",
        cmdline.CMDLINE: "cmdline",
        elf.LOADED: "loaded",
        randomness.MAPS: "maps",
        binaries._FORMATS: "formats",
        environment.ENVIRONMENT: "preloaded",
        binaries._LIBRARY_FOLDERS: "library-folders",
        modules["test_firewall"]._LEGACY_TABLES: "legacy-tables",
        units._DESKTOP_PROGRAMS: "desktops",
        units._DEFAULT_TARGET: "default-target",
        units._CATCH_ALL: "last-preset",
        units._EXPOSURE: "exposure",
        units._FAULTS: "unit-faults",
        units._OWNERS: "owners",
        audit.STATUS: "audit-status",
        audit.RULES: "audit-rules",
        audits._MACHINE: "machine",
        audits._AUDITD: "auditd",
        logging._RECEPTION: "reception",
        verity.mapped_uuid_command("254:2"): "verity",
        logging._CHECKERS: "checkers",
        mac._SELINUX_POLICY: "selinux-policy",
        mac._LABELS: "labels",
        mac._ATTACHED: "attached",
        mac._LAX_FILES: "lax-profiles",
        mac._DENIALS: "denials",
        crypto._POLICY: "crypto-policy",
        crypto._FIPS: "fips",
        crypto._FIPS_PROGRAM: "fips-program",
        crypto._TLS_CONFIG: "tls-config",
        crypto._TLS_PROGRAM: "tls-program",
        crypto._TLS_LIBRARY: "tls-library",
        crypto._BUNDLE: "authorities",
        crypto._ANCHORS: "anchors",
        crypto._ADDED: "added",
        crypto._NOW: "now",
        crypto._SEEDED: "seeded",
        systemd.MANAGER: "switched",
        crypto._SEEDS: "seeds",
        crypto._SWAP: "swap",
    }


def pieces(texts: Mapping[str, str], command: str) -> str:
    """Answer for the bytes of programs."""
    known = parse_pieces(texts["pieces"])
    lines = []
    for path, offset, length in re.findall(r"p '?(/[^';]+?)'? (\d+) (\d+)(?:;|$)", command):
        piece = known[path][int(offset)] if path in known else b"#!/bin/sh"
        lines += [f"@{offset} {path}", f" {piece[: int(length)].hex(' ')}"]
    return "".join(f"{line}\n" for line in lines)


def heads(texts: Mapping[str, str], paths: str) -> str:
    """Answer for the first bytes of programs."""
    known = parse_pieces(texts["pieces"])
    named = shlex.split(paths)
    titled = (f"==> {path} <==\n".encode() + (known[path][0] if path in known else b"#!/bin/sh") for path in named)
    return b"\n".join(titled).hex(" ")


def bytes_of(path: str, old: bytes, new: bytes) -> Edit:
    """Seed a defect in the bytes of a program."""

    def edit(text: str) -> str:
        known = parse_pieces(text)
        lines, changed = [], False
        for name, found in known.items():
            for offset, piece in found.items():
                other = piece.replace(old, new) if name == path else piece
                changed |= other != piece
                lines += [f"@{offset} {name}", f" {other.hex(' ')}"]
        assert changed, f"{path} holds no {old!r}"
        return "".join(f"{line}\n" for line in lines)

    return edit


def parameter(path: str, value: str) -> tuple[str, Edit]:
    return "network-sysctls", sub(rf"^{path}:.*$", f"{path}:{value}")


class Host:
    """The part of testinfra's host that the suite's attempts use."""

    def __init__(self, texts: Mapping[str, str]) -> None:
        self._said = texts.get(TRIES, "")

    def run(self, command: str) -> SimpleNamespace:
        """Say what became of each try."""
        assert BOOT_ID in command
        status, said = self._said.split(" ", 1) if self._said else REFUSED
        titles = re.findall(r"try '([^']*)' '", command)
        return SimpleNamespace(stdout="".join(f"{title}\t{status}\t{said}\n" for title in titles))


def live(facts: Facts, texts: Mapping[str, str]) -> dict[str, object]:
    """Return what checks may ask for besides facts."""
    return {"facts": facts, "host": Host(texts)}


def add(*lines: str) -> Edit:
    """Seed lines at the end of an answer."""
    return lambda text: text + "".join(f"{line}\n" for line in lines)


def sub(old: str, new: str) -> Edit:
    """Seed a change that must change something."""

    def edit(text: str) -> str:
        changed = re.sub(f"(?m){old}", new, text)
        assert changed != text, f"the defect {old!r} -> {new!r} changes nothing"
        return changed

    return edit


DASH, SUDO, LIBC = "/usr/bin/dash", "/usr/bin/sudo", "/usr/lib/x86_64-linux-gnu/libc.so.6"
_ELF = bytes.fromhex("7f454c46020101000000000000000000")
DEFECTS: list[tuple[str, str, Edit]] = [
    ("bin-pie", "pieces", bytes_of(DASH, _ELF + b"\x03", _ELF + b"\x02")),
    ("bin-relro-now", "pieces", bytes_of(DASH, b"\x52\xe5\x74\x64", b"\x59\xe5\x74\x64")),
    (
        "bin-relro-now",
        "pieces",
        lambda text: bytes_of(DASH, b"\xfb\xff\xff\x6f\0\0\0\0\x01\0\0\x08", b"\xfb\xff\xff\x6f\0\0\0\0\x00\0\0\x08")(
            bytes_of(DASH, b"\x1e\0\0\0\0\0\0\0\x08", b"\x1e\0\0\0\0\0\0\0\x00")(text)
        ),
    ),
    ("bin-nx-stack", "pieces", bytes_of(DASH, b"\x51\xe5\x74\x64\x06", b"\x51\xe5\x74\x64\x07")),
    ("bin-nx-stack", "pieces", bytes_of(LIBC, b"\x51\xe5\x74\x64\x06", b"\x51\xe5\x74\x64\x07")),
    ("bin-nx-stack", "pieces", bytes_of(LIBC, b"\x51\xe5\x74\x64", b"\x59\xe5\x74\x64")),
    ("bin-canary", "pieces", bytes_of(DASH, b"__stack_chk_fail", b"__stack_chk_none")),
    ("bin-fortify", "pieces", bytes_of(SUDO, b"_chk\0", b"_cho\0")),
    ("bin-no-rpath", "pieces", bytes_of(SUDO, b"/usr/libexec/sudo", b"/tmp/libexec/sudo")),
    ("bin-no-rpath", "pieces", bytes_of(SUDO, b"/usr/libexec/sudo", b"$ORIGIN/exec/sudo")),
    ("bin-no-rpath", "pieces", bytes_of(SUDO, b"/usr/libexec/sudo", b"/usr/lib::/libxxx")),
    ("bin-aslr-behaviour", "maps", sub("^heap .*", "heap 555555575000")),
    ("bin-aslr-behaviour", "maps", sub("^stack .*", "stack 7ffffffde000")),
    ("bin-compilers-absent", "states", add("81ed root root /usr/bin/gcc")),
    ("bin-binfmt", "formats", lambda _text: "status enabled\nformat qemu-aarch64 /usr/bin/qemu-aarch64 OCF\n"),
    ("svc-no-desktop", "desktops", add("/usr/bin/Xorg")),
    ("svc-no-desktop", "default-target", lambda _text: "graphical.target\n"),
    ("svc-no-desktop", "unit-files", sub("^ssh.service", "display-manager.service enabled enabled\nssh.service")),
    ("svc-mta-local", "listeners", add('tcp LISTEN 0 1 0.0.0.0:25 0.0.0.0:* users:(("sshd",pid=9,fd=3))')),
    ("svc-enabled-allowlist", "unit-files", add("vendor-agent.service enabled enabled")),
    ("svc-enabled-allowlist", "unit-files", add("vendor-agent.socket generated -")),
    (
        "svc-enabled-allowlist",
        "unit-files",
        add("agent.service static -", "pulled-in /etc/systemd/system/multi-user.target.wants/agent.service"),
    ),
    ("svc-offline-exposure", "exposure", sub('("systemd-journald.service","exposure":)"[0-9.]*"', r'\1"9.2"')),
    ("svc-units-valid", "unit-faults", lambda text: f"/etc/systemd/system/x.service:3: Unknown key\n{text}"),
    ("svc-time-sync", "units", sub("^(systemd-timesyncd.service loaded) active", r"\1 inactive")),
    ("svc-time-sync", "units", add("chronyd.service loaded active running a second one")),
    ("svc-time-sync", "unit-files", sub("^(systemd-timesyncd.service +)enabled", r"\1disabled")),
    ("svc-chrony-user", "owners", sub(r"^(/proc/310/status:Uid:).*", "\\1\t0\t0\t0\t0")),
    ("svc-dbus-unprivileged", TRIES, lambda _text: "0 "),
    ("svc-dbus-unprivileged", TRIES, lambda _text: "1 Call failed: Unit seatrial-attempt.service not found."),
    ("log-single-system", "journald", sub("^ForwardToSyslog=no", "ForwardToSyslog=yes")),
    ("log-single-system", "reception", add('/etc/rsyslog.conf:module(load="imtcp")')),
    ("log-single-system", "unit-files", add("systemd-journal-remote.socket enabled enabled")),
    ("log-audit-active", "units", sub("^(auditd.service loaded) active", r"\1 failed")),
    ("log-audit-active", "unit-files", sub("^(auditd.service +)enabled", r"\1disabled")),
    ("log-audit-active", "audit-status", sub("^pid .*", "pid 0")),
    ("log-audit-active", "auditd", sub("^write_logs.*", "write_logs = no")),
    ("log-audit-boot", "cmdline", sub(" audit=1", "")),
    ("log-audit-boot", "cmdline", sub("audit_backlog_limit=8192", "audit_backlog_limit=64")),
    ("log-audit-rules-identity", "audit-rules", sub("^-w /etc/shadow .*\n", "")),
    ("log-audit-rules-identity", "audit-rules", sub("^(-w /etc/sudoers.d -p) wa", r"\1 r")),
    ("log-audit-rules-time-net", "audit-rules", sub("arch=b32 -S (.*)clock_settime", r"arch=b32 -S \1getpid")),
    ("log-audit-rules-time-net", "audit-rules", sub("^-w /etc/hosts .*\n", "")),
    ("log-audit-rules-modules", "audit-rules", sub("finit_module", "getpid")),
    ("log-audit-rules-priv", "audit-rules", sub("^.*path=/usr/bin/su .*\n", "")),
    ("log-audit-rules-priv", "audit-rules", sub("exit=-EPERM", "exit=-ENOENT")),
    ("log-audit-boot", "cmdline", sub(" audit=1", " audit=off")),
    ("log-audit-immutable", "audit-status", sub("^enabled 2", "enabled 1")),
    ("log-audit-full-action", "auditd", sub("^disk_full_action.*", "disk_full_action = ignore")),
    ("log-audit-full-action", "auditd", sub("^max_log_file = .*\n", "")),
    ("log-audit-perms", "states", sub("^81a0 root adm (/var/log/audit/audit.log)$", r"81a4 root adm \1")),
    ("log-file-integrity-tool", "verity", lambda _text: "CRYPT-LUKS2-7d6a-root\n"),
    ("mac-no-unconfined-services", "labels", add("program 99 /usr/sbin/unix_chkpwd", "label 99 unconfined")),
    ("mac-no-unconfined-services", "labels", add("program 9 /x", "label 9 system_u:x:unconfined_service_t:s0")),
    ("mac-no-denials-at-boot", "denials", sub("end", 'audit: type=1400 apparmor="DENIED" operation="open"\nend')),
    ("mac-apparmor-enforced", "lax-profiles", add("/etc/apparmor.d/disable/unix-chkpwd")),
    ("mac-apparmor-enforced", "units", sub("^(apparmor.service loaded) active", r"\1 inactive")),
    ("mac-apparmor-enforced", "cmdline", sub("$", " apparmor=0")),
    ("crypt-policy", "crypto-policy", lambda _text: "/etc/crypto-policies/config:LEGACY\n"),
    ("crypt-policy", "crypto-policy", lambda _text: "/etc/crypto-policies/config:DEFAULT:SHA1\n"),
    ("crypt-fips", "cmdline", sub("$", " fips=1")),
    ("crypt-openssl-tls", "tls-config", add("/etc/ssl/openssl.cnf:CipherString = DEFAULT@SECLEVEL=0")),
    ("crypt-openssl-tls", "tls-config", add("/etc/ssl/openssl.cnf:MinProtocol = TLSv1.1")),
    ("crypt-openssl-tls", "tls-program", add("tls1 ECDHE-RSA-AES256-SHA TLSv1 Kx=ECDH Au=RSA Enc=AES(256) Mac=SHA1")),
    ("crypt-openssl-tls", "tls-program", add("now RC4-MD5 SSLv3 Kx=RSA Au=RSA Enc=RC4(128) Mac=MD5")),
    ("crypt-ca-valid", "anchors", add("/usr/local/share/ca-certificates/corp.crt")),
    ("crypt-ca-valid", "now", lambda _text: "2400000000\n"),
    ("crypt-ca-valid", "added", lambda text: f"MIIBqDCCAU2gAwIBAgIUX\n{text}"),
    ("crypt-openssl-tls", "tls-config", add("/etc/ssl/openssl.cnf:MinProtocol = None")),
    ("crypt-openssl-tls", "tls-program", lambda text: f"version OpenSSL 1.1.1w  11 Sep 2023\n{text}"),
    ("crypt-rng", "seeded", lambda _text: "9000.5\n"),
    ("crypt-random-seed-not-shared", "seeds", lambda text: f"1000000000 /var/lib/urandom/random-seed\n{text}"),
    ("crypt-swap-encrypted", "swap", lambda text: f"/dev/vda3 vda3 ,\n{text}"),
    ("crypt-swap-encrypted", "swap", lambda text: f"/dev/dm-1 dm-1 LVM-swap,CRYPT-LUKS2-a,plain,\n{text}"),
    ("crypt-swap-encrypted", "swap", lambda text: f"/dev/dm-1 dm-1 LVM-swap,CRYPT-LUKS2-a,LVM-plain,\n{text}"),
    ("crypt-random-seed-not-shared", "seeds", lambda _text: "1795472384 /a/seed\nend\n"),
]  # fmt: skip
# Defects of these are defects of another control too, and rightly.
ALSO = {
    "svc-mta-local": {"net-listeners-tcp"},
}
# Some defects of these are.
MAY_ALSO = {
    "fs-suid-allowlist": {"log-audit-rules-priv"},
    "fs-sgid-allowlist": {"log-audit-rules-priv"},
    "mac-enforcing": {"mac-apparmor-enforced"},
    "svc-no-unneeded-servers": {"svc-enabled-allowlist"},
    "svc-no-debug-shell": {"svc-enabled-allowlist"},
    "svc-no-desktop": {"svc-enabled-allowlist"},
    "log-single-system": {"svc-enabled-allowlist"},
    "ssh-service-state": {"svc-enabled-allowlist"},
    "fs-no-automount": {"svc-enabled-allowlist"},
    "net-fw-active": {"svc-enabled-allowlist"},
    "net-no-llmnr-mdns": {"svc-enabled-allowlist"},
}
# What the checks of programs ask for.
ABOUT_PROGRAMS = ("preloaded", "library-folders", "pieces", "loaded", "walk", "mountinfo", "maps", "formats", "states")
# What Debian does not have, or does not promise.
NOT_ON_DEBIAN = {
    "bin-cet-bti",
    "crypt-policy",
    "crypt-fips",
    "mac-selinux-enforcing",
    "mac-selinux-not-disabled",
    "mac-selinux-policy",
}
# A guest that has SELinux, and a flavour that promises it.
OTHER_EXPECT = {"mac": ("selinux",), "selinux-policies": ("targeted",)}
OTHER_TEXTS = {
    "selinux": "1\nSELINUX=enforcing\n",
    "selinux-policy": "SELINUXTYPE=targeted\nloaded 33\n",
}
OF_OTHERS: list[tuple[str, str, Edit]] = [
    ("mac-selinux-enforcing", "selinux", sub("^1$", "0")),
    ("mac-selinux-enforcing", "selinux", sub("enforcing", "permissive")),
    ("mac-selinux-not-disabled", "cmdline", sub("$", " enforcing=0")),
    ("mac-selinux-policy", "selinux-policy", sub("targeted", "minimum")),
    ("mac-selinux-policy", "selinux-policy", sub("^loaded.*\n", "")),
]
OTHER_ALSO = {"mac-enforcing"}
# Of these, nothing at all is a good answer.
MAY_BE_EMPTY = {
    *("desktops", "reception", "checkers", "attached", "lax-profiles", "crypto-policy", "tls-config", "tls-library"),
    *("anchors", "selinux-policy", "fips-program", "last-preset", "legacy-tables"),
}
# Of these, a line more is no fault, or it is one of the lines that the check has to judge.
FREE_TEXT = MAY_BE_EMPTY | {
    *(
        "labels",
        "denials",
        "unit-faults",
        "fips-program",
        "tls-program",
        "switched",
        "authorities",
        "exposure",
        "verity",
    ),
    *("formats", "default-target"),
}
