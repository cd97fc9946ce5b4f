"""Conflicts over the API: seen with what differs, decided once, sent as a correction, undone; also after a kill."""

import io
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.uid import RLELossless

from bucky.broker.streams import ensure_streams
from bucky.cloudevents import CloudEvent
from bucky.dicom.part10 import FileMeta, split
from bucky.errors import BrokerUnavailable
from bucky.events import DeliveryRequested, InstanceIndexed
from bucky.index import AttemptOutcome, DeliveryAttempt, DeliveryState
from bucky.log import get_logger
from bucky.routing.corrections import Verdict
from bucky.routing.destinations import FolderDestination
from bucky.routing.document import Routing
from bucky.routing.rules import Rule
from bucky.serve.handlers import Context
from bucky.settings import Settings
from bucky.text.identifiers import delivery_id
from keeper.bucket_studies import read_decisions
from keeper.conflicts import Conflicts
from route_instance.handler import handle_batch as route
from tests.support.dicom.sample_instances import SAMPLE
from tests.support.services.admin_world import AdminWorld, world
from tests.support.services.keeper_world import indexed, store
from tests.support.waiting import until

CONTEXT = Context("route-instance", get_logger("test"))
CONTENT = SAMPLE.read_bytes()
STUDY, SERIES = str(dcmread(SAMPLE).StudyInstanceUID), str(dcmread(SAMPLE).SeriesInstanceUID)


@pytest.fixture
async def admin(nats_settings: Settings, index_url: str) -> AsyncIterator[AdminWorld]:
    """The application with a broker that has Bucky's streams."""
    async with world(nats_settings, index_url) as running:
        await until(lambda: linked(running), "the application has its connection")
        await ensure_streams(running.jetstream)
        yield running


def linked(running: AdminWorld) -> bool:
    """Return whether the application is connected to the broker."""
    try:
        running.link.jetstream()
    except BrokerUnavailable:
        return False
    return True


class Heard:
    """A publisher that remembers what it was given."""

    def __init__(self) -> None:
        self.events: list[CloudEvent] = []

    async def publish(self, event: CloudEvent) -> None:
        """Remember an event."""
        self.events.append(event)


def came(admin: AdminWorld, content: bytes) -> str:
    """Have a file stored and indexed; return its digest."""
    meta, offset = split(content)
    sent = FileMeta(meta.sop_class_uid, meta.sop_instance_uid, meta.transfer_syntax_uid, "CT1", "BUCKY")
    stored = store(admin.objects, content[offset:], sent, STUDY, SERIES)
    indexed(admin.objects, admin.index, [stored])
    return stored.sha256


def corrected() -> bytes:
    """Return the sample with another name."""
    dataset, target = dcmread(io.BytesIO(CONTENT)), io.BytesIO()
    dataset.PatientName = "Corrected^Name"
    dataset.save_as(target, enforce_file_format=True)
    return target.getvalue()


def compressed() -> bytes:
    """Return the sample in another transfer syntax."""
    dataset, target = dcmread(io.BytesIO(CONTENT)), io.BytesIO()
    dataset.compress(RLELossless, generate_instance_uid=False)
    dataset.save_as(target, enforce_file_format=True)
    return target.getvalue()


def save_rules(admin: AdminWorld, **more: object) -> None:
    """Send everything to a folder."""
    destination = FolderDestination(name="pacs", type="folder", folder=Path("/nonexistent"))
    everything = Rule.model_validate({"name": "all", "when": {}, "destinations": ["pacs"]})
    document = Routing.model_validate(
        {"destinations": [destination.model_dump()], "rules": [everything.model_dump(by_alias=True)], **more}
    )
    admin.index.save_routing(document, admin.index.routing().version, "test")


def of_type(heard: Heard, event_type: str) -> list[CloudEvent]:
    """Return the events of a type."""
    return [event for event in heard.events if event.type == event_type]


