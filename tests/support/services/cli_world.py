"""What tests of the command line stand on: the admin API, Traefik and a broker, as `bucky up` leaves them."""

import asyncio
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nats
from typer.testing import CliRunner, Result

from bucky.broker.connection import jetstream
from bucky.broker.streams import ensure_streams
from bucky.cli.app import app
from bucky.cloudevents import CloudEvent, DeadLettered
from bucky.index import AttemptOutcome, DeliveryAttempt, Index
from bucky.runtime.ports import free_port
from bucky.settings import Settings
from local_stack.certificates import ensure_certificates
from local_stack.gateway import GatewayPorts, Upstreams, traefik
from local_stack.process import Program, http_ok
from tests.support.servers import make_nats, run
from tests.support.services.admin_world import KEY, indexed, requested


@contextmanager
def stack_home(folder: Path) -> Iterator[Path]:
    """Make a home folder as `bucky up` leaves it, with the admin API, Traefik and a broker running."""
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
    js = jetstream(client)
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
