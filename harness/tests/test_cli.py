"""The command line: errors as text with the exit status of their family, the pieces connected."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from click.testing import CliRunner
from seatrial.cli import main
from seatrial.mutation_run import Subject
from seatrial.options import OPTIONS

FIXTURES = Path(__file__).parents[2] / "fixtures"


def invoke(*words: str) -> tuple[int, str]:
    done = CliRunner().invoke(main, list(words))
    return done.exit_code, done.output


@pytest.mark.parametrize("command", ["doctor", "image", "boot", "gate", "lynis"])
def test_every_command_explains_itself(command: str) -> None:
    status, text = invoke(command, "--help")
    assert status == 0
    assert len(text.splitlines()) > 5


def test_two_images_are_one_too_many() -> None:
    status, text = invoke("gate", "a.raw", "--image", "b.raw")
    assert status == 4
    assert "two images were named: 'a.raw' and --image 'b.raw'" in text


def test_a_missing_image_ends_with_usage(tmp_path: Path) -> None:
    status, text = invoke("boot", str(tmp_path / "none.raw"), "--flavour", "debian-general")
    assert status == 4
    assert "none.raw' does not exist" in text


def test_an_unknown_suite_ends_with_usage(tmp_path: Path) -> None:
    image = tmp_path / "x.raw"
    image.write_bytes(b"x")
    status, text = invoke("gate", str(image), "--flavour", "debian-general", "--suite", "nonsense")
    assert (status, "suite 'nonsense' is neither" in text) == (4, True)


def test_an_unknown_demo_image_ends_with_usage() -> None:
    status, text = invoke("image", "build", "windows")
    assert status == 4
    assert "unknown image 'windows'\n  hint: known images: general, immutable" in text


def test_demo_images_are_listed() -> None:
    status, text = invoke("image", "list")
    assert status == 0
    assert "immutable" in text
    assert "debian-general" in text


def test_a_shell_needs_a_terminal(tmp_path: Path) -> None:
    image = tmp_path / "x.raw"
    image.write_bytes(b"\0" * 510 + b"\x55\xaa" + b"\0" * 4096)
    status, text = invoke("boot", str(image), "--flavour", "debian-general")
    assert status == 4
    assert "'seatrial boot' needs a terminal" in text


def test_a_lynis_report_is_judged_from_disk(tmp_path: Path) -> None:
    (report,) = (FIXTURES / "lynis").glob("*3.1.4.dat")
    status, text = invoke("lynis", str(report), "--xml", str(tmp_path / "out.xml"))
    assert status in {0, 1}
    assert text.splitlines()[-1].startswith("decision: release" if status == 0 else "decision: reject")
    assert b"urn:seatrial:lynis-report:1" in (tmp_path / "out.xml").read_bytes()


def test_a_cut_lynis_report_is_rejected(tmp_path: Path) -> None:
    (report,) = (FIXTURES / "lynis").glob("*3.1.4.dat")
    cut = tmp_path / "cut.dat"
    cut.write_bytes(report.read_bytes()[:20_000])
    status, text = invoke("lynis", str(cut))
    assert status == 1
    assert "lynis-run-complete" in text


def test_what_is_no_lynis_report_cannot_be_judged(tmp_path: Path) -> None:
    other = tmp_path / "other.dat"
    other.write_bytes(b"hello\n")
    status, text = invoke("lynis", str(other))
    assert status == 2
    assert "seatrial: " in text


@pytest.mark.parametrize("command", ["gate", "boot", "boot-time"])
def test_every_command_that_boots_takes_the_way_in(command: str) -> None:
    _status, text = invoke(command, "--help")
    assert [flag for flag in ("--access", "--ssh-user", "--ssh-key", "--ignition") if flag not in text] == []


def test_the_gate_takes_every_option_of_the_table() -> None:
    _status, text = invoke("gate", "--help")
    assert [option.flag for option in OPTIONS if option.name != "facts" and f"{option.flag} " not in text] == []


def test_a_way_in_that_contradicts_itself_ends_with_usage(tmp_path: Path) -> None:
    image = tmp_path / "x.raw"
    image.write_bytes(bytes(510) + b"\x55\xaa" + bytes(5000))
    status, text = invoke("boot", str(image), "--flavour", "debian-general", "--access", "existing")
    assert status == 4
    assert "access route 'existing' logs in as 'seatrial'" in text


def test_results_of_two_images_with_one_file_name_are_told_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = [tmp_path / name for name in ("a/disk.raw", "b/disk.raw", "other.raw")]
    for path in images:
        path.parent.mkdir(exist_ok=True)
        path.touch()
    seen: list[str] = []

    def run(subjects: Sequence[Subject], *_args: object, **_named: object) -> int:
        seen.extend(subject.name for subject in subjects)
        return 0

    monkeypatch.setattr("seatrial.mutation_run.run_mutants", run)
    assert invoke("mutants", *(f"--image={path}" for path in (*images, images[0]))) == (0, "")
    assert seen == [str(images[0]), str(images[1]), "other.raw"]
