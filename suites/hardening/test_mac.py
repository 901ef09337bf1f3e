"""Security modules and mandatory access control."""

from __future__ import annotations

import re

import pytest
from seatrial.check import Check
from seatrial.evidence.cmdline import CMDLINE, parse_cmdline
from seatrial.evidence.units import UNIT_FILES, UNITS, parse_unit_files, parse_units
from seatrial.guest.facts import Facts
from seatrial.policy.flavours import Flavour

_LSM = "cat /sys/kernel/security/lsm"
_APPARMOR = (
    "cat /sys/module/apparmor/parameters/enabled 2>/dev/null || echo absent; "
    "cat /sys/kernel/security/apparmor/profiles 2>/dev/null; true"
)
# Other than enforce, it counts for all profiles, and their own modes do not show it (kernel, security/apparmor/lsm.c).
_APPARMOR_MODE = "cat /sys/module/apparmor/parameters/mode 2>/dev/null; true"
_SELINUX = (
    "cat /sys/fs/selinux/enforce 2>/dev/null || echo absent; echo; "
    "grep -asE '^[[:space:]]*SELINUX[[:space:]]*=' /etc/selinux/config; true"
)
_SELINUX_POLICY = (
    "grep -asE '^[[:space:]]*SELINUXTYPE[[:space:]]*=' /etc/selinux/config; "
    'if [ -e /sys/fs/selinux/policyvers ]; then echo "loaded $(cat /sys/fs/selinux/policyvers)"; fi; true'
)
# Who runs as what: programs and labels by process; kernel threads have no program.
_LABELS = (
    "ls -l /proc/[0-9]*/exe 2>/dev/null | sed -n 's,^.* /proc/\\([0-9]*\\)/exe -> ,program \\1 ,p'; "
    "grep -as '' /proc/[0-9]*/attr/current | tr -d '\\000' | sed 's,^/proc/\\([0-9]*\\)/attr/current:,label \\1 ,'"
)
# What a loaded profile is for. The kernel knows a pattern as "<unknown>" where the parser left the text out; the files
# that profiles are loaded from have it.
_ATTACHED = (
    "for d in /sys/kernel/security/apparmor/policy/profiles/*; do if [ -e $d/attach ]; then "
    'echo "loaded $(cat $d/name) $(cat $d/attach)"; fi; done; '
    "grep -rhsE '^[[:space:]]*profile[[:space:]]+[^[:space:]]+[[:space:]]+[\"/@]' /etc/apparmor.d | "
    "sed 's/^ *profile */file /; s/ *\\(flags *=.*\\)\\{0,1\\}{ *$//'"
)
_LAX_FILES = (
    "grep -rsHE '^[^#]*flags=\\([^)]*(complain|unconfined)' /etc/apparmor.d --include='*' | cut -c1-200; "
    'for f in /etc/apparmor.d/disable/* /etc/apparmor.d/force-complain/*; do if [ -e "$f" ]; then echo "$f"; fi; done'
)
# Denials reach the journal as kernel messages, as audit records, or only the audit daemon's log.
# The run's own attempts are no part of the boot: what it brings along, and the user namespace that it asks for.
_DENIALS = (
    'f=\'/seatrial-calls/d; /userns_create.*comm="unshare"/d; /comm="unshare".*tclass=user_namespace/d; '
    '/apparmor="DENIED"/p; /avc: *denied/p; /ipe_op=.*action=DENY/p; /SELINUX_ERR/p\'; '
    # The first line shows that there was a journal to look through.
    "journalctl -b -q --no-pager -o cat _TRANSPORT=kernel + _TRANSPORT=audit | "
    'sed -n "1{h;s/.*/journal/p;g}; $f" | head -n 2000; '
    'if [ -e /var/log/audit/audit.log ]; then sed -n "$f" /var/log/audit/audit.log | tail -n 2000; fi; echo end'
)


@pytest.mark.control("mac-lsm-stack")
def test_security_modules_are_active(facts: Facts, check: Check, flavour: Flavour) -> None:
    active = facts.text(_LSM).strip().split(",")
    missing = [module for module in flavour.allowed("lsm") if module not in active]
    check.nothing(
        missing,
        expected=f"{', '.join(flavour.allowed('lsm'))} among the active modules ({', '.join(active)}); missing: none",
    )


@pytest.mark.control("mac-enforcing")
def test_mandatory_access_control_enforces(facts: Facts, check: Check, flavour: Flavour) -> None:
    kinds = {"apparmor": _apparmor_enforces, "selinux": _selinux_enforces, "any": _either_enforces}
    for name in flavour.allowed("mac"):
        kinds[name](facts, check, flavour)


