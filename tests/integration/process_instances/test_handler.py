"""process-instances against a real store and index: what functions answer comes in whole, once, or not at all."""

import gzip
import itertools
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from bucky.dicom.part10 import split
from bucky.errors import IndexUnavailable
from bucky.events import InstanceStored, Processing, ProcessingCompleted, ProcessingFailed, payload_of
from bucky.index import DeliveryState, Index
from bucky.routing.document import Routing
from bucky.routing.provenance import MOST, read_processed
from bucky.settings import Settings
from tests.support.functions.process_world import (
    DICOM,
    MULTIPART,
    Answer,
    ProcessWorld,
    Script,
    data_set_sha256,
    derived,
    deriving,
    files_of,
    multipart,
    process_world,
    requested,
)
from tests.support.waiting import PATIENCE

JSON = "application/json"


@pytest.fixture
def world(store_settings: Settings, index: Index) -> Iterator[ProcessWorld]:
    """A store, an index, and a gateway whose function `counter` makes one instance of each."""
    with process_world(store_settings, index) as world:
        yield world


def test_a_study_goes_out_in_one_call_and_its_results_come_in(world: ProcessWorld) -> None:
    """The function gets every instance by link and the rule's parameters; what it makes is stored and announced."""
    sent = world.receive(3)
    (event,) = world.decide(sent[0].study_instance_uid)
    result = world.process([event])
    assert result.failures == ()
    (call,) = world.gateway.calls
    assert (call["id"], call["data"]["parameters"], call["data"]["unit"]) == (event.id, {"colour": "red"}, "study")
    assert {one["sha256"] for one in call["data"]["instances"]} == {sample.sha256 for sample in sent}
    made = [data_set_sha256(derived(file)) for file in files_of(call)]
    payloads = [payload_of(one) for one in result.events]
    stored = [one for one in payloads if isinstance(one, InstanceStored)]
    assert sorted(one.sha256 for one in stored) == sorted(made)
    assert world.held() == {sample.sha256 for sample in sent} | set(made)
    (completed,) = [one for one in payloads if isinstance(one, ProcessingCompleted)]
    assert (completed.results, completed.destination, completed.rule) == (3, "counter", "count")
    row = world.index.delivery(event.id)
    assert (row.state, row.detail, row.unit_instances) == (DeliveryState.DELIVERED, "3 results", 3)


def test_a_result_says_what_made_it_in_its_event_and_in_its_object(world: ProcessWorld) -> None:
    """Where an instance came from is known to rules at once, and still when the index is rebuilt from the bucket."""
    sent = world.receive(1)
    (event,) = world.decide(sent[0].study_instance_uid)
    (stored,) = world.index_results(world.process([event]))
    chain = (Processing(function="counter", rule="count", rule_version=1, delivery_id=event.id),)
    assert stored.processed == chain == world.index.instance(stored.sha256).processed
    meta, _ = split(world.objects.get(stored.key))
    assert read_processed(meta.private_information) == chain
    assert stored.association_id == event.id


class CrashingIndex:
    """An index whose database goes away before it can record what the function answered."""

    def __init__(self, index: Index) -> None:
        self._index = index

    def __getattr__(self, name: str) -> Any:
        return getattr(self._index, name)

    def delivery_attempted(self, *_: object) -> None:
        """Fail as a database that is gone does."""
        raise IndexUnavailable("the index database did not answer")


def test_a_crash_before_the_record_makes_nothing_twice(world: ProcessWorld) -> None:
    """Called again after a crash, a function that makes the same makes nothing new; no attempt is burned."""
    sent = world.receive(2)
    (event,) = world.decide(sent[0].study_instance_uid)
    (failure,) = world.process([event], CrashingIndex(world.index)).failures
    assert (failure.retryable, failure.attempted) == (True, False)
    before = world.held()
    result = world.process([event])
    assert len(world.gateway.calls) == 2
    assert world.held() == before
    assert len(world.index_results(result)) == 2


def test_a_crash_after_the_record_tells_of_the_results_without_another_call(world: ProcessWorld) -> None:
    """Results whose events never reached the broker are told of again, and the function is not asked twice."""
    sent = world.receive(2)
    (event,) = world.decide(sent[0].study_instance_uid)
    first, again = world.process([event]), world.process([event])
    assert len(world.gateway.calls) == 1
    assert sorted(one.nats_msg_id for one in first.events) == sorted(one.nats_msg_id for one in again.events)


