"""Which services run, as whom, and what they could do: enabled units, exposure, time, D-Bus."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

import pytest
from seatrial.check import Check
from seatrial.evidence.attempts import BOOT_ID, attempts_script, parse_attempts
from seatrial.evidence.listeners import LISTENERS, parse_listeners
from seatrial.evidence.units import UNIT_FILES, UNITS, matching_units, parse_presets, parse_unit_files, parse_units
from seatrial.guest.facts import Facts
from seatrial.policy.flavours import Flavour

if TYPE_CHECKING:
    from testinfra.host import Host

_ON = frozenset({"enabled", "wanted", "enabled-runtime", "generated", "linked", "linked-runtime"})
_RUNNING = frozenset({"active", "activating", "reloading"})
_DESKTOPS = (
    "Xorg X Xwayland Xvfb gdm gdm3 sddm lightdm xdm kdm greetd weston sway mutter gnome-shell kwin_x11 kwin_wayland "
    "plasmashell xfce4-session startx Hyprland"
)
_DESKTOP_PROGRAMS = (
    f"for d in /usr/local/bin /usr/local/sbin /usr/bin /usr/sbin /usr/libexec /usr/lib/xorg; do for p in {_DESKTOPS}; "
    "do if [ -e $d/$p ]; then echo $d/$p; fi; done; done"
)
_CATCH_ALL = (
    "for d in /etc /run /usr/local/lib /usr/lib /lib; do "
    "grep -hs '^[[:blank:]]*disable[[:blank:]]\\{1,\\}\\*[[:blank:]]*$' $d/systemd/system-preset/*.preset; done; true"
)
_DEFAULT_TARGET = "systemctl get-default"
_MAIL_PORTS = frozenset({25, 465, 587})
_EXPOSURE = "SYSTEMD_BUS_TIMEOUT=240s systemd-analyze security --no-pager --json=short"
# The unit files of whatever the default target pulls in.
_FAULTS = 'systemd-analyze verify --man=no --recursive-errors=yes default.target 2>&1; echo "status $?"'
_TIME_DAEMONS = ("chronyd", "systemd-timesyncd", "ntpd", "ntpsec", "openntpd", "ptp4l", "phc2sys")
_TIME_UNITS = tuple(f"{name}.service" for name in (*_TIME_DAEMONS, "chrony", "ntp", "ntpd-rs"))
_OWNERS = "grep -sE '^(Name|Uid):' /proc/[0-9]*/status; true"
_OWNER = re.compile(r"/proc/(\d+)/status:Name:\s+(.+)|/proc/(\d+)/status:Uid:\s+\d+\s+(\d+)\s.*")
# No such unit exists: an attempt that is let through ends with "not found".
_UNIT = "seatrial-attempt.service"
_CALL = "busctl call org.freedesktop.systemd1 /org/freedesktop/systemd1 org.freedesktop.systemd1.Manager"
_AS_NOBODY = "setpriv --reuid=65534 --regid=65534 --clear-groups"
BUS_CALLS = {
    "restart a unit as nobody": f"{_AS_NOBODY} {_CALL} RestartUnit ss {_UNIT} replace",
    "start a unit as nobody": f"{_AS_NOBODY} {_CALL} StartUnit ss {_UNIT} replace",
    "stop a unit as nobody": f"{_AS_NOBODY} {_CALL} StopUnit ss {_UNIT} replace",
    "set the environment of services as nobody": f"{_AS_NOBODY} {_CALL} UnsetEnvironment as 1 SEATRIAL_ATTEMPT",
}
_REFUSED = re.compile(r"access denied|authentication (is )?required|not authorized|permission denied", re.IGNORECASE)


@pytest.mark.control("svc-no-desktop")
def test_there_is_no_graphical_stack(facts: Facts, check: Check) -> None:
    facts.ask_all([_DESKTOP_PROGRAMS, _DEFAULT_TARGET, UNIT_FILES])
    check.nothing(facts.lines(_DESKTOP_PROGRAMS), expected="no display server, desktop or display manager")
    target = facts.text(_DEFAULT_TARGET).strip()
    if not re.fullmatch(r"\S+\.target", target):
        check.cannot_tell(f"systemctl gave {target[:200]!r} as the default target")
    check.holds(target != "graphical.target", expected="a default target without graphics", seen=target)
    found = matching_units(parse_unit_files(facts.text(UNIT_FILES)), ("display-manager.service", "gdm*.service"), _ON)
    check.nothing(found, expected="no display manager enabled")


@pytest.mark.control("svc-mta-local")
def test_mail_is_taken_from_the_guest_itself_only(facts: Facts, check: Check) -> None:
    found = [one for one in parse_listeners(facts.text(LISTENERS)) if one.port in _MAIL_PORTS and not one.is_local]
    check.nothing(found, expected="nothing that takes mail from elsewhere")


@pytest.mark.control("svc-enabled-allowlist")
def test_enabled_units_are_those_of_the_flavour(facts: Facts, check: Check, flavour: Flavour) -> None:
    text = facts.text(UNIT_FILES)
    states = parse_unit_files(text)
    on = [unit for unit, state in states.items() if state in _ON]
    if not on:
        check.cannot_tell("no unit is enabled at all: a system that boots has some")
    allowed, presets = flavour.allowed("enabled-units"), parse_presets(text)
    # Without a last word "disable *" every unit is to be enabled (systemd.preset(5)), and the presets promise nothing.
    if "by-preset" in allowed and not facts.lines(_CATCH_ALL):
        check.cannot_tell(
            "the image's presets enable every unit, so 'by-preset' promises nothing; name the units in "
            "expect.enabled-units of a flavour of your own, or end the presets with 'disable *'"
        )
    # What the vendor's own links pull in is as good as what its presets enable.
    by_preset = {unit for unit in on if presets.get(unit) == "enabled" or states[unit] == "wanted"}
    named = {unit for unit in on if any(fnmatchcase(unit, pattern) for pattern in allowed)}
    fine = named | by_preset if "by-preset" in allowed else named
    check.nothing(sorted(set(on) - fine), expected=f"only units of expect.enabled-units are enabled ({len(on)} are)")


@pytest.mark.control("svc-offline-exposure")
def test_services_give_up_what_they_do_not_need(facts: Facts, check: Check, flavour: Flavour) -> None:
    facts.ask_all([UNITS, _EXPOSURE])
    activity = parse_units(facts.text(UNITS))
    found = _exposures(facts.text(_EXPOSURE), check)
    running = {unit: value for unit, value in found.items() if activity.get(unit) in _RUNNING}
    if not running:
        check.cannot_tell(f"systemd judged {len(found)} services, and none of them runs")
    limits = _limits(flavour.allowed("service-exposure"), check)
    over = [f"{unit} {value:.1f}" for unit, value in running.items() if value > _limit(unit, limits) + 0.001]
    check.nothing(over, expected=f"{len(running)} running services within expect.service-exposure")


def _exposures(text: str, check: Check) -> Mapping[str, float]:
    try:
        return {row["unit"]: float(row["exposure"]) for row in json.loads(text)}
    except (ValueError, KeyError, TypeError, RecursionError):
        check.cannot_tell(f"systemd-analyze security gave {text[:200]!r}, expected units and their exposure")


def _limits(entries: tuple[str, ...], check: Check) -> Mapping[str, float]:
    matches = [re.fullmatch(r"(\S+) (\d{1,2}(?:\.\d)?)", entry) for entry in entries]
    if not entries or None in matches:
        check.cannot_tell(f"expect.service-exposure holds {entries!r}, expected 'unit limit'")
    return {match[1]: float(match[2]) for match in matches if match}


def _limit(unit: str, limits: Mapping[str, float]) -> float:
    """Return the limit of the first pattern that fits; a flavour names single units before ``*``."""
    return next((limit for pattern, limit in limits.items() if fnmatchcase(unit, pattern)), 0.0)


@pytest.mark.control("svc-units-valid")
def test_unit_files_are_valid(facts: Facts, check: Check) -> None:
    *complaints, status = facts.lines(_FAULTS) or [""]
    if not re.fullmatch(r"status [0-9]{1,3}", status):
        check.cannot_tell(f"systemd-analyze verify ended with {status[:200]!r}")
    if any("unrecognized option '--recursive-errors" in line for line in complaints):
        check.cannot_tell("this systemd-analyze cannot tell of the units that others pull in: systemd 250 can")
    check.nothing(complaints, expected="systemd-analyze verify has no complaint")
    check.equal(status, "status 0", what="systemd-analyze verify")


@pytest.mark.control("svc-time-sync")
def test_one_service_keeps_the_time(facts: Facts, flavour: Flavour, check: Check) -> None:
    """One runs, or has failed for want of the clock of a platform that the run has not (expect.needs-platform)."""
    activity = parse_units(facts.text(UNITS))
    on_platform = [unit for unit in _TIME_UNITS if any(fnmatchcase(unit, p) for p in flavour.allowed("needs-platform"))]
    running = sorted(
        unit
        for unit in _TIME_UNITS
        if activity.get(unit) in _RUNNING or (activity.get(unit) == "failed" and unit in on_platform)
    )
    check.holds(len(running) == 1, expected="one time service runs", seen=", ".join(running) or "none")
    states = parse_unit_files(facts.text(UNIT_FILES))
    enabled = [unit for unit in running if states.get(unit) in _ON | {"alias", "static", "indirect"}]
    check.equal(enabled, running, what="running time services that start at the next boot as well")


@pytest.mark.control("svc-chrony-user")
def test_the_time_daemon_is_not_root(facts: Facts, check: Check) -> None:
    names, owners = _processes(facts, check)
    # The kernel cuts names at 15 letters.
    daemons = {name[:15] for name in _TIME_DAEMONS}
    rows = [(name, owners.get(pid, "0")) for pid, name in names.items() if name in daemons]
    if not rows:
        check.not_applicable("no time daemon runs (whether one must is svc-time-sync)")
    # Some keep a helper with root's rights that only sets the clock; the one that talks to the network has none.
    kinds = sorted({name for name, _uid in rows})
    as_root = [kind for kind in kinds if all(uid == "0" for name, uid in rows if name == kind)]
    check.nothing(as_root, expected=f"{', '.join(kinds)} not as root")


def _processes(facts: Facts, check: Check) -> tuple[dict[str, str], dict[str, str]]:
    """Return the names of all processes and the users that they act as, by process id."""
    names: dict[str, str] = {}
    owners: dict[str, str] = {}
    for line in facts.lines(_OWNERS):
        match = _OWNER.fullmatch(line)
        if not match:
            check.cannot_tell(f"a process is described by {line[:200]!r}, which is neither its name nor its users")
        if match[1]:
            names[match[1]] = match[2]
        else:
            owners[match[3]] = match[4]
    if "1" not in names:
        check.cannot_tell("no process 1 was seen")
    return names, owners


@pytest.mark.control("svc-dbus-unprivileged")
def test_users_cannot_control_services(host: Host, facts: Facts, check: Check) -> None:
    script = attempts_script(BUS_CALLS, boot_id=facts.text(BOOT_ID))
    for attempt in parse_attempts(host.run(script).stdout, expected=len(BUS_CALLS)):
        refused = not attempt.succeeded and bool(_REFUSED.search(attempt.said))
        seen = "it was let through" if attempt.succeeded else attempt.said or "it failed without a reason"
        check.holds(refused, expected=f"{attempt.what}: refused", seen=f"{attempt.what}: {seen}")
