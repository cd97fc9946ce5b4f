"""A queue whose oldest event does not move is said to be so, and is well again when it moves."""

from starlette.responses import Response

from bucky.settings import Settings
from jetstream_connector.wellbeing import Wellbeing
from tests.support.connector.connector_world import Batch, answer, failure, names, stage
from tests.support.waiting import until


async def test_a_queue_that_does_not_move_is_not_up(nats_settings: Settings) -> None:
    """One event that is tried again and again, beside others that go, must not be hidden by them."""
    stuck = True

    async def refuse_the_first(batch: Batch) -> Response:
        late = [event["id"] for event in batch if stuck and event["id"] == "a0000"]
        return answer(failure(one, retryable=True) for one in late)

    async with stage(nats_settings) as here:
        here.connector._wellbeing = Wellbeing(0.5)
        here.gateway.deploy("fn", refuse_the_first, topic="work.a", backoff="0.1s", max_attempts="1000")
        await here.publish("work.a", names("a", 3))
        await until(lambda: here.connector.status()["status"] == "degraded", "the queue is stalled")
        (told,) = here.connector.status()["trouble"]
        assert told["part"] == "fn on work.a"
        assert "its oldest event has waited for" in told["reason"]
        assert told["command"] == "bucky queues"
        stuck = False
        await here.settled("fn")
        await until(lambda: here.connector.status()["status"] == "ok", "it moves again")


async def test_a_destination_out_of_its_hours_is_no_stall(nats_settings: Settings) -> None:
    """What is to wait until tonight waits as it should."""

    async def closed(batch: Batch) -> Response:
        return answer(failure(event["id"], retryable=True, retryAfter=36_000, attempted=False) for event in batch)

    async with stage(nats_settings) as here:
        here.connector._wellbeing = Wellbeing(0.2)
        here.gateway.deploy("fn", closed, topic="work.a")
        await here.publish("work.a", names("a", 2))

        def held() -> bool:
            return any(consumer["held"] for consumer in here.function("fn").get("consumers", ()))

        await until(held, "the queue is held")
        consumer = here.connector._subscribers["fn"].consumers["work.a"]
        await until(lambda: consumer.still_since is not None, "it is seen to wait")
        assert consumer.still_since is not None
        consumer.still_since -= 3600
        assert here.connector.status()["status"] == "ok"
