"""The whole way, as a user takes it: `bucky up`, real files in, the same bytes out at the destination."""

import hashlib
import json
import subprocess
import sys
from copy import deepcopy
from pathlib import Path

import httpx
import pydicom
import pytest

from bucky.cli.send_files import Sent, send
from bucky.dicom.part10 import split
from bucky.dimse import Outcome, Peer, store_all
from bucky.index import DeliveryState, StudyQuery, StudyRow
from local_stack.demo_data import DemoFile, Expected, demo_files
from local_stack.demo_report import RIGHT_OUTCOMES
from local_stack.destination import received
from tests.support.dicom.sample_instances import samples
from tests.support.stack.running_stack import RunningStack
from tests.support.waiting import eventually

pytestmark = [pytest.mark.store, pytest.mark.index]


@pytest.fixture(scope="module")
def files(stack: RunningStack) -> list[DemoFile]:
    """The demo's files, sent once."""
    prepared = demo_files(stack.home.demo_files)
    report = send([file.path for file in prepared], _edge(stack), associations=4)
    outcomes = {result.path: result for result in report.results}
    for file in prepared:
        result = outcomes[file.path]
        assert result.outcome in RIGHT_OUTCOMES[file.expected], (file.source, result)
        assert result.outcome is Sent.SENT or result.reason
    return prepared


def _edge(stack: RunningStack) -> Peer:
    return Peer("BUCKY", "127.0.0.1", stack.ports.dicom, calling_aet="PIPELINE")


def test_every_acceptable_file_arrives_with_its_bytes(stack: RunningStack, files: list[DemoFile]) -> None:
    """At least 150 real instances in 10 transfer syntaxes have one digest at sender, bucket and destination."""
    accepted = {file.sha256: file for file in files if file.expected is Expected.ACCEPTED}
    assert len(accepted) >= 150
    assert len({file.transfer_syntax_uid for file in accepted.values()}) >= 10

    def delivered() -> set[str]:
        rows = stack.index.deliveries(state=DeliveryState.DELIVERED, limit=10_000)
        return {row.sha256 for row in rows}

    eventually(lambda: delivered() >= accepted.keys(), "every accepted file is delivered", seconds=90)
    for digest, row in stack.index.instances_by_digest(accepted).items():
        content = stack.store.get(row.key)
        assert hashlib.sha256(content[split(content)[1] :]).hexdigest() == digest
    assert received(stack.home.destination).keys() >= accepted.keys()


def test_refused_files_touch_nothing(stack: RunningStack, files: list[DemoFile]) -> None:
    """What the edge refused is not in the bucket, not in the index and not at the destination."""
    refused = {file.sha256 for file in files if file.expected is Expected.REFUSED}
    assert refused
    in_bucket = {key.rpartition("/")[2].removesuffix(".dcm") for key in stack.store.keys()}  # noqa: SIM118
    assert not refused & in_bucket
    assert not stack.index.instances_by_digest(refused)
    assert not refused & received(stack.home.destination).keys()


def test_sending_again_changes_nothing(stack: RunningStack) -> None:
    """The same instances twice are one row, one object and one delivery each, and are acknowledged both times."""
    sent = samples(20)
    study = sent[0].study_instance_uid
    for _ in range(2):
        results = store_all(_edge(stack), [sample.outgoing for sample in sent])
        assert {result.outcome for result in results} == {Outcome.STORED}
        eventually(lambda: len(stack.deliveries(study, DeliveryState.DELIVERED)) == len(sent), "delivered, once each")
    assert len(stack.instances(study)) == len(sent)
    assert len(list(stack.store.keys(f"studies/{study}/"))) == len(sent)


