"""The commands that ask the admin API, through Traefik, as they find a stack in its home folder."""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nats
import pytest
from typer.testing import CliRunner, Result

from bucky.api_client import ApiFailed
from bucky.cli.app import app
from bucky.events import CloudEvent, DeadLettered
from bucky.index import AttemptOutcome, DeliveryAttempt, Index
from bucky.routing import InvalidRouting
from bucky.settings import Settings
from bucky.streams import ensure_streams
from local_stack.certificates import ensure_certificates
from local_stack.gateway import GatewayPorts, Upstreams, traefik
from local_stack.process import Program, http_ok
from local_stack.servers import free_port
from tests.admin_world import KEY, PATIENT, STUDY, indexed, requested
from tests.conftest import make_nats, run

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
    """A home folder as `bucky up` leaves it, with the admin API, Traefik and a broker running."""
    folder = tmp_path_factory.mktemp("home")
    (folder / "secrets").mkdir()
    (folder / "secrets" / "api-key").write_text(KEY)
    broker, settings = make_nats(folder)
    index_url = f"sqlite:///{folder / 'index.db'}"
    fill(index_url)
    asyncio.run(kill_letters(settings))
    admin = run(admin_api(settings, index_url), folder)
    ports = GatewayPorts(*(free_port() for _ in range(5)))
    upstreams = Upstreams(*(admin.program.address for _ in range(4)))
    gateway = run(traefik(ports, upstreams, ensure_certificates(folder / "tls")), folder)
    (folder / "run").mkdir()
    (folder / "run" / "stack.json").write_text(json.dumps({"public_url": gateway.program.address}))
    yield folder
    for running in (gateway, admin, broker):
        running.stop()


def admin_api(broker: Settings, index_url: str) -> Program:
    """Return the admin API as a program."""
    port = free_port()
    return Program(
        name="admin-api",
        argv=(sys.executable, "-m", "admin_api"),
        env={
            "BUCKY_API_KEY": KEY,
            "BUCKY_ADMIN_PORT": str(port),
            "BUCKY_INDEX_URL": index_url,
            "BUCKY_NATS_URL": broker.nats_url,
            "BUCKY_NATS_PASSWORD": broker.nats_password.get_secret_value(),
            "BUCKY_STORE_ENDPOINT": "http://127.0.0.1:9",
        },
        ready=http_ok(f"http://127.0.0.1:{port}/ready"),
        address=f"http://127.0.0.1:{port}",
    )


def fill(index_url: str) -> None:
    """Index three instances; one delivery failed, one succeeded."""
    index = Index.open(index_url)
    index.migrate()
    index.upsert_instances([indexed(number) for number in (1, 2, 3)])
    index.request_deliveries([requested(number) for number in (1, 2, 3)])
    outcomes = {1: AttemptOutcome.DELIVERED, 2: AttemptOutcome.FAILED}
    index.delivery_attempted(
        [DeliveryAttempt(requested(n).delivery_id, outcome, "0xA900" * (n == 2)) for n, outcome in outcomes.items()]
    )
    index.close()


async def kill_letters(settings: Settings) -> None:
    """Make the streams and three dead letters, one of them unreadable."""
    client = await nats.connect(settings.nats_url, user="bucky", password=settings.nats_password.get_secret_value())
    js = client.jetstream()
    await ensure_streams(js)
    for number in (1, 2):
        event = CloudEvent.of(requested(number), source="/test")
        content = DeadLettered(
            function="forward-instances",
            reason=f"reason {number}",
            attempts=5,
            subject=event.nats_subject,
            stream_sequence=number,
            event=event.model_dump(mode="json", exclude_none=True),
        )
        dead = CloudEvent.of(content, source="/test")
        await js.publish(dead.nats_subject, dead.to_json())
    await js.publish("deadletter.other", b"not an event")
    await client.close()


def bucky(home: Path, *arguments: str) -> Result:
    """Run a command in this process."""
    return CliRunner().invoke(app, [*arguments, "--home", str(home)])


def output(home: Path, *arguments: str) -> Any:
    """Run a command with --json; return what it printed."""
    result = bucky(home, *arguments, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


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


def test_routing_is_applied_shown_and_applied_again(home: Path, tmp_path: Path) -> None:
    """What `show` prints, `apply` must take; applying the same must not make a version."""
    file = tmp_path / "routing.yaml"
    file.write_text(ROUTING)
    assert output(home, "routing", "apply", str(file)) == {"version": 1, "changed": True}
    file.write_text(bucky(home, "routing", "show").stdout)
    assert output(home, "routing", "apply", str(file)) == {"version": 1, "changed": False}
    assert [one["name"] for one in output(home, "destinations")] == ["pacs"]
    assert [one["when"] for one in output(home, "rules")] == [{"attribute": "Modality", "in": ["CT"]}]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("rules: [{name: a, destinations: [nowhere]}]", "nowhere"),
        ("destinations: [{name: a, type: dimse, aet: A, host: h, port: x}]", "destinations.0.port"),
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
        timeout=60,
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
