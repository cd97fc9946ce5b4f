"""Forwarding against a real index and a real SCP: what is delivered, what waits, what fails, and after a crash."""

import json
from pathlib import Path

import pytest

from bucky.errors import IndexUnavailable
from bucky.events import (
    DeliveryCompleted,
    DeliveryFailed,
    payload_of,
)
from bucky.index import DeliveryState, Index
from bucky.runtime.ports import free_port
from bucky.serve.contract import BatchResult
from bucky.store.objects import MemoryObjectStore, put_bytes
from forward_instances import content
from local_stack.destination import Destination, ReceivedRequest, ScriptedAnswer
from tests.support.functions.forwarding import (
    MR,
    SENDERS,
    CrashingIndex,
    forward,
    request,
    route_to,
    state,
)


@pytest.fixture
def objects() -> MemoryObjectStore:
    """An empty object store."""
    return MemoryObjectStore()


def test_delivered_is_what_the_destination_answered_success_for(
    tmp_path: Path, index: Index, objects: MemoryObjectStore
) -> None:
    """Each instance arrives with its own bytes, is recorded as delivered, and its event continues its trace."""
    events = [request(objects, number) for number in range(10)]
    with Destination(tmp_path) as destination:
        route_to(index, destination.port, calling_aet="FORWARDER")
        result = forward(events, objects, index, SENDERS)
        assert destination.received().keys() == {event.data["instance"]["sha256"] for event in events}
        assert {received.calling_aet for received in destination.requests} == {"FORWARDER"}
    assert result.failures == ()
    completed = {event.id: event for event in result.events}
    assert completed.keys() == {event.id for event in events}
    assert {state(index, event) for event in events} == {DeliveryState.DELIVERED}
    for event in events:
        assert isinstance(payload_of(completed[event.id]), DeliveryCompleted)
        assert str(completed[event.id].traceparent).split("-")[1] == str(event.traceparent).split("-")[1]


def test_a_refused_instance_is_failed_with_its_reason_and_the_others_go(
    tmp_path: Path, index: Index, objects: MemoryObjectStore
) -> None:
    """A refusal is said for that instance alone, for good, in the index, in the event and to the caller alike."""
    good, bad = request(objects, 1), request(objects, 2, MR)
    with Destination(tmp_path, refused_sop_classes=[MR]) as destination:
        route_to(index, destination.port)
        result = forward([good, bad], objects, index, SENDERS)
    reason = "the destination does not accept MR Image Storage"
    (failure,) = result.failures
    assert (failure.item_identifier, failure.retryable, failure.reason) == (bad.id, False, reason)
    failed = next(event for event in result.events if event.id == bad.id)
    assert failed.type == DeliveryFailed.TYPE
    assert failed.data["reason"] == reason
    assert (state(index, good), state(index, bad)) == (DeliveryState.DELIVERED, DeliveryState.FAILED)
    assert index.delivery(bad.id).reason == reason


def test_the_peers_own_words_stay_in_the_index(tmp_path: Path, index: Index, objects: MemoryObjectStore) -> None:
    """An Error Comment may name a patient: it must not travel in events or in the reasons that get logged."""
    event = request(objects, 1)
    with Destination(tmp_path, script=lambda _received: ScriptedAnswer(0xC001, "DOE^JANE is unknown")) as destination:
        route_to(index, destination.port)
        result = forward([event], objects, index, SENDERS)
    assert "DOE" not in result.to_json().decode()
    assert index.delivery(event.id).detail == "0xC001 DOE^JANE is unknown"
    assert index.delivery(event.id).reason == "the destination answered 0xC001, cannot understand"


def test_a_warning_is_delivered_and_shown(tmp_path: Path, index: Index, objects: MemoryObjectStore) -> None:
    """An instance the destination took with a warning is there; what it changed must be in view."""
    event = request(objects, 1)
    with Destination(tmp_path, script=lambda _received: ScriptedAnswer(0xB000, "DOE^JANE")) as destination:
        route_to(index, destination.port)
        (completed,) = forward([event], objects, index, SENDERS).events
    words = "the destination answered 0xB000, coercion of data elements"
    assert completed.data["detail"] == index.delivery(event.id).reason == words
    assert state(index, event) is DeliveryState.DELIVERED