async def test_a_conflict_is_shown_with_what_differs(admin: AdminWorld) -> None:
    """List, show and metrics say that a corrected name waits for somebody, attribute by attribute."""
    first, second = came(admin, CONTENT), came(admin, corrected())
    listed = (await admin.api.get("/api/conflicts")).json()
    assert [one["sha256"] for one in listed["items"]] == [second]
    shown = (await admin.api.get(f"/api/conflicts/{second}")).json()
    assert (shown["state"], shown["current"]["sha256"]) == ("open", first)
    assert [(one["name"], one["second"]) for one in shown["differences"]["attributes"]] == [
        ("PatientName", "Corrected^Name")
    ]
    assert shown["differences"]["pixels"] == "same"
    assert "bucky_conflicts_open 1.0" in (await admin.api.get("/metrics")).text


async def test_accepted_bytes_are_routed_as_a_correction_and_both_stay(admin: AdminWorld) -> None:
    """Accepting asks for the deliveries of the accepted bytes by ids of their digest; no object changes."""
    save_rules(admin)
    first, second = came(admin, CONTENT), came(admin, corrected())
    before = {one.key: admin.objects.get(one.key) for one in admin.objects.listing("studies/")}
    answer = await admin.api.post(f"/api/conflicts/{second}/accept", json={"note": "wrong name"})
    assert (answer.status_code, answer.json()["current_sha256"]) == (200, second)
    assert {one.key: admin.objects.get(one.key) for one in admin.objects.listing("studies/")} == before
    assert [one.note for one in read_decisions(admin.objects)] == ["wrong name"]
    state = await admin.jetstream.stream_info("INSTANCES")
    assert state.state.messages == 1
    again = await admin.api.post(f"/api/conflicts/{second}/accept", json={})
    assert again.json() == answer.json()
    assert (await admin.jetstream.stream_info("INSTANCES")).state.messages == 1
    event = CloudEvent.of(InstanceIndexed(**admin.index.instance(second).received().model_dump()), source="/test")
    (request,) = route([event], CONTEXT, admin.index).events
    assert request.id == delivery_id(second, "pacs", admin.index.routing().version)
    refused = await admin.api.post(f"/api/conflicts/{second}/reject", json={})
    assert (refused.status_code, "current" in refused.json()["error"]) == (409, True)
    assert admin.index.instance(first).conflict


async def test_an_undone_acceptance_sends_the_first_bytes_again(admin: AdminWorld) -> None:
    """Destinations that got the accepted bytes get the first ones anew, once however often it is asked for."""
    save_rules(admin)
    first, second = came(admin, CONTENT), came(admin, corrected())
    row = admin.index.instance(first)
    name = delivery_id(first, "pacs", 1)
    request = DeliveryRequested(
        delivery_id=name, destination="pacs", rule="all", rule_version=1, instance=row.received()
    )
    admin.index.request_deliveries([request])
    admin.index.delivery_attempted([DeliveryAttempt(name, AttemptOutcome.DELIVERED)])
    await admin.api.post(f"/api/conflicts/{second}/accept", json={})
    assert admin.index.delivery(name).state is DeliveryState.DELIVERED
    for _ in range(2):
        answer = await admin.api.post(f"/api/conflicts/{second}/undo", json={})
        assert answer.json()["current_sha256"] == first
    assert admin.index.delivery(name).state is DeliveryState.REQUESTED
    assert (await admin.jetstream.stream_info("DELIVERIES")).state.messages == 1
    assert [one.sha256 for one in admin.index.conflicts()] == [second]


async def test_undoing_sends_nothing_to_a_destination_that_is_gone(admin: AdminWorld) -> None:
    """A destination removed meanwhile gets no delivery that could only die; the answer names it."""
    save_rules(admin)
    first, second = came(admin, CONTENT), came(admin, corrected())
    names = {destination: delivery_id(first, destination, 1) for destination in ("pacs", "removed")}
    instance = admin.index.instance(first).received()
    for destination, name in names.items():
        request = DeliveryRequested(
            delivery_id=name, destination=destination, rule="all", rule_version=1, instance=instance
        )
        admin.index.request_deliveries([request])
        admin.index.delivery_attempted([DeliveryAttempt(name, AttemptOutcome.DELIVERED)])
    assert (await admin.api.post(f"/api/conflicts/{second}/accept", json={})).json()["not_sent_to"] == []
    answer = await admin.api.post(f"/api/conflicts/{second}/undo", json={})
    assert answer.json()["not_sent_to"] == ["removed"]
    states = {destination: admin.index.delivery(name).state for destination, name in names.items()}
    assert states == {"pacs": DeliveryState.REQUESTED, "removed": DeliveryState.DELIVERED}
    assert (await admin.jetstream.stream_info("DELIVERIES")).state.messages == 1


