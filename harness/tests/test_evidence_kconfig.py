"""Reading the kernel's configuration."""

from __future__ import annotations

import contextlib
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from seatrial.errors import ConfigError, ObservationError
from seatrial.evidence.kconfig import KCONFIG, broken_options, options_text, parse_kconfig
from suite_bench import recorded

FILLER = "".join(f"CONFIG_FILLER_{number}=y\n" for number in range(600))
HEAD = "release 6.12.1-cloud\nsource /proc/config.gz\n"


def test_recorded_configuration_is_read() -> None:
    config = parse_kconfig(recorded("kernel/kconfig"))
    assert config.release == "6.12.117+deb13-cloud-amd64"
    assert config.value("STRICT_KERNEL_RWX") == "y"
    assert config.value("DM_VERITY") == "m"
    assert config.value("MODULE_SIG_HASH") == "sha256"
    assert config.value("COMPAT_BRK") == "n"


def test_absent_option_counts_as_not_set() -> None:
    assert parse_kconfig(HEAD + FILLER).value("NEVER_HEARD_OF") == "n"


def test_an_option_on_which_files_disagree_has_no_value() -> None:
    said = (
        "# only /boot/config-6: # CONFIG_SECCOMP is not set\n"
        "# only /usr/lib/c: CONFIG_SECCOMP=y\n"
        "# only /usr/lib/c: #\n"
    )
    config = parse_kconfig(f"{HEAD}{FILLER}CONFIG_SECCOMP=y\nCONFIG_KEXEC=y\n{said}")
    assert config.value("KEXEC") == "y"
    with pytest.raises(ObservationError, match="CONFIG_SECCOMP: /boot/config-6 has # CONFIG_SECCOMP is not set; /usr"):
        config.value("SECCOMP")


@pytest.mark.parametrize(
    ("edit", "disputed"),
    [("s/a/a/", set()), ("s/CONFIG_FILLER_7=y/CONFIG_FILLER_7=m/", {"FILLER_7"}), ("/FILLER_8=/d", {"FILLER_8"})],
)
def test_the_question_compares_all_files_that_the_image_has(tmp_path: Path, edit: str, disputed: set[str]) -> None:
    places = [tmp_path / name for name in ("first", "second", "third")]
    script = KCONFIG.replace(
        '"/usr/lib/modules/$r/config" "/usr/lib/modules/$r/build/.config" "/boot/config-$r"', " ".join(map(str, places))
    ).replace("/proc/config.gz", str(tmp_path / "none"))
    places[0].write_text(FILLER)
    places[2].write_text(FILLER)
    subprocess.run(["sed", "-i", edit, str(places[2])], check=True)
    done = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True)
    assert set(parse_kconfig(done.stdout).disputed) == disputed


def test_longer_name_is_another_option() -> None:
    config = parse_kconfig(f"{HEAD}{FILLER}CONFIG_SECCOMP_FILTER=y\n# CONFIG_SECCOMP is not set\n")
    assert (config.value("SECCOMP"), config.value("SECCOMP_FILTER")) == ("n", "y")


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "'' where its release belongs"),
        ("release 6.1\nsource none\n", "no configuration of its kernel '6.1'"),
        (f"{HEAD}CONFIG_A=y\n", "cut off"),
        (f"{HEAD}{FILLER}<html>\n", "'<html>', which is no kernel option"),
        (f"{HEAD}# Linux/x86 6.1.9 Kernel Configuration\n{FILLER}", "of kernel '6.1.9', but '6.12.1-cloud' is running"),
    ],
)
def test_unreadable_configuration_is_an_error(text: str, fault: str) -> None:
    with pytest.raises(ObservationError, match=fault.replace("(", r"\(")):
        parse_kconfig(text)


def test_one_alternative_that_holds_is_enough() -> None:
    config = parse_kconfig(f"{HEAD}{FILLER}CONFIG_SLAB_BUCKETS=y\n")
    assert broken_options(config, [{"RANDOM_KMALLOC_CACHES": "y"}, {"SLAB_BUCKETS": "y"}]) == []
    assert broken_options(config, [{"RANDOM_KMALLOC_CACHES": "y"}]) == ["CONFIG_RANDOM_KMALLOC_CACHES absent"]


def test_choice_of_values_takes_each() -> None:
    config = parse_kconfig(f"{HEAD}{FILLER}CONFIG_DM_VERITY=m\n")
    assert broken_options(config, [{"DM_VERITY": "y|m"}]) == []
    assert broken_options(config, [{"DM_VERITY": "y"}]) == ["CONFIG_DM_VERITY=m"]
    assert options_text([{"DM_VERITY": "y|m"}]) == "CONFIG_DM_VERITY=y or m"


@pytest.mark.parametrize("alternatives", [[], [{}], [{"A": "y"}, {}]])
def test_probe_that_demands_nothing_is_refused(alternatives: list[dict[str, str]]) -> None:
    with pytest.raises(ConfigError, match="demands nothing"):
        broken_options(parse_kconfig(HEAD + FILLER), alternatives)


@given(st.text())
def test_any_text_is_read_or_refused(text: str) -> None:
    with contextlib.suppress(ObservationError):
        assert parse_kconfig(HEAD + FILLER + text).source == "/proc/config.gz"