def test_a_destination_that_is_down_delays_and_loses_nothing(
    tmp_path: Path, index: Index, objects: MemoryObjectStore
) -> None:
    """While a PACS is off its deliveries are retried with the reason in view, and go when it is back."""
    events, port = [request(objects, number) for number in range(3)], free_port()
    route_to(index, port)
    result = forward(events, objects, index, SENDERS)
    assert [(failure.retryable, failure.attempted) for failure in result.failures] == [(True, False)] * 3
    assert result.events == ()
    assert {state(index, event) for event in events} == {DeliveryState.RETRYING}
    assert "Connection refused" in index.delivery(events[0].id).reason
    with Destination(tmp_path, port=port):
        assert forward(events, objects, index, SENDERS).failures == ()
    assert {state(index, event) for event in events} == {DeliveryState.DELIVERED}
    assert index.delivery(events[0].id).attempts == 2, "connecting in vain was one"
    steps = [(one.step, one.times) for one in index.timeline(index.delivery(events[0].id).sha256) if one.destination]
    assert steps[1:] == [("retrying", 1), ("delivered", 1)], "a timeline counts what the delivery counts"


def test_an_unknown_destination_fails_for_good_and_can_be_redriven(
    tmp_path: Path, index: Index, objects: MemoryObjectStore
) -> None:
    """A destination deleted from the routing is a visible failure, and a redrive after it is back delivers."""
    event = request(objects, 1)
    (failure,) = forward([event], objects, index, SENDERS).failures
    assert not failure.retryable
    assert "no destination 'pacs'" in failure.reason
    assert index.dead_letter(event.id, failure.reason, 1)
    with Destination(tmp_path) as destination:
        route_to(index, destination.port)
        index.redriven([event.id])
        assert forward([event], objects, index, SENDERS).failures == ()
    assert state(index, event) is DeliveryState.DELIVERED


def test_a_disabled_destination_still_gets_what_was_requested(
    tmp_path: Path, index: Index, objects: MemoryObjectStore
) -> None:
    """Disabling a destination stops new decisions; what was decided before is still carried out."""
    with Destination(tmp_path) as destination:
        route_to(index, destination.port, enabled=False)
        assert forward([request(objects, 1)], objects, index, SENDERS).failures == ()


def test_a_crash_before_the_record_sends_the_batch_once_more(
    tmp_path: Path, index: Index, objects: MemoryObjectStore
) -> None:
    """Nothing counts as delivered that is not recorded, and sending it again changes nothing at the destination."""
    events = [request(objects, number) for number in range(4)]
    with Destination(tmp_path) as destination:
        route_to(index, destination.port)
        with pytest.raises(IndexUnavailable):
            forward(events, objects, CrashingIndex(index), SENDERS)
        assert {state(index, event) for event in events} == {DeliveryState.REQUESTED}
        result = forward(events, objects, index, SENDERS)
        assert destination.count == 8
    assert len(list(tmp_path.glob("*/*"))) == 4
    assert len(result.events) == 4
    assert {state(index, event) for event in events} == {DeliveryState.DELIVERED}


def test_a_crash_after_the_record_answers_again_without_sending(
    tmp_path: Path, index: Index, objects: MemoryObjectStore
) -> None:
    """When the caller missed the answer, it gets the same one: sent once, completed or failed as before."""
    events = [request(objects, 1), request(objects, 2, MR)]
    with Destination(tmp_path, refused_sop_classes=[MR]) as destination:
        route_to(index, destination.port)
        first = forward(events, objects, index, SENDERS)
        second = forward(events, objects, index, SENDERS)
        assert destination.count == 1
    assert second.failures == first.failures
    told = {(DeliveryCompleted.TYPE, events[0].id), (DeliveryFailed.TYPE, events[1].id)}
    assert {(event.type, event.id) for event in first.events} == told
    assert {(event.type, event.id) for event in second.events} == told
    assert (index.delivery(events[0].id).attempts, index.delivery(events[1].id).attempts) == (1, 1)


