"""Thousands of real dead letters, ten in a soak: listed, filtered, counted, sent again, in bounded time and memory."""

import asyncio
import hashlib
import statistics
import time
from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from bucky.broker.batch_publisher import BatchPublisher
from bucky.broker.streams import ensure_streams
from bucky.cloudevents import CloudEvent, DeadLettered
from bucky.errors import BrokerUnavailable
from bucky.events import DeliveryRequested
from bucky.index import DeliveryState
from bucky.settings import Settings
from bucky.text.identifiers import delivery_id
from tests.support.services.admin_world import AdminWorld, requested, world
from tests.support.soak import SOAK

MANY = 2_000 * min(SOAK, 5)
DESTINATIONS = ("pacs", "archive", "research", "teaching")
REASONS = ("no route to host", "the destination does not accept CT Image Storage", "it is too large")
PAGE = MANY // 20
MOST_MEGABYTES = 150


@pytest.fixture
async def here(nats_settings: Settings, index_url: str) -> AsyncIterator[AdminWorld]:
    """The application with a broker that holds the dead letters, and an index that knows their deliveries."""
    async with world(nats_settings, index_url) as made:
        while True:
            try:
                js = made.link.jetstream()
                break
            except BrokerUnavailable:
                await made.api.get("/ready")
        await ensure_streams(js)
        deliveries = [delivery(number) for number in range(MANY)]
        publisher = BatchPublisher(made.link.client())
        for start in range(0, MANY, 500):
            part = deliveries[start : start + 500]
            await asyncio.to_thread(made.index.request_deliveries, part)
            await asyncio.to_thread(bury, made, part, start)
            letters = (letter(one, start + offset) for offset, one in enumerate(part))
            await asyncio.gather(*(publisher.publish(one) for one in letters))
        yield made


def delivery(number: int) -> DeliveryRequested:
    """Return one of the deliveries: of 100 studies, to four destinations in turn."""
    model = requested(1)
    sha256, destination = hashlib.sha256(str(number).encode()).hexdigest(), DESTINATIONS[number % 4]
    instance = model.instance.model_copy(
        update={"sha256": sha256, "study_instance_uid": f"1.2.{number % 100}", "sop_instance_uid": f"1.2.3.4.{number}"}
    )
    return model.model_copy(
        update={
            "delivery_id": delivery_id(sha256, destination, 1),
            "destination": destination,
            "instance": instance,
        }
    )


def letter(payload: DeliveryRequested, number: int) -> CloudEvent:
    """Return the dead letter of a delivery, as the connector writes it."""
    event = CloudEvent.of(payload, source="/test")
    content = DeadLettered(
        function="forward-instances",
        reason=REASONS[number % 3],
        attempts=5,
        subject=event.nats_subject,
        stream_sequence=number + 1,
        event=event.model_dump(mode="json", exclude_none=True),
    )
    return CloudEvent.of(content, source="/test")


def bury(made: AdminWorld, deliveries: list[DeliveryRequested], start: int) -> None:
    """Let the index know that they are dead letters."""
    for offset, one in enumerate(deliveries):
        made.index.dead_letter(one.delivery_id, REASONS[(start + offset) % 3], 5)


def resident_megabytes() -> float:
    """Return the memory of this process, in which the application runs."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 1e6


def grows(seconds: list[float]) -> bool:
    """Tell whether later pages take far longer than the first ones, whatever else the machine has to do."""
    third = len(seconds) // 3
    return statistics.median(seconds[-third:]) > 5 * statistics.median(seconds[:third]) + 0.1


async def listed(here: AdminWorld, pages: list[float] | None = None, **wanted: Any) -> list[dict[str, Any]]:
    """Return every dead letter that matches, page by page; add the seconds of each page to `pages`."""
    found: list[dict[str, Any]] = []
    before: int | None = None
    while True:
        params = {**wanted, "limit": PAGE} | ({} if before is None else {"before": before})
        began = time.monotonic()
        answer = await here.api.get("/api/dead-letters", params=params)
        if pages is not None:
            pages.append(time.monotonic() - began)
        assert answer.status_code == 200, answer.text
        found += [{name: one[name] for name in ("sequence", "recorded_at")} for one in answer.json()["items"]]
        before = answer.json()["next"]
        if before is None:
            return found


async def redriven(here: AdminWorld, pages: list[float] | None = None, **wanted: Any) -> int:
    """Send again what matches, as the command line does; return how many there were."""
    count, order = 0, dict(wanted)
    while True:
        began = time.monotonic()
        answer = (await here.api.post("/api/dead-letters/redrive", json=order)).json()
        if pages is not None:
            pages.append(time.monotonic() - began)
        assert answer["failed"] == {}
        count += len(answer["redriven"])
        if answer["next"] is None:
            return count
        order["before"] = answer["next"]


async def left(here: AdminWorld, stream: str = "DEADLETTERS") -> int:
    """Return how many messages a stream holds."""
    return int((await here.jetstream.stream_info(stream)).state.messages)


async def test_thousands_of_dead_letters_are_no_trouble(here: AdminWorld) -> None:
    """After an outage of a night an operator must see, narrow down and send again what died, without waiting for it."""
    memory, began = resident_megabytes(), time.monotonic()
    pages: list[float] = []
    everything = await listed(here, pages)
    assert not grows(pages)
    assert [one["sequence"] for one in everything] == list(range(MANY, 0, -1))

    assert len(await listed(here, destination="pacs")) == MANY // 4
    assert len(await listed(here, study="1.2.7")) == MANY // 100
    assert len(await listed(here, destination="pacs", study="1.2.7")) == 0
    assert len(await listed(here, reason="TOO LARGE")) == MANY // 3
    middle = datetime.fromisoformat(everything[MANY // 2]["recorded_at"])
    older, newer = await listed(here, until=middle.isoformat()), await listed(here, since=middle.isoformat())
    assert len(older) + len(newer) == MANY
    assert max(one["recorded_at"] for one in older) < min(one["recorded_at"] for one in newer)
    assert await listed(here, since=(middle + timedelta(days=1)).isoformat()) == []
    summary = (await here.api.get("/api/dead-letters/summary")).json()
    assert sum(group["count"] for group in summary["groups"]) == MANY
    assert len(summary["groups"]) == len(DESTINATIONS) * len(REASONS)
    listing = time.monotonic() - began

    began = time.monotonic()
    assert await redriven(here, sequences=[3, 1500]) == 2
    sent = 2
    orders: tuple[dict[str, Any], ...] = (
        {"destination": "pacs", "reason": "no route"},
        {"study": "1.2.7"},
        {"destination": "archive", "until": middle.isoformat()},
    )
    for wanted in orders:
        matching = len(await listed(here, **wanted))
        assert MANY // 200 < matching == await redriven(here, **wanted)
        assert await listed(here, **wanted) == []
        sent += matching
        assert await left(here) == MANY - sent == MANY - await left(here, "DELIVERIES")
    pages.clear()
    assert await redriven(here, pages, all=True) == MANY - sent
    assert not grows(pages)
    redriving = time.monotonic() - began

    assert (await left(here), await left(here, "DELIVERIES")) == (0, MANY)
    assert len(here.index.deliveries(state=DeliveryState.DEAD_LETTER, limit=1)) == 0
    grown = resident_megabytes() - memory
    print(f"listed in {listing:.1f} s, sent again in {redriving:.1f} s, {grown:.0f} MB")  # noqa: T201
    assert grown < MOST_MEGABYTES
