"""Every control of the boot suite passes after a good boot, and one defect each turns it red."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from seatrial.clock import utc_now
from seatrial.errors import BootTimeout
from seatrial.evidence.boot_units import UNITS
from seatrial.evidence.journal import COREDUMPS, ERRORS, KERNEL, STORAGE, way_down
from seatrial.evidence.latency import CYCLICTEST, PREEMPT
from seatrial.evidence.systemd import JOBS, MANAGER, SERVICES, UNSETTLED
from seatrial.policy.flavours import Budgets
from seatrial.policy.judge import Outcome
from suite_bench import BOOT_ID, Guest, all_of, bench, recorded

SUITE = bench("boot")
HEALTH = SUITE.modules["test_health"]
MESSAGES = SUITE.modules["test_messages"]
SYSTEM = SUITE.modules["test_system"]
SECOND = SUITE.modules["test_second_boot"]
WAY_DOWN = way_down(BOOT_ID)
WARNINGS = "journalctl -b -q --no-pager -n 3000 -o cat _PID=1 -p warning"
RESULT = {"v1": {"datasource": "DataSourceNoCloud", "errors": []}}
STATUS = {"v1": {"stage": None, "init": {"errors": [], "finished": 12.5, "start": 9.1}}}


def guest() -> Guest:
    return Guest(
        {
            MANAGER: recorded("boot/manager"),
            JOBS: "",
            SERVICES: recorded("boot/services"),
            UNSETTLED: "",
            HEALTH.FAILED: "",
            HEALTH.TARGETS: recorded("boot/targets"),
            ERRORS: "",
            KERNEL: recorded("boot/kernel"),
            COREDUMPS: "",
            MESSAGES.DUMPED: "",
            WARNINGS: "",
            UNITS: recorded("boot/units"),
            PREEMPT: recorded("boot/preempt"),
            SYSTEM.CLOCKSOURCE: recorded("boot/clocksource"),
            SYSTEM.ENTROPY: recorded("boot/entropy"),
            SYSTEM.MACHINE_ID: recorded("boot/identity"),
            SYSTEM.CLOUD_INIT: f"{json.dumps(RESULT, indent=1)}\n{json.dumps(STATUS)}\n",
            "date +%s": f"{utc_now().timestamp():.0f}\n",
            SECOND.BOOT_ID: f"{BOOT_ID}\n",
            SECOND.SESSIONS: "/\n/home/seatrial\n",
            SECOND.PERSISTENT: "/var/log/journal/7e2a/system.journal\n",
        },
        flavour="debian-general",
        later={
            STORAGE: recorded("boot/kernel") + "root: clean, 13094/131072 files, 155633/524288 blocks\n",
            WAY_DOWN: "Unmounting tmp.mount - Temporary Directory /tmp...\nFailed unmounting home.mount - /home.\n",
        },
    )


def edit(question: str, old: str, new: str) -> Callable[[Guest], None]:
    return lambda g: g.replace(question, old, new)


def add(question: str, line: str) -> Callable[[Guest], None]:
    return lambda g: g.add(question, line)


def console(line: str) -> Callable[[Guest], None]:
    return lambda g: g.boot.update(console=f"[    0.0] Linux version 6.12\n{line}\n")


def times(*, initrd: int, userspace: int, finish: int) -> Callable[[Guest], None]:
    """Set the time stamps of a boot, in seconds since the kernel started."""
    stamps = {"InitRD": initrd, "Userspace": userspace, "Finish": finish}
    text = "SystemState=running\nNFailedUnits=0\nFirmwareTimestampMonotonic=0\nLoaderTimestampMonotonic=0\n"
    lines = "".join(f"{name}TimestampMonotonic={seconds}000000\n" for name, seconds in stamps.items())
    return lambda g: g.answers.update({MANAGER: text + lines})


def entry(said_by: str, message: object) -> str:
    return json.dumps({"PRIORITY": "3", "SYSLOG_IDENTIFIER": said_by, "MESSAGE": message})


# One defect: what is broken, and the controls that see it.
def powering_off(power_off: Callable[[], float]) -> Callable[[Guest], None]:
    return lambda g: setattr(g, "power_off", power_off)


def later(question: str, line: str) -> Callable[[Guest], None]:
    """Add a line to what the guest answers after its reboot."""
    return lambda g: g.later.update({question: g.later[question] + f"{line}\n"})


def second_boot(*, initrd: int, userspace: int, finish: int) -> Callable[[Guest], None]:
    def seed(g: Guest) -> None:
        other = guest()
        times(initrd=initrd, userspace=userspace, finish=finish)(other)
        g.later[MANAGER] = other.answers[MANAGER]

    return seed


def never_off() -> float:
    raise BootTimeout("the guest was still on 180 s after it was told to power off")


DEFECTS: dict[str, tuple[Callable[[Guest], None], set[str]]] = {
    "degraded": (edit(MANAGER, "SystemState=running", "SystemState=degraded"), {"bh-running"}),
    "a failed unit": (
        all_of(
            add(HEALTH.FAILED, "fail.service loaded failed failed A failure"),
            edit(MANAGER, "NFailedUnits=0", "NFailedUnits=1"),
        ),
        {"bh-no-failed-units"},
    ),
    "a failed unit that is not listed": (edit(MANAGER, "NFailedUnits=0", "NFailedUnits=1"), {"bh-no-failed-units"}),
    "the target is not reached": (edit(HEALTH.TARGETS, "target\nactive", "target\ninactive"), {"bh-default-target"}),
    "the default is rescue": (edit(HEALTH.TARGETS, "graphical.target", "rescue.target"), {"bh-default-target"}),
    "emergency mode": (
        edit(HEALTH.TARGETS, "inactive\ninactive\ninactive\ninactive", "inactive\nactive\ninactive\nactive"),
        {"bh-no-rescue"},
    ),
    "a waiting job": (add(JOBS, " 89 slow.service start running"), {"bh-no-stuck-jobs"}),
    "a unit that never comes up": (
        add(UNSETTLED, "wait.service loaded activating start Waits for ever"),
        {"bh-no-stuck-jobs"},
    ),
    "a restart loop": (
        edit(SERVICES, "NRestarts=0\nId=ssh.service", "NRestarts=5\nId=ssh.service"),
        {"bh-no-restart-loops"},
    ),
    "about to restart": (
        add(
            SERVICES, "\nId=agent.service\nActiveState=activating\nSubState=auto-restart\nNRestarts=1\nResult=exit-code"
        ),
        {"bh-no-restart-loops"},
    ),
    "an error in the journal": (add(ERRORS, entry("agent", "cannot open /dev/agent")), {"bh-journal-errors"}),
    "an error in bytes": (add(ERRORS, entry("agent", [255, 254, 10])), {"bh-journal-errors"}),
    "an oops": (add(KERNEL, "Oops: Oops: 0000 [#1] PREEMPT SMP NOPTI"), {"bh-kernel-log-clean"}),
    "a warning": (add(KERNEL, "WARNING: CPU: 1 PID: 1 at kernel/fork.c:1"), {"bh-kernel-log-clean"}),
    "an oops without its first word": (add(KERNEL, "0000 [#1] PREEMPT SMP NOPTI"), {"bh-kernel-log-clean"}),
    "a stall": (add(KERNEL, "watchdog: BUG: soft lockup - CPU#0 stuck for 22s!"), {"bh-kernel-log-clean"}),
    "a warning without a processor": (
        add(KERNEL, "WARNING: kernel/fork.c:12 at f+0x1/0x2, CPU#0: a/1"),
        {"bh-kernel-log-clean"},
    ),
    **{
        f"a damaged file system: {said}": (add(KERNEL, said), {"bh-kernel-log-clean"})
        for said in (
            "BTRFS error (device dm-0): bdev /dev/dm-0 errs: wr 0, rd 0, flush 0, corrupt 1, gen 0",
            "BTRFS warning (device dm-0): csum failed root 5 ino 258",
            "XFS (vda3): Metadata CRC error detected at xfs_agf_read_verify",
            "SQUASHFS error: lzo decompression failed, data probably corrupt",
            "erofs (device dm-0): z_erofs_lz4_decompress_mem: failed to decompress -5",
        )
    },
    "a service crashed and was started again": (
        add(WARNINGS, "agent.service: Main process exited, code=killed, status=6/ABRT"),
        {"bh-no-coredumps"},
    ),
    "a service failed and was started again": (
        add(WARNINGS, "agent.service: Failed with result 'exit-code'."),
        {"bh-no-dependency-failures"},
    ),
    "a bad disk": (add(KERNEL, "I/O error, dev vda, sector 0 op 0x0:(READ)"), {"bh-kernel-log-clean"}),
    "out of memory": (add(KERNEL, "Out of memory: Killed process 412 (agent) total-vm:1kB"), {"bh-no-oom"}),
    "a segfault": (add(KERNEL, "agent[500]: segfault at 0 ip 00005 sp 00007 error 4 in agent"), {"bh-no-coredumps"}),
    "a dump in the journal": (add(COREDUMPS, entry("systemd-coredump", "Process 5 dumped core.")), {"bh-no-coredumps"}),
    "a dump on disk": (add(MESSAGES.DUMPED, "core.agent.0.zst"), {"bh-no-coredumps"}),
    "an oops on the console": (console("[ 3.1] Oops: general protection fault"), {"bh-console-clean"}),
    "a dependency failed": (
        console("[DEPEND] Dependency failed for local-fs.target - Local File Systems."),
        {"bh-no-dependency-failures", "bh-console-clean"},
    ),
    "a unit failed on the console": (
        console("[FAILED] Failed to start agent.service."),
        {"bh-no-dependency-failures", "bh-console-clean"},
    ),
    "an ordering cycle": (
        add(WARNINGS, "a.service: Job b.service/start deleted to break ordering cycle"),
        {"bh-no-dependency-failures"},
    ),
    "a slow clock": (edit(SYSTEM.CLOCKSOURCE, "tsc\ntsc", "acpi_pm\ntsc"), {"bh-clocksource"}),
    "a wrong clock": (lambda g: g.answers.update({"date +%s": "1262304000\n"}), {"bh-clock-sane"}),
    "no randomness": (edit(SYSTEM.ENTROPY, "256", "31"), {"bh-entropy-ready"}),
    "no name": (edit(SYSTEM.MACHINE_ID, "\nseatrial", "\nlocalhost"), {"bh-identity"}),
    "no valid machine id": (edit(SYSTEM.MACHINE_ID, "7e2a", "uninit"), {"bh-identity"}),
    "provisioning goes on": (edit(SYSTEM.CLOUD_INIT, json.dumps(RESULT, indent=1), "unfinished"), {"bh-cloud-init-ok"}),
    "provisioning failed": (edit(SYSTEM.CLOUD_INIT, '"errors": []\n', '"errors": ["no user"]\n'), {"bh-cloud-init-ok"}),
    "a stage did not finish": (
        edit(SYSTEM.CLOUD_INIT, '"finished": 12.5', '"finished": null'),
        {"bh-cloud-init-ok"},
    ),
    "a slow initrd": (times(initrd=6, userspace=137, finish=149), {"bt-phases"}),
    "slow as a whole": (times(initrd=59, userspace=170, finish=300), {"bt-total"}),
    "a slow unit": (
        edit(UNITS, "ActiveEnterTimestampMonotonic=25971521", "ActiveEnterTimestampMonotonic=225971521"),
        {"bt-unit-budget"},
    ),
    "a kernel that does not preempt": (edit(PREEMPT, "voluntary", "none"), {"lat-preempt-model"}),
    "a slow way down": (powering_off(lambda: 81.0), {"bt-shutdown"}),
    "no way down": (powering_off(never_off), {"bt-shutdown"}),
    "a second boot that waits": (second_boot(initrd=7, userspace=17, finish=120), {"bt-first-vs-second"}),
    "a second boot that waits long on a slow host": (
        second_boot(initrd=13, userspace=34, finish=200),
        {"bt-first-vs-second"},
    ),
    "a slow second kernel": (second_boot(initrd=300, userspace=310, finish=322), {"bt-first-vs-second"}),
    "a replayed journal": (later(STORAGE, "EXT4-fs (vda2): recovery complete"), {"bh-clean-poweroff"}),
    "a journal that fsck replayed": (later(STORAGE, "root: recovering journal"), {"bh-clean-poweroff"}),
    "a repair": (later(STORAGE, "root: ***** FILE SYSTEM WAS MODIFIED *****"), {"bh-clean-poweroff"}),
    "a dirty ESP": (
        later(STORAGE, "FAT-fs (vda1): Volume was not properly unmounted. Some data may be corrupt. Please run fsck."),
        {"bh-clean-poweroff"},
    ),
    "a journal that was not closed": (
        later(
            STORAGE, "File /var/log/journal/7e/system.journal corrupted or uncleanly shut down, renaming and replacing."
        ),
        {"bh-clean-poweroff"},
    ),
    "a busy file system": (later(WAY_DOWN, "Failed unmounting srv.mount - /srv."), {"bh-clean-poweroff"}),
    "a busy file system beside the session's": (
        later(WAY_DOWN, "Failed unmounting home-seat.mount - /home/seat."),
        {"bh-clean-poweroff"},
    ),
    "a journal that is lost": (lambda g: g.later.update({WAY_DOWN: ""}), {"bh-clean-poweroff"}),
    "a late login": (lambda g: g.boot.update(login_s=900.0), {"bt-ssh-ready"}),
}


def red_on(g: Guest) -> dict[str, str]:
    """Return what is red, but latency: no flavour of ours promises one, so its control does not apply."""
    red = SUITE.red(g, "general-purpose")
    assert red.pop("lat-cyclictest").startswith("not-applicable")
    return red


def test_good_boot_passes_every_control() -> None:
    assert red_on(guest()) == {}


@pytest.mark.parametrize(("accelerator", "is_doubted"), [("tcg", True), ("kvm", False)])
def test_a_stall_under_emulation_may_be_the_hosts_doing(accelerator: str, *, is_doubted: bool) -> None:
    g = guest()
    g.boot["accelerator"] = accelerator
    add(KERNEL, "watchdog: BUG: soft lockup - CPU#0 stuck for 22s!")(g)
    outcome, why = SUITE.explained("bh-kernel-log-clean", g)
    assert outcome is Outcome.FAIL
    assert "a stalled or locked up CPU: watchdog" in why
    assert ("busy host" in why) is is_doubted


@pytest.mark.parametrize("name", DEFECTS)
def test_defect_turns_exactly_its_controls_red(name: str) -> None:
    seed, expected = DEFECTS[name]
    broken = guest()
    seed(broken)
    red = red_on(broken)
    assert red.keys() == expected, red
    assert all(why.startswith("fail") for why in red.values()), red


def test_every_control_has_a_defect() -> None:
    elsewhere = {"lat-cyclictest"}  # see below: it needs a flavour that promises latency
    assert set().union(*(controls for _seed, controls in DEFECTS.values())) | elsewhere == SUITE.controls.keys()


def promised(longest_us: float, *, accelerator: str = "kvm", cycles: int = 50_000) -> Guest:
    """Return a guest with cyclictest, whose flavour promises wake-ups within 500 microseconds."""
    g = guest()
    g.boot["accelerator"] = accelerator
    g.budgets = Budgets(latency={"max_us": 500})
    g.answers["command -v cyclictest"] = "/usr/bin/cyclictest\n"
    threads = {"0": {"min": 3, "avg": 9.5, "max": longest_us, "cycles": cycles}}
    g.answers[CYCLICTEST.format(program="/usr/bin/cyclictest")] = json.dumps({"thread": threads})
    return g


@pytest.mark.parametrize(("longest", "outcome"), [(450, Outcome.PASS), (900, Outcome.FAIL)])
def test_latency_is_judged_by_the_promise_of_the_flavour(longest: float, outcome: Outcome) -> None:
    assert SUITE.outcome("lat-cyclictest", promised(longest)) == outcome


def test_latency_of_emulation_says_nothing_of_the_image() -> None:
    assert SUITE.outcome("lat-cyclictest", promised(1, accelerator="tcg")) == Outcome.NOT_CHECKED


def test_cyclictest_that_never_woke_up_measured_nothing() -> None:
    assert SUITE.outcome("lat-cyclictest", promised(0, cycles=0)) == Outcome.ERROR


def test_flavour_that_promises_no_latency_is_not_measured() -> None:
    assert SUITE.outcome("lat-cyclictest", guest()) == Outcome.NOT_APPLICABLE


def test_unit_that_may_be_slow_is_not_red() -> None:
    slow = guest()
    DEFECTS["a slow unit"][0](slow)
    slow.budgets = Budgets(tcg={"unit_s": 120}, slow_units=("serial-getty@*",))
    assert SUITE.outcome("bt-unit-budget", slow) == Outcome.PASS


@pytest.mark.parametrize(
    "control", ["bt-total", "bt-phases", "bt-ssh-ready", "bt-shutdown", "bt-unit-budget", "bt-first-vs-second"]
)
def test_time_without_a_budget_of_its_accelerator_is_not_checked(control: str) -> None:
    strange = guest()
    strange.boot["accelerator"] = "hvf"
    assert SUITE.outcome(control, strange) == Outcome.NOT_CHECKED


def test_time_of_emulation_is_not_judged_by_the_budget_of_hardware() -> None:
    """The recorded boot breaks the KVM budget for userspace no matter that TCG's allows it."""
    fast = guest()
    fast.boot.update(accelerator="kvm", login_s=55.0)
    assert SUITE.outcome("bt-ssh-ready", guest()) == Outcome.PASS
    assert SUITE.outcome("bt-ssh-ready", fast) == Outcome.FAIL


