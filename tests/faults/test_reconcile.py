"""Whatever is lost between bucket, index, streams and deliveries, reconciling puts it right or says so."""

import asyncio
import json
import random
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

import pytest
from nats.aio.client import Client
from sqlalchemy import delete, update

from bucky.broker.connection import connect, jetstream
from bucky.broker.streams import ensure_streams
from bucky.cloudevents import CloudEvent, DeadLettered
from bucky.events import DeliveryRequested, InstanceIndexed, InstanceStored, payload_of
from bucky.index import AttemptOutcome, DeliveryAttempt, DeliveryState, Index, Routed
from bucky.index.delivery_schema import deliveries, routings
from bucky.index.schema import arrivals, instances, series
from bucky.settings import Settings
from bucky.store.objects import MemoryObjectStore, S3ObjectStore, put_bytes
from bucky.text.identifiers import delivery_id
from keeper.commands import _verdict
from keeper.findings import Did, FindingKind, ReconcileReport
from keeper.readers import DirectReader
from keeper.reconcile import Reconcile
from keeper.reindex import Reindex
from keeper.republisher import Republisher
from tests.support.services.command_line import bucky, environment
from tests.support.services.keeper_world import ONLY_THE_INDEX_KNOWS, Tables, indexed, store_samples, stored_event

pytestmark = [pytest.mark.store, pytest.mark.index]

STUDY = "1.2.3.900"


@dataclass
class ReconcileWorld:
    """Five instances received, indexed and routed, each delivered but one, and what they stand on."""

    objects: MemoryObjectStore
    index: Index
    tables: Tables
    client: Client
    stored: list[InstanceStored]

    async def reconcile(self, *, dry_run: bool = False, grace: float = -60) -> ReconcileReport:
        """Run; what is being written just now counts as old enough."""
        publisher = Republisher(jetstream(self.client))
        return await Reconcile(self.objects, self.index, publisher, "bucky", grace, dry_run).run()

    async def tell(self, *events: CloudEvent) -> None:
        """Publish events as they are published first."""
        for event in events:
            await jetstream(self.client).publish(
                event.nats_subject, event.to_json(), headers={"Nats-Msg-Id": event.nats_msg_id}
            )

    async def work_off(self, function: str, stream: str, subject: str) -> list[CloudEvent]:
        """Take and acknowledge all that waits for a function, as the connector does."""
        pull = await jetstream(self.client).pull_subscribe(subject, durable=f"{function}-test", stream=stream)
        taken: list[CloudEvent] = []
        while True:
            try:
                messages = await pull.fetch(50, timeout=0.3)
            except TimeoutError:
                # A busy server takes its time; it knows whether something is left.
                if (await pull.consumer_info()).num_pending:
                    continue
                await pull.unsubscribe()
                return taken
            for message in messages:
                await message.ack_sync()
                taken.append(CloudEvent.model_validate_json(message.data))

    async def parsing(self) -> list[CloudEvent]:
        """Take what waits for parse-instance."""
        return await self.work_off("parse-instance", "INSTANCES", InstanceStored.TYPE)

    async def routing(self) -> list[CloudEvent]:
        """Take what waits for route-instance."""
        return await self.work_off("route-instance", "INSTANCES", InstanceIndexed.TYPE)

    async def forwarding(self) -> list[CloudEvent]:
        """Take what waits for forward-instances."""
        return await self.work_off("forward-instances", "DELIVERIES", f"{DeliveryRequested.TYPE}.pacs")

    def requests(self) -> list[DeliveryRequested]:
        """Return the request to deliver each instance."""
        return [
            DeliveryRequested(
                delivery_id=delivery_id(one.sha256, "pacs", 1),
                destination="pacs",
                rule="all",
                rule_version=1,
                instance=self.index.instance(one.sha256).received(),
            )
            for one in self.stored
        ]