def _either_enforces(facts: Facts, check: Check, flavour: Flavour) -> None:
    """Judge the one that is there: SELinux when its file system is mounted, else AppArmor."""
    is_selinux = not facts.text(_SELINUX).startswith("absent")
    (_selinux_enforces if is_selinux else _apparmor_enforces)(facts, check, flavour)


def _apparmor_enforces(facts: Facts, check: Check, flavour: Flavour) -> None:
    facts.ask_all([_APPARMOR, _APPARMOR_MODE])
    enabled, *profiles = [line for line in facts.text(_APPARMOR).split("\n") if line] or ["no answer"]
    check.equal(enabled, "Y", what="AppArmor's parameter 'enabled'")
    mode = facts.text(_APPARMOR_MODE).strip() or "not told"
    check.one_of(mode, ("enforce", "kill"), what="AppArmor's parameter 'mode'")
    modes = [re.fullmatch(r"(.+) \((\w+)\)", line) for line in profiles]
    if None in modes:
        check.cannot_tell(f"AppArmor describes a profile by {profiles[modes.index(None)][:200]!r}")
    loaded = [(match[1], match[2]) for match in modes if match]
    enforced = [name for name, mode in loaded if mode in {"enforce", "kill"}]
    check.holds(
        bool(enforced),
        expected="AppArmor enforces at least one profile",
        seen=f"{len(enforced)} of {len(loaded)} enforced",
    )
    lax = [
        name
        for name, mode in loaded
        if mode in {"complain", "mixed"} and name not in flavour.allowed("apparmor-complain")
    ]
    check.nothing(lax, expected="no profile that only complains but those of expect.apparmor-complain")


def _selinux_enforces(facts: Facts, check: Check, _flavour: Flavour) -> None:
    now, *configured = [line.strip() for line in facts.text(_SELINUX).split("\n") if line.strip()] or ["no answer"]
    check.equal(now, "1", what="/sys/fs/selinux/enforce")
    values = [line.partition("=")[2].strip() for line in configured]
    check.equal([value.lower() for value in values[-1:]], ["enforcing"], what="SELINUX in /etc/selinux/config")


def _selinux_only(check: Check, flavour: Flavour) -> None:
    """End the check where the flavour ships AppArmor; what it ships is judged by mac-enforcing."""
    if "selinux" not in flavour.allowed("mac"):
        kinds = ", ".join(flavour.allowed("mac"))
        check.not_applicable(f"the flavour ships {kinds}: mac-enforcing judges that")


@pytest.mark.control("mac-selinux-enforcing")
def test_selinux_enforces_now_and_at_the_next_boot(facts: Facts, check: Check, flavour: Flavour) -> None:
    _selinux_only(check, flavour)
    _selinux_enforces(facts, check, flavour)


@pytest.mark.control("mac-selinux-not-disabled")
def test_selinux_is_not_switched_off_at_boot(facts: Facts, check: Check, flavour: Flavour) -> None:
    _selinux_only(check, flavour)
    facts.ask_all([CMDLINE, _SELINUX])
    words = parse_cmdline(facts.text(CMDLINE))
    off = words.matching(["selinux=0", "enforcing=0", "security=apparmor", "security=none"])
    check.nothing(off, expected="nothing on the command line that switches SELinux off")
    check.holds(
        not facts.text(_SELINUX).startswith("absent"), expected="SELinux in the kernel", seen="/sys/fs/selinux/enforce"
    )


@pytest.mark.control("mac-selinux-policy")
def test_the_promised_policy_is_loaded(facts: Facts, check: Check, flavour: Flavour) -> None:
    _selinux_only(check, flavour)
    *configured, loaded = [line.strip() for line in facts.lines(_SELINUX_POLICY)] or ["nothing"]
    check.holds(bool(re.fullmatch(r"loaded \d+", loaded)), expected="a policy is loaded", seen=loaded)
    values = [line.partition("=")[2].strip() for line in configured] or ["not set"]
    check.one_of(values[-1], flavour.allowed("selinux-policies"), what="SELINUXTYPE in /etc/selinux/config")


@pytest.mark.control("mac-no-unconfined-services")
def test_what_has_a_profile_runs_in_it(facts: Facts, check: Check) -> None:
    facts.ask_all([_LABELS, _ATTACHED])
    rows = _labelled(facts.lines(_LABELS), check)
    # Without a policy SELinux calls every process by its first name of the kernel's own (initial_sids).
    if all(label in {"none", "kernel", "init"} for _path, label in rows):
        check.not_applicable("no security module gives processes a label: mac-enforcing judges that")
    selinux = [f"{path} {label}" for path, label in rows if re.search(r":(unconfined_service_t|initrc_t):", label)]
    check.nothing(selinux, expected="no service as unconfined_service_t or initrc_t")
    patterns = _attachments(facts.lines(_ATTACHED), check)
    free = [
        f"{path} (profile {name})"
        for path, label in rows
        for name, pattern in patterns
        if label == "unconfined" and _attaches(pattern, path)
    ]
    check.nothing(free, expected=f"none of {len(rows)} programs that run is outside of its profile")