def degraded(*failed: str) -> Guest:
    """Return a guest on which these services failed."""
    broken = guest()
    broken.replace(MANAGER, "SystemState=running", "SystemState=degraded")
    broken.replace(MANAGER, "NFailedUnits=0", f"NFailedUnits={len(failed)}")
    for name in failed:
        broken.add(HEALTH.FAILED, f"{name} loaded failed failed A service")
        broken.add(WARNINGS, f"{name}: Failed with result 'exit-code'.\nFailed to start {name} - A service.")
    broken.expect["needs-platform"] = ("chronyd.service",)
    return broken


@pytest.mark.parametrize(
    ("failed", "red"),
    [
        (("chronyd.service",), set()),
        (("chronyd.service", "other.service"), {"bh-running", "bh-no-failed-units", "bh-no-dependency-failures"}),
        (("other.service",), {"bh-running", "bh-no-failed-units", "bh-no-dependency-failures"}),
    ],
)
def test_only_what_needs_another_platform_may_fail_without_it(failed: tuple[str, ...], red: set[str]) -> None:
    assert {name for name in SUITE.red(degraded(*failed), "general-purpose") if name.startswith("bh-")} == red


def test_a_degraded_system_without_a_failed_unit_is_excused_by_nothing() -> None:
    assert SUITE.outcome("bh-running", degraded()) is Outcome.FAIL


