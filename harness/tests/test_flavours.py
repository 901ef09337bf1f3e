"""Flavours: what is recognised as what, where each value comes from, and what public facts of real systems come to."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from seatrial.cli import main
from seatrial.errors import ConfigError
from seatrial.evidence.cmdline import CMDLINE
from seatrial.evidence.mounts import MOUNTINFO
from seatrial.evidence.os_release import OS_RELEASE, parse_os_release
from seatrial.evidence.sysctl import SYSCTLS
from seatrial.guest.facts import Answer, Recorded
from seatrial.identity import recognised
from seatrial.layout import data_dir
from seatrial.listing import controls_json, controls_lines, flavour_lines, listed, our_mutants, summary_lines
from seatrial.mutants_file import read_mutants
from seatrial.plan import probe_rows, why_not_applicable
from seatrial.policy.flavours import explain_flavour, load_flavour
from seatrial.policy.judge import Outcome
from seatrial.policy.recognition import recognise
from seatrial.suites import (
    Suites,
    explained_flavour,
    flavour_lineage,
    flavour_names,
    read_flavour,
    recognition_rules,
    strange_names,
)
from suite_bench import Guest, bench, recorded

FOLDER = data_dir("suites") / "flavours"
RO_USR = "21 1 0:29 / /usr ro,relatime - btrfs /dev/mapper/usr ro\n22 1 253:9 / / rw - ext4 /dev/vda9 rw\n"
RW_ROOT = "22 1 253:2 / / rw,relatime - ext4 /dev/vda2 rw\n"


@pytest.mark.parametrize(
    ("os_release", "flavour"),
    [
        (
            "ID=azurelinux\nVERSION_ID=3.0.20260809\nVARIANT_ID=azurecontainerlinux\nID_LIKE=flatcar",
            "azure-container-linux",
        ),
        ("ID=azurecontainerlinux\nVERSION_ID=3.0.20250101", "azure-container-linux"),
        ('ID=azurelinux\nVERSION_ID="3.0"\nVARIANT_ID=osguard', "azurelinux-osguard"),
        ('ID=azurelinux\nVERSION_ID="3.0"\nVARIANT_ID=osguard-ci', "azurelinux-osguard-ci"),
        ('ID=azurelinux\nVERSION_ID="3.0"\nVARIANT_ID=qemu-guest', "azurelinux-3"),
        ('ID=azurelinux\nVERSION_ID="3.0"', "azurelinux-3"),
        ("ID=azurelinux\nID_LIKE=fedora\nVERSION_ID=4.0\nVARIANT_ID=cloud", "azurelinux-4"),
        ("ID=mariner\nVERSION_ID=2.0", "azurelinux-2"),
        ('ID="flatcar"\nID_LIKE="coreos"', "flatcar"),
        ("ID=debian\nVARIANT_ID=seatrial-immutable", "debian-immutable"),
        ("ID=debian\nVARIANT_ID=seatrial-general", "debian-general"),
        ("ID=debian\nVERSION_ID=13", "debian-general"),
    ],
)
def test_a_system_is_recognised_by_what_it_is_before_what_it_is_made_of(os_release: str, flavour: str) -> None:
    found = recognise(parse_os_release(os_release), recognition_rules(), kind=None)
    assert found is not None
    assert found.flavour == flavour


@pytest.mark.parametrize(("mounts", "flavour"), [(RO_USR, "immutable-host"), (RW_ROOT, "general-purpose")])
def test_an_unknown_system_is_judged_by_how_usr_is_mounted_and_that_is_said(mounts: str, flavour: str) -> None:
    found = recognised(Recorded([Answer(OS_RELEASE, 0, "ID=arch\n", ""), Answer(MOUNTINFO, 0, mounts, "")]))
    assert found.flavour == flavour
    assert found.because == f"no flavour claims ID=arch; it is judged as {flavour}, by how /usr is mounted"


@pytest.mark.parametrize(
    ("os_release", "mounts", "flavour"),
    [
        ("ID=debian\n", RO_USR, "immutable-host"),
        ("ID=debian\n", RW_ROOT, "debian-general"),
        ("ID=debian\nVARIANT_ID=seatrial-general\n", RO_USR, "debian-general"),
        ("ID=flatcar\n", RO_USR, "flatcar"),
        ("ID=flatcar\n", RW_ROOT, "flatcar"),
    ],
)
def test_a_read_only_usr_makes_an_immutable_host_of_what_says_no_variant(
    os_release: str, mounts: str, flavour: str
) -> None:
    found = recognised(Recorded([Answer(OS_RELEASE, 0, os_release, ""), Answer(MOUNTINFO, 0, mounts, "")]))
    assert found.flavour == flavour
    assert ("/usr is mounted read-only" in found.because) is (flavour == "immutable-host")


def test_two_flavours_that_claim_one_system_with_equal_right_are_an_error() -> None:
    rules = {"one": [{"ID": "x?"}], "two": [{"ID": "x*"}]}
    with pytest.raises(ConfigError, match="flavours 'one' and 'two' both claim ID=xy"):
        recognise({"ID": "xy"}, rules, kind=None)


def test_the_rule_that_names_more_wins() -> None:
    found = recognise(
        {"ID": "x", "VERSION_ID": "2"}, {"a": [{"ID": "x"}], "b": [{"ID": "x", "VERSION_ID": "2"}]}, kind=None
    )
    assert found is not None
    assert found.flavour == "b"


def test_os_release_is_read_as_a_shell_would() -> None:
    text = "# comment\nID=\"a b\"\nNAME='it'\\''s'\nVERSION_ID=1\nVERSION_ID=2\nBROKEN=\"x\nid=low\nTWO=a b\n"
    assert parse_os_release(text) == {"ID": "a b", "NAME": "it's", "VERSION_ID": "2"}


@given(st.text())
def test_no_os_release_breaks_the_reader(text: str) -> None:
    assert all(isinstance(value, str) for value in parse_os_release(text).values())


def _leaves(table: Mapping[str, object], above: str) -> set[str]:
    return {f"{above}.{key}" for key in table}


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.toml")), ids=lambda p: p.stem)
def test_every_deviation_of_a_shipped_flavour_has_a_reason_and_a_source(path: Path) -> None:
    table = tomllib.loads(path.read_text(encoding="utf-8"))
    if "inherits" not in table:
        return
    wanted = _leaves(table.get("expect", {}), "expect")
    assert wanted - table.get("because", {}).keys() == set()


@pytest.mark.parametrize("name", flavour_names())
def test_deviations_name_controls_that_there_are_and_fit_them(name: str) -> None:
    flavour, tables = read_flavour(name), Suites()
    rows = {one.control.id: one for one in listed(())}
    assert flavour.deviations.keys() - rows.keys() == set()
    for control, deviation in flavour.deviations.items():
        if deviation.probe is not None:
            kind = rows[control].control.probe_kind
            assert kind is not None
            path = data_dir("suites") / rows[control].suite / "test_x.py"
            changed = {row.id: row for row in probe_rows(tables, path, kind, flavour.deviations)}
            assert changed[control].probe == deviation.probe


@pytest.mark.parametrize("name", flavour_names())
def test_the_effective_policy_names_the_table_of_each_value(name: str) -> None:
    origins = {origin.key: origin for origin in explained_flavour(name)}
    flavour = read_flavour(name)
    assert {key for key in origins if key.startswith("expect.")} == {f"expect.{key}" for key in flavour.expect}
    assert origins["expect.lsm"].value == list(flavour.expect["lsm"])
    assert all((FOLDER / f"{origin.flavour}.toml").is_file() for origin in origins.values())


def test_a_value_is_shown_with_its_table_reason_and_source() -> None:
    lines = "\n".join(flavour_lines("azurelinux-2"))
    assert 'expect.lsm = ["lockdown", "yama"]\n    azurelinux-2.toml: Landlock is not promised' in lines
    assert 'access.route = "cloud-init"\n    general-purpose.toml' in lines
    assert "deviations.kcfg-cet = { applies = false }\n    azurelinux-2.toml: X86_KERNEL_IBT" in lines


TABLES = {
    "root": 'abstract = true\nmachine = "m"\ntitle = "T"\nkind = "general-purpose"\n[access]\nroute = "cloud-init"\n'
    'user = "u"\n[lynis]\ngate_on_suggestions = false\nmin_index = 1\n[expect]\na = ["1"]\n',
    "mid": 'inherits = "root"\n'
    '\nrecognise = [{ ID = "mid" }]\n[deviations.c]\napplies = false\nreason = "r"\nsource = "s"\n',
    "back": 'inherits = "mid"\n[deviations.c]\napplies = true\nreason = "r2"\nsource = "s2"\n',
    "both": 'inherits = "mid"\n[deviations.c]\napplies = false\nprobe = { x = 1 }\nreason = "r"\nsource = "s"\n',
    "bare": 'inherits = "mid"\n[deviations.c]\napplies = false\nreason = "r"\n',
    "idle": 'inherits = "mid"\n[because]\n"expect.b" = { reason = "r", source = "s" }\n',
}


def test_an_inherited_deviation_can_be_taken_back_and_recognition_is_not_inherited() -> None:
    mid, back = (load_flavour(name, TABLES.get, known=()) for name in ("mid", "back"))
    assert (mid.deviations["c"].applies, back.deviations["c"].applies) == (False, True)
    assert (mid.recognise, back.recognise) == (({"ID": "mid"},), ())
    (origin,) = [o for o in explain_flavour("back", TABLES.get, known=()) if o.key == "deviations.c"]
    assert (origin.flavour, origin.reason) == ("back", "r2")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("both", "a deviation has either another probe, or applies = false"),
        ("bare", "deviations.c.source: Field required"),
        ("idle", "gives reasons for what it does not set: expect.b"),
    ],
)
def test_a_deviation_without_reason_and_a_reason_without_deviation_are_faults(name: str, text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_flavour(name, TABLES.get, known=())
    assert text in str(caught.value)


def judged(suite: str, control: str, flavour: str, answers: dict[str, str]) -> Outcome:
    """Return what becomes of ``control`` on recorded answers, with the deviations of ``flavour``."""
    policy, held = read_flavour(flavour), bench(suite)
    row = held.controls[control]
    if why_not_applicable(row, policy) is not None:
        return Outcome.NOT_APPLICABLE
    if row.probe_kind is not None:
        path = data_dir("suites") / suite / "test_x.py"
        rows = {r.id: r for r in probe_rows(Suites(), path, row.probe_kind, policy.deviations)}
        held = type(held)(held.modules, {**held.controls, control: rows[control]}, held.checks)
    return held.outcome(control, Guest(answers, flavour=flavour))


@pytest.mark.parametrize(
    ("flavour", "control", "expected"),
    [
        ("flatcar", "kcmd-mitigations-on", Outcome.PASS),
        ("flatcar", "kcmd-no-kaslr-off", Outcome.PASS),
        ("flatcar", "kcmd-debug-off", Outcome.PASS),
        ("flatcar", "kcmd-console", Outcome.PASS),
        ("flatcar", "kcmd-page-shuffle", Outcome.FAIL),
        ("flatcar", "sysctl-kptr", Outcome.PASS),
        ("flatcar", "sysctl-fifos", Outcome.PASS),  # 0 by design, and the flavour says so
        ("flatcar", "sysctl-dmesg", Outcome.FAIL),  # the documents do not show it
        ("flatcar", "ib-lockdown-active", Outcome.NOT_APPLICABLE),
        ("azurelinux-3", "kcmd-mitigations-on", Outcome.PASS),
        ("azurelinux-3", "kcmd-console", Outcome.PASS),
        ("azurelinux-3", "kcmd-modules-lockdown", Outcome.PASS),
        ("azurelinux-3", "kcmd-no-init-override", Outcome.PASS),
        ("azurelinux-3", "sysctl-aslr", Outcome.PASS),
        ("azurelinux-3", "sysctl-dmesg", Outcome.PASS),
        ("azurelinux-3", "sysctl-ptrace", Outcome.PASS),  # 0 by design, and the flavour says so
        ("azurelinux-3", "sysctl-sysrq", Outcome.PASS),
        ("azurelinux-3", "sysctl-bpf-unpriv", Outcome.PASS),
        ("azurelinux-3", "sysctl-fifos", Outcome.FAIL),  # the documents do not show it
        ("azurelinux-2", "kcmd-mitigations-on", Outcome.PASS),
        ("azurelinux-2", "kcmd-no-kaslr-off", Outcome.PASS),
        ("azurelinux-2", "kcmd-no-init-override", Outcome.PASS),  # init= names systemd, and the flavour says so
        ("azurelinux-2", "kcmd-modules-lockdown", Outcome.PASS),
        ("azurelinux-2", "kcmd-console", Outcome.PASS),
        ("azurelinux-2", "kcmd-page-shuffle", Outcome.FAIL),
        ("azurelinux-2", "sysctl-bpf-unpriv", Outcome.PASS),
        ("azurelinux-2", "sysctl-ptrace", Outcome.PASS),  # 0 by design, and the flavour says so
        ("azurelinux-2", "kcfg-cet", Outcome.NOT_APPLICABLE),
        ("azurelinux-2", "sysctl-kptr", Outcome.FAIL),  # the documents do not show it
        ("azurelinux-4", "kcmd-mitigations-on", Outcome.PASS),
        ("azurelinux-4", "kcmd-no-init-override", Outcome.PASS),  # rd.shell=0 is no shell
        ("azurelinux-4", "kcmd-console", Outcome.PASS),
        ("azurelinux-4", "kcmd-page-shuffle", Outcome.FAIL),
        ("azurelinux-4", "sysctl-aslr", Outcome.PASS),
        ("azurelinux-4", "sysctl-kptr", Outcome.PASS),
        ("azurelinux-4", "sysctl-dmesg", Outcome.PASS),
        ("azurelinux-4", "sysctl-ptrace", Outcome.PASS),
        ("azurelinux-4", "sysctl-bpf-unpriv", Outcome.PASS),
        ("azurelinux-4", "sysctl-perf", Outcome.FAIL),  # the documents do not show it
        ("azurelinux-osguard", "kcmd-mitigations-on", Outcome.PASS),
        ("azurelinux-osguard", "kcmd-no-init-override", Outcome.PASS),
        ("azurelinux-osguard", "kcmd-modules-lockdown", Outcome.PASS),
        ("azurelinux-osguard", "kcmd-console", Outcome.PASS),
        ("azurelinux-osguard", "kcmd-page-shuffle", Outcome.FAIL),
        ("azurelinux-osguard", "ib-ipe-enforcing", Outcome.NOT_APPLICABLE),
    ],
)
def test_public_facts_of_real_systems_come_to_these_verdicts(flavour: str, control: str, expected: Outcome) -> None:
    answers = {CMDLINE: recorded(f"flavours/{flavour}/cmdline")}
    if control.startswith("sysctl-"):
        answers[SYSCTLS] = recorded(f"flavours/{flavour}/sysctls")
    assert judged("kernel", control, flavour, answers) is expected


def test_azure_linux_2_may_name_systemd_as_its_init_and_nothing_else() -> None:
    line = recorded("flavours/azurelinux-2/cmdline")
    for bad in (line.replace("init=/lib/systemd/systemd", "init=/bin/sh"), f"single {line}"):
        assert judged("kernel", "kcmd-no-init-override", "azurelinux-2", {CMDLINE: bad}) is Outcome.FAIL


@pytest.mark.parametrize(
    ("flavour", "expected"),
    [("flatcar", Outcome.PASS), ("azure-container-linux", Outcome.PASS), ("azurelinux-osguard", Outcome.FAIL)],
)
def test_os_release_of_immutable_systems_is_judged_by_their_flavour(flavour: str, expected: Outcome) -> None:
    text = recorded(f"flavours/{flavour if expected is Outcome.PASS else 'flatcar'}/os-release")
    held = bench("immutability")
    question = held.modules["test_state"].OS_RELEASE
    assert judged("immutability", "imm-os-release", flavour, {question: f"/usr/lib/os-release\n{text}"}) is expected


@pytest.mark.parametrize(
    "flavour",
    ["flatcar", "azurelinux-2", "azurelinux-3", "azurelinux-4", "azurelinux-osguard", "azure-container-linux"],
)
def test_the_public_os_release_of_a_flavour_is_recognised_as_it(flavour: str) -> None:
    found = recognise(parse_os_release(recorded(f"flavours/{flavour}/os-release")), recognition_rules(), kind=None)
    assert found is not None
    assert found.flavour == flavour


def test_our_mutants_name_controls_that_there_are_and_nine_of_ten_have_one() -> None:
    mutants, found = our_mutants(), listed(our_mutants())
    ids = {one.control.id for one in found}
    assert {control for mutant in mutants for control in mutant.caught_by} - ids == set()
    assert sum(bool(one.mutants) for one in found) >= 0.9 * len(found)


def test_controls_are_listed_with_sources_and_mutants_and_those_without_are_marked() -> None:
    bare = "\n".join(controls_lines(listed(())))
    assert "NO MUTANT: nothing shows that it can fail" in bare
    found = listed(our_mutants())
    lines = "\n".join(controls_lines(found))
    assert lines.count("NO MUTANT") == sum(not one.mutants for one in found)
    assert "acct-uid0-only-root" in lines
    assert f"{len(found)} controls, " in "\n".join(summary_lines(found))
    rows = json.loads(controls_json(found))
    assert {"id", "suite", "severity", "title", "applies_to", "refs", "mutants"} == rows[0].keys()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("mutants: [", "is not valid YAML"),
        ("mutants:\n- {id: M1, stage: X, change: y, caught_by: a}\n", "mutants.M1.stage"),
        ("mutants:\n- {stage: G, change: y, caught_by: a}\n", "mutants.0.id"),
        ("", "holds nothing, expected a table with the key 'mutants'"),
        ("- {id: M1, stage: G, change: y, caught_by: a}\n", "holds a list, expected a table"),
        ("mutants: []\n", "has neither mutants nor harmless variants"),
        ("mutants: []\nbenign: []\nmutants: []\n", "the key 'mutants' stands more than once"),
        ("mutants:\n- {id: M1, stage: K, change: ' ', caught_by: a}\n", "mutants.M1.change"),
        ("mutants:\n- {id: M1, stage: K, change: drop, caught_by: a}\n", "change 'drop' names no word"),
        ("mutants:\n- {id: M1, stage: G, change: y}\n", "either caught_by or stays_green names controls"),
        (
            "mutants:\n- {id: M1, stage: G, change: y, caught_by: a}\n- {id: M1, stage: G, change: y, caught_by: a}\n",
            "more than once: M1",
        ),
        ("mutants: !!python/object/apply:os.system ['true']\n", "is not valid YAML"),
        ("mutants:\n- {id: 'M1,M2', stage: G, change: y, caught_by: a}\n", "mutants.M1,M2.id"),
        ("mutants:\n- {id: M1, stage: G, change: y, cought_by: a}\n", "either caught_by or stays_green names controls"),
        (
            "mutants:\n- {id: M1, stage: G, change: y, caught_by: a}\nbenin:\n- {id: N1, stage: G, change: y}\n",
            "rows stand below 'benin', expected 'mutants' or 'benign'",
        ),
    ],
)
def test_a_faulty_mutants_file_is_refused(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "m.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        read_mutants(path)
    assert said in caught.value.message


def test_a_row_may_take_from_another_what_it_does_not_say_itself(tmp_path: Path) -> None:
    path = tmp_path / "m.yaml"
    path.write_text("mutants:\n- &a {id: M1, stage: G, change: y, caught_by: a}\n- {<<: *a, id: M2, stage: R}\n")
    assert [(m.id, m.stage, m.change) for m in read_mutants(path)] == [("M1", "G", "y"), ("M2", "R", "y")]


def test_ids_and_notes_of_a_file_from_outside_are_its_authors(tmp_path: Path) -> None:
    path = tmp_path / "m.yaml"
    path.write_text(
        "version: 2\nauthors: [somebody]\nmutants:\n"
        "- {id: ssh-root.1, title: Root logs in, stage: G, change: y, caught_by: a}\n"
    )
    assert [(m.id, m.caught_by) for m in read_mutants(path)] == [("ssh-root.1", ("a",))]


MUTANT = "mutants:\n- {id: M1, stage: G, change: y, caught_by: a}\n"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--image", "away.raw"], "image 'away.raw' does not exist"),
        (["--image", "disk.raw", "--json", "m.yaml"], "--json and --mutants name the same file"),
        (["--image", "disk.raw", "--json", "link.json"], "'link.json' is no file"),
    ],
)
def test_mutants_are_not_tried_where_nothing_can_come_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], said: str
) -> None:
    from click.testing import CliRunner

    monkeypatch.chdir(tmp_path)
    (tmp_path / "m.yaml").write_text(MUTANT)
    (tmp_path / "disk.raw").touch()
    (tmp_path / "link.json").symlink_to("/dev/null")
    done = CliRunner().invoke(main, ["mutants", "--mutants", "m.yaml", *arguments])
    assert done.exit_code != 0
    assert said in f"{done.output}{done.exception}"
    assert (tmp_path / "m.yaml").read_text() == MUTANT


def test_a_flavour_of_ones_own_knows_what_it_is_made_of(tmp_path: Path) -> None:
    own = tmp_path / "acme.toml"
    own.write_text('inherits = "debian-general"\ntitle = "Acme"\n')
    assert flavour_lineage(str(own))[1:3] == ("debian-general", "general-purpose")
    assert any("Acme" in line for line in flavour_lines(str(own)))
    assert flavour_lineage("azurelinux-osguard")[1] == "azurelinux-osguard-ci"


def test_the_commands_print_what_there_is() -> None:
    from click.testing import CliRunner

    runner = CliRunner()
    for arguments, text in (
        (["flavour", "list"], "flatcar                 immutable-host    Flatcar Container Linux"),
        (["flavour", "show", "flatcar"], 'access.route = "ignition"'),
        (["controls", "--summary"], "with a mutant"),
        (["controls", "--json"], '"id": "bh-running"'),
        (["controls"], "bh-running"),
    ):
        result = runner.invoke(main, arguments)
        assert (result.exit_code, text in result.output) == (0, True), result.output[:500]


def own(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "mine.toml"
    path.write_text(f'inherits = "debian-general"\n{text}', encoding="utf-8")
    return path


DEVIATION = 'applies = false\nreason = "it has none"\nsource = "us"\n'


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[expect]\ndenied-package = ["bash"]\n', r"expect\.denied-package \(did you mean 'denied-packages'\?\)"),
        (f'[deviations."fp-*"]\n{DEVIATION}', r"deviations\.fp-\* \(a pattern; each control is named by itself\)"),
        (f"[deviations.acct-umasks]\n{DEVIATION}", r"deviations\.acct-umasks \(did you mean 'acct-umask'\?\)"),
    ],
)
def test_a_misspelt_name_in_a_flavour_of_ones_own_is_refused_for_it_would_not_count(
    text: str, said: str, tmp_path: Path
) -> None:
    flavour = read_flavour(str(own(tmp_path, text)))
    with pytest.raises(ConfigError, match=said):
        strange_names(flavour, [])


def test_what_only_a_suite_of_ones_own_knows_is_told(tmp_path: Path) -> None:
    text = f'[expect]\nlicence-files = ["a"]\n[deviations.motd-there]\n{DEVIATION}[deviations.acct-umask]\n{DEVIATION}'
    flavour = read_flavour(str(own(tmp_path, text)))
    assert [line.partition(" speaks of ")[2].partition(",")[0] for line in strange_names(flavour, [])] == [
        "deviations.motd-there",
        "expect.licence-files",
    ]
    assert len(strange_names(flavour, ["motd-there"])) == 1


@pytest.mark.parametrize("name", flavour_names())
def test_built_in_flavours_speak_of_controls_and_lists_that_there_are(name: str) -> None:
    assert strange_names(read_flavour(name), []) == ()


def test_a_flavour_inherits_one(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('inherits = ["debian-general"]\n', encoding="utf-8")
    with pytest.raises(ConfigError, match=r"inherits \['debian-general'\], expected the name of one flavour"):
        read_flavour(str(path))


def test_an_editors_byte_order_mark_is_no_part_of_a_flavour(tmp_path: Path) -> None:
    path = own(tmp_path, "")
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert read_flavour(str(path)).kind == "general-purpose"
