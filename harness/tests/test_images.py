"""The image builder: what names a result, where packages come from, what happens when mkosi misbehaves."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from seatrial import images
from seatrial.clock import Deadline
from seatrial.errors import ConfigError, HostError
from seatrial.images import built, built_variant, recipes, sources_text

FAKE_MKOSI = """#!/bin/sh
[ "$1" = --version ] && { echo "mkosi ${FAKE_VERSION:-24.3}"; exit 0; }
echo "$*" >> "$HOME/calls"
while [ $# -gt 0 ]; do
    case $1 in
        --output-dir|--output-directory) out=$2 ;;
        --output) name=$2 ;;
        --directory) recipe=$2 ;;
    esac
    shift
done
echo '‣ Installing Debian'
[ ! -e "$HOME/broken" ] || { echo 'E: no route to nowhere'; exit 7; }
[ ! -e "$HOME/slow" ] || { sleep 60 & echo $! > "$HOME/child"; wait; }
case $name in
    tools) mkdir -p "$out/tools" ;;
    initrd) echo initrd > "$out/initrd.cpio.zst" ;;
    *) ls "$recipe" "$recipe"/mkosi.repart > "$out/image.raw" ;;
esac
"""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A computer with a fake mkosi, an empty cache and a named mirror."""
    program = tmp_path / "bin" / "mkosi"
    program.parent.mkdir()
    program.write_text(FAKE_MKOSI, encoding="utf-8")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("SEATRIAL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("SEATRIAL_DEBIAN_MIRROR", "http://mirror.invalid/debian")
    return tmp_path


def build(name: str = "immutable", *, said: list[str] | None = None, force: bool = False, seconds: float = 60) -> Path:
    return built(name, say=(said if said is not None else []).append, deadline=Deadline(seconds), force=force)


def calls(home: Path) -> int:
    return len((home / "calls").read_text().splitlines())


def test_an_image_is_built_from_tools_and_initrd_and_then_kept(home: Path) -> None:
    first = build()
    assert calls(home) == 3
    assert build() == first
    assert calls(home) == 3


def test_the_second_image_shares_tools_and_initrd_with_the_first(home: Path) -> None:
    build("immutable")
    build("general")
    assert calls(home) == 4


def test_force_builds_the_image_again_but_not_its_parts(home: Path) -> None:
    build()
    build(force=True)
    assert calls(home) == 4


def test_a_built_image_cannot_be_written_to(home: Path) -> None:
    assert stat.S_IMODE(build().stat().st_mode) == 0o444


def test_other_mkosis_make_other_images_and_only_the_last_three_stay(home: Path) -> None:
    other = build("general")
    made = [build()]
    program = home / "bin" / "mkosi"
    for version in ("25.3", "25.4", "25.5"):
        program.write_text(FAKE_MKOSI.replace("24.3", version), encoding="utf-8")
        made.append(build())
    assert len(set(made)) == 4
    assert [path.exists() for path in made] == [False, True, True, True]
    assert other.exists()
    assert "--sandbox-tree" in (home / "calls").read_text().splitlines()[-1]


def test_recipes_tell_what_is_cached(home: Path) -> None:
    assert {recipe.name: recipe.cached for recipe in recipes()} == {"immutable": None, "general": None}
    path = build("general")
    assert {recipe.name: recipe.cached for recipe in recipes()} == {"immutable": None, "general": path}


def test_recipes_can_be_listed_without_mkosi(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (home / "bin" / "mkosi").unlink()
    monkeypatch.setattr(images, "_mkosi_version", _no_mkosi)
    assert [recipe.cached for recipe in recipes()] == [None, None]


def _no_mkosi(deadline: Deadline) -> str:
    raise HostError("program 'mkosi' is not installed")


def test_a_variant_replaces_what_it_has_and_keeps_the_rest(home: Path) -> None:
    variant = home / "odd"
    (variant / "mkosi.repart").mkdir(parents=True)
    (variant / "mkosi.repart" / "99-only.conf").write_text("[Partition]\nType=root\n")
    path = built_variant(variant, base="immutable", say=print, deadline=Deadline(60))
    listed = path.read_text().split()
    assert path.name.startswith("immutable+odd-")
    assert "99-only.conf" in listed
    assert "20-usr.conf" not in listed
    assert "no-package-manager.chroot" in listed


def test_a_variant_does_not_evict_its_base(home: Path) -> None:
    base = build()
    variant = home / "odd"
    variant.mkdir()
    built_variant(variant, base="immutable", say=print, deadline=Deadline(60))
    assert base.exists()


def test_the_steps_of_mkosi_are_said_as_they_come(home: Path) -> None:
    said: list[str] = []
    build(said=said)
    assert "image immutable: Installing Debian" in said


def test_a_failed_build_names_the_last_line_and_the_log_and_leaves_no_image(home: Path) -> None:
    (home / "broken").touch()
    with pytest.raises(HostError, match="no route to nowhere") as caught:
        build()
    assert caught.value.evidence is not None
    assert "exit status 7" in caught.value.message
    assert caught.value.evidence.read_text().endswith("no route to nowhere\n")
    assert list((home / "cache" / "images").glob("*.raw")) == []
    assert not (home / "cache" / "images" / "work").exists()


def test_a_build_that_takes_too_long_is_ended(home: Path) -> None:
    (home / "slow").touch()
    with pytest.raises(HostError, match="not built within"):
        build(seconds=2)


def test_a_build_that_is_terminated_leaves_no_process_and_no_image(home: Path) -> None:
    (home / "slow").touch()
    with subprocess.Popen([sys.executable, "-m", "seatrial", "image", "build", "immutable"]) as process:
        deadline = Deadline(60)
        while not (home / "child").exists() and not deadline.is_over:
            deadline.pause(0.1)
        process.terminate()
        assert process.wait(timeout=30) != 0
    child = Path("/proc") / (home / "child").read_text().strip() / "cmdline"
    assert not child.exists() or child.read_bytes() == b""  # a zombie that nobody has waited for yet
    assert not (home / "cache" / "images" / "work").exists()


def test_two_runs_build_an_image_once(home: Path) -> None:
    threads = [threading.Thread(target=build) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert calls(home) == 3


def test_an_unknown_image_names_the_known_ones(home: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        build("imutable")
    assert caught.value.hint == "known images: general, immutable"


def test_a_variant_of_an_unknown_image_is_refused(home: Path) -> None:
    with pytest.raises(ConfigError, match="unknown image 'x'"):
        built_variant(home, base="x", say=print, deadline=Deadline(5))


def test_an_old_mkosi_is_refused_with_what_was_found(home: Path) -> None:
    (home / "bin" / "mkosi").write_text(FAKE_MKOSI.replace("24.3", "14"), encoding="utf-8")
    with pytest.raises(HostError, match=r"found 'mkosi 14', expected 24") as caught:
        build()
    assert "seatrial doctor --install" in caught.value.hint


def folder(path: Path, content: str = "a", mode: int = 0o644) -> Path:
    path.mkdir()
    (path / "file").write_text(content)
    (path / "file").chmod(mode)
    return path


def digest(path: Path, version: str = "24.3") -> str:
    return images._digest([path], version)


def test_the_digest_sees_content_mode_link_name_and_version(tmp_path: Path) -> None:
    one = folder(tmp_path / "r")
    before = digest(one)
    assert digest(one) == before
    seen = {before, digest(one, "25.3")}
    (one / "file").chmod(0o755)
    seen.add(digest(one))
    (one / "file").write_text("b")
    seen.add(digest(one))
    (one / "link").symlink_to("file")
    seen.add(digest(one))
    (one / "link").unlink()
    (one / "link").symlink_to("other")
    seen.add(digest(one))
    assert len(seen) == 6


def test_the_digest_does_not_see_the_documentation(tmp_path: Path) -> None:
    one = folder(tmp_path / "r")
    before = digest(one)
    (one / "README.md").write_text("words")
    assert digest(one) == before


TARGETS = """\
http://a.invalid/debian-security/ bookworm-security main Debian
http://a.invalid/debian/ bookworm-backports main Debian Backports
http://a.invalid/debian/ bookworm main Debian
http://b.invalid/tool stable main Tool
"""


def test_sources_come_from_the_host_and_never_from_its_backports() -> None:
    text = sources_text(TARGETS)
    assert "URIs: http://a.invalid/debian/\nSuites: trixie trixie-updates\n" in text
    assert "URIs: http://a.invalid/debian-security/\nSuites: trixie-security\n" in text
    assert text.count("URIs:") == 2


def test_a_host_of_another_distribution_is_told_what_to_set() -> None:
    with pytest.raises(HostError, match="no Debian package source") as caught:
        sources_text("http://u.invalid/ubuntu noble main Ubuntu\n")
    assert "SEATRIAL_DEBIAN_MIRROR" in caught.value.hint


def test_a_named_mirror_wins_over_the_host() -> None:
    text = sources_text(TARGETS, "http://m.invalid/debian http://m.invalid/security")
    assert "a.invalid" not in text
    assert "Suites: trixie-security" in text


@given(st.text())
def test_whatever_apt_says_gives_sources_or_an_error_that_helps(targets: str) -> None:
    try:
        text = sources_text(targets)
    except HostError as exc:
        assert exc.hint  # noqa: PT017 -- the other outcome is good too
    else:
        assert text.startswith("Types: deb\nURIs: ")