async def test_a_conflict_is_named_by_its_first_digits_and_listed_with_its_state(admin: AdminWorld) -> None:
    """What `list` shows short must be enough to decide with, and decided ones must be found again."""
    came(admin, CONTENT)
    second = came(admin, corrected())
    assert (await admin.api.get(f"/api/conflicts/{second[:12]}")).json()["instance"]["sha256"] == second
    rejected = await admin.api.post(f"/api/conflicts/{second[:12]}/reject", json={"note": "a test"})
    assert (rejected.status_code, rejected.json()["sha256"]) == (200, second)
    assert (await admin.api.get("/api/conflicts")).json()["items"] == []
    (listed,) = (await admin.api.get("/api/conflicts", params={"state": "all"})).json()["items"]
    assert (listed["sha256"], listed["state"], listed["study_instance_uid"]) == (second, "decided", STUDY)
    assert (await admin.api.get("/api/conflicts/abcdef")).status_code == 404


async def test_what_a_kill_left_undone_the_keeper_does(admin: AdminWorld) -> None:
    """Killed after the index had it: the keeper puts it into the bucket and asks for the deliveries, once."""
    came(admin, CONTENT)
    second = came(admin, corrected())
    decision = admin.index.decide(second, Verdict.ACCEPTED, "me")
    heard = Heard()
    conflicts = Conflicts(admin.index, admin.objects, heard, timedelta(0))
    assert await conflicts.run() == 1
    assert read_decisions(admin.objects) == [decision]
    assert [event.id for event in of_type(heard, InstanceIndexed.TYPE)] == [second]
    assert await conflicts.run() == 0


RULES = {
    "conflicts": [
        {
            "name": "other-syntax",
            "when": {"header": "same", "pixels": "same", "transfer_syntax": "other"},
            "then": "keep-first",
        },
        {
            "name": "names",
            "when": {"pixels": "same", "header_differs_in": ["PatientName", "PatientID"]},
            "then": "accept-new",
        },
    ]
}


async def test_rules_decide_what_they_are_sure_of(admin: AdminWorld) -> None:
    """Same pixels in another transfer syntax: the first are kept. A corrected name: accepted. Other pixels: open."""
    save_rules(admin, **RULES)
    first, second = came(admin, CONTENT), came(admin, compressed())
    other = came(admin, CONTENT[:-2] + b"\1\1")
    conflicts = Conflicts(admin.index, admin.objects, Heard(), timedelta(0))
    assert await conflicts.run() == 1
    (made,) = admin.index.decisions()
    assert (made.verdict, made.sha256, made.author) == (Verdict.REJECTED, second, "rule other-syntax v1")
    assert "their deliveries count for these" in made.note
    assert [one.sha256 for one in admin.index.conflicts()] == [other]
    assert admin.index.conflicts_to_examine(1) == []
    third = came(admin, corrected())
    assert await conflicts.run() == 1
    current = admin.index.current_instance(admin.index.instance(first).sop_instance_uid)
    assert current is not None
    assert current.sha256 == third


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        (r'{"note": "a\u0000b"}', 400, "NUL"),
        ('{"note": "patient A", "note": "patient B"}', 400, "the key 'note' stands there twice"),
        ('{"note": "x", "notes": "y"}', 422, "notes"),
        (r'{"note": "\ud800"}', 400, "half a character"),
        ("[", 400, "not valid JSON"),
    ],
)
async def test_an_order_that_cannot_be_kept_is_refused(admin: AdminWorld, body: str, status: int, said: str) -> None:
    """A note that the index cannot hold, or of which one half would be dropped, must decide nothing."""
    came(admin, CONTENT)
    second = came(admin, corrected())
    headers = {"Content-Type": "application/json"}
    answer = await admin.api.post(f"/api/conflicts/{second}/accept", content=body, headers=headers)
    assert (answer.status_code, said in answer.json()["error"]) == (status, True), answer.text
    assert (await admin.api.get("/api/conflicts/decisions")).json()["items"] == []
