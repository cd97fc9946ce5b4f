"""From stable studies to functions and back, on a real index: once, again when more comes, and never in a circle."""

from collections.abc import Iterator
from datetime import timedelta

import pytest

from admin_api.dead_letters import StoredDeadLetter
from admin_api.rehearsal import rehearse
from admin_api.replay import ReplayRequest, _decided
from bucky.cloudevents import CloudEvent, DeadLettered, utc_now
from bucky.deciding.requests import facts_of, requests_of
from bucky.events import InstanceStored, ProcessingRequested, StudyStable
from bucky.index import DeliveryState, Index, RoutingVersion
from bucky.log import get_logger
from bucky.routing.document import Routing
from bucky.serve.handlers import Context
from bucky.settings import Settings
from bucky.store.objects import S3ObjectStore
from keeper.readers import DirectReader
from keeper.reindex import Reindex
from record_dead_letter.handler import handle_batch as record_dead_letters
from route_stable import handler as route_stable
from tests.support.dicom.sample_instances import samples
from tests.support.functions.process_world import (
    RULES,
    Answer,
    ProcessWorld,
    derived,
    deriving,
    files_of,
    multipart,
    process_world,
    requested,
)
from tests.support.index.rows import indexed
from tests.support.services.keeper_world import Tables

pytestmark = pytest.mark.index

CONTEXT = Context("route-stable", get_logger("test"))


@pytest.fixture
def world(store_settings: Settings, index: Index) -> Iterator[ProcessWorld]:
    """A store, an index, and a gateway whose function `counter` makes one instance of each, in the same study."""
    with process_world(store_settings, index) as world:
        yield world


def declare(world: ProcessWorld, study: str) -> list[CloudEvent]:
    """Say that the study is stable now; return what route-stable asks for."""
    now, row = utc_now(), world.index.study(study)
    stable = StudyStable(
        study_instance_uid=study,
        revision=1,
        quiet_seconds=60.0,
        is_default=True,
        stable_at=now,
        last_instance_at=now,
        reason="quiet",
        instance_count=row.instance_count,
        added=row.instance_count,
        modalities=row.modalities,
        series_count=row.series_count,
        quarantined_count=0,
        changed_series=(),
    )
    event = CloudEvent.of(stable, source="/test", traceparent="00-" + "ab" * 16 + "-" + "cd" * 8 + "-01")
    return list(route_stable.handle(event, CONTEXT, world.index))


