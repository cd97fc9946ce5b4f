"""The connector when functions are stuck, missing, busy, changed; no infrastructure makes a dead letter."""

import asyncio

import pytest
from starlette.responses import Response

from bucky.runtime.circuit_breaker import CircuitState
from bucky.settings import Settings
from tests.support.connector.connector_world import Batch, ConnectorWorld, answer, names, result_of, stage, succeed
from tests.support.waiting import until


def seen(made: ConnectorWorld, name: str) -> set[str]:
    """Return the ids of all events a function was ever sent."""
    return {identifier for ids in made.gateway.ids(name) for identifier in ids}


async def test_a_stuck_subject_does_not_delay_another(on_stage: ConnectorWorld) -> None:
    """Protects a healthy destination from a stuck one: all of the one arrives while the other hangs."""
    release = asyncio.Event()

    async def behave(batch: Batch) -> Response:
        if batch[0]["partitionkey"] == "stuck":
            await release.wait()
        return answer()

    await on_stage.publish("work.item.stuck", names("s", 30))
    await on_stage.publish("work.item.fast", names("f", 100))
    on_stage.gateway.deploy(
        "worker", behave, topic="work.item.*", partition="subject", batch_size="10", concurrency="1"
    )
    await until(lambda: set(names("f", 100)) <= seen(on_stage, "worker"), seconds=30)
    assert sum(ids[0].startswith("s") for ids in on_stage.gateway.ids("worker")) == 1
    release.set()
    await on_stage.settled("worker")
    assert seen(on_stage, "worker") == set(names("f", 100)) | set(names("s", 30))
    calls = on_stage.gateway.ids("worker")
    assert all(len({identifier[0] for identifier in ids}) == 1 for ids in calls)


async def test_a_subject_that_the_connector_itself_publishes_on_is_consumed_at_once(
    nats_settings: Settings,
) -> None:
    """Protects the latency of a destination's first delivery: it does not wait for the next discovery."""

    async def route(batch: Batch) -> Response:
        return answer(events=[result_of(event["id"], "work.routed", event["id"]) for event in batch])

    async with stage(nats_settings) as made:
        made.gateway.deploy("router", route, topic="work.item.*")
        made.gateway.deploy("forwarder", topic="work.routed.*", partition="subject")
        await until(lambda: bool(made.function("router") and made.function("forwarder")))
        # From here on discovery finds nothing new by itself.
        made.connector._refresh_seconds = 3600
        before = len(made.function("forwarder")["consumers"])
        await made.publish("work.item.a", ["new-destination"])
        await until(lambda: "new-destination" in seen(made, "forwarder"), seconds=30)
        assert before == 0


@pytest.mark.parametrize("status", [404, 502, 401])
async def test_a_function_that_is_not_there_is_tried_now_and_then_at_no_cost(
    on_stage: ConnectorWorld, status: int
) -> None:
    """Protects events from a missing function: few calls, no attempt burned, all done once it is there."""

    async def missing(_batch: Batch) -> Response:
        return Response(status_code=status)

    on_stage.gateway.deploy("worker", missing, topic="work.item.*", max_attempts="1")
    await on_stage.publish("work.item.a", names("e", 20))
    await until(lambda: len(on_stage.gateway.calls) >= 3)
    assert on_stage.function("worker")["breaker"] != CircuitState.CLOSED
    assert [len(ids) for ids in on_stage.gateway.ids("worker")[1:3]] == [1, 1]
    on_stage.gateway.behaviours["worker"] = succeed
    await on_stage.settled("worker")
    assert on_stage.function("worker")["breaker"] == CircuitState.CLOSED
    assert await on_stage.messages("DEADLETTERS") == []


async def test_a_gateway_that_is_down_costs_nothing(on_stage: ConnectorWorld) -> None:
    """Protects events from a refused connection, and the functions from being forgotten meanwhile."""
    on_stage.gateway.deploy("worker", topic="work.item.*", max_attempts="1")
    await until(lambda: bool(on_stage.function("worker")))
    await on_stage.gateway.stop()
    await on_stage.publish("work.item.a", names("e", 5))
    await until(lambda: on_stage.function("worker")["breaker"] == CircuitState.OPEN)
    assert on_stage.connector.status()["status"] == "unavailable"
    await on_stage.gateway.start()
    await on_stage.settled("worker")
    assert seen(on_stage, "worker") == set(names("e", 5))
    assert await on_stage.messages("DEADLETTERS") == []


@pytest.mark.parametrize("status", [429, 503])
async def test_a_busy_function_gets_less_and_loses_no_attempt(on_stage: ConnectorWorld, status: int) -> None:
    """Protects events from overload: batches shrink until they are taken, and none is given up."""

    async def behave(batch: Batch) -> Response:
        if len(batch) > 5:
            return Response(status_code=status, headers={"Retry-After": "0"})
        return answer()

    await on_stage.publish("work.item.a", names("e", 20))
    on_stage.gateway.deploy("worker", behave, topic="work.item.*", max_attempts="1", batch_size="20", linger_ms="300")
    await on_stage.settled("worker")
    sizes = [len(ids) for ids in on_stage.gateway.ids("worker")]
    assert sizes[:3] == [20, 10, 5]
    assert await on_stage.messages("DEADLETTERS") == []


