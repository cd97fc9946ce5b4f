"""The connector's pace on a real nats-server: holds, turns, limits, urgent before routine, nobody delayed."""

import asyncio
import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from itertools import chain

import pytest
from prometheus_client.parser import text_string_to_metric_families
from starlette.responses import Response

from bucky.broker.connection import connect
from bucky.cloudevents import CloudEvent
from bucky.settings import Settings
from jetstream_connector import consumer
from jetstream_connector.calls import GatewayClient
from jetstream_connector.connector import Connector
from jetstream_connector.discovery import GatewayDirectory
from jetstream_connector.metrics import Metrics
from tests.support.connector.connector_world import Batch, ConnectorWorld, answer, failure, names, stage, succeed
from tests.support.waiting import PATIENCE, until


def shown(made: ConnectorWorld, subject: str) -> dict[str, object]:
    """Return what the health page tells of one subject's consumer."""
    consumers = made.function("worker").get("consumers", [])
    return next((one for one in consumers if one["subject"] == subject), {})


def measured(made: ConnectorWorld, name: str, **labels: str) -> float:
    """Return one sample of the metrics page."""
    for family in text_string_to_metric_families(made.connector._metrics.page().decode()):
        for sample in family.samples:
            if sample.name == name and labels.items() <= sample.labels.items():
                return float(sample.value)
    raise AssertionError(f"{name} {labels} is not measured")


def away(batch: Batch, reason: str = "pacs is away", **extra: object) -> Response:
    """Answer that nothing could be attempted."""
    return answer(
        [failure(event["id"], retryable=True, attempted=False, **extra) | {"reason": reason} for event in batch]
    )


async def test_a_subject_whose_destination_is_away_is_held_and_no_other(on_stage: ConnectorWorld) -> None:
    """Protects both: the destination that is away is tried now and then at no cost, the healthy one keeps its pace."""
    down = True

    async def behave(batch: Batch) -> Response:
        return away(batch) if down and batch[0]["partitionkey"] == "down" else answer()

    await on_stage.publish("work.item.down", names("d", 60))
    on_stage.gateway.deploy(
        "worker", behave, topic="work.item.*", partition="subject", batch_size="20", max_attempts="1"
    )
    await until(lambda: shown(on_stage, "work.item.down").get("held") == "pacs is away")
    await on_stage.publish("work.item.fine", names("f", 100))
    await until(lambda: set(names("f", 100)) <= set(chain.from_iterable(on_stage.gateway.ids("worker"))), seconds=30)
    await until(lambda: sum(ids[0].startswith("d") for ids in on_stage.gateway.ids("worker")) >= 3)
    tries = [ids for ids in on_stage.gateway.ids("worker") if ids[0].startswith("d")]
    assert [len(ids) for ids in tries[:3]] == [20, 1, 1]
    assert shown(on_stage, "work.item.fine")["held"] is None
    assert on_stage.function("worker")["breaker"] == "closed"
    assert measured(on_stage, "jetstream_connector_holds_total", subject="work.item.down") >= 2
    down = False
    await on_stage.settled("worker")
    assert shown(on_stage, "work.item.down")["held"] is None
    assert await on_stage.messages("DEADLETTERS") == []


async def test_a_closed_subject_shows_why_and_until_when_and_opens_on_time(on_stage: ConnectorWorld) -> None:
    """Protects a schedule: nothing is sent while it is closed, all of it after, and meanwhile it can be seen."""
    opens = time.monotonic() + 2

    async def behave(batch: Batch) -> Response:
        left = opens - time.monotonic()
        return away(batch, "closed until the evening", retryAfter=left) if left > 0 else answer()

    await on_stage.publish("work.item.a", names("e", 30))
    on_stage.gateway.deploy("worker", behave, topic="work.item.*", partition="subject", max_attempts="1")
    await until(lambda: shown(on_stage, "work.item.a").get("held") == "closed until the evening")
    until_when = datetime.fromisoformat(str(shown(on_stage, "work.item.a")["held_until"]))
    assert abs(until_when - datetime.now(UTC)) < timedelta(seconds=4)
    await until(
        lambda: measured(on_stage, "jetstream_connector_held_until_timestamp_seconds", subject="work.item.a") > 0
    )
    await on_stage.settled("worker")
    assert time.monotonic() >= opens
    assert len(on_stage.gateway.ids("worker")) <= 6
    assert await on_stage.messages("DEADLETTERS") == []


