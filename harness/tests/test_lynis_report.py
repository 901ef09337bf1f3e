"""Reading lynis-report.dat: nothing is lost, every pitfall of the format is seen, hostile bytes do no harm."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from seatrial.errors import ObservationError
from seatrial.evidence.lynis import FlawKind, LynisReport, Record, parse_report
from seatrial.evidence.lynis.fields import (
    certificate_of,
    detail_of,
    event_of,
    finding_of,
    ids_of,
    listener_of,
    packages_of,
)
from seatrial.evidence.lynis.report import MAX_BYTES, MAX_FINDINGS, MAX_LINE_BYTES, MAX_LINES, MAX_LIST_ITEMS, to_bytes
from seatrial.evidence.lynis.text import decode, encode, escape, shorten, unescape

RECORDED = Path(__file__).parents[2] / "fixtures" / "lynis" / "debian-13-lynis-3.1.4.dat"

HEAD = b"# Lynis Report\nreport_version_major=1\nreport_version_minor=0\nlynis_version=3.1.4\n"
TAIL = b"lynis_tests_done=2\nhardening_index=64\ntests_executed=SSH-7402|AUTH-9204|\ntests_skipped=\nfinish=true\n"


def report(*lines: bytes) -> bytes:
    """Return a whole report with ``lines`` in its middle."""
    return HEAD + b"".join(line + b"\n" for line in lines) + TAIL


def kinds(data: bytes) -> list[FlawKind]:
    return [flaw.kind for flaw in parse_report(data).flaws]


def only(report: LynisReport, key: str) -> Record:
    found = [record for record in report.records if record.key == key]
    assert len(found) == 1
    return found[0]


def test_recorded_report_is_complete_and_has_no_flaw() -> None:
    parsed = parse_report(RECORDED.read_bytes())
    assert parsed.is_complete
    assert parsed.flaws == ()
    assert len(parsed.items("suggestion")) == 39
    assert only(parsed, "hardening_index").value == "64"


def test_recorded_report_comes_back_byte_for_byte() -> None:
    data = RECORDED.read_bytes()
    assert to_bytes(parse_report(data)) == data


def test_whole_small_report_has_no_flaw() -> None:
    assert kinds(report()) == []


# --- lines ---


def test_value_keeps_every_equals_sign_after_the_first() -> None:
    value = "/etc/x.pem|0|cn:subject=CN = A=B;notafter:Dec 31 09:37:37 2030 GMT;|"
    assert only(parse_report(report(f"certificate[]={value}".encode())), "certificate").value == value


def test_empty_value_is_a_value() -> None:
    assert only(parse_report(report(b"imap_daemon=")), "imap_daemon").value == ""


def test_key_may_be_list_and_scalar_at_once() -> None:
    parsed = parse_report(report(b"smtp_daemon=", b"smtp_daemon[]=exim"))
    assert [r.value for r in parsed.scalars("smtp_daemon")] == [""]
    assert [r.value for r in parsed.items("smtp_daemon")] == ["exim"]


def test_list_that_is_interrupted_keeps_order_and_duplicates() -> None:
    parsed = parse_report(report(b"cronjob[]=b", b"cronjob[]=a", b"vm=1", b"cronjob[]=b"))
    assert [r.value for r in parsed.items("cronjob")] == ["b", "a", "b"]


def test_scalar_that_repeats_is_kept_whole_and_is_no_damage() -> None:
    lines = [f"uncommon_network_protocol_enabled={name}".encode() for name in ("dccp", "sctp", "rds", "tipc")]
    parsed = parse_report(report(*lines))
    assert [r.value for r in parsed.scalars("uncommon_network_protocol_enabled")] == ["dccp", "sctp", "rds", "tipc"]
    assert parsed.is_complete


def test_hash_inside_a_value_is_no_comment() -> None:
    value = "#1 SMP PREEMPT_DYNAMIC Debian"
    assert only(parse_report(report(b"linux_kernel_version=" + value.encode())), "linux_kernel_version").value == value


@pytest.mark.parametrize(
    "line",
    [
        b"Result: expose_php is off",
        b"Apache setting: Include=/etc/apache2/mods-enabled/*.conf",
        b"",
        b"=value without a key",
        b"k\xc3\xa4y=value",
        b"x" * 65 + b"=value",
    ],
)
def test_line_that_is_no_record_is_kept_as_loose_text_and_does_no_harm(line: bytes) -> None:
    parsed = parse_report(report(line))
    assert [encode(loose.text) for loose in parsed.loose] == [b"# Lynis Report", line]
    assert [flaw.kind for flaw in parsed.flaws] == [FlawKind.LOOSE_LINE]
    assert parsed.is_complete


def test_one_carriage_return_is_stripped_and_remembered() -> None:
    parsed = parse_report(report(b"nameserver[]=192.0.2.1\r\r"))
    record = only(parsed, "nameserver")
    assert (record.value, record.ends_in_cr) == ("192.0.2.1\r", True)
    assert FlawKind.CARRIAGE_RETURN in [flaw.kind for flaw in parsed.flaws]


def test_report_with_dos_line_ends_is_still_complete() -> None:
    data = report(b"vm=1").replace(b"\n", b"\r\n")
    parsed = parse_report(data)
    assert parsed.is_complete
    assert only(parsed, "vm").value == "1"
    assert to_bytes(parsed) == data


def test_bytes_that_are_no_utf8_are_kept_and_noted() -> None:
    data = report(b"home_directory[]=/home/andr\xe9")
    parsed = parse_report(data)
    assert encode(only(parsed, "home_directory").value) == b"/home/andr\xe9"
    assert kinds(data) == [FlawKind.NOT_UTF8]


def test_control_characters_are_kept_and_noted_without_showing_them() -> None:
    parsed = parse_report(report(b"cronjob[]=/etc/cron.d/\x1b[31mred\x00"))
    assert only(parsed, "cronjob").value == "/etc/cron.d/\x1b[31mred\x00"
    (flaw,) = parsed.flaws
    assert flaw.kind is FlawKind.CONTROL_CHARACTERS
    assert "\x1b" not in flaw.text
    assert "\\u001b" in flaw.text


def test_package_array_of_half_a_megabyte_is_one_record() -> None:
    value = b"|name,1.0" * 60_000
    assert (
        len(only(parse_report(report(b"installed_packages_array=" + value)), "installed_packages_array").value)
        > 500_000
    )


# --- the file as a whole ---


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (report().removeprefix(b"# Lynis Report\n"), FlawKind.NO_HEADER),
        (b"\xef\xbb\xbf" + report(), FlawKind.NO_HEADER),
        (report(b"# Lynis Report"), FlawKind.SECOND_HEADER),
        (report() + report(), FlawKind.SECOND_HEADER),
        (report().replace(b"major=1", b"major=2"), FlawKind.UNKNOWN_VERSION),
        (report().removesuffix(b"finish=true\n"), FlawKind.NO_END),
        (report().replace(b"finish=true", b"finish=false"), FlawKind.NO_END),
        (report() + b"vm=1\n", FlawKind.AFTER_END),
        (report()[:-1], FlawKind.CUT_LINE),
        (HEAD + TAIL[: TAIL.index(b"9204")], FlawKind.CUT_LIST),
        (report().replace(b"AUTH-9204|", b"AUTH-9204"), FlawKind.CUT_LIST),
        (report().replace(b"hardening_index=64\n", b""), FlawKind.MISSING),
        (report().replace(b"=64", b"=101"), FlawKind.BAD_VALUE),
        (report().replace(b"=64", "=\u0666\u0664".encode()), FlawKind.BAD_VALUE),
        (report().replace(b"=64", b"="), FlawKind.BAD_VALUE),
        (report().replace(b"done=2", b"done=two"), FlawKind.BAD_VALUE),
        (report(b"hardening_index=100"), FlawKind.REPEATED),
        (report(b"report_version_major=1"), FlawKind.REPEATED),
        (report(b"cronjob[]=/etc/cron.d/xwarning[]=SSH-7412|Root can log in|-|-|"), FlawKind.GLUED),
        (HEAD + b"cronjob[]=x" + TAIL, FlawKind.GLUED),
        (report().replace(b"done=2", b"done=3"), FlawKind.COUNTS_DIFFER),
    ],
)
def test_damage_makes_a_report_incomplete(data: bytes, kind: FlawKind) -> None:
    assert kind in kinds(data)
    assert kind.is_damage
    assert not parse_report(data).is_complete


def test_every_prefix_of_a_report_is_incomplete_or_no_report() -> None:
    data = RECORDED.read_bytes()[:3000] + TAIL
    for end in range(1, len(data), 7):
        try:
            parsed = parse_report(data[:end])
        except ObservationError:
            continue
        assert not parsed.is_complete, end


def test_forged_end_in_a_file_name_is_seen() -> None:
    # dash's echo makes a line feed of "\n" in the name of a cron file.
    forged = report(b"cronjob[]=/etc/cron.d/x", b"hardening_index=100", b"finish=true")
    assert {FlawKind.REPEATED, FlawKind.AFTER_END} <= set(kinds(forged))


def test_flaws_name_the_first_line_and_how_many_there_are() -> None:
    (flaw,) = parse_report(report(b"one", b"two", b"three")).flaws
    assert (flaw.kind, flaw.line, flaw.count) == (FlawKind.LOOSE_LINE, 5, 3)
    assert flaw.text == "no record: 'one' (and 2 more)"


# --- fields ---


def finding(value: str) -> tuple[str | None, str, str | None, str | None, str | None, str]:
    found = finding_of(Record(1, "suggestion", value, True, False), "suggestion")
    return found.test, found.message, found.details, found.solution_kind, found.solution, found.split


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("AUTH-9230|Do it|-|-|", ("AUTH-9230", "Do it", None, None, None, "exact")),
        ("KRNL-6000|Differ||Change it|", ("KRNL-6000", "Differ", None, "plain", "Change it", "exact")),
        ("FILE-7524|Look|log|text:Use chmod|", ("FILE-7524", "Look", "log", "text", "Use chmod", "exact")),
        (
            "CUST-0010|Look|-|url:https://x.example/a|",
            ("CUST-0010", "Look", None, "url", "https://x.example/a", "exact"),
        ),
        ("LYNIS|Old|-|-|", ("LYNIS", "Old", None, None, None, "exact")),
        (
            "SSH-7408|Harden|PermitRootLogin (set YES to (FORCED-COMMANDS-ONLY|NO|PROHIBIT-PASSWORD))|-|",
            (
                "SSH-7408",
                "Harden",
                "PermitRootLogin (set YES to (FORCED-COMMANDS-ONLY|NO|PROHIBIT-PASSWORD))",
                None,
                None,
                "by-brackets",
            ),
        ),
        ("SSH-7408|a|b|c|d|", ("SSH-7408", "a|b|c|d|", None, None, None, "unclear")),
        ("SSH-7408|cut of", ("SSH-7408", "cut of", None, None, None, "unclear")),
        ("SSH-7408", (None, "SSH-7408", None, None, None, "unclear")),
        (
            "Disable the usage of NIS|UNKNOWN|-|-|",
            (None, "Disable the usage of NIS|UNKNOWN|-|-|", None, None, None, "unclear"),
        ),
        ("run-complete|x|-|-|", (None, "run-complete|x|-|-|", None, None, None, "unclear")),
    ],
)
def test_findings_are_split_as_surely_as_the_pipes_allow(
    value: str, expected: tuple[str | None, str, str | None, str | None, str | None, str]
) -> None:
    assert finding(value) == expected


def test_unclear_finding_is_noted_and_is_no_damage() -> None:
    data = report(b"warning[]=SSH-7408|a|b|c|d|")
    assert kinds(data) == [FlawKind.UNCLEAR]
    assert parse_report(data).is_complete


def detail(value: str) -> dict[str, str | None] | None:
    found = detail_of(Record(1, "details", value, True, False))
    if found is None:
        return None
    names = ("test", "service", "desc", "field", "prefval", "value", "other")
    return {name: getattr(found, name) for name in names if getattr(found, name) is not None}


def test_detail_values_may_hold_pipes_semicolons_and_colons() -> None:
    assert detail("SSH-7408|sshd|desc:a;b: c;field:F;prefval:(A|B|C);value:x;y:z;|") == {
        "test": "SSH-7408",
        "service": "sshd",
        "desc": "a;b: c",
        "field": "F",
        "prefval": "(A|B|C)",
        "value": "x;y:z",
    }


def test_detail_may_lack_any_part() -> None:
    assert detail("-|-|field:x;other:y;|") == {"test": "-", "service": "-", "field": "x", "other": "y"}
    assert detail("||value:;|") == {"test": "-", "service": "-", "value": ""}


@pytest.mark.parametrize(
    "value", ["", "SSH-7408", "SSH-7408|sshd", "SSH-7408|sshd|no label|", "SSH-7408|sshd|junk;field:x;|"]
)
def test_detail_without_its_form_is_none_and_noted(value: str) -> None:
    assert detail(value) is None
    assert kinds(report(b"details[]=" + value.encode())) == [FlawKind.UNCLEAR]


def test_tests_are_named_once_each_in_the_order_of_the_file() -> None:
    assert list(ids_of("SSH-7402|AUTH-9204|SSH-7402||")) == ["SSH-7402", "AUTH-9204"]


def test_exception_may_hold_pipes() -> None:
    assert event_of("BOOT-5104:001|Unknown | manager|") == ("BOOT-5104:001", "Unknown | manager")


def test_packages_are_read_with_architecture_and_trailing_comma() -> None:
    assert list(packages_of("|libc6:i386,2.36-9|bash,0,|odd")) == [("libc6:i386", "2.36-9"), ("bash", "0"), ("odd", "")]


def test_listener_may_lack_its_process() -> None:
    heard = listener_of("raw,ss,v1|tcp|[::]:22||")
    assert heard is not None
    assert (heard.protocol, heard.address, heard.process) == ("tcp", "[::]:22", "")
    assert listener_of("0.0.0.0:22") is None


def test_certificate_subject_keeps_equals_signs_and_commas() -> None:
    shown = certificate_of("/etc/a|b.pem|1|cn:subject=CN = X, O = Y;notafter:Dec 31 09:37:37 2030 GMT;|")
    assert shown is not None
    assert (shown.path, shown.status, shown.subject, shown.not_after) == (
        "/etc/a|b.pem",
        1,
        "CN = X, O = Y",
        "Dec 31 09:37:37 2030 GMT",
    )
    assert certificate_of("/etc/a.pem") is None


# --- limits ---


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "is empty"),
        (b" \r\n\n", "is empty"),
        (b"\x7fELF\x02\x01", "no lynis report"),
        (b"hello=world\n", "no lynis report"),
        (b"x" * (MAX_BYTES + 1), f"{MAX_BYTES + 1} bytes"),
        (b"# Lynis Report\n" + b"\n" * MAX_LINES, "lines"),
        (b"# Lynis Report\nx=" + b"y" * MAX_LINE_BYTES, "line 2 "),
        (report(*[b"warning[]=x"] * (MAX_FINDINGS + 1)), f"{MAX_FINDINGS + 1} findings"),
        (report(b"tests_executed=" + b"|" * (MAX_LIST_ITEMS + 1)), "'tests_executed'"),
    ],
)
def test_what_no_lynis_writes_is_refused_with_a_reason(data: bytes, said: str) -> None:
    with pytest.raises(ObservationError) as caught:
        parse_report(data)
    assert said in caught.value.message


def test_report_at_the_limits_is_read() -> None:
    filler = b"x=" + b"y" * (MAX_LINE_BYTES - 2)
    assert parse_report(report(filler)).is_complete


# --- hostile bytes ---

FRAGMENTS = st.sampled_from(
    [
        b"# Lynis Report\n",
        b"report_version_major=1\n",
        b"finish=true\n",
        b"hardening_index=",
        b"warning[]=",
        b"suggestion[]=SSH-7408|a|",
        b"details[]=KRNL-6000|sysctl|desc:x;field:y;",
        b"exception_event[]=",
        b"installed_packages_array=|",
        b"certificate[]=/x|0|cn:subject=",
        b"tests_executed=A|",
        b"network_listen[]=raw,ss,v1|",
        b"|",
        b";value:",
        b"\\",
        b"\\x41",
        b"\r\n",
        b"\n",
        b"\xff",
        b"\x00\x1b[0m",
        "\u202e\ufeff\u2028\uffff".encode(),
    ]
)
HOSTILE = st.lists(FRAGMENTS | st.binary(max_size=12), max_size=40).map(b"".join)


@given(HOSTILE | st.binary(max_size=300))
def test_any_bytes_are_read_without_loss_or_refused(data: bytes) -> None:
    try:
        parsed = parse_report(data)
    except ObservationError:
        return
    assert to_bytes(parsed) == data
    assert len(parsed.records) + len(parsed.loose) == len(parsed.lines)
    assert all(flaw.count >= 1 and len(flaw.text) < 400 for flaw in parsed.flaws)


@given(st.binary())
def test_decoded_bytes_come_back(raw: bytes) -> None:
    assert encode(decode(raw)) == raw


@given(st.text(st.characters(exclude_categories=())))
def test_escaped_text_comes_back_and_holds_nothing_unsafe(text: str) -> None:
    shown = escape(text)
    assert unescape(shown) == text
    assert all(char >= " " and not "\x7f" <= char <= "\x9f" for char in shown)
    assert not set(shown) & set("\u202a\u202b\u202d\u202e\u2066\u2067\u2068\u200e\u200f\u2028\ufeff\ufffe\uffff")
    shown.encode("utf-8")


def test_shortened_text_shows_that_it_was_cut() -> None:
    assert shorten("abcdef", 6) == "abcdef"
    assert shorten("abcdefg", 6) == "abcde…"
