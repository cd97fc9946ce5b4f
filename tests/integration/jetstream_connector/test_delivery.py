"""The connector against a real nats-server: batches, outcomes, dead letters, order of publish and ack."""

import asyncio
import base64
from itertools import chain
from typing import Any

import pytest
from starlette.responses import JSONResponse, Response

from bucky.cloudevents import DeadLettered
from bucky.events import payload_of
from tests.support.connector.connector_world import Batch, ConnectorWorld, answer, failure, names, result_of
from tests.support.waiting import until


async def dead_letters(made: ConnectorWorld) -> list[DeadLettered]:
    """Return the dead letters there are."""
    payloads = [payload_of(event) for event in await made.messages("DEADLETTERS")]
    return [payload for payload in payloads if isinstance(payload, DeadLettered)]


async def test_events_arrive_in_batches_of_at_most_the_size_asked_for(on_stage: ConnectorWorld) -> None:
    """Protects the point of batching: few calls, none larger than the function said."""
    await on_stage.publish("work.item.a", names("e", 100))
    on_stage.gateway.deploy("worker", topic="work.item.*", batch_size="20", linger_ms="2000")
    await on_stage.settled("worker")
    calls = on_stage.gateway.ids("worker")
    assert sorted(chain.from_iterable(calls)) == names("e", 100)
    assert [len(ids) for ids in calls] == [20] * 5


async def test_the_linger_gathers_events_that_come_one_after_the_other(on_stage: ConnectorWorld) -> None:
    """Protects small rates from a call per event: what comes within the linger travels together."""
    on_stage.gateway.deploy("worker", topic="work.item.*", batch_size="5", linger_ms="10000")
    await until(lambda: on_stage.function("worker").get("consumers", [{}])[0].get("pending") == 0)
    for name in names("e", 5):
        await on_stage.publish("work.item.a", [name])
    await on_stage.settled("worker", seconds=8)
    assert on_stage.gateway.ids("worker") == [names("e", 5)]


async def test_a_batch_gathers_while_a_call_is_in_flight(on_stage: ConnectorWorld) -> None:
    """Protects a busy function from many small calls: what comes during one call is the next, not several more."""
    called, may_answer = asyncio.Event(), asyncio.Event()

    async def behave(_batch: Batch) -> Response:
        called.set()
        await may_answer.wait()
        return answer()

    on_stage.gateway.deploy("worker", behave, topic="work.item.*", batch_size="50", linger_ms="400", concurrency="2")
    await on_stage.publish("work.item.a", ["first"])
    await called.wait()
    for name in names("e", 20):
        await on_stage.publish("work.item.a", [name])
    may_answer.set()
    await on_stage.settled("worker")
    assert on_stage.gateway.ids("worker") == [["first"], names("e", 20)]


async def test_a_full_batch_does_not_wait_for_a_call_in_flight(on_stage: ConnectorWorld) -> None:
    """Protects the rate: what fills a batch goes at once, for as many calls as the function may have."""
    both, calls = asyncio.Event(), 0

    async def behave(_batch: Batch) -> Response:
        nonlocal calls
        calls += 1
        if calls == 2:
            both.set()
        await both.wait()
        return answer()

    await on_stage.publish("work.item.a", names("e", 10))
    on_stage.gateway.deploy("worker", behave, topic="work.item.*", batch_size="5", linger_ms="10000", concurrency="2")
    await on_stage.settled("worker", seconds=8)
    assert [len(ids) for ids in on_stage.gateway.ids("worker")] == [5, 5]


async def test_each_item_has_its_own_outcome(on_stage: ConnectorWorld) -> None:
    """Protects the batch from its members: success, a retry after the wait asked for, and a dead letter."""
    seen: dict[str, int] = {}

    async def behave(batch: Batch) -> Response:
        failures = []
        for event in batch:
            seen[event["id"]] = seen.get(event["id"], 0) + 1
            if event["id"] == "later" and seen["later"] < 3:
                failures.append(failure("later", retryable=True, retryAfter=0.05))
            if event["id"] == "never":
                failures.append(failure("never", retryable=False))
        return answer(failures)

    on_stage.gateway.deploy("worker", behave, topic="work.item.*", backoff="1h")
    await on_stage.publish("work.item.a", ["good", "later", "never"])
    await on_stage.settled("worker")
    assert seen == {"good": 1, "later": 3, "never": 1}
    (letter,) = await dead_letters(on_stage)
    assert (letter.function, letter.reason, letter.attempts) == ("worker", "scripted", 1)
    assert (letter.subject, letter.event["id"], letter.stream_sequence) == ("work.item.a", "never", 3)
    assert letter.headers["Nats-Msg-Id"] == "work.item.a/never"