def test_a_unit_that_needs_another_platform_may_not_wait_for_itself() -> None:
    broken = degraded("chronyd.service")
    broken.add(WARNINGS, "chronyd.service: Found ordering cycle on basic.target/start")
    assert SUITE.outcome("bh-no-dependency-failures", broken) is Outcome.FAIL


@pytest.mark.parametrize("control", ["bt-total", "bt-phases"])
def test_unfinished_boot_has_no_time(control: str) -> None:
    broken = guest()
    broken.replace(MANAGER, "FinishTimestampMonotonic=29560320", "FinishTimestampMonotonic=0")
    assert SUITE.outcome(control, broken) == Outcome.ERROR


@pytest.mark.parametrize("control", ["bh-journal-errors", "bh-kernel-log-clean", "bh-no-oom", "bh-no-coredumps"])
def test_empty_journal_is_no_clean_journal(control: str) -> None:
    broken = guest()
    broken.answers[KERNEL] = ""
    assert SUITE.outcome(control, broken) == Outcome.ERROR


def test_silent_console_is_no_clean_console() -> None:
    broken = guest()
    broken.boot["console"] = ""
    assert SUITE.outcome("bh-console-clean", broken) == Outcome.ERROR


def test_emulated_processor_without_a_fast_clock_is_not_to_blame() -> None:
    slow = guest()
    slow.answers[SYSTEM.CLOCKSOURCE] = "acpi_pm\nhpet acpi_pm \n"
    assert SUITE.outcome("bh-clocksource", slow) == Outcome.NOT_APPLICABLE
    slow.boot["accelerator"] = "kvm"
    assert SUITE.outcome("bh-clocksource", slow) == Outcome.FAIL