async def test_urgent_events_go_before_routine_ones_that_came_earlier(on_stage: ConnectorWorld) -> None:
    """Protects urgent deliveries from a queue of routine ones, and these from never getting a turn."""

    async def behave(_batch: Batch) -> Response:
        await asyncio.sleep(0.05)
        return answer()

    await on_stage.publish("work.item.pacs", names("r", 300))
    on_stage.gateway.deploy(
        "worker", behave, topic="work.item.*", partition="subject", priority="urgent", batch_size="5", linger_ms="0"
    )
    await until(lambda: len(on_stage.gateway.calls) >= 3)
    await on_stage.publish("work.item.pacs.urgent", names("u", 60))
    await on_stage.settled("worker", seconds=30)
    order = "".join(ids[0][0] for ids in on_stage.gateway.ids("worker"))
    first, last = order.index("u"), order.rindex("u")
    meanwhile = order[first:last]
    assert all(len({identifier[0] for identifier in ids}) == 1 for ids in on_stage.gateway.ids("worker"))
    assert order.count("r", last) > 30, "routine went on before urgent was done"
    assert meanwhile.count("u") >= 2.5 * meanwhile.count("r") > 0
    assert sorted(chain.from_iterable(on_stage.gateway.ids("worker"))) == names("r", 300) + names("u", 60)
    assert measured(on_stage, "jetstream_connector_turns_total", priority="urgent") == order.count("u")


async def test_the_first_urgent_event_of_a_subject_is_taken_at_once(nats_settings: Settings) -> None:
    """Protects the latency of urgent work: a subject that did not exist does not wait for the next discovery."""

    async def route(batch: Batch) -> Response:
        routed = [{**event, "type": "work.routed", "priority": "urgent"} for event in batch]
        return answer(events=[CloudEvent.model_validate(event) for event in routed])

    async with stage(nats_settings) as made:
        made.gateway.deploy("router", route, topic="work.item.*")
        made.gateway.deploy("worker", topic="work.routed.*", partition="subject", priority="urgent")
        await until(lambda: bool(made.function("router") and made.function("worker")))
        made.connector._refresh_seconds = 3600
        await made.publish("work.item.pacs", ["now"])
        await until(lambda: ["now"] in made.gateway.ids("worker"), seconds=30)
        assert shown(made, "work.routed.pacs.urgent")["priority"] == "urgent"


async def test_calls_in_flight_stay_within_the_limits(on_stage: ConnectorWorld) -> None:
    """Protects a function, and each destination, from more calls at once than was asked for."""
    running: dict[str, int] = {}
    most: dict[str, int] = {}

    async def behave(batch: Batch) -> Response:
        key = batch[0]["partitionkey"]
        for name in (key, "all"):
            running[name] = running.get(name, 0) + 1
            most[name] = max(most.get(name, 0), running[name])
        await asyncio.sleep(0.03)
        for name in (key, "all"):
            running[name] -= 1
        return answer()

    for key in "abc":
        await on_stage.publish(f"work.item.{key}", names(key, 40))
    on_stage.gateway.deploy(
        "worker", behave, topic="work.item.*", partition="subject", batch_size="2", concurrency="3", max_in_flight="4"
    )
    await on_stage.settled("worker")
    assert most["all"] <= 4 + 2, "more than the limit, and the first calls of the two other subjects"
    assert 1 < max(most[key] for key in "abc") <= 3


async def test_stuck_subjects_that_hold_every_turn_do_not_delay_a_healthy_one(on_stage: ConnectorWorld) -> None:
    """Protects a healthy destination when as many others hang as the function may have calls in flight."""
    release = asyncio.Event()

    async def behave(batch: Batch) -> Response:
        if batch[0]["partitionkey"].startswith("stuck"):
            await release.wait()
        return answer()

    for number in range(6):
        await on_stage.publish(f"work.item.stuck-{number}", names("s", 4))
    on_stage.gateway.deploy(
        "worker", behave, topic="work.item.*", partition="subject", batch_size="1", concurrency="2", max_in_flight="3"
    )
    await until(lambda: len(on_stage.gateway.calls) >= 6)
    await on_stage.publish("work.item.fine", names("f", 20))
    await until(lambda: set(names("f", 20)) <= set(chain.from_iterable(on_stage.gateway.ids("worker"))), seconds=30)
    release.set()
    await on_stage.settled("worker")