def test_a_stable_study_is_processed_once_and_again_when_more_came(
    world: ProcessWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Declared again it asks for nothing; with a late instance the function gets the whole study anew."""
    monkeypatch.setattr(route_stable, "AT_ONCE", 2)
    sent = world.receive(3)
    study = sent[0].study_instance_uid
    (event,) = declare(world, study)
    assert [one.id for one in declare(world, study)] == [event.id]
    assert world.process([event]).failures == ()
    assert declare(world, study) == []
    late = samples(1)[0]
    late = type(late)(late.outgoing, study, late.sop_instance_uid, late.sha256)
    world.keep(late)
    (more,) = declare(world, study)
    assert requested(more).unit_instances == 4


def test_results_in_the_same_study_do_not_set_it_going_again(world: ProcessWorld) -> None:
    """A function that adds a report to the study makes it stable once more, and that is the end of it."""
    study = world.receive(2)[0].study_instance_uid
    (event,) = declare(world, study)
    assert len(world.index_results(world.process([event]))) == 2
    assert world.index.study(study).instance_count == 4
    assert declare(world, study) == []


def test_two_functions_that_read_each_other_come_to_an_end(world: ProcessWorld) -> None:
    """Each gets the other's results once; then neither has anything new."""
    world.route(
        "rules:\n"
        "  - {name: one, trigger: study_stable, process: {function: counter, parameters: {salt: a}}}\n"
        "  - {name: two, trigger: study_stable, process: {function: other}}\n"
    )
    world.gateway.functions["other"] = lambda event: Answer(
        body=multipart(*(derived(file, PatientComments="other") for file in files_of(event)[:1]))
    )
    world.gateway.functions["counter"] = lambda event: Answer(
        body=multipart(*(derived(derived(file), PatientComments="counter") for file in files_of(event)[:1]))
    )
    study, rounds = world.receive(2)[0].study_instance_uid, 0
    while events := declare(world, study):
        rounds += 1
        assert rounds < 6, "it goes round"
        for event in events:
            world.index_results(world.process([event]))
    assert 2 <= rounds <= 4


def test_what_is_at_work_is_seen_for_the_study_and_for_each_instance(world: ProcessWorld) -> None:
    """The timeline shows the function as a step of all that it was given, and what came out of it."""
    sent = world.receive(2)
    study = sent[0].study_instance_uid
    (event,) = declare(world, study)
    (first, _) = world.index_results(world.process([event]))
    steps = {one.step: one for one in world.index.timeline(study) if one.destination == "counter"}
    assert set(steps) == {"requested", "delivered"}
    assert (steps["delivered"].instances, steps["delivered"].detail) == (2, "2 results")
    for sample in sent:
        mine = [one.step for one in world.index.timeline(sample.sha256) if one.destination == "counter"]
        assert mine == ["requested", "delivered"]
        assert [row.delivery_id for row in world.index.deliveries(sha256=sample.sha256)] == [event.id]
    came = world.index.timeline(first.sha256)[0]
    assert (came.step, came.detail) == ("received", f"made by a function, delivery {event.id}")


def test_a_failed_processing_is_one_dead_letter_that_can_be_redriven(world: ProcessWorld) -> None:
    """A study that a function refuses is one line among the dead letters, and its request can be made again."""
    world.gateway.functions["counter"] = lambda _event: Answer(422, "text/plain")
    study = world.receive(3)[0].study_instance_uid
    (event,) = declare(world, study)
    (failure,) = world.process([event]).failures
    dead = DeadLettered(
        function="process-instances",
        reason=failure.reason,
        attempts=1,
        subject=event.nats_subject,
        stream_sequence=1,
        event=event.model_dump(mode="json"),
    )
    record_dead_letters([CloudEvent.of(dead, source="/test")], Context("f", get_logger("test")), world.index)
    letter = StoredDeadLetter(1, utc_now(), "deadletter.process-instances", dead)
    assert letter.delivery == requested(event)
    (row,) = world.index.deliveries(study_uid=study)
    assert (row.state, row.reason, row.unit_instances) == (DeliveryState.DEAD_LETTER, failure.reason, 3)
    again = row.request(world.index.instance(row.sha256).received())
    assert isinstance(again, ProcessingRequested)
    assert again.delivery_id == event.id
    world.index.redriven([event.id])
    world.gateway.functions["counter"] = deriving
    made = world.process([CloudEvent.of(again, source="/test")])
    assert len([one for one in made.events if one.type == InstanceStored.TYPE]) == 3


def test_a_rehearsal_and_a_replay_speak_of_functions(world: ProcessWorld) -> None:
    """What is processed is no difference; a new rule is one for each instance; a replay asks for the study once."""
    sent = world.receive(3)
    study = sent[0].study_instance_uid
    (event,) = declare(world, study)
    world.process([event])
    index = world.index
    since, until = utc_now() - timedelta(hours=1), utc_now() + timedelta(hours=1)
    page = index.instances_received(since, until)
    assert rehearse(index, index.routing(), None, page) == ()
    text = RULES + "  - {name: more, trigger: study_stable, process: {function: another}}\n"
    candidate = RoutingVersion(0, Routing.from_yaml(text), "test", None)
    differences = rehearse(index, candidate, None, page)
    assert {(one.sha256, one.differences[0].destination) for one in differences} == {
        (sample.sha256, "another") for sample in sent
    }
    world.route(text)
    wanted, members, replayed = _decided(index, ReplayRequest(index.routing()), page)
    assert [(one.destination, one.delivery_id in members) for one in wanted] == [("another", True)]
    assert replayed.already == {"counter": 1}


def test_an_index_rebuilt_from_the_bucket_still_knows_the_way_round(world: ProcessWorld, index_url: str) -> None:
    """After the index was lost, results are told from what was received, and are not processed as if they were new."""
    study = world.receive(2)[0].study_instance_uid
    (event,) = declare(world, study)
    results = world.index_results(world.process([event]))
    tables = Tables(index_url)
    tables.empty()
    world.route(RULES)
    objects = S3ObjectStore(world.settings)
    bucket = world.settings.store_bucket
    report = Reindex(objects, world.index, bucket, DirectReader(objects, bucket)).run()
    tables.close()
    assert report.new == 4
    for result in results:
        row = world.index.instance(result.sha256)
        assert row.processed == result.processed
        facts = facts_of(row.received(), row.header)
        assert requests_of(row.received(), facts, world.index.routing(), "study_stable") == []


def test_ten_thousand_instances_are_one_call(world: ProcessWorld) -> None:
    """The largest study there may be is one event of some megabytes; one more instance is refused with the reason."""
    world.gateway.functions["counter"] = lambda _event: Answer(204)
    rows = [f"n{number}" for number in range(10_000)]
    for at in range(0, len(rows), 1000):
        world.index.upsert_instances([indexed(name) for name in rows[at : at + 1000]])
    (event,) = declare(world, "1.2")
    assert world.process([event]).failures == ()
    assert len(world.gateway.calls[0]["data"]["instances"]) == 10_000
    world.index.upsert_instances([indexed("one more")])
    (event,) = declare(world, "1.2")
    (failure,) = world.process([event]).failures
    assert not failure.retryable
    assert "10001" in failure.reason
