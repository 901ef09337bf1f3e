"""Kernel modules: which cannot be loaded, which can, and whether the kernel asks for signatures."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

import pytest
from seatrial.check import Check
from seatrial.evidence.attempts import BOOT_ID, attempts_script, parse_attempts
from seatrial.evidence.ipe import IPE, parse_ipe
from seatrial.evidence.kernel import LOCKDOWN, chosen
from seatrial.evidence.modules import (
    LOADED,
    SIGNATURES,
    dry_run_command,
    module_name,
    parse_dry_runs,
    parse_loaded,
    parse_signatures,
)
from seatrial.evidence.sysctl import SYSCTLS, parse_sysctls
from seatrial.guest.facts import Facts
from seatrial.policy.controls import Control
from seatrial.policy.flavours import Flavour

if TYPE_CHECKING:
    from testinfra.host import Host

# The loader looks for a signature before it looks at anything else: zeros are refused for want of one, or, where it
# takes what is unsigned, as no module. Nothing is ever loaded.
_FILE = "/run/seatrial-unsigned.ko"
UNSIGNED = {
    "load a module without a signature": (
        f"head -c 4096 /dev/zero > {_FILE} && insmod {_FILE}; r=$?; rm -f {_FILE}; exit $r"
    )
}
_THERE = frozenset({"loadable", "loaded", "built-in"})
_REFUSED = ("Key was rejected", "Required key not available", "Operation not permitted")


@pytest.mark.probe("modules")
def test_module_cannot_be_loaded(row: Control, facts: Facts, check: Check) -> None:
    """modprobe is barred from the module or does not find it, and the module is not loaded already."""
    assert row.probe is not None
    names = row.probe["modules"]
    loaded = parse_loaded(facts.text(LOADED))
    would = parse_dry_runs(facts.text(dry_run_command(names)))
    there = [f"{name} (loaded)" for name in names if module_name(name) in loaded]
    can = [f"{name} ({would.get(name, 'no answer')})" for name in names if would.get(name) not in {"barred", "missing"}]
    check.nothing([*there, *can], expected=f"none of {', '.join(names)} loaded or loadable")


@pytest.mark.control("mod-required-present")
def test_required_modules_can_be_loaded(facts: Facts, check: Check, flavour: Flavour) -> None:
    """modprobe finds every module that the flavour promises."""
    names = flavour.allowed("required-modules")
    if not names:
        check.not_applicable("the flavour promises no modules")
    would = parse_dry_runs(facts.text(dry_run_command(names)))
    lacking = [f"{n} ({would.get(n, 'no answer')})" for n in names if would.get(n) not in _THERE]
    check.nothing(lacking, expected=f"{', '.join(names)} loadable or built in")


@pytest.mark.control("mod-loaded-untainted")
def test_loaded_modules_are_the_kernels_own(facts: Facts, check: Check) -> None:
    """No loaded module taints the kernel."""
    foreign = [f"{name} ({taint})" for name, taint in parse_loaded(facts.text(LOADED)).items() if taint]
    check.nothing(foreign, expected="no module with taint flags")


@pytest.mark.control("mod-signature-enforced")
def test_unsigned_modules_are_refused(facts: Facts, check: Check) -> None:
    """Signatures are enforced by the module loader itself or by lockdown."""
    enforced = facts.text("cat /sys/module/module/parameters/sig_enforce").strip()
    mode = chosen(facts.text(LOCKDOWN)) if enforced != "Y" else "not asked"
    check.holds(
        enforced == "Y" or mode in {"integrity", "confidentiality"},
        expected="sig_enforce = Y, or lockdown",
        seen=f"sig_enforce = {enforced}, lockdown = {mode}",
    )


@pytest.mark.control("mod-unsigned-refused")
def test_module_without_a_signature_is_refused(host: Host, facts: Facts, check: Check) -> None:
    """Root cannot load what is not signed: the loader refuses it for that, before it looks whether it is a module."""
    script = attempts_script(UNSIGNED, boot_id=facts.text(BOOT_ID))
    (attempt,) = parse_attempts(host.run(script).stdout, expected=1)
    # Integrity Policy Enforcement is asked before the loader reads the file, and says no more than that.
    words = (*_REFUSED, "Permission denied") if _ipe_enforces(facts) else _REFUSED
    refused = not attempt.succeeded and any(word in attempt.said for word in words)
    taken = attempt.succeeded or "Invalid module format" in attempt.said or "Exec format error" in attempt.said
    if not refused and not taken:
        check.cannot_tell(f"the loading of an unsigned module failed for another reason: {attempt.said!r}")
    check.holds(refused, expected="refused for want of a signature", seen=attempt.said or "it was loaded")


def _ipe_enforces(facts: Facts) -> bool:
    ipe = parse_ipe(facts.text(IPE))
    return ipe is not None and ipe.enforces and bool(ipe.active)


@pytest.mark.control("mod-signatures-valid")
def test_loaded_modules_have_one_signer(facts: Facts, check: Check) -> None:
    """The file of every loaded module is signed by one key, of a signer whose key the kernel holds."""
    found = parse_signatures(facts.text(SIGNATURES))
    if not found.loaded:
        check.not_applicable("no module is loaded")
    check.equal(len(found.of_files), found.loaded, what=f"modules with a file, of {found.loaded} loaded")
    unsigned = [name for name, (signer, key) in found.of_files.items() if not signer or not key]
    check.nothing(unsigned, expected="no loaded module without a signature")
    signers = {pair for pair in found.of_files.values() if all(pair)}
    check.holds(
        len(signers) == 1,
        expected="one key for all",
        seen=", ".join(f"{signer} ({key})" for signer, key in sorted(signers)) or "none",
    )
    strangers = sorted({signer for signer, _key in signers if not found.is_trusted(signer)})
    check.nothing(strangers, expected="no signer whose key the kernel does not hold")


@pytest.mark.control("mod-loaded-allowlist")
def test_loaded_modules_are_expected(facts: Facts, check: Check, flavour: Flavour) -> None:
    """Every loaded module is one that the flavour names."""
    allowed = flavour.allowed("loaded-modules")
    if not allowed:
        check.not_applicable("the flavour does not say which modules it expects")
    loaded = parse_loaded(facts.text(LOADED))
    others = [name for name in loaded if not any(fnmatchcase(name, pattern) for pattern in allowed)]
    check.nothing(others, expected="no module beside those of expect.loaded-modules")


@pytest.mark.control("mod-loading-locked")
def test_loading_is_open_or_closed_as_promised(facts: Facts, check: Check, flavour: Flavour) -> None:
    """Modules can be loaded after the start-up, or cannot, as the flavour promises."""
    promised = flavour.allowed("module-loading")
    if not promised:
        check.not_applicable("the flavour promises neither that modules can be loaded nor that they cannot")
    value = parse_sysctls(facts.text(SYSCTLS)).get("kernel/modules_disabled", "absent")
    state = {"0": "open", "1": "closed"}.get(value, value)
    check.one_of(state, promised, what="loading of modules")
