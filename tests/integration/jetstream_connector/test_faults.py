"""Real processes, killed: whatever dies in the middle, nothing is lost and nothing is a dead letter."""

import asyncio
import signal
import subprocess
from collections.abc import AsyncIterator
from contextlib import AbstractContextManager
from pathlib import Path

import httpx
import pytest
from nats.js.errors import NotFoundError
from starlette.responses import Response

from bucky.broker.connection import jetstream
from bucky.runtime.ports import free_port
from bucky.settings import Settings
from tests.support.connector.connector_world import (
    Batch,
    ConnectorWorld,
    Gateway,
    answer,
    ended,
    failure,
    open_client,
    process,
    ready,
    result_of,
    stage,
)
from tests.support.servers import Running
from tests.support.waiting import until


def names(count: int) -> list[str]:
    """Return event ids."""
    return [f"e{number:03}" for number in range(count)]


class Connectors:
    """Starts connector processes against a nats-server and a gateway."""

    def __init__(self, settings: Settings, gateway_url: str, folder: Path) -> None:
        self._folder = folder
        self.environ = {
            "BUCKY_NATS_URL": settings.nats_url,
            "BUCKY_NATS_USER": settings.nats_user,
            "BUCKY_NATS_PASSWORD": settings.nats_password.get_secret_value(),
            "BUCKY_GATEWAY_URL": gateway_url,
            "BUCKY_CONNECTOR_HTTP_PORT": "0",
            "BUCKY_CONNECTOR_REFRESH_SECONDS": "0.2",
        }

    def start(self, **extra: str) -> "AbstractContextManager[subprocess.Popen[bytes]]":
        """Run one connector."""
        return process("jetstream_connector", {**self.environ, **extra}, self._folder / "connector.log")


@pytest.fixture
async def outside(nats_settings: Settings) -> AsyncIterator[ConnectorWorld]:
    """A nats-server and a scripted gateway; the connector is a process that the test starts."""
    gateway = Gateway()
    await gateway.start()
    client = await open_client(nats_settings)
    made = ConnectorWorld(nats_settings, gateway, client, jetstream(client), None, asyncio.Event())  # type: ignore[arg-type]
    yield made
    await client.close()
    await gateway.stop()


async def test_a_connector_that_is_killed_again_and_again_loses_nothing(
    outside: ConnectorWorld, tmp_path: Path
) -> None:
    """Protects every event from kill -9: nothing is acknowledged before its result is in the stream."""

    async def behave(batch: Batch) -> Response:
        await asyncio.sleep(0.02)
        return answer(events=[result_of(event["id"]) for event in batch])

    outside.gateway.deploy("worker", behave, topic="work.item.*", batch_size="5", ack_wait="1s")
    await outside.publish("work.item.a", names(150))
    connectors = Connectors(outside.settings, outside.gateway.url, tmp_path)
    for round_ in range(3):

        async def enough(least: int = 20 * (round_ + 1)) -> bool:
            return (await outside.js.stream_info("RESULTS")).state.messages >= least

        with connectors.start() as running:
            await until(enough)
            running.kill()
            running.wait()
        (consumer,) = await outside.js.consumers_info("WORK")
        acknowledged = 150 - (consumer.num_pending or 0) - (consumer.num_ack_pending or 0)
        assert acknowledged <= (await outside.js.stream_info("RESULTS")).state.messages
        assert acknowledged < 150
    with connectors.start() as running:
        await outside.settled("worker")
        running.send_signal(signal.SIGTERM)
        assert await ended(running) == 0
    assert sorted(event.id for event in await outside.messages("RESULTS")) == names(150)
    assert await outside.messages("DEADLETTERS") == []


async def test_the_count_of_attempts_survives_a_killed_connector(outside: ConnectorWorld, tmp_path: Path) -> None:
    """Protects against a poison event that would live for ever because the connector is restarted."""

    async def behave(batch: Batch) -> Response:
        return answer([failure(event["id"], retryable=True) for event in batch])

    outside.gateway.deploy("worker", behave, topic="work.item.*", max_attempts="4", backoff="1s", ack_wait="2s")
    await outside.publish("work.item.a", ["poison"])
    connectors = Connectors(outside.settings, outside.gateway.url, tmp_path)
    for attempts in (1, 2, 3):
        with connectors.start() as running:
            await until(lambda attempts=attempts: len(outside.gateway.calls) >= attempts)  # type: ignore[misc]

            async def counted(attempts: int = attempts) -> bool:
                try:
                    stream = await outside.js.stream_info("KV_connector-attempts")
                except NotFoundError:
                    return False
                return stream.state.last_seq >= attempts

            await until(counted)
            running.kill()
    with connectors.start():
        await outside.settled("worker")
    (letter,) = await outside.messages("DEADLETTERS")
    assert letter.data["attempts"] == 4
    assert len(outside.gateway.calls) == 4
    assert (await outside.js.stream_info("KV_connector-attempts")).state.messages == 0


