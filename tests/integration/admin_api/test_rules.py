"""Rules through the admin API: explained, rehearsed, replayed and rolled back."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from pydicom.data import get_testdata_file

from bucky.broker.streams import ensure_streams
from bucky.cloudevents import CloudEvent, utc_now
from bucky.index import AttemptOutcome, DeliveryAttempt, DeliveryState, IndexedInstance
from bucky.routing.document import Routing
from bucky.settings import Settings
from bucky.store.objects import put_bytes
from bucky.text.identifiers import delivery_id
from tests.support.services.admin_world import PATIENT, AdminWorld, indexed, received, world

pytestmark = pytest.mark.index

CT = Path(str(get_testdata_file("CT_small.dcm"))).read_bytes()
NO_BROKER = Settings.load({"BUCKY_NATS_URL": "nats://127.0.0.1:9"})
DESTINATIONS = """
destinations:
  - {name: pacs, type: dimse, aet: PACS, host: 127.0.0.1, port: 104}
  - {name: research, type: dimse, aet: RESEARCH, host: 127.0.0.1, port: 105}
rules:
"""
ALL_TO_PACS = DESTINATIONS + "  - {name: all, destinations: [pacs]}\n"
FIRST_TO_RESEARCH = (
    ALL_TO_PACS + "  - {name: first, when: {attribute: InstanceNumber, lt: 3}, destinations: [research]}\n"
)


@pytest.fixture
async def here(index_url: str) -> AsyncIterator[AdminWorld]:
    """The application without a broker."""
    async with world(NO_BROKER, index_url) as made:
        yield made


@pytest.fixture
async def connected(index_url: str, nats_settings: Settings) -> AsyncIterator[AdminWorld]:
    """The application with a broker that has the streams."""
    async with world(nats_settings, index_url) as made:
        async with asyncio.timeout(10):
            while made.link._client is None:  # noqa: ASYNC110 - it has no event to wait for
                await asyncio.sleep(0.02)
        await ensure_streams(made.jetstream)
        yield made


def body(text: str) -> dict[str, Any]:
    """Return a routing as the API takes it."""
    return Routing.from_yaml(text).model_dump(mode="json", by_alias=True, exclude_none=True)


def today(**more: Any) -> dict[str, Any]:
    """Return an order for everything received within the hour."""
    now = utc_now()
    return {"since": (now - timedelta(hours=1)).isoformat(), "until": (now + timedelta(hours=1)).isoformat(), **more}


async def answer(here: AdminWorld, path: str, order: dict[str, Any]) -> dict[str, Any]:
    """Return what the API answers to an order."""
    response = await here.api.post(path, json=order)
    assert response.status_code == 200, response.text
    found: dict[str, Any] = response.json()
    return found


async def test_an_instance_is_explained_with_reasons_and_changes(here: AdminWorld) -> None:
    """Why something went, or did not, and how it was changed, can be asked for any instance that is kept."""
    content = CT
    stored = received(1).model_copy(update={"size": len(content), "key": "studies/1/1/1/ct.dcm"})
    put_bytes(here.objects, stored.key, content)
    here.index.upsert_instances([IndexedInstance(stored, indexed(1).header)])
    text = DESTINATIONS + (
        "  - {name: mr, when: {attribute: Modality, equals: MR}, destinations: [research]}\n"
        "  - {name: study, trigger: study_stable, when: {study: instance_count, ge: 1}, destinations: [research]}\n"
        "  - {name: all, morph: [{suffix: PatientID, value: X}], destinations: [pacs]}\n"
    )
    explained = await answer(here, "/api/rules/explain", {"sha256": stored.sha256, "routing": body(text)})
    assert [(rule["rule"], rule["matched"]) for rule in explained["rules"]] == [
        ("mr", False),
        ("study", True),
        ("all", True),
    ]
    assert explained["rules"][0]["why"] == {
        "held": False,
        "condition": "Modality equals MR",
        "found": ["CT"],
        "parts": [],
    }
    pacs, research = explained["deliveries"]
    assert (pacs["destination"], pacs["rule"], research["rule"]) == ("pacs", "all", "study")
    assert pacs["changes"] == [{"action": "suffix", "attribute": "PatientID", "before": ["1CT1"], "after": ["1CT1X"]}]
    assert here.index.deliveries() == []


async def test_a_rehearsal_says_what_would_have_changed(here: AdminWorld) -> None:
    """A candidate is compared with what was in fact requested, or with another version, without touching anything."""
    here.fill(5)
    here.index.save_routing(Routing.from_yaml(ALL_TO_PACS), 0, "test")
    everything = await answer(here, "/api/rules/rehearse", today())
    assert {one["kind"] for instance in everything["different"] for one in instance["differences"]} == {"added"}
    assert (everything["instances"], len(everything["different"]), everything["next"]) == (5, 5, None)
    against = await answer(here, "/api/rules/rehearse", today(routing=body(FIRST_TO_RESEARCH), against=1))
    assert [(one["sop_instance_uid"], one["differences"]) for one in against["different"]] == [
        (
            f"1.2.3.4.{number}",
            [{"kind": "added", "destination": "research", "rule": "first", "before": None, "what": []}],
        )
        for number in (1, 2)
    ]
    urgent = ALL_TO_PACS.replace("all,", "other, priority: urgent, morph: [{delete: PatientName}],")
    changed = await answer(here, "/api/rules/rehearse", today(routing=body(urgent), against=1, limit=2))
    assert changed["different"][0]["differences"] == [
        {"kind": "changed", "destination": "pacs", "rule": "other", "before": "all", "what": ["morph", "priority"]}
    ]
    rest = await answer(here, "/api/rules/rehearse", today(routing=body(urgent), against=1, after=changed["next"]))
    assert (changed["instances"], rest["instances"]) == (2, 3)
    nothing = await answer(here, "/api/rules/rehearse", today(routing=body(DESTINATIONS + "  []"), against=1))
    assert {one["kind"] for instance in nothing["different"] for one in instance["differences"]} == {"removed"}
    assert here.index.deliveries() == []
    assert PATIENT not in str(nothing)


async def test_a_replay_sends_what_is_missing_and_nothing_twice(connected: AdminWorld) -> None:
    """Past instances go where the rules say now, but not where they have gone in the same form before."""
    here = connected
    here.fill(4)
    here.index.save_routing(Routing.from_yaml(ALL_TO_PACS), 0, "test")
    trial = await answer(here, "/api/rules/replay", today(trial=True))
    assert (trial["requested"], here.index.deliveries()) == ({"pacs": 4}, [])
    first = await answer(here, "/api/rules/replay", today())
    assert (first["instances"], first["requested"], first["already"]) == (4, {"pacs": 4}, {})
    events = await published(here)
    assert {event.data["delivery_id"] for event in events} == {
        delivery_id(received(n).sha256, "pacs", 1) for n in range(1, 5)
    }
    here.index.delivery_attempted([DeliveryAttempt(event.id, AttemptOutcome.DELIVERED) for event in events])

    here.index.save_routing(Routing.from_yaml(FIRST_TO_RESEARCH), 1, "test")
    second = await answer(here, "/api/rules/replay", today())
    assert (second["requested"], second["already"]) == ({"research": 2}, {"pacs": 4})
    assert {row.rule_version for row in here.index.deliveries(destination="research")} == {2}
    assert len(await published(here)) == 6
    chosen = await answer(here, "/api/rules/replay", today(destinations=["pacs"], again=True))
    assert chosen["requested"] == {"pacs": 4}
    assert len(await published(here)) == 10
    assert {row.state for row in here.index.deliveries(destination="pacs") if row.rule_version == 2} == {
        DeliveryState.REQUESTED
    }


async def test_what_goes_otherwise_than_before_goes_again(connected: AdminWorld) -> None:
    """An instance that a corrected rule changes is sent anew: the destination has it as it should not be."""
    here = connected
    here.fill(1)
    here.index.save_routing(Routing.from_yaml(ALL_TO_PACS), 0, "test")
    await answer(here, "/api/rules/replay", today())
    here.index.delivery_attempted(
        [DeliveryAttempt(delivery_id(received(1).sha256, "pacs", 1), AttemptOutcome.DELIVERED)]
    )
    corrected = ALL_TO_PACS.replace("all,", "all, morph: [{set: InstitutionName, value: H}],")
    here.index.save_routing(Routing.from_yaml(corrected), 1, "test")
    assert (await answer(here, "/api/rules/replay", today()))["requested"] == {"pacs": 1}
    old = await answer(here, "/api/rules/replay", today(version=1))
    assert (old["requested"], old["already"]) == ({}, {"pacs": 1})


async def test_a_replay_that_broke_off_is_finished_by_another(connected: AdminWorld) -> None:
    """What was recorded but never published, because the process died in between, is published by the next replay."""
    here = connected
    here.fill(3)
    here.index.save_routing(Routing.from_yaml(ALL_TO_PACS), 0, "test")
    stopped = here.link._client
    here.link._client = None
    assert (await here.api.post("/api/rules/replay", json=today())).status_code == 503
    here.link._client = stopped
    assert len(here.index.deliveries()) == 3
    assert (await answer(here, "/api/rules/replay", today()))["requested"] == {"pacs": 3}
    assert len(await published(here)) == 3


async def test_an_old_version_sends_nowhere_that_is_gone(connected: AdminWorld) -> None:
    """A destination that was removed or disabled gets nothing from a version that still names it."""
    here = connected
    here.fill(2)
    here.index.save_routing(Routing.from_yaml(ALL_TO_PACS), 0, "test")
    here.index.save_routing(Routing.from_yaml(ALL_TO_PACS.replace("port: 104}", "port: 104, enabled: false}")), 1, "x")
    result = await answer(here, "/api/rules/replay", today(version=1))
    assert (result["requested"], result["gone"]) == ({}, {"pacs": 2})


async def test_rolling_back_is_one_action_and_refused_when_it_comes_too_late(here: AdminWorld) -> None:
    """An earlier version is in force again as a new one; who has not seen the latest is told so first."""
    here.index.save_routing(Routing.from_yaml(ALL_TO_PACS), 0, "test")
    here.index.save_routing(Routing(), 1, "test")
    late = await here.api.post("/api/routing/rollback", json={"version": 1}, headers={"If-Match": '"1"'})
    assert late.status_code == 412
    assert (await here.api.post("/api/routing/rollback", json={"version": 1})).status_code == 428
    done = await here.api.post("/api/routing/rollback", json={"version": 1}, headers={"If-Match": '"2"'})
    assert done.json() == {"version": 3, "warnings": []}
    newest, *_ = (await here.api.get("/api/routing/versions")).json()
    assert (newest["version"], newest["note"], len(newest["document"]["rules"])) == (3, "as version 1", 1)
    none = await here.api.post("/api/routing/rollback", json={"version": 9}, headers={"If-Match": '"3"'})
    assert none.status_code == 404


@pytest.mark.parametrize(
    ("path", "order", "status"),
    [
        ("/api/rules/rehearse", today(routing=body(ALL_TO_PACS), version=1), 422),
        ("/api/rules/rehearse", today(version=7), 404),
        ("/api/rules/rehearse", today() | {"until": "2020-01-01T00:00:00Z"}, 422),
        ("/api/rules/rehearse", today(after="0" * 64), 404),
        ("/api/rules/replay", today(routing=body(ALL_TO_PACS)), 422),
        ("/api/rules/explain", {"sha256": "0" * 64}, 404),
        ("/api/rules/explain", {"sha256": "../x"}, 422),
    ],
)
async def test_a_wrong_order_is_refused(here: AdminWorld, path: str, order: dict[str, Any], status: int) -> None:
    """A contradictory or unknown order is refused before anything is looked at."""
    assert (await here.api.post(path, json=order)).status_code == status


async def published(here: AdminWorld) -> list[CloudEvent]:
    """Return every delivery request in the stream."""
    info = await here.jetstream.stream_info("DELIVERIES")
    messages = [await here.jetstream.get_msg("DELIVERIES", n) for n in range(1, info.state.messages + 1)]
    return [CloudEvent.model_validate_json(message.data or b"") for message in messages]