async def test_a_failure_that_stays_ends_as_a_dead_letter_after_the_last_attempt(on_stage: ConnectorWorld) -> None:
    """Protects against looping for ever: the attempts are counted, and then it is over."""

    async def behave(batch: Batch) -> Response:
        return answer([failure(event["id"], retryable=True) for event in batch])

    on_stage.gateway.deploy("worker", behave, topic="work.item.*", max_attempts="3", backoff="20ms")
    await on_stage.publish("work.item.a", ["a", "b"])
    await on_stage.settled("worker")
    letters = await dead_letters(on_stage)
    assert sorted((letter.event["id"], letter.attempts) for letter in letters) == [("a", 3), ("b", 3)]
    assert sorted(chain.from_iterable(on_stage.gateway.ids("worker"))) == ["a", "a", "a", "b", "b", "b"]


async def test_what_is_no_cloud_event_is_a_dead_letter_with_its_bytes(on_stage: ConnectorWorld) -> None:
    """Protects the bytes of a message that no function could be given."""
    await on_stage.js.publish("work.item.a", b"\x00 not JSON")
    on_stage.gateway.deploy("worker", topic="work.item.*")
    await on_stage.settled("worker")
    (letter,) = await dead_letters(on_stage)
    assert base64.b64decode(letter.event["raw"]) == b"\x00 not JSON"
    assert on_stage.gateway.calls == []


async def test_an_event_too_large_for_a_dead_letter_is_named_in_one(on_stage: ConnectorWorld) -> None:
    """Protects the queue from an event that fits the stream, but not with an envelope around it."""

    async def refuse(_batch: Batch) -> Response:
        return Response(status_code=422)

    on_stage.gateway.deploy("worker", refuse, topic="work.item.*")
    await on_stage.publish("work.item.a", ["huge"], data="x" * 1_040_000)
    await on_stage.settled("worker")
    (letter,) = await dead_letters(on_stage)
    assert (letter.event["stream"], letter.stream_sequence) == ("WORK", 1)


async def test_returned_events_are_published_once_under_their_deterministic_id(on_stage: ConnectorWorld) -> None:
    """Protects what comes after: a function that is asked twice says the same thing once."""
    calls = 0

    async def behave(_batch: Batch) -> Response:
        nonlocal calls
        calls += 1
        failures = [failure("b", retryable=True, retryAfter=0.01)] if calls == 1 else []
        return answer(failures, [result_of(identifier) for identifier in ("a", "b")])

    on_stage.gateway.deploy("worker", behave, topic="work.item.*")
    await on_stage.publish("work.item.a", ["a", "b"])
    await on_stage.settled("worker")
    assert [event.id for event in await on_stage.messages("RESULTS")] == ["a", "b"]
    assert calls == 2


async def test_nothing_is_acknowledged_before_the_returned_events_are_published(on_stage: ConnectorWorld) -> None:
    """Protects the order of publish and ack: while publishing fails the input stays, and then both happen."""
    await on_stage.js.delete_stream("RESULTS")

    async def behave(batch: Batch) -> Response:
        return answer(events=[result_of(event["id"]) for event in batch])

    on_stage.gateway.deploy("worker", behave, topic="work.item.*", max_attempts="1")
    await on_stage.publish("work.item.a", ["a", "b"])
    await until(lambda: len(on_stage.gateway.calls) >= 2)
    (info,) = await on_stage.js.consumers_info("WORK")
    assert (info.num_ack_pending or 0) + (info.num_pending or 0) == 2
    await until(lambda: "broker" in (on_stage.function("worker")["last_error"] or ""))
    await on_stage.js.add_stream(name="RESULTS", subjects=["result.>"])
    await on_stage.settled("worker")
    assert {event.id for event in await on_stage.messages("RESULTS")} == {"a", "b"}
    assert await dead_letters(on_stage) == []


async def test_two_events_with_one_id_are_never_in_one_batch(on_stage: ConnectorWorld) -> None:
    """Protects the outcome of each: the contract names an event by its id alone."""

    async def behave(batch: Batch) -> Response:
        wrong = [event["id"] for event in batch if event["type"] == "work.wrong"]
        return answer([failure(identifier, retryable=False) for identifier in wrong])

    await on_stage.publish("work.right.x", ["same", "other"])
    await on_stage.publish("work.wrong.x", ["same"])
    on_stage.gateway.deploy("worker", behave, topic="work.>")
    await on_stage.settled("worker")
    assert all(len(ids) == len(set(ids)) for ids in on_stage.gateway.ids("worker"))
    (letter,) = await dead_letters(on_stage)
    assert (letter.event["id"], letter.subject) == ("same", "work.wrong.x")


