"""record-dead-letter against a real index: a delivery nobody will try again is seen as such."""

from typing import Any

import pytest

from bucky.cloudevents import CloudEvent, DeadLettered, utc_now
from bucky.events import InstanceStored
from bucky.index import AttemptOutcome, DeliveryAttempt, DeliveryState, Index
from bucky.log import get_logger
from bucky.serve.handlers import Context
from record_dead_letter.handler import handle_batch
from tests.support.index.rows import received, requested

CONTEXT = Context("record-dead-letter", get_logger("test"))


def test_a_delivery_that_ran_out_of_attempts_is_seen(index: Index) -> None:
    """State, reason and attempts of a dead delivery are in the index; recording it again changes nothing."""
    request = requested("a")
    index.request_deliveries([request])
    dead = _dead(CloudEvent.of(request, source="/test").model_dump(mode="json"))
    for _ in range(2):
        result = handle_batch([dead], CONTEXT, index)
        assert (result.failures, result.events) == ((), ())
    row = index.delivery(request.delivery_id)
    assert (row.state, row.reason, row.attempts) == (DeliveryState.DEAD_LETTER, "no route to host", 7)


def test_a_delivery_the_index_lost_is_seen_too(index: Index) -> None:
    """After the index was rebuilt, a dead letter of a delivery it no longer knows still shows up."""
    request = requested("a")
    handle_batch([_dead(CloudEvent.of(request, source="/test").model_dump(mode="json"))], CONTEXT, index)
    assert index.delivery(request.delivery_id).state is DeliveryState.DEAD_LETTER


def test_a_delivered_instance_stays_delivered(index: Index) -> None:
    """A dead letter that comes after the destination's success does not deny the success."""
    request = requested("a")
    index.request_deliveries([request])
    index.delivery_attempted([DeliveryAttempt(request.delivery_id, AttemptOutcome.DELIVERED)])
    handle_batch([_dead(CloudEvent.of(request, source="/test").model_dump(mode="json"))], CONTEXT, index)
    assert index.delivery(request.delivery_id).state is DeliveryState.DELIVERED


def test_an_old_dead_letter_does_not_end_a_redriven_delivery(index: Index) -> None:
    """A dead letter that is delivered again after its redrive leaves the new try alone."""
    request = requested("a")
    index.request_deliveries([request])
    dead = _dead(CloudEvent.of(request, source="/test").model_dump(mode="json"))
    handle_batch([dead], CONTEXT, index)
    index.redriven([request.delivery_id])
    handle_batch([dead], CONTEXT, index)
    assert index.delivery(request.delivery_id).state is DeliveryState.REQUESTED


@pytest.mark.parametrize(
    "inner",
    [
        CloudEvent.of(InstanceStored(**received("a").model_dump()), source="/test").model_dump(mode="json"),
        {"what": "no CloudEvent at all"},
        {"specversion": "1.0", "id": "x", "source": "/x", "type": "dicom.delivery.requested", "data": {"broken": 1}},
    ],
)
def test_other_dead_letters_settle_nothing_and_fail_nothing(index: Index, inner: dict[str, Any]) -> None:
    """Dead letters of other functions, readable or not, pass: failing on one would make another for ever."""
    result = handle_batch([_dead(inner)], CONTEXT, index)
    assert (result.failures, result.events, index.deliveries()) == ((), (), [])


def _dead(inner: dict[str, Any]) -> CloudEvent:
    payload = DeadLettered(
        function="forward-instances",
        reason="no route to host",
        attempts=7,
        subject="dicom.delivery.requested.pacs",
        stream_sequence=4,
        event=inner,
    )
    return CloudEvent.of(payload, source="/test").model_copy(update={"time": utc_now()})
