"""The commands for rules: trying them on files, their versions, rehearsals and replays."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydicom.data import get_testdata_file
from typer.testing import CliRunner, Result

from bucky.cli.api_client import ApiFailed
from bucky.cli.app import app
from bucky.routing.document import InvalidRouting, json_schema
from tests.support.services.cli_world import bucky, output, stack_home

ROUTING = """\
destinations:
  - {name: pacs, type: dimse, aet: PACS, host: 127.0.0.1, port: 104}
  - {name: research, type: dimse, aet: RESEARCH, host: 127.0.0.1, port: 105}
crosswalks:
  - {name: ids, type: csv, file: ids.csv}
rules:
  - {name: er, when: {association: calling_aet, equals: ER}, priority: urgent, destinations: [pacs]}
  - name: small-ct-studies
    trigger: study_stable
    when: {all: [{study: modalities, only: [CT]}, {study: instance_count, equals: 2}]}
    destinations: [research]
  - name: ct
    when: {attribute: Modality, equals: CT}
    morph: [{crosswalk: PatientID, table: ids}]
    destinations: [pacs]
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A home folder as `bucky up` leaves it."""
    with stack_home(tmp_path_factory.mktemp("home")) as folder:
        yield folder


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A folder with a CT instance in two files, an MR one, and something that is no DICOM; beside it, a routing."""
    folder = tmp_path / "files"
    folder.mkdir()
    for name, sample in (("a.dcm", "CT_small.dcm"), ("b.dcm", "CT_small.dcm"), ("mr.dcm", "MR_small.dcm")):
        shutil.copy(str(get_testdata_file(sample)), folder / name)
    (folder / "README").write_text("no DICOM")
    (tmp_path / "rules.yaml").write_text(ROUTING)
    (tmp_path / "ids.csv").write_text("key,value\n1CT1,H-1\n")
    return folder


def run_test(folder: Path, *options: str) -> Result:
    """Try the routing beside the folder on what is in it, without a stack."""
    rules, tables = str(folder.parent / "rules.yaml"), str(folder.parent)
    return CliRunner().invoke(app, ["rules", "test", str(folder), "--rules", rules, "--crosswalks", tables, *options])


def test_files_are_explained_without_a_stack(files: Path) -> None:
    """Before a rule is in force, its author sees on files what it does, condition by condition, and what it changes."""
    result = run_test(files)
    assert result.exit_code == 0, result.output
    lines = [line.strip() for line in result.stdout.splitlines()]
    assert lines[0] == str(files / "a.dcm")
    assert "rule er: does not match" in lines
    assert "✗ calling_aet equals ER   found: nothing" in lines
    assert "✓ study instance_count equals 2   found: 2" in lines
    assert "goes to pacs (rule ct)" in lines
    assert "PatientID: 1CT1 → H-1  (crosswalk)" in lines
    assert "✗ Modality equals CT   found: MR" in lines
    assert "goes nowhere" in lines


def test_an_explanation_is_json_for_a_script(files: Path) -> None:
    """A test of rules can run by itself, and reads what it needs."""
    found: Any = json.loads(run_test(files, "--json", "--calling-aet", "ER").stdout)
    assert [Path(one["path"]).name for one in found["files"]] == ["a.dcm", "b.dcm", "mr.dcm"]
    deliveries = {one["destination"]: one for one in found["files"][0]["deliveries"]}
    assert (deliveries["pacs"]["rule"], deliveries["pacs"]["priority"]) == ("er", "urgent")
    assert deliveries["research"]["rule"] == "small-ct-studies"
    assert found["failed"] == {}


def test_a_change_that_would_not_work_is_shown(files: Path) -> None:
    """A missing table and a patient without an entry are seen before they stop an instance."""
    (files.parent / "ids.csv").write_text("key,value\nother,H-1\n")
    assert "not sent: PatientID cannot be changed" in run_test(files).stdout
    (files.parent / "ids.csv").unlink()
    assert "it would wait: the file of crosswalk 'ids'" in run_test(files).stdout


