"""The commands that ask the admin API, through Traefik, as they find a stack in its home folder."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from bucky.cli.api_client import ApiFailed
from bucky.routing.document import InvalidRouting
from local_stack.certificates import ensure_certificates
from tests.support.services.admin_world import PATIENT, STUDY
from tests.support.services.cli_world import bucky, output, stack_home

ROUTING = """\
destinations:
  - {name: pacs, type: dimse, aet: PACS, host: 127.0.0.1, port: 104}
rules:
  - name: ct
    when: {attribute: Modality, in: [CT]}
    destinations: [pacs]
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A home folder as `bucky up` leaves it."""
    with stack_home(tmp_path_factory.mktemp("home")) as folder:
        yield folder


def test_studies_come_as_json_and_as_lines(home: Path) -> None:
    """Both a script and a pipe must be able to read the list."""
    found = output(home, "studies", "--patient-name", "müller*")
    assert [(one["study_instance_uid"], one["instance_count"]) for one in found["items"]] == [(STUDY, 3)]
    heading, row = bucky(home, "studies").stdout.splitlines()
    assert dict(zip(heading.split("\t"), row.split("\t"), strict=True))["patient_name"] == PATIENT
    assert output(home, "studies", "--patient-id", "none")["items"] == []


def test_deliveries_show_state_and_reason(home: Path) -> None:
    """The first question after a failure is which, and why."""
    assert [row["reason"] for row in output(home, "deliveries", "--state", "failed")["items"]] == ["0xA900"]
    first = output(home, "deliveries", "--limit", "2")
    rest = output(home, "deliveries", "--limit", "2", "--after", first["next"])
    assert len({row["delivery_id"] for row in first["items"] + rest["items"]}) == 3
    assert rest["next"] is None


def test_a_timeline_is_found_by_study_by_instance_and_by_digest(home: Path) -> None:
    """Whatever name support people have, they see the steps, the rule and the reason."""
    study = output(home, "timeline", STUDY)["items"]
    assert [(one["step"], one["instances"]) for one in study if one["step"] in ("received", "failed")] == [
        ("received", 3),
        ("failed", 1),
    ]
    failed = next(one for one in study if one["step"] == "failed")
    assert (failed["detail"], failed["rule"], failed["rule_version"]) == ("0xA900", "all", 1)
    one = output(home, "timeline", failed["sop_instance_uid"])
    assert one == output(home, "timeline", failed["sha256"])
    assert one["items"][-1]["step"] == "failed"
    lines = bucky(home, "timeline", STUDY, "--each").stdout.splitlines()
    assert sum("\treceived\t" in line for line in lines) == 3
    assert bucky(home, "timeline", "1.9.9").exception is not None
    page = output(home, "timeline", STUDY, "--limit", "1")
    assert (page["items"], page["next"]) == (study[:1], 1)


def test_status_names_what_is_down_and_says_so_to_a_script(home: Path) -> None:
    """A part that is down must show, and the exit code must tell a script."""
    result = bucky(home, "status", "--json")
    assert result.exit_code == 1
    shown = json.loads(result.stdout)
    assert (shown["parts"]["index"]["status"], shown["parts"]["edge"]["status"]) == ("up", "down")
    assert shown["parts"]["broker"]["status"] == "up"
    assert shown["summary"]["held"]["instances"] == 3
    assert "edge\tdown" in bucky(home, "status").stdout


def test_status_lists_what_needs_attention(home: Path) -> None:
    """Beside parts that are up, dead deliveries and a missing routing must be seen, with what to do; by scripts too."""
    result = bucky(home, "status", "--strict", "--json")
    assert result.exit_code == 2
    items = {(one["kind"], one["subject"]): one for one in json.loads(result.stdout)["attention"]}
    failed = items["dead_letters", "pacs"]
    assert (failed["count"], failed["command"]) == (1, "bucky dead-letters dismiss --note WHY --destination pacs")
    assert failed["since"]
    assert items["part_down", "edge"]["effect"]
    assert items["no_rules", ""]["effect"] == "new images are received and kept, and go nowhere"
    assert items["dead_letters", "other"]["count"] == 1
    assert "deliveries to pacs were given up, which is no destination any more\t" in bucky(home, "status").stdout
    assert output(home, "conflicts", "list", "--all") == {"items": [], "next": None}


def test_what_status_counts_a_command_lists(home: Path) -> None:
    """A number of damaged instances or conflicts that no command explains helps nobody."""
    held = json.loads(bucky(home, "status", "--json").stdout)["summary"]["held"]
    assert held.keys() >= {"conflicts", "damaged"}
    assert output(home, "instances", "--damaged") == {"items": [], "next": None}
    listed = output(home, "instances", "--study", STUDY)["items"]
    assert [one["study_instance_uid"] for one in listed] == [STUDY] * 3


def test_routing_is_applied_shown_and_applied_again(home: Path, tmp_path: Path) -> None:
    """What `show` prints, `apply` must take; applying the same must not make a version."""
    file = tmp_path / "routing.yaml"
    file.write_text(ROUTING)
    assert output(home, "routing", "apply", str(file)) == {"version": 1, "changed": True, "warnings": []}
    file.write_text(bucky(home, "routing", "show").stdout)
    assert output(home, "routing", "apply", str(file)) == {"version": 1, "changed": False, "warnings": []}
    assert [one["name"] for one in output(home, "destinations")] == ["pacs"]
    other = tmp_path / "other.yaml"
    other.write_text(ROUTING.replace("pacs", "archive"))
    refused = bucky(home, "routing", "apply", str(other))
    assert "--yes" in str(refused.exception)
    assert "1 delivery to pacs that waits becomes a dead letter" in str(refused.exception)
    assert refused.stderr == ""
    file.write_text("")
    assert isinstance(bucky(home, "routing", "apply", "--yes", str(file)).exception, InvalidRouting)
    assert [one["name"] for one in output(home, "destinations")] == ["pacs"]
    assert [one["when"] for one in output(home, "rules")] == [{"attribute": "Modality", "in": ["CT"]}]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("rules: [{name: a, destinations: [nowhere]}]", "nowhere"),
        ("destinations: [{name: a, type: dimse, aet: A, host: h, port: x}]", "line 1: destination 'a', port: "),
        ("rules: {", "YAML"),
        ("- a", "routing"),
    ],
)
def test_a_wrong_routing_file_is_refused_with_the_place(home: Path, tmp_path: Path, text: str, said: str) -> None:
    """A typing error must be told with the file and the place before anything is sent."""
    file = tmp_path / "routing.yaml"
    file.write_text(text)
    error = bucky(home, "routing", "apply", str(file)).exception
    assert isinstance(error, InvalidRouting)
    assert str(file) in str(error)
    assert said in str(error)


def test_dead_letters_are_listed_shown_and_sent_again(home: Path) -> None:
    """After a repair, one command sends the letters again and names those it could not."""
    listed = output(home, "dead-letters", "list")["items"]
    assert [one["sequence"] for one in listed] == [3, 2, 1]
    assert len(output(home, "dead-letters", "list", "--limit", "600", "--since", "1h")["items"]) == 3
    assert output(home, "dead-letters", "list", "--until", "1h") == {"items": [], "next": None}
    of_study = output(home, "dead-letters", "list", "--study", STUDY, "--reason", "REASON 1")["items"]
    assert [one["sequence"] for one in of_study] == [1]
    groups = output(home, "dead-letters", "summary", "--function", "forward-instances")["groups"]
    assert sorted((one["reason"], one["destination"], one["count"]) for one in groups) == [
        ("reason 1", "pacs", 1),
        ("reason 2", "pacs", 1),
    ]
    heading, *rows = bucky(home, "dead-letters", "summary").stdout.splitlines()
    assert (heading.split("\t")[0], len(rows)) == ("count", 3)
    assert bucky(home, "dead-letters", "list", "--since", "yesterday").exit_code == 2
    whole = json.loads(bucky(home, "dead-letters", "show", "2").stdout)
    assert whole["event"]["data"]["destination"] == "pacs"
    assert output(home, "dead-letters", "redrive", "2") == {"redriven": ["2"], "failed": {}}
    everything = bucky(home, "dead-letters", "redrive", "--all")
    assert everything.exit_code == 1
    assert "sent again: 1" in everything.stdout
    assert "not sent again: 3" in everything.stderr
    assert [one["sequence"] for one in output(home, "dead-letters", "list")["items"]] == [3]
    assert isinstance(bucky(home, "dead-letters", "redrive").exception, ApiFailed)


def test_what_came_in_a_header_cannot_command_the_terminal() -> None:
    """A patient's name with escape sequences must not clear the screen or forge a line."""
    from bucky.cli.output import cell

    assert cell("a\x1b[2Jb\nc\u202ed\x9b") == "a [2Jb c d "


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--url", "https://127.0.0.1:9"), "bucky up"),
        (("--url", "no url"), "URL"),
        (("--api-key", "wrong"), "--api-key"),
        (("--ca", "/etc/hostname"), "not a readable certificate"),
        (("--home", "/nonexistent"), "bucky up"),
    ],
)
def test_what_is_wrong_is_one_sentence_that_helps(home: Path, options: tuple[str, ...], said: str) -> None:
    """Whoever runs a command without a stack, key or certificate must be told what to do."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("BUCKY_")}
    result = subprocess.run(
        (sys.executable, "-m", "bucky.cli", "studies", "--home", str(home), *options),
        env=environ,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert result.returncode == 1
    assert said in result.stderr
    assert result.stderr.startswith("bucky: ")
    assert len(result.stderr.strip().splitlines()) == 1


def test_another_stacks_certificate_is_not_trusted(home: Path, tmp_path: Path) -> None:
    """A client must not send the key to whoever answers on the port."""
    other = ensure_certificates(tmp_path)
    error = bucky(home, "studies", "--ca", str(other.ca)).exception
    assert isinstance(error, ApiFailed)
    assert "--ca" in str(error)


def test_conflicts_are_listed_and_what_is_none_is_said(home: Path) -> None:
    """Without a conflict the list is empty, and asking about an instance without one is answered in a sentence."""
    assert output(home, "conflicts", "list")["items"] == []
    assert output(home, "conflicts", "list", "--decided")["items"] == []
    instance = output(home, "deliveries")["items"][0]["sha256"]
    for command in (("show", instance), ("accept", instance), ("undo", instance), ("show", "0" * 64)):
        assert isinstance(bucky(home, "conflicts", *command).exception, ApiFailed)
