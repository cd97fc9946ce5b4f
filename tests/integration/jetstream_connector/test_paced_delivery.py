"""Deliveries at their destinations' pace: the real connector and sender, nats-server, an index and real SCPs.

The function runs in this process, called through a gateway as it always is.
"""

import asyncio
import contextlib
import socket
import threading
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from starlette.responses import Response

from bucky.broker.connection import jetstream
from bucky.broker.streams import ensure_streams
from bucky.cloudevents import CloudEvent
from bucky.events import DeliveryRequested
from bucky.index import DeliveryState, Index
from bucky.routing.document import Routing
from bucky.runtime.ports import free_port
from bucky.settings import Settings
from bucky.store.objects import MemoryObjectStore
from bucky.text.identifiers import delivery_id
from jetstream_connector import outcomes, pause
from local_stack.destination import Destination, ReceivedRequest, ScriptedAnswer
from tests.support.connector.connector_world import Batch, ConnectorWorld, open_client, stage
from tests.support.functions.forwarding import SENDERS, forward, request
from tests.support.waiting import until

ANNOTATIONS = {
    "topic": "dicom.delivery.requested.*",
    "partition": "subject",
    "priority": "urgent",
    "batch_size": "10",
    "linger_ms": "5",
    "backoff": "1s",
}


@dataclass
class Deliveries:
    """The stage, and what is delivered over it."""

    stage: ConnectorWorld
    index: Index
    objects: MemoryObjectStore = field(default_factory=MemoryObjectStore)
    made: dict[str, list[str]] = field(default_factory=dict)

    def route(self, **destinations: dict[str, Any]) -> None:
        """Make these, and no others, the destinations."""
        fixed = {"type": "dimse", "aet": "DEMO", "host": "127.0.0.1", "timeout_seconds": 5}
        wanted = [{"name": name, **fixed, **changes} for name, changes in destinations.items()]
        self.index.save_routing(Routing.model_validate({"destinations": wanted}), self.index.routing().version, "test")

    async def ask(self, destination: str, count: int, *, size: int = 2000, priority: str = "routine") -> list[str]:
        """Request deliveries; return their ids."""
        ids: list[str] = []
        known = self.made.setdefault(destination, [])
        for number in range(len(known), len(known) + count):
            cause = request(self.objects, number, size=size)
            payload = DeliveryRequested.model_validate(
                {
                    **cause.data,
                    "destination": destination,
                    "priority": priority,
                    "delivery_id": delivery_id(cause.data["instance"]["sha256"], destination, 1),
                }
            )
            event = CloudEvent.of(payload, source="/test")
            await self.stage.js.publish(event.nats_subject, event.to_json(), headers={"Nats-Msg-Id": event.nats_msg_id})
            ids.append(payload.delivery_id)
        known += ids
        return ids

    def delivered(self, ids: Sequence[str]) -> bool:
        """Return whether the index says so of all."""
        return self.index.delivered(ids) == set(ids)

    def queue(self, subject: str) -> dict[str, Any]:
        """Return what the connector shows of a queue."""
        consumers = self.stage.function("forward-instances").get("consumers", [])
        return next((one for one in consumers if one["subject"] == f"dicom.delivery.requested.{subject}"), {})


@asynccontextmanager
async def deliveries(settings: Settings, index_url: str) -> AsyncIterator[Deliveries]:
    """Run a connector and a sender on a fresh broker and index."""
    index = Index.open(index_url)
    index.migrate()
    client = await open_client(settings, streams=False)
    await ensure_streams(jetstream(client))
    await client.close()
    async with stage(settings, streams=False) as made:
        here = Deliveries(made, index)

        async def answer(batch: Batch) -> Response:
            events = [CloudEvent.model_validate(event) for event in batch]
            result = await asyncio.to_thread(forward, events, here.objects, index, SENDERS)
            return Response(result.to_json(), media_type="application/json")

        made.gateway.deploy("forward-instances", answer, **ANNOTATIONS)
        yield here
    index.close()


@pytest.fixture
async def here(nats_settings: Settings, index_url: str) -> AsyncIterator[Deliveries]:
    """A connector and a sender."""
    async with deliveries(nats_settings, index_url) as made:
        yield made