def test_a_file_that_cannot_be_read_is_named(files: Path) -> None:
    """What is no DICOM is passed over in a folder, named when it was asked for; a broken rule is refused."""
    rules = ("--rules", str(files.parent / "rules.yaml"))
    asked = CliRunner().invoke(app, ["rules", "test", str(files / "README"), *rules])
    assert (asked.exit_code, "DICM prefix" in asked.stderr) == (1, True)
    (files.parent / "rules.yaml").write_text("rules: [{name: x}]")
    assert isinstance(run_test(files).exception, InvalidRouting)


def test_the_schema_is_printed() -> None:
    """An editor gets the schema from the program it belongs to."""
    assert json.loads(CliRunner().invoke(app, ["routing", "schema"]).stdout) == json_schema()


def test_rules_live_through_versions(home: Path, files: Path) -> None:
    """Apply, rehearse, replay, roll back: each is one command, and each says what it did."""
    routing = files.parent / "rules.yaml"
    assert output(home, "routing", "apply", str(routing))["version"] == 1
    assert [one["name"] for one in output(home, "rules")] == ["er", "small-ct-studies", "ct"]
    assert "ct\tTrue\tinstance" in bucky(home, "rules").stdout
    assert "goes to pacs (rule ct)" in bucky(home, "rules", "test", str(files)).stdout

    rehearsed = bucky(home, "rules", "rehearse", "--from", "2020-01-01")
    assert "3 instances were received; 3 would" in rehearsed.stderr
    assert "changed\tpacs\tct\tall\tmorph\t3" in rehearsed.stdout
    (files.parent / "none.yaml").write_text(ROUTING.split("rules:")[0])
    candidate = output(
        home, "rules", "rehearse", "--from", "2020-01-01", "--rules", str(files.parent / "none.yaml"), "--against", "1"
    )
    assert (candidate["instances"], len(candidate["different"])) == (3, 3)

    trial = output(home, "rules", "replay", "--from", "2020-01-01", "--trial")
    assert trial == {"instances": 3, "requested": {"pacs": 3}, "already": {}, "gone": {}}
    assert len(output(home, "deliveries")["items"]) == 3
    assert output(home, "rules", "replay", "--from", "2020-01-01", "--destination", "pacs")["requested"] == {"pacs": 3}
    assert "pacs\t3" in bucky(home, "rules", "replay", "--from", "2020-01-01").stdout
    assert len(output(home, "deliveries")["items"]) == 6

    assert output(home, "routing", "apply", "--yes", str(files.parent / "none.yaml"))["version"] == 2
    assert output(home, "rules", "rollback", "1") == {"version": 3, "as": 1, "before": 2}
    assert "3\t" in bucky(home, "rules", "history").stdout
    assert [one["note"] for one in output(home, "rules", "history")] == ["as version 1", "", ""]


def test_a_file_made_from_an_older_version_is_refused(home: Path, files: Path) -> None:
    """Two administrators who edit at once: the second is told, and neither's work is lost."""
    mine = files.parent / "mine.yaml"
    theirs = files.parent / "theirs.yaml"
    output(home, "routing", "apply", str(files.parent / "rules.yaml"))
    for file in (mine, theirs):
        file.write_text(bucky(home, "routing", "show").stdout)
    theirs.write_text(theirs.read_text().replace("port: 104", "port: 1104"))
    mine.write_text(mine.read_text().replace("port: 105", "port: 1105"))
    made = output(home, "routing", "apply", str(theirs))["version"]
    assert theirs.read_text().startswith(f"# version {made}\n")
    refused = bucky(home, "routing", "apply", str(mine)).exception
    assert isinstance(refused, ApiFailed)
    assert "has changed since you read it" in str(refused)
    assert {one["name"]: one["port"] for one in output(home, "destinations")} == {"pacs": 1104, "research": 105}
    theirs.write_text(theirs.read_text().replace("port: 1104", "port: 2104"))
    assert output(home, "routing", "apply", str(theirs))["version"] == made + 1