def test_a_function_that_makes_up_uids_anew_makes_new_instances_when_it_is_called_again(world: ProcessWorld) -> None:
    """What a function randomises is new to us at each call: one more call is one more set, and none is lost."""
    numbers = itertools.count(1)
    world.gateway.functions["counter"] = lambda event: Answer(
        body=multipart(*(derived(file, f"2.25.{next(numbers)}") for file in files_of(event)))
    )
    sent = world.receive(1)
    (event,) = world.decide(sent[0].study_instance_uid)
    world.process([event], CrashingIndex(world.index))
    world.process([event])
    assert len(world.held()) == 3


def test_what_comes_back_as_it_was_is_nothing_new(world: ProcessWorld) -> None:
    """An instance that a function hands back unchanged is neither stored over the first nor announced."""
    world.gateway.functions["counter"] = lambda event: Answer(body=multipart(*files_of(event)))
    sent = world.receive(2)
    (event,) = world.decide(sent[0].study_instance_uid)
    before = {one.key: one.modified for one in world.objects.listing()}
    result = world.process([event])
    assert [one.type for one in result.events] == [ProcessingCompleted.TYPE]
    assert {one.key: one.modified for one in world.objects.listing()} == before
    assert world.index.delivery(event.id).detail == "0 results, 2 came back as given"


def test_the_same_result_twice_is_one(world: ProcessWorld) -> None:
    """A function that repeats itself in its answer makes one instance."""
    world.gateway.functions["counter"] = lambda event: Answer(
        body=multipart(*(derived(f) for f in files_of(event) * 2))
    )
    sent = world.receive(1)
    (event,) = world.decide(sent[0].study_instance_uid)
    assert len(world.index_results(world.process([event]))) == 1


@pytest.mark.parametrize(
    "answer",
    [Answer(204), Answer(200, JSON, (b'{"batchItemFailures": [], "events": []}',)), Answer(body=multipart())],
    ids=["204", "json", "empty-multipart"],
)
def test_no_result_is_a_result(world: ProcessWorld, answer: Answer) -> None:
    """A function that only looks, or finds nothing, is done when it says so."""
    world.gateway.functions["counter"] = lambda _event: answer
    (event,) = world.decide(world.receive(1)[0].study_instance_uid)
    assert world.process([event]).failures == ()
    assert world.index.delivery(event.id).detail == "0 results"


def test_one_result_need_not_be_multipart(world: ProcessWorld) -> None:
    """The simplest function answers one DICOM file."""
    world.gateway.functions["counter"] = lambda event: Answer(200, DICOM, (derived(files_of(event)[0]),))
    (event,) = world.decide(world.receive(1)[0].study_instance_uid)
    assert len(world.index_results(world.process([event]))) == 1


def forged(file: bytes, uid: bytes) -> bytes:
    """Return a file whose data set and file meta information have another SOP Instance UID, at the same length."""
    made = derived(file, "2.25." + "1" * 20)
    return made.replace(b"2.25." + b"1" * 20, uid.ljust(25, b"1"))


def saying(content_type: str, *pieces: bytes) -> Script:
    """Return a function that answers this."""
    return lambda _event: Answer(200, content_type, pieces)


RUBBISH: dict[str, tuple[Script, str]] = {
    "not dicom": (lambda _event: Answer(body=multipart(b"no DICOM file")), "result 1 of the function is no instance"),
    "html": (saying("text/html", b"<h1>hello</h1>"), "neither DICOM"),
    "another part": (
        lambda event: Answer(body=multipart(derived(files_of(event)[0]), content_type="text/plain")),
        "a part that is not application/dicom",
    ),
    "no boundary": (saying("multipart/related", b"x"), "without a boundary"),
    "path for a uid": (lambda event: Answer(body=multipart(forged(files_of(event)[0], b"../../../etc/x"))), "UID"),
    "uid of an input": (
        lambda event: Answer(
            body=multipart(derived(files_of(event)[0], event["data"]["instances"][0]["sop_instance_uid"]))
        ),
        "SOP Instance UID of what the function was given",
    ),
    "one uid, two instances": (
        lambda event: Answer(
            body=multipart(*(derived(files_of(event)[0], "2.25.7", PatientComments=text) for text in ("a", "b")))
        ),
        "SOP Instance UID of an earlier result",
    ),
    "a good one, then a bad one": (
        lambda event: Answer(body=multipart(derived(files_of(event)[0]), b"rubbish")),
        "result 2 of the function",
    ),
    "other meta": (
        lambda event: Answer(body=multipart(derived(files_of(event)[0]).replace(b"2.25.", b"2.26.", 1))),
        "names another instance",
    ),
    "not the contract": (saying(JSON, b'{"ok": true}'), "not that of the function contract"),
    "events": (
        saying(
            JSON,
            b'{"batchItemFailures": [], "events": [{"specversion": "1.0", "id": "1", "source": "/x", "type": "a.b"}]}',
        ),
        "answered with events",
    ),
    "too much": (
        lambda _event: Answer(200, DICOM, (b"\0" * 65536 for _ in range(20))),
        "more than 1000000 bytes",
    ),
    "compressed": (
        lambda _event: Answer(200, DICOM, (gzip.compress(b"\0" * 50_000_000),), {"Content-Encoding": "gzip"}),
        "result 1 of the function is no instance",
    ),
    "422": (lambda _event: Answer(422, "text/plain", (b"no CT",)), "answered HTTP 422"),
}