def _attachments(lines: list[str], check: Check) -> list[tuple[str, str]]:
    """Return name and pattern of each loaded profile that is entered by the path of a program."""
    rows = [line.split(" ", 2) for line in lines]
    if any(len(row) != 3 or row[0] not in {"loaded", "file"} for row in rows):
        check.cannot_tell(f"profiles are described by {lines[:3]!r}, expected name and pattern")
    files = {row[1]: row[2].strip() for row in rows if row[0] == "file"}
    # A part of another profile (with "//" in its name) is entered from that one only.
    loaded = {row[1]: row[2].strip() for row in rows if row[0] == "loaded" and "//" not in row[1]}
    # One that is called by a path is for that path, unless its file says another (apparmor.d(5)).
    by_name = {name: name for name in loaded if name.startswith("/")}
    known = {**by_name, **files}
    found = {name: known.get(name, "") if pattern == "<unknown>" else pattern for name, pattern in loaded.items()}
    if unknown := [name for name, pattern in found.items() if not pattern or "@" in pattern]:
        check.cannot_tell(f"nothing says which programs are for the profile {unknown[0][:100]!r}")
    return [(name, pattern) for name, pattern in found.items() if pattern.startswith(("/", '"/'))]


def _labelled(lines: list[str], check: Check) -> list[tuple[str, str]]:
    """Return program and label of every process that has a program; the label is ``none`` where there is none."""
    found: dict[str, dict[str, str]] = {"program": {}, "label": {}}
    for line in lines:
        match = re.fullmatch(r"(program|label) (\d+) (.*)", line)
        if not match:
            check.cannot_tell(f"a process is described by {line[:200]!r}, which is neither its program nor its label")
        found[match[1]][match[2]] = match[3].strip()
    if not found["program"]:
        check.cannot_tell("no process with a program was seen")
    return sorted({(path, found["label"].get(pid) or "none") for pid, path in found["program"].items()})


def _attaches(pattern: str, path: str) -> bool:
    """Return whether AppArmor's ``pattern`` fits ``path``: ``*`` stays in a folder, ``{a,b}`` are choices."""
    words = {"**": ".*", "*": "[^/]*", "?": "[^/]", "{": "(", "}": ")", ",": "|"}
    text = "".join(words.get(part, re.escape(part)) for part in re.findall(r"\*\*|.", pattern.strip('"')))
    try:
        return re.fullmatch(text, path) is not None
    except re.error:
        return False


@pytest.mark.control("mac-no-denials-at-boot")
def test_nothing_was_denied_at_boot(facts: Facts, check: Check, flavour: Flavour) -> None:
    first, *lines, end = facts.lines(_DENIALS) if len(facts.lines(_DENIALS)) > 1 else ["nothing", "nothing"]
    if (first, end) != ("journal", "end"):
        check.cannot_tell(f"the journal began with {first[:200]!r} and ended with {end[:200]!r}: it holds no message")
    accepted = flavour.allowed("denials-accepted")
    check.nothing(
        (line[:160] for line in lines if not any(re.search(pattern, line) for pattern in accepted)),
        expected="no denial by AppArmor, SELinux or IPE since the boot",
    )


@pytest.mark.control("mac-apparmor-enforced")
def test_apparmor_comes_back_and_nothing_is_laxer_on_disk(facts: Facts, check: Check, flavour: Flavour) -> None:
    if "apparmor" not in flavour.allowed("mac"):
        check.not_applicable("the flavour does not promise AppArmor: mac-enforcing judges what it ships")
    facts.ask_all([_APPARMOR, _APPARMOR_MODE, CMDLINE, UNITS, UNIT_FILES, _LAX_FILES])
    _apparmor_enforces(facts, check, flavour)
    off = parse_cmdline(facts.text(CMDLINE)).matching(["apparmor=0", "security=selinux", "security=none"])
    check.nothing(off, expected="nothing on the command line that switches AppArmor off")
    check.equal(parse_units(facts.text(UNITS)).get("apparmor.service", "not there"), "active", what="apparmor.service")
    state = parse_unit_files(facts.text(UNIT_FILES)).get("apparmor.service", "not installed")
    check.one_of(state, ("enabled", "wanted"), what="apparmor.service at the next boot")
    lax = [
        line
        for line in facts.lines(_LAX_FILES)
        if not any(name in line for name in flavour.allowed("apparmor-complain"))
    ]
    check.nothing(lax, expected="no profile file that is disabled, unconfined, or only complains")