@contextlib.contextmanager
def silent_listener() -> Iterator[int]:
    """Accept connections and never say anything; yield the port."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as listener:
        held: list[socket.socket] = []

        def accept() -> None:
            with contextlib.suppress(OSError):
                while True:
                    held.append(listener.accept()[0])

        threading.Thread(target=accept, daemon=True).start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)
        for one in held:
            one.close()


async def test_dead_hanging_slow_and_poisoned_destinations_delay_no_other(here: Deliveries, tmp_path: Path) -> None:
    """Protects a healthy destination: beside four in trouble it takes at most three times as long as alone."""

    def slow(_received: ReceivedRequest) -> ScriptedAnswer:
        return ScriptedAnswer(delay=0.5)

    def poisoned(received: ReceivedRequest) -> ScriptedAnswer:
        return ScriptedAnswer(abort=received.sop_instance_uid.endswith(".3"))

    with (
        Destination(tmp_path / "healthy") as healthy,
        Destination(tmp_path / "slow", script=slow) as slowly,
        Destination(tmp_path / "poisoned", script=poisoned) as sick,
        silent_listener() as hanging,
    ):
        here.route(
            healthy={"port": healthy.port},
            dead={"port": free_port()},
            hanging={"port": hanging},
            slow={"port": slowly.port, "max_associations": 1},
            poisoned={"port": sick.port},
        )
        first = await here.ask("healthy", 5)
        await until(lambda: here.delivered(first))
        began = time.monotonic()
        alone_ids = await here.ask("healthy", 100)
        await until(lambda: here.delivered(alone_ids))
        alone = time.monotonic() - began

        for trouble in ("dead", "hanging", "slow", "poisoned"):
            await here.ask(trouble, 40)
        await until(lambda: bool(here.queue("dead").get("held") and here.queue("slow")))
        began = time.monotonic()
        beside_ids = await here.ask("healthy", 100)
        await until(lambda: here.delivered(beside_ids))
        beside = time.monotonic() - began
        assert not here.delivered(here.made["slow"])
        good = [one for number, one in enumerate(here.made["poisoned"]) if number != 3]
        await until(lambda: here.delivered(good))
        await until(lambda: bool(here.queue("hanging").get("held")))
        print(f"100 deliveries took {alone:.2f} s alone, {beside:.2f} s beside four in trouble")  # noqa: T201
        assert beside < 3 * alone + 1
        dead = here.index.delivery(here.made["dead"][0])
        assert (dead.state, dead.attempts > 0) == (DeliveryState.RETRYING, True), "a connection made in vain counts"
        assert "Connection refused" in str(here.queue("dead")["held"])


async def test_a_destination_gets_what_it_missed_when_it_is_back(here: Deliveries, tmp_path: Path) -> None:
    """Protects what a destination missed: nothing was given up, and all of it goes when it answers again."""
    port = free_port()
    here.route(pacs={"port": port})
    ids = await here.ask("pacs", 60)
    await until(lambda: bool(here.queue("pacs").get("held")))
    with Destination(tmp_path, port=port):
        await until(lambda: here.delivered(ids))
    assert here.queue("pacs")["held"] is None
    assert min(here.index.delivery(one).attempts for one in ids) == 1, "what waited in a paused queue was not tried"
    assert await here.stage.messages("DEADLETTERS") == []


async def test_deliveries_wait_for_the_hours_of_their_destination_and_urgent_ones_do_not(
    here: Deliveries, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Protects the hours that were written, the reason and time that are shown, and a schedule that is changed."""
    monkeypatch.setattr(pause, "LONGEST_WAIT_SECONDS", 0.5)
    monkeypatch.setattr(outcomes, "LONGEST_HOLD_SECONDS", 0.5)
    opens = datetime.now(UTC) + timedelta(hours=3)
    closed = {"time_zone": "UTC", "windows": [{"from": f"{opens:%H:%M}", "to": f"{opens + timedelta(hours=1):%H:%M}"}]}
    with Destination(tmp_path) as destination:
        here.route(pacs={"port": destination.port, "schedule": closed})
        routine = await here.ask("pacs", 25)
        await until(lambda: "outside the hours of pacs" in str(here.queue("pacs").get("held")))
        shown = datetime.fromisoformat(here.queue("pacs")["held_until"])
        assert abs(shown - opens) < timedelta(minutes=1, seconds=5)
        urgent = await here.ask("pacs", 5, priority="urgent")
        await until(lambda: here.delivered(urgent), seconds=30)
        assert here.index.delivered(routine) == set()
        assert f"{opens:%Y-%m-%d %H:%M} (UTC)" in here.index.delivery(routine[0]).reason
        here.route(pacs={"port": destination.port})
        await until(lambda: here.delivered(routine), seconds=30)
    assert here.queue("pacs")["held"] is None


async def test_urgent_deliveries_overtake_a_long_routine_queue(here: Deliveries, tmp_path: Path) -> None:
    """Protects an urgent study from the thousand instances that came before it, and these from stopping."""

    def unhurried(_received: ReceivedRequest) -> ScriptedAnswer:
        return ScriptedAnswer(delay=0.01)

    with Destination(tmp_path, script=unhurried) as destination:
        here.route(pacs={"port": destination.port, "max_associations": 1})
        routine = await here.ask("pacs", 400)
        await until(lambda: len(here.index.delivered(routine)) >= 20)
        urgent = await here.ask("pacs", 60, priority="urgent")
        await until(lambda: here.delivered(urgent), seconds=30)
        waiting = len(routine) - len(here.index.delivered(routine))
        assert waiting > 200, "routine deliveries were all made before the urgent ones"
        await until(lambda: here.delivered(routine))


async def test_a_capped_destination_keeps_to_its_cap_and_others_to_their_pace(here: Deliveries, tmp_path: Path) -> None:
    """Protects a thin line from a whole queue, and a wide one from the thin one's waits."""
    with Destination(tmp_path / "thin") as thin, Destination(tmp_path / "wide") as wide:
        here.route(thin={"port": thin.port, "max_bytes_per_second": 200_000}, wide={"port": wide.port})
        began = time.monotonic()
        capped = await here.ask("thin", 20, size=40_000)
        free = await here.ask("wide", 20, size=40_000)
        await until(lambda: here.delivered(free), seconds=30)
        assert not here.delivered(capped), "the wide destination waited for the thin one"
        await until(lambda: here.delivered(capped), seconds=30)
        took = time.monotonic() - began
    assert took >= (20 * 40_000 - 100_000) / 200_000