@pytest.mark.parametrize("status", [400, 413, 422])
async def test_a_refused_batch_is_halved_until_the_offender_is_alone(on_stage: ConnectorWorld, status: int) -> None:
    """Protects the neighbours of one event that makes the function refuse the request."""

    async def behave(batch: Batch) -> Response:
        if any(event["id"] == "e0005" for event in batch):
            return JSONResponse({"error": "the fifth is wrong"}, status)
        return answer(events=[result_of(event["id"]) for event in batch])

    await on_stage.publish("work.item.a", names("e", 16))
    on_stage.gateway.deploy("worker", behave, topic="work.item.*")
    await on_stage.settled("worker")
    (letter,) = await dead_letters(on_stage)
    assert (letter.event["id"], letter.reason) == (
        "e0005",
        f"the function answered {status}: the fifth is wrong",
    )
    assert {event.id for event in await on_stage.messages("RESULTS")} == set(names("e", 16)) - {"e0005"}


@pytest.mark.parametrize("wrong", [500, 504, 204, "contract"])
async def test_a_poison_event_neither_kills_nor_blocks_its_neighbours(on_stage: ConnectorWorld, wrong: Any) -> None:
    """Protects the neighbours of one event that makes the whole call fail, with a single attempt allowed."""

    async def behave(batch: Batch) -> Response:
        if any(event["id"] == "e0003" for event in batch):
            return JSONResponse({}, 200) if wrong == "contract" else Response(status_code=wrong)
        return answer(events=[result_of(event["id"]) for event in batch])

    await on_stage.publish("work.item.a", names("e", 8))
    on_stage.gateway.deploy("worker", behave, topic="work.item.*", max_attempts="1", backoff="20ms", linger_ms="300")
    await on_stage.settled("worker")
    (letter,) = await dead_letters(on_stage)
    assert letter.event["id"] == "e0003"
    assert {event.id for event in await on_stage.messages("RESULTS")} == set(names("e", 8)) - {"e0003"}


async def test_a_call_that_takes_too_long_is_a_failed_attempt(on_stage: ConnectorWorld) -> None:
    """Protects the queue from a function that never answers."""

    async def behave(_batch: Batch) -> Response:
        await asyncio.sleep(1)
        return answer()

    on_stage.gateway.deploy("worker", behave, topic="work.item.*", timeout="100ms", max_attempts="2", backoff="20ms")
    await on_stage.publish("work.item.a", ["a"])
    await on_stage.settled("worker")
    (letter,) = await dead_letters(on_stage)
    assert (letter.attempts, "did not answer in time" in letter.reason) == (2, True)


async def test_a_long_call_is_not_delivered_again_while_it_works(on_stage: ConnectorWorld) -> None:
    """Protects slow functions: heartbeats keep what is in hand from being handed out a second time."""

    async def behave(_batch: Batch) -> Response:
        await asyncio.sleep(2.5)
        return answer()

    on_stage.gateway.deploy("worker", behave, topic="work.item.*", ack_wait="1s", concurrency="2")
    await on_stage.publish("work.item.a", ["a"])
    await on_stage.settled("worker")
    assert on_stage.gateway.ids("worker") == [["a"]]


async def test_a_dead_letter_never_becomes_a_dead_letter(on_stage: ConnectorWorld) -> None:
    """Protects against a loop of dead letters: refused ones are dropped, others tried for ever."""
    tried = 0

    async def broken(_batch: Batch) -> Response:
        return Response(status_code=400)

    async def recording(batch: Batch) -> Response:
        nonlocal tried
        tried += 1
        return answer([failure(batch[0]["id"], retryable=True)] if tried < 5 else [])

    on_stage.gateway.deploy("worker", broken, topic="work.item.*")
    on_stage.gateway.deploy("refuses", broken, topic="deadletter.*")
    on_stage.gateway.deploy("records", recording, topic="deadletter.>", max_attempts="1", backoff="20ms")
    await on_stage.publish("work.item.a", ["a"])

    async def all_settled() -> bool:
        infos = await on_stage.js.consumers_info("DEADLETTERS")
        return len(infos) == 2 and all(
            info.delivered is not None
            and info.delivered.stream_seq > 0
            and not info.num_pending
            and not info.num_ack_pending
            for info in infos
        )

    await until(all_settled)
    assert tried == 5
    assert len(await dead_letters(on_stage)) == 1
