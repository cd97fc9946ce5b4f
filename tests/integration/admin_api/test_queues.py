"""What an operator sees of the queues, asked of the admin API while a real connector runs."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import pytest
from starlette.responses import Response

from bucky.runtime.http_server import HttpServer
from bucky.settings import Settings
from jetstream_connector.metrics import Metrics
from jetstream_connector.pages import pages
from tests.support.connector.connector_world import Batch, ConnectorWorld, answer, failure, stage
from tests.support.services.admin_world import AdminWorld, world
from tests.support.waiting import until


@dataclass
class Both:
    """A running connector, and the admin API that asks it."""

    stage: ConnectorWorld
    admin: AdminWorld

    async def queues(self) -> dict[str, dict[str, Any]]:
        """Return the queues by subject."""
        found = await self.admin.api.get("/api/queues")
        assert found.status_code == 200, found.text
        return {queue["subject"]: queue for queue in found.json()}


@pytest.fixture
async def both(nats_settings: Settings, index_url: str) -> AsyncIterator[Both]:
    """A connector with its pages, and an admin API."""
    async with stage(nats_settings) as made:
        server = HttpServer(pages(made.connector, Metrics()), "127.0.0.1", 0)
        await server.start()
        url = f"http://127.0.0.1:{server.port}/health"
        async with world(nats_settings.model_copy(update={"connector_health_url": url}), index_url) as admin:
            yield Both(made, admin)
        await server.stop()


async def test_queues_show_what_waits_why_and_until_when(both: Both) -> None:
    """Whoever asks "where is my study?" must see the queue it waits in, and what for."""

    async def behave(batch: Batch) -> Response:
        if batch[0]["partitionkey"] != "closed":
            return answer()
        wait = {"attempted": False, "retryAfter": 3600}
        return answer([failure(event["id"], retryable=True, **wait) for event in batch])

    both.stage.gateway.deploy("worker", behave, topic="work.item.*", partition="subject", priority="urgent")
    both.stage.gateway.deploy("wrong", topic="work.item.*", batch_size="0")
    for subject in ("work.item.closed", "work.item.open", "work.item.open.urgent"):
        await both.stage.publish(subject, [f"{subject}-{number}" for number in range(10)])

    async def held() -> bool:
        queues = await both.queues()
        closed = queues.get("work.item.closed", {})
        opened = queues.get("work.item.open", {})
        # How many there are is not known before the broker was asked.
        kept = (closed.get("in_hand") or 0) + (closed.get("waiting") or 0)
        through = (opened.get("waiting"), opened.get("in_hand")) == (0, 0)
        return closed.get("state") == "held" and kept == 10 and through and "work.item.open.urgent" in queues

    await until(held)
    queues = await both.queues()
    closed, opened = queues["work.item.closed"], queues["work.item.open"]
    assert (closed["function"], closed["why"]) == ("worker", "scripted")
    assert closed["until"] is not None
    assert (opened["state"], opened["waiting"], opened["in_hand"], opened["until"]) == ("goes", 0, 0, None)
    assert queues["work.item.open.urgent"]["priority"] == "urgent"
    assert (queues[""]["function"], queues[""]["state"]) == ("wrong", "invalid")
    assert "jetstream.batch-size" in queues[""]["why"]


async def test_a_function_that_is_down_is_told_from_a_destination_that_is(both: Both) -> None:
    """The one is repaired by who deploys functions, the other by who runs the destination."""

    async def missing(_batch: Batch) -> Response:
        return Response(status_code=404)

    both.stage.gateway.deploy("worker", missing, topic="work.item.*")
    await both.stage.publish("work.item.a", ["a"])

    async def down() -> bool:
        return (await both.queues()).get("work.item.*", {}).get("state") == "down"

    await until(down)
    assert "404" in (await both.queues())["work.item.*"]["why"]


async def test_without_the_connector_it_says_that_nothing_is_lost(nats_settings: Settings, index_url: str) -> None:
    """An empty list would be read as "nothing waits"."""
    gone = nats_settings.model_copy(update={"connector_health_url": "http://127.0.0.1:9/health"})
    async with world(gone, index_url) as admin:
        answered = await admin.api.get("/api/queues")
    assert answered.status_code == 503
    assert "Nothing is lost" in answered.json()["error"]