def test_background_work_is_not_stuck() -> None:
    busy = guest()
    busy.add(UNSETTLED, "man-db.service loaded activating start Daily man-db regeneration")
    assert SUITE.outcome("bh-no-stuck-jobs", busy) == Outcome.PASS


def test_second_boot_on_a_slower_host_is_not_slower() -> None:
    slow = guest()
    second_boot(initrd=17, userspace=44, finish=75)(slow)  # all phases take two and a half times as long
    assert SUITE.outcome("bt-first-vs-second", slow) == Outcome.PASS


def test_second_boot_that_is_not_finished_has_no_time() -> None:
    broken = guest()
    broken.later[MANAGER] = broken.answers[MANAGER].replace("Monotonic=29560320", "Monotonic=0")
    assert SUITE.outcome("bt-first-vs-second", broken) == Outcome.ERROR


def test_journal_that_was_never_kept_is_said_not_to_have_been_looked_at() -> None:
    volatile = guest()
    volatile.answers[SECOND.PERSISTENT] = volatile.later[WAY_DOWN] = ""
    assert SUITE.outcome("bh-clean-poweroff", volatile) == Outcome.PASS
    volatile.later[STORAGE] += "root: recovering journal\n"
    assert SUITE.outcome("bh-clean-poweroff", volatile) == Outcome.FAIL


def test_empty_journal_of_the_second_boot_is_no_clean_one() -> None:
    broken = guest()
    broken.later[STORAGE] = "root: clean\n"
    assert SUITE.outcome("bh-clean-poweroff", broken) == Outcome.ERROR


def test_guest_that_names_no_boot_cannot_be_asked_for_its_end() -> None:
    broken = guest()
    broken.answers[SECOND.BOOT_ID] = "$(reboot)\n"
    assert SUITE.outcome("bh-clean-poweroff", broken) == Outcome.ERROR