async def test_an_event_that_kills_its_function_is_found_out_in_the_end(on_stage: ConnectorWorld) -> None:
    """Protects against an event that looks like an outage each time it is sent: the others are answered."""

    async def behave(batch: Batch) -> Response:
        if any(event["id"] == "killer" for event in batch):
            return Response(status_code=502)
        return answer()

    on_stage.gateway.deploy("worker", behave, topic="work.item.*", max_attempts="1", backoff="10ms")
    await on_stage.publish("work.item.a", ["killer"])
    await until(lambda: len(on_stage.gateway.calls) >= 2)
    assert await on_stage.messages("DEADLETTERS") == []
    published = 0

    async def found_out() -> bool:
        nonlocal published
        published += 1
        await on_stage.publish("work.item.a", [f"good{published}"])
        return bool(await on_stage.messages("DEADLETTERS"))

    await until(found_out)
    await on_stage.settled("worker")
    (letter,) = await on_stage.messages("DEADLETTERS")
    assert letter.data["event"]["id"] == "killer"
    assert len(seen(on_stage, "worker")) == 1 + published


async def test_functions_appear_change_and_vanish(on_stage: ConnectorWorld) -> None:
    """Protects deployments: a new function starts by itself, a changed one changes, a removed one stops."""
    await on_stage.publish("work.item.a", ["first"])
    on_stage.gateway.deploy("worker", topic="work.item.*")
    await until(lambda: "first" in seen(on_stage, "worker"))

    await on_stage.publish("work.other.a", ["second"])
    on_stage.gateway.deploy("worker", topic="work.item.*,work.other.*", batch_size="3")
    await until(lambda: "second" in seen(on_stage, "worker"))
    assert len(on_stage.function("worker")["consumers"]) == 2

    del on_stage.gateway.functions["worker"]
    await until(lambda: not on_stage.function("worker"))
    await on_stage.publish("work.item.a", ["third"])
    on_stage.gateway.deploy("worker", topic="work.item.*")
    await until(lambda: "third" in seen(on_stage, "worker"))
    await on_stage.settled("worker")
    assert on_stage.gateway.ids("worker").count(["first"]) == 1


async def test_wrong_annotations_are_shown_and_touch_no_other_function(on_stage: ConnectorWorld) -> None:
    """Protects every function from the mistake in one: it is named on the health page, the rest works."""
    on_stage.gateway.deploy("wrong", topic="work.item.*", batch_size="many")
    on_stage.gateway.deploy("two-streams", topic="*.>")
    on_stage.gateway.deploy("worker", topic="work.item.*")
    await on_stage.publish("work.item.a", ["a"])
    await until(lambda: "a" in seen(on_stage, "worker"))
    assert on_stage.function("wrong")["status"] == "invalid"
    assert "jetstream.batch-size" in on_stage.function("wrong")["error"]
    await until(lambda: bool(on_stage.function("two-streams")["consumers"][0]["last_error"]))
    assert "RESULTS and WORK" in on_stage.function("two-streams")["consumers"][0]["last_error"]
    assert on_stage.connector.status()["status"] == "ok"
    on_stage.gateway.deploy("wrong", topic="work.item.*", batch_size="1")
    await until(lambda: "a" in seen(on_stage, "wrong"))


async def test_a_consumer_that_was_deleted_is_made_again(on_stage: ConnectorWorld) -> None:
    """Protects delivery from an operator, or a rebuilt broker, that removed the durable consumer."""
    on_stage.gateway.deploy("worker", topic="work.item.*")
    await on_stage.publish("work.item.a", ["a"])
    await on_stage.settled("worker")
    (info,) = await on_stage.js.consumers_info("WORK")
    await on_stage.js.delete_consumer("WORK", info.name)
    await on_stage.publish("work.item.a", ["b"])
    await until(lambda: "b" in seen(on_stage, "worker"))


async def test_a_stop_finishes_what_is_in_flight_and_hands_back_the_rest(nats_settings: Settings) -> None:
    """Protects a rolling restart: the batch in flight is acknowledged, what waited is free for the next."""
    entered, release = asyncio.Event(), asyncio.Event()

    async def behave(_batch: Batch) -> Response:
        entered.set()
        await release.wait()
        return answer()

    async with stage(nats_settings) as made:
        made.gateway.deploy("worker", behave, topic="work.item.*", batch_size="2", ack_wait="1h")
        await made.publish("work.item.a", ["a", "b", "c", "d"])
        await entered.wait()
        made.stop.set()
        release.set()
        (waiting,) = await made.js.consumers_info("WORK")
        assert waiting.num_pending == 2

        async def acknowledged() -> bool:
            (info,) = await made.js.consumers_info("WORK")
            return info.num_ack_pending == 0 and info.num_pending == 2

        await until(acknowledged)
    async with stage(nats_settings, streams=False) as made:
        made.gateway.deploy("worker", topic="work.item.*")
        await made.settled("worker", seconds=5)
        assert seen(made, "worker") == {"c", "d"}
