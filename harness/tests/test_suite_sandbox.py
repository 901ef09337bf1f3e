"""Every control of the sandbox suite passes on a hardened guest, and one defect each turns it red."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from seatrial.evidence.accounts import GROUPS, LOGIN_DEFS, PASSWD
from seatrial.evidence.cgroups import CGROUPS, TRY_LIMITS
from seatrial.evidence.kconfig import KCONFIG
from seatrial.evidence.kernel import VULNERABILITIES
from seatrial.evidence.listeners import LISTENERS
from seatrial.evidence.mounts import MOUNTINFO
from seatrial.evidence.runtimes import SOCKETS, VERSIONS
from seatrial.evidence.syscalls import FILTERED, KILLED, MACHINE, SYSCALLS
from seatrial.evidence.sysctl import SYSCTLS
from seatrial.evidence.usermode import USERMODE
from seatrial.policy.judge import Outcome
from seatrial.suites import read_flavour
from suite_bench import Guest, all_of, bench, recorded

SUITE = bench("sandbox")
CALLS, HOST = (SUITE.modules[f"test_{name}"] for name in ("calls", "host"))
LSM = "cat /sys/kernel/security/lsm"
BITTEN = "memory oom-kill\ntasks exit-code\ncpu success\nrefused \nthrottled 21\n"
RUNC = "runc runc version 1.2.8+ds1\nthe end\n"


def guest() -> Guest:
    return Guest(
        {
            SYSCALLS: recorded("sandbox/syscalls"),
            FILTERED: "answers 595 0 0 0 -1\n",
            KILLED: "answers\n",
            MACHINE: "answers -2 -9 -9\n",
            CALLS.TRIES: recorded("sandbox/tries"),
            CALLS.FAULTS: "0 600\n",
            CALLS.ACTIONS: "kill_process kill_thread trap errno user_notif trace log allow\n",
            LSM: "lockdown,capability,landlock,yama,apparmor,tomoyo,bpf,ipe,ima,evm\n",
            USERMODE: recorded("sandbox/usermode"),
            SYSCTLS: recorded("kernel/sysctls")
            .replace("io_uring_disabled:0", "io_uring_disabled:2")
            .replace("unprivileged_bpf_disabled:2", "unprivileged_bpf_disabled:1")
            .replace("unprivileged_unconfined:0", "unprivileged_unconfined:1"),
            KCONFIG: recorded("kernel/kconfig"),
            CGROUPS: recorded("sandbox/cgroups"),
            TRY_LIMITS: BITTEN,
            MOUNTINFO: recorded("immutability/mountinfo"),
            HOST.LIMITS: recorded("sandbox/limits"),
            HOST.NODE: "none\n",
            HOST.NESTED: "kvm_intel configured 0\nkvm_amd missing\n",
            VULNERABILITIES: recorded("kernel/vulnerabilities"),
            HOST.SMT: "notsupported\n0\n",
            HOST.KSM: "0\n",
            SOCKETS: "/run/docker.sock 0 999 660\nthe end\n",
            LISTENERS: recorded("hardening/listeners"),
            PASSWD: recorded("hardening/passwd"),
            GROUPS: f"{recorded('hardening/group')}uring:x:998:\n",
            LOGIN_DEFS: recorded("hardening/login-defs"),
            VERSIONS: RUNC,
        },
        flavour="debian-general",
    )


def edit(question: str, old: str, new: str) -> Callable[[Guest], None]:
    return lambda g: g.replace(question, old, new)


def answer(question: str, text: str) -> Callable[[Guest], None]:
    return lambda g: g.answers.update({question: text})


def nothing_can_call(g: Guest) -> None:
    g.answers[SYSCALLS] = "release 6.12.118+deb13-cloud-amd64\nanswers\n"


# One defect: what is broken, and the controls that see it.
DEFECTS: dict[str, tuple[Callable[[Guest], None], set[str]]] = {
    "namespaces for all": (
        edit(CALLS.TRIES, "namespace\t1\tunshare: unshare failed: Operation not permitted", "namespace\t0\t"),
        {"sb-userns-policy"},
    ),
    "profiles can be picked": (
        edit(SYSCTLS, "restrict_unprivileged_unconfined:1", "restrict_unprivileged_unconfined:0"),
        {"sb-apparmor-unconfined"},
    ),
    "an action is missing": (edit(CALLS.ACTIONS, "user_notif ", ""), {"sb-seccomp-works"}),
    "a filter cannot be installed": (answer(FILTERED, "answers 595 0 0 -22 595\n"), {"sb-seccomp-works"}),
    "a filtered call is made": (answer(FILTERED, "answers 595 0 0 0 595\n"), {"sb-seccomp-works"}),
    "a killing filter does not kill": (answer(KILLED, "answers 595 0 0 0 -1\n"), {"sb-seccomp-works"}),
    "landlock is not active": (edit(LSM, "landlock,", ""), {"sb-landlock-abi"}),
    "landlock is old": (edit(SYSCALLS, " 6\n", " 2\n"), {"sb-landlock-abi"}),
    "landlock refuses": (edit(SYSCALLS, " 6\n", " -95\n"), {"sb-landlock-abi"}),
    "io_uring is open": (edit(SYSCALLS, "answers -1", "answers 3"), {"sb-io-uring"}),
    "io_uring is set open": (edit(SYSCTLS, "io_uring_disabled:2", "io_uring_disabled:0"), {"sb-io-uring"}),
    "io_uring is open to a person's group": (
        all_of(
            edit(SYSCTLS, "io_uring_disabled:2", "io_uring_disabled:1"),
            edit(SYSCTLS, "io_uring_group:-1", "io_uring_group:1000"),
        ),
        {"sb-io-uring"},
    ),
    "io_uring is open to a group with a person in it": (
        all_of(
            edit(SYSCTLS, "io_uring_disabled:2", "io_uring_disabled:1"),
            edit(SYSCTLS, "io_uring_group:-1", "io_uring_group:998"),
            edit(GROUPS, "uring:x:998:", "uring:x:998:seatrial"),
        ),
        {"sb-io-uring"},
    ),
    "BPF is open": (edit(SYSCALLS, "answers -1 -1", "answers -1 3"), {"sb-bpf-unpriv-behaviour"}),
    "BPF is set open, and nothing can call": (
        all_of(nothing_can_call, edit(SYSCTLS, "unprivileged_bpf_disabled:1", "unprivileged_bpf_disabled:0")),
        {"sb-bpf-unpriv-behaviour"},
    ),
    "userfaultfd is open": (edit(SYSCALLS, "answers -1 -1 -1", "answers -1 -1 3"), {"sb-userfaultfd-behaviour"}),
    "userfaultfd's device is open": (edit(CALLS.FAULTS, "0 600", "0 666"), {"sb-userfaultfd-behaviour"}),
    "userfaultfd is set open, and nothing can call": (
        all_of(nothing_can_call, edit(SYSCTLS, "unprivileged_userfaultfd:0", "unprivileged_userfaultfd:1")),
        {"sb-userfaultfd-behaviour"},
    ),
    "siblings can be traced": (
        edit(CALLS.TRIES, "user\t2\tsh: 1: cannot open /proc/621/mem: Permission denied", "user\t0\t"),
        {"sb-ptrace-cross"},
    ),
    "a helper in /tmp": (
        edit(USERMODE, "|/bin/false\t/usr/bin/false", "|/tmp/dump\t/tmp/dump"),
        {"sb-usermode-helper"},
    ),
    "a program of others powers off": (
        edit(USERMODE, "/sbin/poweroff\t/usr/bin/systemctl", "/var/tmp/poweroff\t/var/tmp/poweroff"),
        {"sb-usermode-helper"},
    ),
    "a helper that others write": (edit(USERMODE, "kmod\t0 755", "kmod\t0 757"), {"sb-usermode-helper"}),
    "a helper of somebody": (edit(USERMODE, "kmod\t0 755", "kmod\t1000 755"), {"sb-usermode-helper"}),
    "a helper can be named": (
        edit(CALLS.TRIES, "writing\t1\trefused", "writing\t0\t/proc/sys/kernel/modprobe"),
        {"sb-usermode-helper"},
    ),
    "the first version": (edit(CGROUPS, "type cgroup2fs", "type tmpfs"), {"sb-cgroup2"}),
    "both versions": (
        lambda g: g.add(MOUNTINFO, "57 50 0:8 / /sys/fs/cgroup/cpu rw shared:15 - cgroup cgroup rw,cpu"),
        {"sb-cgroup2"},
    ),
    "no memory controller": (edit(CGROUPS, "io memory hugetlb", "io hugetlb"), {"sb-cgroup2"}),
    "tasks are not handed down": (edit(CGROUPS, "system.slice memory pids", "system.slice memory"), {"sb-cgroup2"}),
    "memory is not limited": (edit(TRY_LIMITS, "oom-kill", "timeout"), {"sb-cgroup-limits-bite"}),
    "the kernel kills anyone": (edit(TRY_LIMITS, "oom-kill", "signal"), {"sb-cgroup-limits-bite"}),
    "processes are not limited": (edit(TRY_LIMITS, "exit-code", "success"), {"sb-cgroup-limits-bite"}),
    "none was refused": (
        all_of(edit(TRY_LIMITS, "exit-code", "success"), edit(TRY_LIMITS, "refused ", "refused 0")),
        {"sb-cgroup-limits-bite"},
    ),
    "the processor is not limited": (edit(TRY_LIMITS, "throttled 21", "throttled 0"), {"sb-cgroup-limits-bite"}),
    "nothing counts the processor": (edit(TRY_LIMITS, "throttled 21", "throttled "), {"sb-cgroup-limits-bite"}),
    "tasks without end": (edit(HOST.LIMITS, "tasks 5043", "tasks infinity"), {"sb-uts-limits"}),
    "tasks of one user for all": (edit(HOST.LIMITS, "tasks 5043", "tasks 15283"), {"sb-uts-limits"}),
    "processes without end": (edit(HOST.LIMITS, "processes 7641", "processes unlimited"), {"sb-uts-limits"}),
    "KVM for everybody": (answer(HOST.NODE, "0 666 character special file\n"), {"sb-kvm-available"}),
    "nested machines": (edit(HOST.NESTED, "configured 0", "running Y"), {"sb-nested-off"}),
    "nested machines as soon as it is loaded": (edit(HOST.NESTED, "configured 0", "configured "), {"sb-nested-off"}),
    "a flaw is open": (
        edit(VULNERABILITIES, "mds:Not affected", "mds:Vulnerable: no microcode"),
        {"sb-vulnerabilities"},
    ),
    "threads of a core": (answer(HOST.SMT, "on\n1\n"), {"sb-smt"}),
    "pages are merged": (answer(HOST.KSM, "1\n"), {"sb-ksm-off"}),
    "a socket for everybody": (edit(SOCKETS, "660", "666"), {"sb-runtime-socket-perms"}),
    "a socket of somebody": (edit(SOCKETS, "sock 0 ", "sock 1000 "), {"sb-runtime-socket-perms"}),
    "a runtime on the network": (
        lambda g: g.add(LISTENERS, 'tcp LISTEN 0 4096 0.0.0.0:2375 0.0.0.0:* users:(("dockerd",pid=9,fd=3))'),
        {"sb-runtime-socket-perms"},
    ),
    "an old runtime": (edit(VERSIONS, "1.2.8", "1.2.7"), {"sb-runtime-version"}),
}


def test_hardened_guest_passes_every_control() -> None:
    assert SUITE.red(guest(), "general-purpose") == {}


@pytest.mark.parametrize("name", DEFECTS)
def test_defect_turns_exactly_its_controls_red(name: str) -> None:
    seed, expected = DEFECTS[name]
    broken = guest()
    seed(broken)
    red = SUITE.red(broken, "general-purpose")
    assert red.keys() == expected, red
    assert all(why.startswith("fail") for why in red.values()), red


def test_every_control_has_a_defect() -> None:
    assert set().union(*(controls for _seed, controls in DEFECTS.values())) == SUITE.controls.keys()


@pytest.mark.parametrize(
    ("control", "seed"),
    [
        ("sb-userns-policy", edit(CALLS.TRIES, "unshare: unshare failed: Operation not permitted", "out of memory")),
        ("sb-userns-policy", edit(CALLS.TRIES, "\t1\tunshare", "\t127\tunshare")),
        (
            "sb-ptrace-cross",
            edit(CALLS.TRIES, "user\t2\tsh: 1: cannot open /proc/621/mem: Permission denied", "user\t77\t"),
        ),
        ("sb-usermode-helper", edit(CALLS.TRIES, "\trefused", "\t")),
        ("sb-usermode-helper", answer(USERMODE, "")),
        ("sb-seccomp-works", answer(FILTERED, "answers\n")),
        ("sb-io-uring", edit(SYSCALLS, "answers -1", "answers -22")),
        ("sb-landlock-abi", answer(SYSCALLS, "")),
        ("sb-cgroup2", answer(CGROUPS, "")),
        ("sb-cgroup-limits-bite", answer(TRY_LIMITS, "")),
        ("sb-cgroup-limits-bite", answer(TRY_LIMITS, f"broken memory\n{BITTEN}")),
        ("sb-uts-limits", answer(HOST.LIMITS, "processes 7641\n")),
        ("sb-kvm-available", answer(HOST.NODE, "")),
        ("sb-nested-off", answer(HOST.NESTED, "kvm_intel missing\n")),
        ("sb-smt", answer(HOST.SMT, "notsupported\n")),
        ("sb-ksm-off", answer(HOST.KSM, "")),
        ("sb-runtime-socket-perms", answer(SOCKETS, "")),
        ("sb-runtime-version", answer(VERSIONS, "runc \nthe end\n")),
        ("sb-runtime-version", answer(VERSIONS, "")),
    ],
)
def test_what_cannot_be_told_is_an_error(control: str, seed: Callable[[Guest], None]) -> None:
    broken = guest()
    seed(broken)
    assert SUITE.outcome(control, broken) == Outcome.ERROR


def test_what_an_emulated_processor_lacks_counts_on_a_real_one() -> None:
    real = guest()
    real.boot = {"accelerator": "kvm"}
    assert SUITE.outcome("sb-vulnerabilities", real) == Outcome.FAIL


def test_without_a_runtime_there_is_no_version_to_judge() -> None:
    bare = guest()
    bare.answers.update({VERSIONS: "the end\n", SOCKETS: "the end\n"})
    assert SUITE.outcome("sb-runtime-version", bare) == Outcome.NOT_APPLICABLE
    assert SUITE.outcome("sb-runtime-socket-perms", bare) == Outcome.PASS


def test_a_shell_that_goes_on_is_stopped_all_the_same_and_without_systemd_there_are_no_limits() -> None:
    patient = guest()
    patient.replace(TRY_LIMITS, "tasks exit-code\ncpu success\nrefused ", "tasks success\ncpu success\nrefused 18")
    assert SUITE.outcome("sb-cgroup-limits-bite", patient) == Outcome.PASS
    patient.answers[TRY_LIMITS] = "none\n"
    assert SUITE.outcome("sb-cgroup-limits-bite", patient) == Outcome.NOT_APPLICABLE


def test_settings_decide_where_no_call_can_be_made() -> None:
    mute = guest()
    nothing_can_call(mute)
    assert SUITE.red(mute, "general-purpose") == {}


def test_io_uring_may_be_left_to_a_group_of_services() -> None:
    careful = guest()
    careful.replace(SYSCTLS, "io_uring_disabled:2", "io_uring_disabled:1")
    careful.replace(SYSCTLS, "io_uring_group:-1", "io_uring_group:998")
    assert SUITE.outcome("sb-io-uring", careful) == Outcome.PASS


def test_a_kernel_powers_off_by_a_program_that_need_not_be_there() -> None:
    lean = guest()
    lean.replace(USERMODE, "/usr/bin/systemctl\t0 755", "/sbin/poweroff\tmissing")
    assert SUITE.outcome("sb-usermode-helper", lean) == Outcome.PASS


def test_kernel_without_io_uring_has_nothing_to_close() -> None:
    lean = guest()
    lean.replace(SYSCTLS, "kernel/io_uring_disabled:2\n", "")
    assert SUITE.outcome("sb-io-uring", lean) == Outcome.FAIL
    lean.replace(KCONFIG, "CONFIG_IO_URING=y", "# CONFIG_IO_URING is not set")
    assert SUITE.outcome("sb-io-uring", lean) == Outcome.PASS


def test_promised_machines_must_be_made(monkeypatch: pytest.MonkeyPatch) -> None:
    promised = read_flavour("debian-general")
    promised = promised.model_copy(update={"expect": {**promised.expect, "virtual-machines": ("kvm", "nested")}})
    monkeypatch.setattr("suite_bench.read_flavour", lambda _name: promised)
    host = guest()
    assert SUITE.outcome("sb-kvm-available", host) == Outcome.FAIL
    host.answers.update({HOST.NODE: "0 660 character special file\n", MACHINE: "answers 3 4 5\n"})
    assert SUITE.outcome("sb-kvm-available", host) == Outcome.PASS
    assert SUITE.outcome("sb-nested-off", host) == Outcome.NOT_APPLICABLE