@pytest.mark.parametrize("case", list(RUBBISH))
def test_rubbish_is_refused_with_its_reason_and_touches_nothing(world: ProcessWorld, case: str) -> None:
    """A bad answer is refused for good, with a sentence that says what is bad; nothing of it is stored."""
    script, reason = RUBBISH[case]
    world.route(
        "rules: [{name: count, trigger: study_stable, process: {function: counter, max_result_bytes: 1000000}}]"
    )
    world.gateway.functions["counter"] = script
    sent = world.receive(1)
    (event,) = world.decide(sent[0].study_instance_uid)
    result = world.process([event])
    (failure,) = result.failures
    assert not failure.retryable
    assert reason in failure.reason
    assert [one.type for one in result.events] == [ProcessingFailed.TYPE]
    assert (world.state(event), world.index.delivery(event.id).reason) == (DeliveryState.FAILED, failure.reason)
    assert world.held() == {sent[0].sha256}


CUT = multipart(b"x" * 5000)[:2]
TROUBLE: dict[str, tuple[Script, bool, str]] = {
    "500": (lambda _event: Answer(500, "text/plain", (b"Traceback",)), True, "answered HTTP 500"),
    "502": (lambda _event: Answer(502, "text/plain"), True, "answered HTTP 502"),
    "broken off": (lambda _event: Answer(None, MULTIPART, CUT), True, "broke off"),
    "cut short": (lambda _event: Answer(200, MULTIPART, CUT), True, "not whole"),
    "says it failed": (
        lambda event: Answer(
            200,
            JSON,
            (
                b'{"batchItemFailures": [{"itemIdentifier": "%s", "retryable": true, "reason": "no GPU"}], '
                b'"events": []}' % event["id"].encode(),
            ),
        ),
        True,
        "failed",
    ),
    "busy": (lambda _event: Answer(429, "text/plain", headers={"Retry-After": "7"}), False, "busy"),
    "not ready": (lambda _event: Answer(503, "text/plain"), False, "not ready"),
}


@pytest.mark.parametrize("case", list(TROUBLE))
def test_trouble_is_tried_again(world: ProcessWorld, case: str) -> None:
    """A function that fails is called again; one that is away or busy was given nothing, and that uses nothing up."""
    script, attempted, reason = TROUBLE[case]
    world.gateway.functions["counter"] = script
    sent = world.receive(1)
    (event,) = world.decide(sent[0].study_instance_uid)
    (failure,) = world.process([event]).failures
    assert (failure.retryable, failure.attempted) == (True, attempted)
    assert reason in failure.reason
    assert (world.state(event), world.index.delivery(event.id).attempts) == (DeliveryState.RETRYING, 1)
    assert world.held() == {sent[0].sha256}
    world.gateway.functions["counter"] = deriving
    assert world.process([event]).failures == ()
    assert world.state(event) is DeliveryState.DELIVERED


def test_a_function_that_hangs_is_left_after_its_time(world: ProcessWorld) -> None:
    """Neither silence, before or in its answer, nor a drip of bytes holds a call for longer than the rule allows."""
    world.route("rules: [{name: count, trigger: study_stable, process: {function: counter, timeout_seconds: 0.5}}]")
    (event,) = world.decide(world.receive(1)[0].study_instance_uid)

    def dripping() -> Iterator[bytes]:
        while not world.gateway.hanging.wait(0.05):
            yield b"\0" * 1024

    def silent(_event: dict[str, Any]) -> Answer:
        world.gateway.hanging.wait(2 * PATIENCE)
        return Answer(204)

    def stopping() -> Iterator[bytes]:
        yield b"\0" * 1024
        world.gateway.hanging.wait(2 * PATIENCE)

    for script in (
        silent,
        lambda _event: Answer(200, DICOM, dripping()),
        lambda _event: Answer(200, DICOM, stopping()),
    ):
        world.gateway.functions["counter"] = script
        began = time.monotonic()
        (failure,) = world.process([event]).failures
        assert (failure.retryable, failure.attempted) == (True, True)
        assert "did not answer in 0.5 s" in failure.reason
        assert time.monotonic() - began < PATIENCE


