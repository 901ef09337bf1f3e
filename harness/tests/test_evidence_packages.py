"""Reading what package managers say."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from seatrial.errors import ObservationError
from seatrial.evidence.packages import Package, parse_packages, parse_rpm_settings, parse_sources, parse_verify

DEB822 = (
    "file /etc/apt/sources.list.d/debian.sources\n"
    " Types: deb\n URIs: https://packages.example/debian\n Suites: trixie\n  trixie-updates\n Components: main\n"
    " Signed-By: /usr/share/keyrings/a.pgp\n \n # a comment\n Types: deb\n URIs: https://off.example\n Suites: x\n"
    " Enabled: no\n"
)
OLD = (
    "file /etc/apt/sources.list\n # comment\n"
    " deb [trusted=yes arch=amd64] http://x.example/debian stable main # why\n \n"
)
REPO = (
    "file /etc/yum.repos.d/a.repo\n [base]\n name=Base\n baseurl=https://x.example/$releasever\n gpgcheck=1\n"
    " [off]\n baseurl=https://y.example\n enabled=0\n"
)


def test_packages_have_state_name_and_version() -> None:
    assert parse_packages("installed bash 5.2\nconfig-files telnet \n") == (
        Package("bash", "5.2", "installed"),
        Package("telnet", "", "config-files"),
    )


def test_no_package_manager_is_told_from_no_package() -> None:
    assert parse_packages("none\n") is None
    with pytest.raises(ObservationError, match="no package at all"):
        parse_packages("")


@pytest.mark.parametrize(
    ("text", "places"),
    [
        (
            DEB822,
            ["https://packages.example/debian trixie main", "https://packages.example/debian trixie-updates main"],
        ),
        (OLD, ["http://x.example/debian stable main"]),
        (REPO, ["https://x.example/$releasever"]),
        (DEB822 + OLD + REPO, None),
        ("", []),
    ],
)
def test_sources_are_read_in_every_style(text: str, places: list[str] | None) -> None:
    found = [source.place for source in parse_sources(text)]
    assert len(found) == 4 if places is None else found == places


OVERRIDE = "file /etc/dnf/repos.override.d/99-config_manager.repo\n [{}]\n {}\n"


@pytest.mark.parametrize(
    ("overrides", "gpgcheck"),
    [
        (OVERRIDE.format("base", "gpgcheck=0"), "0"),
        (OVERRIDE.format("b*", "gpgcheck=0"), "0"),
        (OVERRIDE.format("other", "gpgcheck=0"), "1"),
        (
            f"{OVERRIDE.format('base', 'gpgcheck=0')}file /usr/share/dnf5/repos.override.d/50-a.repo\n [base]\n x=1\n",
            "0",
        ),
        # The file of /etc hides its namesake of the vendor.
        (
            OVERRIDE.format("base", "gpgcheck=0").replace("/etc/dnf", "/usr/share/dnf5")
            + OVERRIDE.format("base", "x=1"),
            "1",
        ),
    ],
)
def test_what_dnf5_lays_over_a_repository_counts(overrides: str, gpgcheck: str) -> None:
    (source,) = parse_sources(REPO + overrides)
    assert source.options["gpgcheck"] == gpgcheck


def test_an_override_can_enable_what_its_own_file_does_not() -> None:
    places = [source.place for source in parse_sources(REPO + OVERRIDE.format("off", "enabled=1"))]
    assert places == ["https://x.example/$releasever", "https://y.example"]


def test_options_of_a_source_are_kept() -> None:
    assert parse_sources(OLD)[0].options["trusted"] == "yes"
    assert parse_sources(REPO)[0].options["gpgcheck"] == "1"


@pytest.mark.parametrize(
    "text",
    ["deb http://x", " deb x\n", "file /a.list\n  rubbish\n", "file /a.list\n rubbish\n", "file /a.list\n deb\n",
     "file /a.sources\n rubbish\n", "file /a.repo\n a=b\n", "file /a.repo\n [x]\n rubbish\n"],
)  # fmt: skip
def test_what_is_no_source_is_an_error(text: str) -> None:
    with pytest.raises(ObservationError):
        parse_sources(text)


def test_settings_are_those_of_the_section_main() -> None:
    dnf = "file /etc/dnf/dnf.conf\n [main]\n # why\n gpgcheck = 1\n excludepkgs=a\n   b\n [other]\n gpgcheck=0\n"
    assert parse_rpm_settings(f"{dnf}file /etc/yum.conf\n") == {
        "/etc/dnf/dnf.conf": {"gpgcheck": "1", "excludepkgs": "a b"},
        "/etc/yum.conf": {},
    }


def test_what_lies_in_memory_is_no_file_of_the_image() -> None:
    assert parse_verify("missing     /run/media/cdrom\nmissing     /srv/run/x\n") == ("missing /srv/run/x",)


def test_changed_and_missing_files_are_found_and_configuration_is_not() -> None:
    said = (
        "??5??????   /usr/bin/su\nmissing     /usr/bin/x (Permission denied)\n??5?????? c /etc/a\nmissing   c /etc/b\n"
        ".M.......    /usr/bin/mode\nS.5....T.  c /etc/c\nS.5....T.    /usr/lib/d\n"
    )
    assert parse_verify(said) == ("changed /usr/bin/su", "missing /usr/bin/x", "changed /usr/lib/d")
    assert parse_verify("") == ()
    assert parse_verify("none\n") is None


def test_a_file_that_became_a_link_is_changed_and_an_artifact_is_left_out() -> None:
    said = "....L....    /usr/sbin/sshd\nmissing   a /usr/lib/.build-id/00/1\n....L....  c /etc/localtime\n"
    assert parse_verify(said) == ("changed /usr/sbin/sshd",)


def test_every_address_of_a_repository_is_a_source_of_its_own() -> None:
    text = "file /etc/yum.repos.d/a.repo\n [a]\n baseurl=https://one.example\n   http://two.example\n mirrorlist=http://m\n"
    assert [one.place for one in parse_sources(text)] == ["https://one.example", "http://two.example", "http://m"]


def test_a_list_of_mirrors_is_followed() -> None:
    text = (
        "file /etc/apt/sources.list.d/debian.sources\n Types: deb\n URIs: mirror+file:///etc/apt/mirrors/debian.list\n"
        " Suites: trixie\n Components: main\nfile /etc/apt/mirrors/debian.list\n # ours\n https://one.example/debian\n"
        " http://two.example/debian priority:2\n"
    )
    assert [one.place for one in parse_sources(text)] == [
        "https://one.example/debian trixie main",
        "http://two.example/debian trixie main",
    ]
    unknown = parse_sources(text.partition("file /etc/apt/mirrors")[0])
    assert [one.place for one in unknown] == ["mirror+file:///etc/apt/mirrors/debian.list trixie main"]


def test_what_is_no_verdict_is_an_error() -> None:
    with pytest.raises(ObservationError, match="no verdict on a file"):
        parse_verify("dpkg: error: no database\n")


@given(st.text())
def test_any_text_gives_an_answer_or_our_error(text: str) -> None:
    for parse in (parse_packages, parse_rpm_settings, parse_sources, parse_verify):
        with contextlib.suppress(ObservationError):
            parse(text)


@given(st.lists(st.text(st.characters(codec="ascii", exclude_characters="\n"), max_size=40)), st.sampled_from("abc"))
def test_any_file_of_sources_gives_an_answer_or_our_error(lines: list[str], kind: str) -> None:
    ending = {"a": "list", "b": "sources", "c": "repo"}[kind]
    with contextlib.suppress(ObservationError):
        parse_sources(f"file /etc/x.{ending}\n" + "".join(f" {line}\n" for line in lines))