async def test_poison_events_never_block_those_behind_them(on_stage: ConnectorWorld) -> None:
    """Protects good events from any number of failing ones that wait an hour for their next attempt."""

    async def behave(batch: Batch) -> Response:
        return answer([failure(event["id"], retryable=True) for event in batch if event["id"].startswith("p")])

    poison = names("p", 1200)
    await asyncio.gather(*(on_stage.publish("work.item.a", poison[start::10]) for start in range(10)))
    await on_stage.publish("work.item.a", names("good", 3))
    on_stage.gateway.deploy("worker", behave, topic="work.item.*", batch_size="200", backoff="1h")
    await until(lambda: set(names("good", 3)) <= set(chain.from_iterable(on_stage.gateway.ids("worker"))))
    (info,) = await on_stage.js.consumers_info("WORK")
    assert info.config.max_ack_pending == consumer.LEAST_ACK_PENDING


@pytest.mark.parametrize("form", ["seconds", "date"])
async def test_retry_after_is_obeyed_in_both_its_forms(on_stage: ConnectorWorld, form: str) -> None:
    """Protects a busy function that says when to come back (RFC 9110 §10.2.3)."""
    asked_at = 0.0

    async def behave(_batch: Batch) -> Response:
        nonlocal asked_at
        if asked_at:
            return answer()
        asked_at = time.monotonic()
        # A date has whole seconds, so it is up to one second sooner.
        soon = format_datetime(datetime.now(UTC) + timedelta(seconds=3), usegmt=True)
        return Response(status_code=503, headers={"Retry-After": "2" if form == "seconds" else soon})

    on_stage.gateway.deploy("worker", behave, topic="work.item.*", max_attempts="1")
    await on_stage.publish("work.item.a", ["a"])
    await until(lambda: len(on_stage.gateway.calls) >= 2)
    assert 1.9 <= time.monotonic() - asked_at < PATIENCE


async def test_a_batch_that_waits_for_its_turn_is_handed_back_at_the_stop(nats_settings: Settings) -> None:
    """Protects a drain: what was fetched and waits behind a call in flight is free for the next connector."""
    entered, release = asyncio.Event(), asyncio.Event()

    async def behave(_batch: Batch) -> Response:
        entered.set()
        await release.wait()
        return answer()

    async with stage(nats_settings) as made:
        made.gateway.deploy(
            "worker", behave, topic="work.item.*", partition="subject", priority="urgent", ack_wait="1h"
        )
        await made.publish("work.item.a", ["routine"])
        await entered.wait()
        await made.publish("work.item.a.urgent", ["urgent"])
        await until(lambda: len(made.connector._subscribers["worker"].consumers) == 2)

        # The connector's own view: what the broker has sent may still be on its way.
        consumers = made.connector._subscribers["worker"].consumers.values()
        await until(lambda: sum(len(one._in_hand) for one in consumers) == 2)
        made.stop.set()
        await until(lambda: all(one.dispatcher.stopping for one in consumers))
        release.set()
    assert len(made.gateway.calls) == 1
    async with stage(nats_settings, streams=False) as made:
        made.gateway.deploy("worker", succeed, topic="work.item.*", partition="subject", priority="urgent")
        await made.settled("worker", seconds=5)
        assert made.gateway.ids("worker") == [["urgent"]]


async def test_two_connectors_share_the_work_and_one_takes_over(on_stage: ConnectorWorld) -> None:
    """Protects a pair of connectors: each event is processed once, and all of them when one is stopped."""

    async def behave(_batch: Batch) -> Response:
        await asyncio.sleep(0.05)
        return answer()

    own = await connect(on_stage.settings, "second-connector")
    directory, caller = GatewayDirectory(on_stage.gateway.url, "admin", ""), GatewayClient(on_stage.gateway.url)
    second, stop = Connector(own, directory, caller, Metrics(), 0.1), asyncio.Event()
    running = asyncio.create_task(second.run(stop))
    on_stage.gateway.deploy(
        "worker", behave, topic="work.item.*", partition="subject", priority="urgent", batch_size="5"
    )
    for key in "ab":
        await on_stage.publish(f"work.item.{key}", names(key, 150))
        await on_stage.publish(f"work.item.{key}.urgent", names(f"u{key}", 50))
    pair = (second, on_stage.connector)
    await until(lambda: all(len(one._subscribers["worker"].consumers) == 4 for one in pair if one._subscribers))
    await until(lambda: len(on_stage.gateway.calls) >= 20)
    assert len(list(chain.from_iterable(on_stage.gateway.ids("worker")))) < 400
    stop.set()
    await running
    await on_stage.settled("worker", seconds=30)
    processed = sorted(chain.from_iterable(on_stage.gateway.ids("worker")))
    assert processed == sorted(chain(names("a", 150), names("b", 150), names("ua", 50), names("ub", 50)))
    for client in (own, caller, directory):
        await client.close()