@pytest.fixture
async def world(nats_settings: Settings, index_url: str) -> AsyncIterator[ReconcileWorld]:
    """Everything is right, the last delivery still under way at a destination that is slow."""
    client, index, tables = await connect(nats_settings, "test"), Index.open(index_url), Tables(index_url)
    await ensure_streams(jetstream(client))
    index.migrate()
    objects = MemoryObjectStore()
    world = ReconcileWorld(objects, index, tables, client, store_samples(objects, STUDY, 5))
    events = [stored_event(one) for one in world.stored]
    await world.tell(*events)
    assert len(await world.parsing()) == 5
    indexed(objects, index, world.stored, events)
    await world.tell(*(CloudEvent.of(_indexed(one), source="/test") for one in world.stored))
    assert len(await world.routing()) == 5
    requests = world.requests()
    index.request_deliveries(requests, routed=[Routed(one.sha256, 1, 1) for one in world.stored])
    await world.tell(*(CloudEvent.of(one, source="/test") for one in requests[:-1]))
    assert len(await world.forwarding()) == 4
    index.delivery_attempted([DeliveryAttempt(one.delivery_id, AttemptOutcome.DELIVERED) for one in requests[:-1]])
    await world.tell(CloudEvent.of(requests[-1], source="/test"))
    yield world
    await client.close()
    index.close()
    tables.close()


def _indexed(stored: InstanceStored) -> InstanceIndexed:
    return InstanceIndexed(**stored.model_dump())


def _kinds(report: ReconcileReport) -> dict[FindingKind, dict[str, int]]:
    return {kind: dict(found.done) for kind, found in report.found.items()}


async def _nothing_waits(world: ReconcileWorld) -> bool:
    return not await world.parsing() and not await world.routing()


async def test_where_all_is_right_nothing_is_found(world: ReconcileWorld) -> None:
    """A healthy installation with a delivery under way is left alone."""
    before = world.tables.rows(instances, series, deliveries)
    report = await world.reconcile()
    assert (report.found, report.wrong) == ({}, False)
    assert (report.objects, report.instances, report.deliveries) == (5, 5, 1)
    assert world.tables.rows(instances, series, deliveries) == before
    assert await _nothing_waits(world)
    assert len(await world.forwarding()) == 1


async def test_a_lost_row_comes_back_and_is_not_sent_again(world: ReconcileWorld) -> None:
    """The row of an instance that was delivered is made anew, with what its event still knows, and nothing is sent."""
    world.tables.execute(update(arrivals).values(open=False))
    before = world.tables.rows(without={"indexed_at", "last_instance_at"})
    world.tables.execute(delete(instances).where(instances.c.sha256 == world.stored[0].sha256))
    report = await world.reconcile()
    assert _kinds(report) == {
        FindingKind.OBJECT_NOT_INDEXED: {Did.INDEXED: 1},
        FindingKind.COUNTS_DIFFER: {Did.COUNTED: 1},
    }
    assert not report.wrong
    assert world.tables.rows(without={"indexed_at", "last_instance_at"}) == before
    assert not any(row["open"] for row in world.tables.rows(arrivals)["arrivals"])
    assert await _nothing_waits(world)
    assert not (await world.reconcile()).found


