"""What the guest shows of its TPM and of the firmware's variables."""

from __future__ import annotations

import contextlib
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from seatrial.errors import ObservationError
from seatrial.evidence.efi import SECURE_BOOT, parse_switches
from seatrial.evidence.tpm import EVENT_LOG, REGISTERS, TPM, parse_log_bytes, parse_registers, parse_tpm
from suite_bench import recorded

PCRS = recorded("kernel/pcrs")
LOG = recorded("kernel/event-log")
SWITCHES = recorded("kernel/secure-boot")


def test_recorded_tpm_is_seen() -> None:
    tpm = parse_tpm(recorded("kernel/tpm"))
    assert tpm.is_seen
    assert tpm.has_log
    assert "sha256" in tpm.banks


def test_no_tpm_is_no_error() -> None:
    tpm = parse_tpm("")
    assert (tpm.is_seen, tpm.has_log, tpm.banks) == (False, False, ())


@pytest.mark.parametrize("path", ["/dev/tpmrm0", "/sys/class/tpm/tpm0"])
def test_half_a_tpm_is_not_seen(path: str) -> None:
    assert not parse_tpm(f"{path}\n").is_seen


@pytest.mark.parametrize("line", ["/dev/tpm9", "tpm", "/sys/class/tpm/tpm0/pcr-", "/sys/class/tpm/tpm0/pcr-a b"])
def test_what_is_no_part_of_a_tpm_is_an_error(line: str) -> None:
    with pytest.raises(ObservationError, match="as a part of its TPM"):
        parse_tpm(f"{line}\n")


@pytest.mark.parametrize(
    "text",
    ["", PCRS.replace("3 ", "4 ", 1), "\n".join(PCRS.split("\n")[:7]), f"{PCRS}8 {'0' * 64}\n", "0 12\n", "0 \n1 \n"],
)
def test_registers_that_are_not_eight_are_an_error(text: str) -> None:
    with pytest.raises(ObservationError):
        parse_registers(text)


@pytest.mark.parametrize("text", ["", "@0 /etc/passwd\n 00\n", LOG.replace("@0 ", "@1 ", 1), f"{LOG}@0 /etc/passwd\n"])
def test_bytes_of_another_file_are_no_log(text: str) -> None:
    with pytest.raises(ObservationError):
        parse_log_bytes(text)


def test_recorded_switches_are_read() -> None:
    assert parse_switches(SWITCHES) == {"SecureBoot": 1, "SetupMode": 0}


def test_variable_that_is_not_there_is_left_out() -> None:
    head = SWITCHES.split("\n")[0]
    assert parse_switches(f"{head}\n") == {}


@pytest.mark.parametrize("octets", ["06 00 00 00", "06 00 00 00 02", "06 00 00 00 01 00"])
def test_variable_of_another_form_is_an_error(octets: str) -> None:
    with pytest.raises(ObservationError, match="the firmware's variable SecureBoot is"):
        parse_switches(SWITCHES.replace("06 00 00 00 01", octets, 1))


@pytest.mark.parametrize("question", [TPM, REGISTERS, EVENT_LOG, SECURE_BOOT])
def test_questions_are_posix(question: str) -> None:
    assert subprocess.run(["sh", "-n", "-c", question], capture_output=True, check=False).stderr == b""


def test_a_longer_log_is_seen_to_be_one(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_bytes(bytes(300 * 1024))
    path = "/sys/kernel/security/tpm0/binary_bios_measurements"
    said = subprocess.run(["sh", "-c", EVENT_LOG.replace(path, str(log))], capture_output=True, text=True, check=True)
    assert len(parse_log_bytes(said.stdout.replace(str(log), path))) == 256 * 1024 + 1


@given(st.text(), st.sampled_from([PCRS, LOG, SWITCHES, "/dev/tpmrm0\n"]))
def test_any_text_is_read_or_refused(text: str, known: str) -> None:
    for parse in (parse_tpm, parse_registers, parse_log_bytes, parse_switches):
        for whole in (text, known + text):
            with contextlib.suppress(ObservationError):
                parse(whole)