def test_a_rule_changes_what_is_sent_until_it_is_rolled_back(stack: RunningStack) -> None:
    """Applied, a rule changes the copies that go out and nothing that is kept; a rollback is one action."""
    (stack.home.crosswalks / "ids.csv").write_text("key,value\n1CT1,H-0815\n")
    before = stack.api.get("/api/routing")
    document = deepcopy(before["document"])
    document["crosswalks"] = [{"name": "ids", "type": "csv", "file": "ids.csv"}]
    document["rules"][0]["morph"] = [{"crosswalk": "PatientID", "table": "ids"}]
    version = stack.api.put("/api/routing", document, before["version"])["version"]
    (sent,) = samples(1)
    assert store_all(_edge(stack), [sent.outgoing])[0].outcome is Outcome.STORED
    eventually(lambda: len(stack.deliveries(sent.study_instance_uid, DeliveryState.DELIVERED)) == 1, "it is delivered")
    (row,) = stack.deliveries(sent.study_instance_uid, DeliveryState.DELIVERED)
    assert (row.sha256, row.rule_version) == (sent.sha256, version)
    arrived = received(stack.home.destination)[str(row.sent_sha256)]
    assert pydicom.dcmread(arrived).PatientID == "H-0815"
    (kept,) = stack.store.keys(f"studies/{sent.study_instance_uid}/")
    content = stack.store.get(kept)
    assert hashlib.sha256(content[split(content)[1] :]).hexdigest() == sent.sha256
    stack.api.post("/api/routing/rollback", {"version": before["version"]}, version)
    assert stack.api.get("/api/routing")["document"] == before["document"]


def test_nothing_is_reachable_without_credentials(stack: RunningStack) -> None:
    """Through Traefik only the health page answers a stranger; the provider's system API answers nobody."""
    with httpx.Client(base_url=stack.settings.public_url, verify=False, trust_env=False) as stranger:  # noqa: S501
        assert stranger.get("/health").status_code == httpx.codes.OK
        for path in ("/api/studies", "/api/openapi.json", "/function/parse-instance", "/api/docs"):
            assert stranger.get(path).status_code == httpx.codes.UNAUTHORIZED, path
        key = {"X-Api-Key": stack.settings.api_key.get_secret_value()}
        for path in ("/system/functions", "/system/secrets", "/"):
            assert stranger.get(path, headers=key).status_code == httpx.codes.NOT_FOUND, path
        answer = stranger.get(f"http://localhost:{stack.ports.http}/api/studies")
        assert answer.is_redirect
        assert answer.headers["location"].startswith("https://")


def test_no_patient_values_in_logs(stack: RunningStack, files: list[DemoFile]) -> None:
    """No log of any program names a patient that was sent."""
    assert files
    names = {row.patient_name for row in _all_studies(stack) if row.patient_name}
    parts = {part for name in names for part in name.replace("^", " ").split() if len(part) > 5}
    assert parts
    for log in sorted(stack.home.path.rglob("*.log")):
        content = log.read_text(errors="replace")
        assert not {part for part in parts if part in content}, log.name


def test_command_line_reads_the_stack(stack: RunningStack, files: list[DemoFile]) -> None:
    """`bucky status`, `studies`, `deliveries` and `queues` answer as JSON from the running stack's home."""
    assert files
    for command in ("status", "studies", "deliveries", "queues", "doctor"):
        arguments = (sys.executable, "-m", "bucky.cli", command, "--json")
        shown = subprocess.run(
            arguments,
            env={"BUCKY_HOME": str(stack.home.path), "PATH": "/usr/bin:/bin", **stack.environ},
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )
        assert shown.returncode == 0, (command, shown.stderr, shown.stdout)
        assert json.loads(shown.stdout)


def _all_studies(stack: RunningStack) -> list[StudyRow]:
    return list(stack.index.search_studies(StudyQuery(limit=1000)))


def test_a_second_stack_in_the_same_home_is_refused(stack: RunningStack, tmp_path: Path) -> None:
    """Two stacks never share a home; the second says what to do."""
    arguments = (sys.executable, "-m", "bucky.cli", "up", "--home", str(stack.home.path))
    shown = subprocess.run(arguments, capture_output=True, text=True, check=False, timeout=300, cwd=tmp_path)
    assert shown.returncode == 1
    assert "make down" in shown.stderr