async def test_a_broker_that_is_killed_and_restarted_loses_nothing(
    nats_server: tuple[Running, Settings],
) -> None:
    """Protects events from kill -9 of nats-server: the connector reconnects and goes on by itself."""
    server, settings = nats_server
    release = asyncio.Event()

    async def behave(batch: Batch) -> Response:
        if batch[0]["id"] == "e020":
            await release.wait()
        return answer(events=[result_of(event["id"]) for event in batch])

    async with stage(settings) as made:
        await made.publish("work.item.a", names(60))
        made.gateway.deploy("worker", behave, topic="work.item.*", batch_size="10", ack_wait="2s", max_attempts="1")
        await until(lambda: any("e020" in ids for ids in made.gateway.ids("worker")))
        await asyncio.to_thread(server.kill)
        release.set()
        await until(lambda: made.connector.status()["status"] == "unavailable")
        await asyncio.to_thread(server.start)
        await until(lambda: made.client.is_connected and made.connector.status()["status"] == "ok")
        await made.settled("worker")
        assert {event.id for event in await made.messages("RESULTS")} == set(names(60))
        assert await made.messages("DEADLETTERS") == []


async def test_a_function_process_that_is_killed_in_a_batch_loses_nothing(
    outside: ConnectorWorld, tmp_path: Path
) -> None:
    """Protects events from kill -9 of `bucky.serve`: a single attempt is allowed, and it is not burned."""
    port = free_port()
    stack = tmp_path / "stack.yaml"
    stack.write_text(
        """
        functions:
          other: {image: x}
          worker:
            annotations: {topic: "work.item.*", jetstream.batch-size: "10", jetstream.max-attempts: "1"}
        """
    )
    serve = {
        "BUCKY_HANDLER": "tests.support.functions.serve_worker",
        "BUCKY_SERVE_PORT": str(port),
    }
    await outside.publish("work.item.a", names(100))
    connectors = Connectors(outside.settings, f"http://127.0.0.1:{port}", tmp_path)

    async def some() -> bool:
        return (await outside.js.stream_info("RESULTS")).state.messages >= 20

    with connectors.start(BUCKY_CONNECTOR_STACK_FILE=str(stack)) as connector:
        with process("bucky.serve", serve, tmp_path / "worker.log") as function:
            await until(some)
            function.kill()
            function.wait()
        with process("bucky.serve", serve, tmp_path / "worker.log"):
            await outside.settled("worker")
        connector.send_signal(signal.SIGTERM)
        assert await ended(connector) == 0
    assert sorted(event.id for event in await outside.messages("RESULTS")) == names(100)
    assert await outside.messages("DEADLETTERS") == []


async def test_the_connector_says_in_a_sentence_why_it_cannot_start(tmp_path: Path) -> None:
    """Protects whoever starts it without a broker from a traceback."""
    log = tmp_path / "connector.log"
    environ = {"BUCKY_NATS_URL": f"nats://127.0.0.1:{free_port()}", "BUCKY_CONNECTOR_HTTP_PORT": "0"}
    with process("jetstream_connector", environ, log) as running:
        assert await ended(running) == 1
    assert "is nats-server running?" in log.read_text()
    assert "Traceback" not in log.read_text()


async def test_health_and_metrics_tell_what_is_going_on(outside: ConnectorWorld, tmp_path: Path) -> None:
    """Protects the operator's view: functions, consumers, what waits, and counters."""
    port = free_port()
    outside.gateway.deploy("worker", topic="work.item.*")
    await outside.publish("work.item.a", names(5))
    connectors = Connectors(outside.settings, outside.gateway.url, tmp_path)
    with connectors.start(BUCKY_CONNECTOR_HTTP_PORT=str(port)):
        await ready(f"http://127.0.0.1:{port}/health")
        await outside.settled("worker")
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client:
            health = (await client.get("/health")).json()
            metrics = (await client.get("/metrics")).text
    (consumer,) = health["functions"]["worker"]["consumers"]
    assert (consumer["subject"], health["functions"]["worker"]["breaker"]) == ("work.item.*", "closed")
    assert 'jetstream_connector_messages_total{function="worker",outcome="ack"} 5.0' in metrics
