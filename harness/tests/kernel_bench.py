"""A hardened guest for the kernel suite, from recorded facts, and ways to change what it answers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from event_logs import written
from seatrial.evidence.attempts import BOOT_ID as ASK_BOOT_ID
from seatrial.evidence.boot_entries import BOOT_ENTRIES
from seatrial.evidence.cmdline import CMDLINE
from seatrial.evidence.efi import SECURE_BOOT
from seatrial.evidence.event_log import Event, EventKind, EventLog, parse_event_log, replayed
from seatrial.evidence.ipe import IPE, UNTRUSTED
from seatrial.evidence.kconfig import KCONFIG
from seatrial.evidence.kernel import LOCKDOWN, TAINTED, VULNERABILITIES
from seatrial.evidence.modules import LOADED, SIGNATURES, dry_run_command
from seatrial.evidence.mounts import MOUNTINFO
from seatrial.evidence.sysctl import SYSCTL_D, SYSCTLS, parse_sysctl_d, sysctls_command
from seatrial.evidence.tpm import EVENT_LOG, REGISTERS, TPM, parse_log_bytes, parse_registers
from seatrial.suites import read_flavour
from suite_bench import BOOT_ID, Guest, all_of, bench, recorded

SUITE = bench("kernel")
STATE = SUITE.modules["test_state"]
REQUIRED = dry_run_command(read_flavour("debian-immutable").allowed("required-modules"))
PERSISTED = sysctls_command(parse_sysctl_d(recorded("kernel/sysctl-d")))
SIG_ENFORCE = "cat /sys/module/module/parameters/sig_enforce"
HIBERNATION = "if [ -e /sys/power/disk ]; then cat /sys/power/disk; else echo '[disabled]'; fi"
EVENTS = parse_event_log(parse_log_bytes(recorded("kernel/event-log")))
LOG_NAME = recorded("kernel/event-log").split("\n")[0] + "\n"
PCRS = [value.hex().upper() for value in parse_registers(recorded("kernel/pcrs"))]
UNSIGNED = "load a module without a signature"
COPIED, PRELOADED = UNTRUSTED
KCONFIG_ROWS = [c for c in SUITE.controls.values() if c.probe_kind == "kconfig"]
SYSCTL_ROWS = [c for c in SUITE.controls.values() if c.probe_kind == "sysctl"]
MODULE_ROWS = [c for c in SUITE.controls.values() if c.probe_kind == "modules"]


def modules_of(control: str) -> str:
    probe = SUITE.controls[control].probe
    assert probe is not None
    return dry_run_command(probe["modules"])


def guest() -> Guest:
    return Guest(
        {
            ASK_BOOT_ID: f"{BOOT_ID}\n",
            KCONFIG: recorded("kernel/kconfig"),
            CMDLINE: recorded("kernel/cmdline"),
            BOOT_ENTRIES: f"entry {recorded('kernel/cmdline')}the end\n",
            SYSCTLS: recorded("kernel/sysctls"),
            SYSCTL_D: recorded("kernel/sysctl-d"),
            PERSISTED: "kernel/core_pattern:core\nkernel/pid_max:4194304\nthe end\n",
            **{modules_of(row.id): recorded(f"kernel/{row.id}") for row in MODULE_ROWS},
            REQUIRED: recorded("kernel/required-modules"),
            LOADED: recorded("kernel/modules"),
            SIGNATURES: recorded("kernel/signatures"),
            SIG_ENFORCE: "Y\n",
            LOCKDOWN: recorded("kernel/lockdown"),
            HIBERNATION: "[disabled]\n",
            TAINTED: "0\n",
            VULNERABILITIES: recorded("kernel/vulnerabilities"),
            STATE.SYMBOLS: recorded("kernel/kallsyms"),
            STATE.KFENCE: "100\n",
            STATE.KERNELS: recorded("kernel/kernels"),
            MOUNTINFO: recorded("immutability/mountinfo"),
            SECURE_BOOT: recorded("kernel/secure-boot"),
            TPM: recorded("kernel/tpm"),
            REGISTERS: recorded("kernel/pcrs"),
            EVENT_LOG: recorded("kernel/event-log"),
            IPE: recorded("kernel/ipe"),
        },
        boot={"firmware": "uefi-secure", "tpm": "crb"},
        tries={
            "read /dev/mem": (1, "dd: failed to open '/dev/mem': Operation not permitted"),
            UNSIGNED: (1, "insmod: ERROR: could not insert module /run/x.ko: Key was rejected by service"),
            COPIED: (1, "sh: 1: /run/true: Permission denied"),
            PRELOADED: (
                1,
                "ERROR: ld.so: object '/run/lib.so' from LD_PRELOAD cannot be preloaded "
                "(failed to map segment from shared object): ignored.",
            ),
        },
    )


def told(old: str, new: str) -> Callable[[Guest], None]:
    """Tell the kernel ``new`` instead of ``old``, and have the boot entry say so, too."""
    return all_of(edit(CMDLINE, old, new), edit(BOOT_ENTRIES, old, new))


def said(words: str) -> Callable[[Guest], None]:
    """Put ``words`` at the end of the command line."""
    last = recorded("kernel/cmdline").split()[-1]
    return told(last, f"{last} {words}")


def measured_as(log: EventLog) -> Callable[[Guest], None]:
    """Have the firmware measure ``log``: it is what the guest shows, and the PCRs agree."""
    lines = [f"{number} {value.hex().upper()}\n" for number, value in enumerate(replayed(log)[:8])]
    return lambda g: g.answers.update({REGISTERS: "".join(lines), EVENT_LOG: shown(log)})


def shown(log: EventLog) -> str:
    """Return the guest's answer when its kernel holds ``log``."""
    return f"{LOG_NAME} {written(log).hex(' ')}\n"


def without(*events: Event) -> EventLog:
    return EventLog(algorithms=EVENTS.algorithms, events=tuple(e for e in EVENTS.events if e not in events))


def with_data(changed: tuple[Event, ...], data: bytes) -> EventLog:
    return replace(EVENTS, events=tuple(replace(e, data=data) if e in changed else e for e in EVENTS.events))


def events(register: int, kind: EventKind) -> tuple[Event, ...]:
    return tuple(event for event in EVENTS.events if (event.register, event.kind) == (register, kind))


def edit(question: str, old: str, new: str) -> Callable[[Guest], None]:
    return lambda g: g.replace(question, old, new)


# One defect: what is broken, and the controls that see it. Rows for options, parameters and modules follow below.
OPEN = "[none] integrity confidentiality\n"