def test_one_delivery_asked_for_twice_in_a_batch_is_made_once(
    tmp_path: Path, index: Index, objects: MemoryObjectStore
) -> None:
    """A redelivered message beside its original must not send the instance twice."""
    event = request(objects, 1)
    with Destination(tmp_path) as destination:
        route_to(index, destination.port)
        result = forward([event, event], objects, index, SENDERS)
        assert destination.count == 1
    assert (result.failures, len(result.events)) == ((), 1)


def test_changed_bytes_are_never_sent(tmp_path: Path, index: Index, objects: MemoryObjectStore) -> None:
    """An object that rotted in the store must surface, not reach a PACS under a good name."""
    event = request(objects, 1)
    key = event.data["instance"]["key"]
    rotten = bytearray(objects.get(key))
    rotten[-1] ^= 1
    put_bytes(objects, key, bytes(rotten))
    with Destination(tmp_path) as destination:
        route_to(index, destination.port)
        (failure,) = forward([event], objects, index, SENDERS).failures
        assert destination.count == 0
    assert not failure.retryable
    assert "SHA-256 differs" in failure.reason


def test_a_large_instance_goes_through_a_file(
    tmp_path: Path, index: Index, objects: MemoryObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is too large for memory passes through a file, byte for byte, and leaves no file behind."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    monkeypatch.setattr(content, "IN_MEMORY_BYTES", 1000)
    event = request(objects, 1, size=3_000_000)
    with Destination(tmp_path / "received") as destination:
        route_to(index, destination.port)
        assert forward([event], objects, index, SENDERS).failures == ()
        assert list(destination.received()) == [event.data["instance"]["sha256"]]
    assert list(folder.iterdir()) == []


def test_an_abort_delays_one_instance(tmp_path: Path, index: Index, objects: MemoryObjectStore) -> None:
    """An instance that makes the destination abort is retried; those before and after it are delivered."""

    def script(received: ReceivedRequest) -> ScriptedAnswer:
        return ScriptedAnswer(abort=received.sop_instance_uid == "1.2.3.2")

    events = [request(objects, number) for number in range(5)]
    with Destination(tmp_path, script=script) as destination:
        route_to(index, destination.port, max_associations=1)
        (failure,) = forward(events, objects, index, SENDERS).failures
    assert (failure.item_identifier, failure.retryable, failure.attempted) == (events[2].id, True, True)
    assert [state(index, event) for event in events].count(DeliveryState.DELIVERED) == 4


def test_what_is_no_delivery_is_refused_by_itself(tmp_path: Path, index: Index, objects: MemoryObjectStore) -> None:
    """A message that strayed into the subject must not keep its neighbours from being delivered."""
    good = request(objects, 1)
    stray = good.model_copy(update={"id": "stray", "type": DeliveryCompleted.TYPE})
    broken = good.model_copy(update={"id": "broken", "data": {"delivery_id": "x"}})
    with Destination(tmp_path) as destination:
        route_to(index, destination.port)
        result = forward([stray, good, broken], objects, index, SENDERS)
    assert {(failure.item_identifier, failure.retryable) for failure in result.failures} == {
        ("stray", False),
        ("broken", False),
    }
    assert state(index, good) is DeliveryState.DELIVERED


def test_an_answer_keeps_the_contract(tmp_path: Path, index: Index, objects: MemoryObjectStore) -> None:
    """What the handler answers survives the wire: the caller reads back what was returned."""
    events = [request(objects, 1), request(objects, 2, MR)]
    with Destination(tmp_path, refused_sop_classes=[MR]) as destination:
        route_to(index, destination.port)
        result = forward(events, objects, index, SENDERS)
    read = BatchResult.parse(result.to_json(), {event.id for event in events})
    assert read.failures == result.failures
    assert json.loads(result.to_json())["batchItemFailures"][0]["itemIdentifier"] == events[1].id
