"""Studies and series become stable, are told of once, and again when something more comes."""

import asyncio
import json
import secrets
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime, timedelta
from http import HTTPStatus
from typing import Any

import httpx
import pytest
from nats.aio.client import Client
from sqlalchemy import update

from bucky.broker.connection import JetStreamPublisher, MemoryPublisher, connect, jetstream
from bucky.broker.streams import ensure_streams
from bucky.cloudevents import CloudEvent, utc_now
from bucky.errors import BrokerUnavailable
from bucky.events import InstanceStored, SeriesStable, StudyStable, payload_of
from bucky.index import Declaration, Index
from bucky.index.schema import arrivals
from bucky.routing.document import Routing
from bucky.settings import Settings
from keeper.completeness import Seen
from keeper.evidence import Evidence
from keeper.sweep import StudySweep, Swept
from keeper.waiting import read
from tests.support.index.rows import header, received
from tests.support.index.rows import indexed as index_row
from tests.support.services.keeper_world import Tables

pytestmark = pytest.mark.index


class Told(Evidence):
    """Evidence that a test decides on: everything is indexed until now, unless it says otherwise."""

    def __init__(self) -> None:
        self.in_the_way = ""
        self.until: datetime | None = None

    async def seen(self) -> Seen:
        """Return what the test said."""
        return Seen(utc_now(), self.until or utc_now(), self.in_the_way)


@dataclass
class StudiesWorld:
    """An index, a broker, and a sweep with a quiet time of a minute."""

    index: Index
    tables: Tables
    client: Client
    evidence: Told
    sweep: StudySweep

    def arrive(self, *names: str, series: str = "1.2.3", modality: str = "CT", **keywords: Any) -> None:
        """Index instances of study 1.2."""
        attributes = header(Modality=modality, **keywords)
        self.index.upsert_instances([index_row(name, attributes, series_instance_uid=series) for name in names])

    def pass_time(self, seconds: float) -> None:
        """Make everything that arrived so much older."""
        for row in self.tables.rows(arrivals)["arrivals"]:
            where = (arrivals.c.study_instance_uid == row["study_instance_uid"]) & (
                arrivals.c.series_instance_uid == row["series_instance_uid"]
            )
            older = row["last_instance_at"] - timedelta(seconds=seconds)
            self.tables.execute(update(arrivals).where(where).values(last_instance_at=older))

    async def told(self) -> list[StudyStable | SeriesStable]:
        """Return every declaration the broker has."""
        js = jetstream(self.client)
        subjects = ("dicom.series.>", "dicom.study.>")
        events = [one.event for subject in subjects async for one in read(js, "INSTANCES", subject)]
        return [payload for event in events if isinstance(payload := payload_of(event), StudyStable | SeriesStable)]

    async def studies(self) -> list[StudyStable]:
        """Return those about studies."""
        return [one for one in await self.told() if isinstance(one, StudyStable)]


@pytest.fixture
async def world(nats_settings: Settings, index_url: str) -> AsyncIterator[StudiesWorld]:
    """An empty index and a broker with its streams."""
    client, evidence = await connect(nats_settings, "test"), Told()
    index, tables = Index.open(index_url), Tables(index_url)
    await ensure_streams(jetstream(client))
    index.migrate()
    sweep = StudySweep(index, JetStreamPublisher(jetstream(client)), evidence, quiet=60, hold=600)
    yield StudiesWorld(index, tables, client, evidence, sweep)
    await client.close()
    index.close()
    tables.close()


async def test_a_quiet_study_is_told_of_once(world: StudiesWorld) -> None:
    """Not before its quiet time, then with what rules ask about, its reason and its trace, and never again."""
    world.arrive("a", "b")
    world.arrive("c", series="1.2.4", modality="SR")
    assert await world.sweep.run() == Swept(0, 0, 0)
    world.pass_time(61)
    assert await world.sweep.run() == Swept(declared=3, published=3)
    assert await world.sweep.run() == Swept(0, 0, 0)
    (study,) = await world.studies()
    assert (study.revision, study.quiet_seconds, study.is_default) == (1, 60, True)
    assert (study.modalities, study.series_count, study.instance_count, study.added) == (("CT", "SR"), 2, 3, 3)
    assert [(one.series_instance_uid, one.added) for one in study.changed_series] == [("1.2.3", 2), ("1.2.4", 1)]
    assert study.reason == "quiet for 60 s; nothing waits to be indexed"
    series = [one for one in await world.told() if isinstance(one, SeriesStable)]
    assert sorted((one.series_instance_uid, one.modality, one.instance_count) for one in series) == [
        ("1.2.3", "CT", 2),
        ("1.2.4", "SR", 1),
    ]
    stable = [one for one in world.index.timeline("1.2") if one.step.endswith("_stable")]
    assert {(one.revision, one.detail) for one in stable} == {(1, study.reason)}
    assert {one.trace_id for one in stable} == {"ab" * 16}


