"""One file of images becomes the job matrix of each CI server, and no text breaks out of its place."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from seatrial.cli import main
from seatrial.errors import ConfigError
from seatrial.matrix import FORMATS, Job, matrix_text, read_jobs

FILE = """
[[image]]
name = "edge-1"
image = "out/edge disk.raw"
flavour = "flatcar"
suites = ["hardening", "my-suite"]

[[image]]
name = "demo"
image = "demo:immutable"
flavour = "debian-immutable"
lynis = true
"""


@pytest.fixture
def jobs(tmp_path: Path) -> tuple[Job, ...]:
    path = tmp_path / "seatrial.toml"
    path.write_text(FILE)
    return read_jobs(path)


def test_github_gets_one_line_for_its_outputs(jobs: tuple[Job, ...]) -> None:
    name, _equals, text = matrix_text(jobs, "github").rstrip("\n").partition("=")
    assert name == "matrix"
    assert "\n" not in text
    assert json.loads(text)["include"][0] == {
        "name": "edge-1",
        "image": "out/edge disk.raw",
        "flavour": "flatcar",
        "arguments": "--suite=hardening --suite=my-suite",
    }


def test_gitlab_gets_a_child_pipeline_with_a_job_an_image(jobs: tuple[Job, ...]) -> None:
    pipeline = yaml.safe_load(matrix_text(jobs, "gitlab"))
    assert list(pipeline) == ["gate edge-1", "gate demo"]
    assert pipeline["gate demo"]["script"] == [
        "seatrial gate demo:immutable --flavour=debian-immutable --out=out --lynis"
    ]
    assert shlex.split(pipeline["gate edge-1"]["script"][0])[2] == "out/edge disk.raw"


def test_azure_gets_names_that_it_takes(jobs: tuple[Job, ...]) -> None:
    head, _bracket, text = matrix_text(jobs, "azure").partition("]")
    assert head == "##vso[task.setvariable variable=matrix;isOutput=true"
    assert list(json.loads(text)) == ["edge_1", "demo"]


def test_json_holds_everything(jobs: tuple[Job, ...]) -> None:
    assert [row["lynis"] for row in json.loads(matrix_text(jobs, "json"))] == [False, True]


@given(st.text(min_size=1), st.sampled_from(FORMATS))
def test_no_path_breaks_out_of_its_place(path: str, form: str) -> None:
    if not path.isprintable():
        return
    text = matrix_text([Job(name="x", image=path, flavour="flatcar")], form)
    if form == "gitlab":
        (script,) = yaml.safe_load(text)["gate x"]["script"]
        assert shlex.split(script.replace("$$", "$"))[2] == path
        return
    assert text.isascii()
    value = json.loads({"github": text.partition("=")[2], "azure": text.partition("]")[2], "json": text}[form])
    assert json.dumps(path) in json.dumps(value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "image: Field required"),
        ("image = []", "image: Tuple should have at least 1 item"),
        ("x = [", "is not valid TOML"),
        (FILE.replace("flatcar", "flatkar"), "edge-1: unknown flavour 'flatkar'"),
        (FILE.replace('"edge-1"', '"demo"'), "demo: two images have this name"),
        (FILE.replace("demo:immutable", "demo:immutible"), "demo: there is no demo image 'demo:immutible'; known: "),
        (FILE.replace('"edge-1"', '"a b"'), "image.0.name: String should match"),
        (FILE.replace('"out/edge disk.raw"', '"a\\nb"'), "image.0.image: Value error, a path of printable characters"),
        (FILE.replace("lynis", "linis"), "image.1.linis: Extra inputs"),
    ],
)
def test_a_faulty_file_is_refused(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "seatrial.toml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        read_jobs(path)
    assert said in caught.value.message


def test_the_command_reads_the_file_of_the_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    missing = CliRunner().invoke(main, ["matrix"])
    assert (missing.exit_code, "matrix file 'seatrial.toml' cannot be read" in missing.output) == (4, True)
    (tmp_path / "seatrial.toml").write_text(FILE)
    assert CliRunner().invoke(main, ["matrix", "--format", "github"]).output.startswith('matrix={"include": [{')
