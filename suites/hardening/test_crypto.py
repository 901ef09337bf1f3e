"""Cryptography: system policy, TLS, trusted authorities, randomness, swap."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from fnmatch import fnmatchcase

import pytest
from seatrial.check import Check
from seatrial.evidence.accounts import PASSWD, parse_passwd
from seatrial.evidence.certificates import parse_bundle
from seatrial.evidence.cmdline import CMDLINE, parse_cmdline
from seatrial.evidence.environment import ENVIRONMENT, parse_environment
from seatrial.evidence.files import lines_by_file
from seatrial.evidence.first_start import first_start_s, started_command
from seatrial.evidence.systemd import MANAGER
from seatrial.guest.facts import Facts
from seatrial.policy.flavours import Flavour

_POLICY = (
    "if command -v update-crypto-policies >/dev/null 2>&1; then echo 'tool:yes'; fi; "
    "grep -asHE '^[A-Za-z]' /etc/crypto-policies/config /etc/crypto-policies/state/current; true"
)
_FIPS = "if [ -e /proc/sys/crypto/fips_enabled ]; then cat /proc/sys/crypto/fips_enabled; else echo absent; fi"
# With no program to ask, the kernel's word is all there is.
_FIPS_PROGRAM = (
    "if command -v openssl >/dev/null 2>&1; then openssl list -providers | sed -n 's/^  *name: */provider /p'; "
    "if echo x | openssl dgst -md5 >/dev/null 2>&1; then echo 'md5 works'; else echo 'md5 refused'; fi; "
    "else echo none; fi"
)
_TLS_CONFIG = (
    "grep -asHiE '^[[:space:]]*(MinProtocol|CipherString|[a-z]*\\.?MinProtocol)[[:space:]]*=' /etc/ssl/openssl.cnf "
    "/etc/pki/tls/openssl.cnf /etc/pki/tls/openssl.d/*.conf /etc/ssl/openssl.cnf.d/* "
    "/etc/crypto-policies/back-ends/opensslcnf.config; true"
)
# What is left of the suites when the program may speak only the old protocol: nothing where that is barred.
_TLS_PROGRAM = (
    'if command -v openssl >/dev/null 2>&1; then echo "version $(openssl version)"; for v in ssl3 tls1 tls1_1; do '
    'openssl ciphers -s -$v -v 2>/dev/null | sed "s/^/$v /"; done; openssl ciphers -s -v | sed "s/^/now /"; '
    "else echo none; fi"
)
_TLS_LIBRARY = (
    "for f in /usr/lib/libssl.so* /usr/lib64/libssl.so* /usr/lib/*/libssl.so*; do if [ -e $f ]; then echo $f; fi; done"
)
_WEAK_SUITE = re.compile(r"RC4|3DES|DES-CBC|Enc=DES|MD5|Enc=None|Au=None|EXP|SEED|IDEA")
_BUNDLES = (
    "/etc/ssl/certs/ca-certificates.crt /etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem "
    "/etc/pki/tls/certs/ca-bundle.crt /etc/ssl/ca-bundle.pem /etc/ssl/cert.pem"
)
_BUNDLE = f"for f in {_BUNDLES}; do if [ -s $f ]; then cat $f; exit; fi; done; echo none"
_ANCHORS = (
    "for f in /usr/local/share/ca-certificates/* /etc/pki/ca-trust/source/anchors/* /etc/pki/trust/anchors/* "
    "/etc/ca-certificates/trust-source/anchors/* /usr/share/pki/ca-trust-source/anchors/* "
    "/usr/share/pki/trust/anchors/*; "
    'do if [ -e "$f" ]; then echo "$f"; fi; done; '
    # Debian's folder holds links to the package's files, and OpenSSL's own file is missing (update-ca-certificates(8)).
    "if [ -d /usr/share/ca-certificates ] && [ -e /etc/ssl/certs/ca-certificates.crt ]; then "
    "find /etc/ssl/certs -type f ! -name ca-certificates.crt; "
    "find /usr/lib/ssl/cert.pem -type f 2>/dev/null; fi; true"
)
# Debian's bundle is put together from these files. A line of it that none of them has was added by hand.
_ADDED = (
    "b=/etc/ssl/certs/ca-certificates.crt; c='/usr/share/ca-certificates /usr/local/share/ca-certificates'; "
    "if [ -s $b ] && [ -d /usr/share/ca-certificates ]; then "
    "find -L $c -type f -exec cat {} + 2>/dev/null | tr -d '\\r' | grep -vxFf - $b | head -n 1; fi; echo end"
)
_NOW = "date +%s"
_SEEDED = (
    "journalctl -b -q --no-pager -o short-monotonic _TRANSPORT=kernel | "
    "sed -n 's/^\\[ *\\([0-9.]*\\)\\].*random: crng init done.*/\\1/p'"
)
_SWAP = (
    "sed 1d /proc/swaps | while read -r f rest; do d=$f; if [ ! -b $f ]; then d=$(df -P $f | sed -n '2s/ .*//p'); fi; "
    # A volume of LVM is as secret as what it lies on.
    'd=$(readlink -f "$d"); n=${d##*/}; s=; for b in /sys/class/block/$n/slaves/*; do '
    'if [ -e "$b" ]; then u=$(cat "$b/dm/uuid" 2>/dev/null); s="$s${u:-plain},"; fi; done; '
    'echo "$f $n $(cat /sys/class/block/$n/dm/uuid 2>/dev/null),$s"; done; echo end'
)
# Both times are whole seconds, and a seed is saved seconds after the kernel has started.
_SLACK_S = 3
_SEEDS = (
    "for f in /var/lib/systemd/random-seed /var/lib/urandom/random-seed /var/lib/random-seed; do "
    'if [ -e $f ]; then echo "$(stat -c %W $f) $f"; fi; done; echo end'
)


@pytest.mark.control("crypt-policy")
def test_system_policy_is_not_weak(facts: Facts, check: Check, flavour: Flavour) -> None:
    lines = facts.lines(_POLICY)
    if not lines:
        check.not_applicable("the image has no system-wide policy: each library has its own defaults")
    found = {path: said[-1].strip() for path, said in lines_by_file("\n".join(x for x in lines if x[0] == "/")).items()}
    if not found:
        check.cannot_tell("there is a tool for policies, and no file says which one holds")
    allowed = flavour.allowed("crypto-policies")
    check.nothing(
        (f"{path}: {policy}" for path, policy in found.items() if policy not in allowed),
        expected=f"one of {', '.join(allowed)}",
    )


@pytest.mark.control("crypt-fips")
def test_fips_mode_is_real(facts: Facts, check: Check, flavour: Flavour) -> None:
    facts.ask_all([CMDLINE, _FIPS, _FIPS_PROGRAM])
    enabled = facts.text(_FIPS).strip()
    if enabled not in {"0", "1", "absent"}:
        check.cannot_tell(f"/proc/sys/crypto/fips_enabled holds {enabled[:100]!r}, expected 0 or 1")
    claimed = parse_cmdline(facts.text(CMDLINE)).last("fips") == "1" or enabled == "1"
    if not claimed and "required" not in flavour.allowed("fips"):
        check.not_applicable("neither the flavour nor the command line promises FIPS mode")
    check.equal(enabled, "1", what="/proc/sys/crypto/fips_enabled")
    said = facts.lines(_FIPS_PROGRAM)
    if said != ["none"]:
        check.holds(any("fips" in one.lower() for one in said[:-1]), expected="a FIPS provider", seen=", ".join(said))
        check.equal(said[-1:], ["md5 refused"], what="an MD5 digest by openssl")


@pytest.mark.control("crypt-openssl-tls")
def test_old_protocols_are_off(facts: Facts, check: Check) -> None:
    facts.ask_all([_TLS_CONFIG, _TLS_PROGRAM, _TLS_LIBRARY, ENVIRONMENT])
    settings = facts.lines(_TLS_CONFIG)
    said = facts.lines(_TLS_PROGRAM)
    if said == ["none"] and not facts.lines(_TLS_LIBRARY):
        check.not_applicable("the image has neither the library nor the program of OpenSSL")
    weak = [
        line
        for line in settings
        if re.search(r"SECLEVEL=0|=\s*(SSLv3|TLSv1(\.[01])?|DTLSv1(\.0)?|None)\s*(#.*)?$", line)
    ]
    check.nothing(weak, expected="a configuration that allows TLS 1.2 and later only")
    elsewhere = parse_environment(facts.text(ENVIRONMENT), ("OPENSSL_CONF", "OPENSSL_MODULES", "OPENSSL_ENGINES"))
    check.nothing(elsewhere, expected="nobody who is given another configuration (OPENSSL_CONF)")
    if said == ["none"]:
        return
    now = [line for line in said if line.startswith("now ")]
    if not any("TLSv1.3" in line or "TLSv1.2" in line for line in now):
        check.cannot_tell(f"openssl lists {len(now)} suites and none of TLS 1.2 or 1.3")
    version = next((line for line in said if line.startswith("version ")), "")
    old = sorted({line.split(" ", 1)[0] for line in said if line not in now and line != version})
    if version.startswith("version OpenSSL 1."):
        # To ask this version for an old protocol overrides what the file says of the oldest.
        least = [line for line in settings if re.search(r"MinProtocol\s*=\s*TLSv1\.[23]\s*(#.*)?$", line)]
        check.holds(bool(least), expected="MinProtocol = TLSv1.2 in openssl.cnf", seen=", ".join(settings) or "none")
    else:
        check.nothing(old, expected="no protocol before TLS 1.2")
    check.nothing((line.split()[1] for line in now if _WEAK_SUITE.search(line)), expected="no weak suite")


@pytest.mark.control("crypt-ca-valid")
def test_authorities_are_valid_and_expected(facts: Facts, check: Check, flavour: Flavour) -> None:
    facts.ask_all([_BUNDLE, _ANCHORS, _ADDED, _NOW])
    text, anchors, now = facts.text(_BUNDLE), facts.lines(_ANCHORS), facts.text(_NOW).strip()
    if text.strip() == "none" and not anchors:
        check.not_applicable("the image trusts no certificate authority")
    if not re.fullmatch(r"[0-9]{1,11}", now):
        check.cannot_tell(f"the guest gave {now[:200]!r} as its time, expected seconds")
    allowed = flavour.allowed("local-authorities")
    strange = [path for path in anchors if not any(fnmatchcase(path, pattern) for pattern in allowed)]
    check.nothing(strange, expected="no authority added by hand but those of expect.local-authorities")
    *added, end = facts.lines(_ADDED) or [""]
    if end != "end":
        check.cannot_tell(f"the bundle's origin was answered with {end[:200]!r}")
    check.nothing(
        [f"a certificate with the line {line[:40]}..." for line in added],
        expected="a bundle of nothing but files of /usr/share/ca-certificates",
    )
    authorities = parse_bundle(text) if text.strip() != "none" else ()
    today = datetime.fromtimestamp(int(now), UTC)
    old = [f"{one.name} (until {one.ends:%Y-%m-%d})" for one in authorities if one.ends < today]
    check.nothing(old, expected=f"none of {len(authorities)} authorities expired")


@pytest.mark.control("crypt-rng")
def test_random_numbers_are_ready_before_services(facts: Facts, check: Check) -> None:
    facts.ask_all([_SEEDED, MANAGER])
    when = facts.lines(_SEEDED)
    if len(when) != 1 or not re.fullmatch(r"\d+\.\d+", when[0]):
        check.cannot_tell(f"the kernel's log says {when!r} of when its generator was seeded, expected one time")
    times = dict(line.partition("=")[::2] for line in facts.lines(MANAGER))
    # Early enough for the first key that any service makes: before the system proper begins.
    started = times.get("UserspaceTimestampMonotonic", "")
    if not started.isdigit() or started == "0":
        check.cannot_tell(f"systemd gave {times!r} as the times of this boot")
    limit = int(started) / 1e6
    check.holds(
        float(when[0]) <= limit,
        expected=f"seeded before the system starts services ({limit:.1f} s)",
        seen=f"seeded at {when[0]} s",
    )


@pytest.mark.control("crypt-random-seed-not-shared")
def test_no_seed_comes_with_the_image(facts: Facts, check: Check, flavour: Flavour) -> None:
    facts.ask_all([PASSWD, _SEEDS])
    *lines, end = facts.lines(_SEEDS) or [""]
    seeds = [line.partition(" ")[::2] for line in lines]
    if end != "end" or not all(made.isdigit() and made != "0" for made, _path in seeds):
        check.cannot_tell(f"the guest does not say when a seed was made: {seeds!r}")
    home = next((a.home for a in parse_passwd(facts.text(PASSWD)) if a.name == flavour.access.user), "/root")
    route = flavour.access.route
    started = facts.text(started_command(home, by_ignition=route == "ignition"))
    first = first_start_s(started, is_shipped=route == "existing")
    shipped = [f"{path} (made {first - int(made)} s before)" for made, path in seeds if int(made) < first - _SLACK_S]
    check.nothing(shipped, expected="no seed older than the guest's first boot")


def _is_encrypted(uuids: str) -> bool:
    """Return whether the first of ``uuids`` is that of an encrypted device, or those of all that it lies on are."""
    own, *below = uuids.rstrip(",").split(",")
    return own.startswith("CRYPT-") or (bool(below) and all(one.startswith("CRYPT-") for one in below))


@pytest.mark.control("crypt-swap-encrypted")
def test_swap_is_encrypted(facts: Facts, check: Check) -> None:
    *swaps, end = facts.lines(_SWAP) or [""]
    if end != "end" or any(len(line.split(" ")) != 3 for line in swaps):
        check.cannot_tell(f"swap is described by {[*swaps, end]!r}")
    rows = [line.split(" ") for line in swaps]
    plain = [f for f, device, uuids in rows if not (device.startswith("zram") or _is_encrypted(uuids))]
    check.nothing(plain, expected=f"none of {len(rows)} swap areas in plain text")