async def test_a_late_instance_makes_a_revision(world: StudiesWorld) -> None:
    """What comes after a study was stable is told of again, with what changed since; a duplicate is no news."""
    world.arrive("a", "b")
    world.arrive("c", series="1.2.4", modality="SR")
    world.pass_time(61)
    await world.sweep.run()
    world.arrive("a", "b")
    world.pass_time(61)
    assert await world.sweep.run() == Swept(0, 0, 0)
    world.arrive("late", series="1.2.4", modality="SR")
    assert await world.sweep.run() == Swept(0, 0, 0)
    world.pass_time(61)
    assert (await world.sweep.run()).declared == 2
    first, second = await world.studies()
    assert (first.revision, second.revision) == (1, 2)
    assert (second.instance_count, second.added) == (4, 1)
    assert [(one.series_instance_uid, one.instance_count, one.added) for one in second.changed_series] == [
        ("1.2.4", 2, 1)
    ]
    assert [one.revision for one in await world.told() if isinstance(one, SeriesStable)].count(2) == 1


async def test_other_bytes_under_a_known_uid_are_no_news(world: StudiesWorld) -> None:
    """A quarantined instance starts no revision: nothing that rules send has changed."""
    world.arrive("a")
    world.pass_time(61)
    await world.sweep.run()
    uid = received("a").sop_instance_uid
    world.index.upsert_instances([index_row("other", sop_instance_uid=uid)])
    world.pass_time(61)
    assert await world.sweep.run() == Swept(0, 0, 0)


async def test_each_rule_is_told_after_its_own_quiet_time(world: StudiesWorld) -> None:
    """A rule that waits longer is told later of the same revision, and what comes in between starts anew for all."""
    world.index.save_routing(_routing(300), 0, "test")
    world.arrive("a")
    world.pass_time(61)
    await world.sweep.run()
    world.pass_time(240)
    await world.sweep.run()
    first, second = await world.studies()
    assert [(one.revision, one.quiet_seconds) for one in (first, second)] == [(1, 60), (1, 300)]
    assert [(one.is_for(None), one.is_for(300)) for one in (first, second)] == [(True, False), (False, True)]
    world.arrive("b")
    world.pass_time(61)
    await world.sweep.run()
    world.arrive("c")
    world.pass_time(400)
    await world.sweep.run()
    later = (await world.studies())[2:]
    assert [(one.revision, one.quiet_seconds, one.added) for one in later] == [(2, 60, 1), (3, 60, 1), (3, 300, 1)]


async def test_a_quiet_time_that_nobody_waits_for_any_more_is_forgotten(world: StudiesWorld) -> None:
    """When the rule that waited longest is gone, its studies are not looked at for ever."""
    version = world.index.save_routing(_routing(300), 0, "test")
    world.arrive("a")
    world.pass_time(61)
    await world.sweep.run()
    world.index.save_routing(Routing(), version, "test")
    world.pass_time(600)
    await world.sweep.run()
    assert not any(row["open"] for row in world.tables.rows(arrivals)["arrivals"])
    assert len(await world.studies()) == 1


async def test_silence_proves_nothing_while_instances_wait(world: StudiesWorld) -> None:
    """With the functions away a study is held; when they have caught up it is told of, or when it was held too long."""
    world.arrive("a")
    world.pass_time(120)
    world.evidence.until, world.evidence.in_the_way = utc_now() - timedelta(seconds=100), "instances wait to be indexed"
    assert (await world.sweep.run()).waiting == 2
    world.evidence.until = utc_now()
    assert (await world.sweep.run()).declared == 2
    world.arrive("b", series="1.2.9")
    world.pass_time(700)
    world.evidence.until = utc_now() - timedelta(hours=1)
    assert (await world.sweep.run()).declared == 2
    assert (await world.studies())[-1].reason.endswith("held for 600 s: instances wait to be indexed")