@pytest.mark.parametrize("away", ["not deployed", "no gateway"])
def test_while_the_function_is_away_everything_waits(world: ProcessWorld, away: str) -> None:
    """A function that nobody has deployed yet, or a gateway that is down, loses nothing and burns nothing."""
    events = [event for _ in range(2) for event in world.decide(world.receive(1)[0].study_instance_uid)]
    if away == "no gateway":
        world.gateway.close()
    else:
        del world.gateway.functions["counter"]
    failures = world.process(events).failures
    assert [(one.retryable, one.attempted) for one in failures] == [(True, False)] * 2
    if away == "no gateway":
        world.gateway.open()
    world.gateway.functions["counter"] = deriving
    assert world.process(events).failures == ()


def test_what_came_out_of_too_many_functions_goes_into_no_other(world: ProcessWorld) -> None:
    """Rules that feed each other under ever new names end in a dead letter that shows the chain."""
    chain = tuple(
        Processing(function=f"f{number}", rule=f"r{number}", rule_version=1, delivery_id="a" * 64)
        for number in range(MOST)
    )
    sent = world.receive(1, chain)
    (event,) = world.decide(sent[0].study_instance_uid)
    (failure,) = world.process([event]).failures
    assert not failure.retryable
    assert "f0 → f1" in failure.reason
    assert world.gateway.calls == []


def test_a_chain_as_long_as_it_may_be_fits_into_the_object(world: ProcessWorld) -> None:
    """The longest chain that is allowed, of the longest names, can be read from the object again."""
    long = "n" * 40
    chain = tuple(
        Processing(function=long, rule=f"{number}{long}"[:40], rule_version=99_999, delivery_id="a" * 64)
        for number in range(MOST - 1)
    )
    (event,) = world.decide(world.receive(1, chain)[0].study_instance_uid)
    (stored,) = world.index_results(world.process([event]))
    assert len(stored.processed) == MOST
    assert read_processed(split(world.objects.get(stored.key))[0].private_information) == stored.processed


def test_what_the_rule_was_is_looked_up_in_its_own_version(world: ProcessWorld) -> None:
    """An edit of the rule changes nothing about what was decided before it."""
    (event,) = world.decide(world.receive(1)[0].study_instance_uid)
    world.index.save_routing(Routing(), world.index.routing().version, "test")
    assert world.process([event]).failures == ()
    assert world.gateway.calls[0]["data"]["parameters"] == {"colour": "red"}


def test_when_nobody_knows_which_instances_they_were_the_function_is_not_called(world: ProcessWorld) -> None:
    """After the index was lost, a study that is to be processed is not processed in part."""
    sent = world.receive(2)
    (event,) = world.decide(sent[0].study_instance_uid)
    other = event.model_copy(update={"data": {**event.data, "unit_sha256": "0" * 64}})
    world.gateway.functions["counter"] = deriving
    failures = world.process([other]).failures
    assert [one.retryable for one in failures] == [False]
    assert world.gateway.calls == []


def test_nobody_is_told_before_the_barrier_has_passed(world: ProcessWorld) -> None:
    """Results count as made when they would survive a power cut: a disk that does not sync keeps all waiting."""
    passed = threading.Event()

    class Failing:
        async def passed(self, uploaded_at: float) -> None:  # noqa: ARG002 - no upload is durable here
            passed.set()
            raise OSError(5, "Input/output error")

    world.barrier = Failing()
    (event,) = world.decide(world.receive(1)[0].study_instance_uid)
    result = world.process([event])
    assert passed.is_set()
    assert result.events == ()
    assert [(one.retryable, one.attempted) for one in result.failures] == [(True, False)]
    assert world.state(event) is DeliveryState.REQUESTED


def test_an_instance_can_be_processed_as_it_arrives(world: ProcessWorld) -> None:
    """A rule that waits for nothing gives the function one instance at a time."""
    world.route("rules: [{name: each, process: {function: counter}}]")
    for sample in world.receive(2):
        (event,) = world.decide_alone(sample.sha256)
        assert requested(event).unit == "instance"
        assert world.process([event]).failures == ()
    assert [len(call["data"]["instances"]) for call in world.gateway.calls] == [1, 1]