async def test_a_lost_index_is_not_sent_again(world: ReconcileWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the rows and the decisions gone, nothing is published: a reindexing is asked for, and waited for."""
    monkeypatch.setattr("keeper.reconcile.LOST_LEAST", 3)
    world.tables.empty()
    report = await world.reconcile()
    assert report.found.keys() == {FindingKind.INDEX_LOST}
    assert (report.found[FindingKind.INDEX_LOST].first, report.wrong) == (["5 of 5 objects"], True)
    world.index.begin_reindex("bucky")
    assert (await world.reconcile()).found.keys() == {FindingKind.REINDEXING}
    assert await _nothing_waits(world)
    Reindex(world.objects, world.index, "bucky", DirectReader(world.objects, "bucky")).run()
    assert (await world.reconcile()).found == {}
    assert await _nothing_waits(world)


async def test_a_lost_stored_event_is_published_again(world: ReconcileWorld) -> None:
    """An object whose event was lost goes the usual way: its event, the index, the rules."""
    lost = store_samples(world.objects, STUDY, 1, first=9)
    for _ in range(2):
        report = await world.reconcile()
    assert _kinds(report) == {}, "the event waits: it is not published for each run"
    (event,) = await world.parsing()
    assert payload_of(event).event_id() == lost[0].sha256
    indexed(world.objects, world.index, lost, [event])
    assert world.index.study(STUDY).instance_count == 6


async def test_an_event_that_waits_is_left_waiting(world: ReconcileWorld) -> None:
    """With the functions away, what waits in the streams is not lost: nothing is published twice."""
    late = store_samples(world.objects, STUDY, 2, first=9)
    await world.tell(stored_event(late[0]))
    indexed(world.objects, world.index, [late[1]])
    await world.tell(CloudEvent.of(_indexed(late[1]), source="/test"))
    assert (await world.reconcile()).found == {}
    assert (len(await world.parsing()), len(await world.routing())) == (1, 1)


async def test_what_is_young_is_left_alone(world: ReconcileWorld) -> None:
    """Within the grace time an instance is on its way, not lost."""
    store_samples(world.objects, STUDY, 1, first=9)
    assert (await world.reconcile(grace=60)).found == {}


async def test_a_young_object_that_is_gone_is_too_recent_to_judge(world: ReconcileWorld) -> None:
    """Somebody who has just deleted an object, and asks, must not be told that nothing is wrong."""
    del world.objects._objects[world.stored[0].key]
    report = await world.reconcile(grace=900)
    assert (report.found, report.too_recent.count, report.too_recent.first) == ({}, 1, [world.stored[0].key])
    assert "too recent to judge" in _verdict(report)
    assert report.as_data()["too_recent"]["count"] == 1
    assert _verdict(ReconcileReport(dry_run=False)) == "nothing wrong"


async def test_a_lost_object_is_reported(world: ReconcileWorld) -> None:
    """Nobody can bring it back: it is named, its row and its deliveries stay as evidence, every time."""
    key = world.stored[0].key
    del world.objects._objects[key]
    for _ in range(2):
        report = await world.reconcile()
        assert _kinds(report) == {FindingKind.OBJECT_MISSING: {Did.NOTHING: 1}}
        assert (report.found[FindingKind.OBJECT_MISSING].first, report.wrong) == ([key], True)
    assert world.index.instance(world.stored[0].sha256).key == key


async def test_damaged_and_foreign_objects_are_reported(world: ReconcileWorld) -> None:
    """An object cut short, one that is no DICOM file and one that is nobody's are told apart."""
    content = world.objects.get(world.stored[1].key)
    put_bytes(world.objects, world.stored[1].key, content[:-100])
    strange = f"studies/{STUDY}/1.2/1.3/{'e' * 64}.dcm"
    put_bytes(world.objects, strange, b"text")
    put_bytes(world.objects, "notes.txt", b"text")
    report = await world.reconcile()
    assert {kind: found.first for kind, found in report.found.items()} == {
        FindingKind.OBJECT_DIFFERS: [world.stored[1].key],
        FindingKind.OBJECT_UNREADABLE: [strange],
        FindingKind.OBJECT_FOREIGN: ["notes.txt"],
    }
    assert report.wrong


async def test_an_instance_the_rules_never_saw_is_routed(world: ReconcileWorld) -> None:
    """An indexed event that was lost is published again, once, in the trace of its instance."""
    lost = store_samples(world.objects, STUDY, 1, first=9)
    indexed(world.objects, world.index, lost)
    assert _kinds(await world.reconcile()) == {FindingKind.NOT_ROUTED: {Did.PUBLISHED: 1}}
    assert (await world.reconcile()).found == {}
    (event,) = await world.routing()
    row = world.index.instance(lost[0].sha256)
    assert event.traceparent is not None
    assert event.traceparent.split("-")[1] == row.trace_id
    assert payload_of(event) == InstanceIndexed(**row.received().model_dump())


async def test_a_delivery_nobody_was_told_of_is_asked_for_again(world: ReconcileWorld) -> None:
    """A request that the stream lost is published again, once, with the rule and version that decided it."""
    await jetstream(world.client).purge_stream("DELIVERIES")
    assert _kinds(await world.reconcile()) == {FindingKind.REQUEST_LOST: {Did.PUBLISHED: 1}}
    assert (await world.reconcile()).found == {}
    (event,) = await world.forwarding()
    assert payload_of(event) == world.requests()[-1]


async def test_a_delivery_whose_attempt_was_lost_half_way_is_asked_for_again(world: ReconcileWorld) -> None:
    """An attempt that was recorded while its event was lost does not stay `retrying` for ever."""
    await world.forwarding()
    request = world.requests()[-1]
    world.index.delivery_attempted([DeliveryAttempt(request.delivery_id, AttemptOutcome.RETRYING, "away")])
    assert _kinds(await world.reconcile()) == {FindingKind.REQUEST_LOST: {Did.PUBLISHED: 1}}
    (event,) = await world.forwarding()
    assert event.id == request.delivery_id


async def test_a_dead_letter_nobody_recorded_is_recorded(world: ReconcileWorld) -> None:
    """The delivery says what its dead letter says, instead of waiting for ever."""
    (event,) = await world.forwarding()
    dead = DeadLettered(
        function="forward-instances",
        reason="refused: no such SOP class",
        attempts=3,
        subject=event.nats_subject,
        stream_sequence=5,
        event=json.loads(event.to_json()),
    )
    await world.tell(CloudEvent.of(dead, source="/test"))
    assert _kinds(await world.reconcile()) == {FindingKind.DEAD_LETTER_NOT_RECORDED: {Did.RECORDED: 1}}
    row = world.index.delivery(event.id)
    assert (row.state, row.reason, row.attempts) == (DeliveryState.DEAD_LETTER, "refused: no such SOP class", 3)
    assert (await world.reconcile()).found == {}


async def test_a_refusal_without_a_dead_letter_can_be_sent_again(world: ReconcileWorld) -> None:
    """A delivery that was refused, its dead letter lost, becomes a dead one that says how to send it again."""
    (event,) = await world.forwarding()
    world.index.delivery_attempted([DeliveryAttempt(event.id, AttemptOutcome.FAILED, "0x0122")])
    assert _kinds(await world.reconcile()) == {FindingKind.FAILURE_WITHOUT_LETTER: {Did.RECORDED: 1}}
    row = world.index.delivery(event.id)
    assert row.state is DeliveryState.DEAD_LETTER
    assert row.reason.startswith("0x0122 (")
    assert "send this delivery again" in row.reason


async def test_a_dry_run_changes_nothing(world: ReconcileWorld) -> None:
    """It says what would be done, and that something is wrong."""
    world.tables.execute(
        delete(instances).where(instances.c.sha256 == world.stored[0].sha256),
        delete(routings).where(routings.c.sha256 == world.stored[1].sha256),
    )
    await jetstream(world.client).purge_stream("DELIVERIES")
    before = world.tables.rows(instances, series, deliveries, routings)
    report = await world.reconcile(dry_run=True)
    assert set(report.found) == {
        FindingKind.OBJECT_NOT_INDEXED,
        FindingKind.COUNTS_DIFFER,
        FindingKind.NOT_ROUTED,
        FindingKind.REQUEST_LOST,
    }
    assert report.wrong
    assert world.tables.rows(instances, series, deliveries, routings) == before
    assert await _nothing_waits(world)
    assert not await world.forwarding()


async def test_killed_anywhere_it_can_be_run_again(
    nats_settings: Settings, store_settings: Settings, index_url: str
) -> None:
    """kill -9 of the command at random moments, run after run: what it repairs is right in the end, nothing is lost."""
    objects, index, tables = S3ObjectStore(store_settings), Index.open(index_url), Tables(index_url)
    client = await connect(nats_settings, "test")
    try:
        await ensure_streams(jetstream(client))
        index.migrate()
        stored = store_samples(objects, STUDY, 60, bucket=store_settings.store_bucket)
        indexed(objects, index, stored)
        index.request_deliveries([], routed=[Routed(one.sha256, 1, 1) for one in stored])
        before = tables.rows(without=ONLY_THE_INDEX_KNOWS)
        environ = _environ(store_settings, nats_settings, index_url)
        for _ in range(5):
            _lose(tables, random.sample(stored, 40))
            await asyncio.to_thread(_run_and_kill, environ, random.uniform(1.0, 4.0))
        shown = await asyncio.to_thread(bucky, environ, "reconcile", "--json")
        assert shown.returncode == 0, shown.stderr
        assert not json.loads(shown.stdout)["wrong"]
        assert tables.rows(without=ONLY_THE_INDEX_KNOWS) == before
        text = await asyncio.to_thread(bucky, environ, "reconcile")
        assert text.returncode == 0
        assert "nothing wrong" in text.stdout
    finally:
        await client.close()
        index.close()
        tables.close()


def _environ(store: Settings, broker: Settings, index_url: str) -> dict[str, str]:
    return {
        **environment(store, index_url),
        "BUCKY_NATS_URL": broker.nats_url,
        "BUCKY_NATS_PASSWORD": broker.nats_password.get_secret_value(),
        "BUCKY_RECONCILE_GRACE_SECONDS": "0",
    }


def _lose(tables: Tables, some: Sequence[InstanceStored]) -> None:
    tables.execute(delete(instances).where(instances.c.sha256.in_([one.sha256 for one in some])))


def _run_and_kill(environ: dict[str, str], seconds: float) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "bucky.cli", "reconcile"],
        env={"PATH": "/usr/bin:/bin", **environ},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    time.sleep(seconds)
    process.send_signal(signal.SIGKILL)
    process.wait()