async def test_announced_instances_are_waited_for(world: StudiesWorld) -> None:
    """Number of Series Related Instances holds the series, and only that, until they are there."""
    world.arrive("a", NumberOfSeriesRelatedInstances=2)
    world.pass_time(61)
    assert await world.sweep.run() == Swept(declared=1, published=1, waiting=1)
    world.arrive("b", NumberOfSeriesRelatedInstances=2)
    world.pass_time(61)
    await world.sweep.run()
    (series,) = [one for one in await world.told() if isinstance(one, SeriesStable)]
    assert series.reason == "quiet for 60 s, all 2 announced instances came; nothing waits to be indexed"


async def test_an_instance_that_comes_while_it_is_declared_wins(world: StudiesWorld) -> None:
    """A declaration made of what was seen before another instance came is refused."""
    world.arrive("a")
    (study, _) = world.index.still_arriving(utc_now() + timedelta(seconds=1))
    world.arrive("b")
    assert not world.index.declare_stable(Declaration(study, 60, "quiet", is_longest=True, is_default=True))
    assert world.index.unpublished_declarations() == []


async def test_several_keepers_declare_once(world: StudiesWorld) -> None:
    """However many sweep at the same time, each study is told of once."""
    for number in range(20):
        world.index.upsert_instances([index_row(f"n{number}", study_instance_uid=f"1.7.{number}")])
    world.pass_time(61)
    arriving = world.index.still_arriving(utc_now())
    declarations = [Declaration(one, 60, "quiet", is_longest=True, is_default=True) for one in arriving] * 4
    with ThreadPoolExecutor(4) as pool:
        outcomes = list(pool.map(world.index.declare_stable, declarations))
    assert sum(outcomes) == len(arriving) == 40
    await world.sweep.run()
    assert len(await world.studies()) == 20


async def test_a_broker_that_is_away_delays_the_news_and_loses_none(world: StudiesWorld) -> None:
    """What was declared and not published is published later, under the same id."""

    away = MemoryPublisher()
    away.available = False
    world.arrive("a")
    world.pass_time(61)
    with pytest.raises(BrokerUnavailable):
        await StudySweep(world.index, away, world.evidence, quiet=60, hold=600).run()
    assert await world.studies() == []
    assert await world.sweep.run() == Swept(declared=0, published=2)
    assert len(await world.studies()) == 1


async def test_the_evidence_is_what_stream_and_edge_say(world: StudiesWorld) -> None:
    """The index is known to be complete up to the oldest event that waits, and to the edge's last empty spool."""
    edge: dict[str, Any] = {"store": {"ok": True}, "broker": {"ok": True}, "uploads": {"waiting": 0, "under_way": 3}}

    def answer(_request: httpx.Request) -> httpx.Response:
        return httpx.Response(HTTPStatus.OK, content=json.dumps(edge))

    js = jetstream(world.client)
    async with httpx.AsyncClient(transport=httpx.MockTransport(answer)) as http:
        evidence = Evidence(js, http, "http://edge/health")
        before = utc_now()
        empty = await evidence.seen()
        assert (empty.indexed_until >= before, empty.in_the_way) == (True, "")
        stored = InstanceStored(**received(secrets.token_hex(4)).model_dump())
        event = CloudEvent.of(stored, source="/test")
        await js.publish(event.nats_subject, event.to_json())
        published = utc_now()
        await asyncio.sleep(0.05)
        behind = await evidence.seen()
        assert empty.indexed_until <= behind.indexed_until <= published < behind.now
        assert behind.in_the_way == "instances wait to be indexed"
        pull = await js.pull_subscribe(InstanceStored.TYPE, durable="parse-instance-test", stream="INSTANCES")
        for message in await pull.fetch(1):
            await message.ack_sync()
        edge["uploads"]["waiting"] = 7
        full = await evidence.seen()
        assert full.indexed_until <= behind.now
        assert full.in_the_way == "the edge has 7 instances still to upload"
        edge["uploads"]["waiting"], edge["store"]["ok"] = 0, False
        assert (await evidence.seen()).in_the_way == "the edge cannot upload"
        edge["store"]["ok"] = True
        again = await evidence.seen()
        assert (again.indexed_until, again.in_the_way) == (again.now, "")


def _routing(quiet: float) -> Routing:
    destination = {"name": "pacs", "type": "dimse", "aet": "P", "host": "h", "port": 104}
    rule = {"name": "late", "trigger": "study_stable", "destinations": ["pacs"], "quiet_seconds": quiet}
    return Routing.model_validate({"destinations": [destination], "rules": [rule]})
