"""Dead letters through the admin API, on a real nats-server and a real index."""

from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
from nats.js import JetStreamContext

from admin_api import dead_letter_routes, dead_letters
from bucky.broker.connection import JetStreamPublisher
from bucky.broker.streams import ensure_streams
from bucky.cloudevents import CloudEvent, DeadLettered
from bucky.errors import BrokerUnavailable
from bucky.events import InstanceStored, payload_of
from bucky.index import AttemptOutcome, DeliveryAttempt, DeliveryState
from bucky.routing.corrections import Verdict
from bucky.routing.document import Routing
from bucky.settings import Settings
from tests.support.services.admin_world import AdminWorld, indexed, received, requested, world

pytestmark = pytest.mark.index


@pytest.fixture
async def here(nats_settings: Settings, index_url: str) -> AsyncIterator[AdminWorld]:
    """The application with a broker that has Bucky's streams."""
    async with world(nats_settings, index_url) as made:
        await connected(made)
        await ensure_streams(made.jetstream)
        made.fill(5)
        yield made


async def connected(here: AdminWorld) -> None:
    """Wait until the application has its connection."""
    while True:
        try:
            here.link.jetstream()
        except BrokerUnavailable:
            await here.api.get("/ready")
        else:
            return


async def dies(here: AdminWorld, number: int, destination: str = "pacs", reason: str = "no route to host") -> int:
    """Publish a delivery, let it become a dead letter as the connector does; return the letter's sequence."""
    payload = requested(number, destination)
    here.index.request_deliveries([payload])
    event = CloudEvent.of(payload, source="/test")
    await JetStreamPublisher(here.jetstream).publish(event)
    sequence = await letter(here.jetstream, event, "forward-instances", reason)
    here.index.dead_letter(payload.delivery_id, reason, 5)
    return sequence


async def letter(js: JetStreamContext, event: CloudEvent, function: str, reason: str) -> int:
    """Write a dead letter; return its sequence."""
    source = await js.get_last_msg("DELIVERIES" if "delivery" in event.type else "INSTANCES", event.nats_subject)
    content = DeadLettered(
        function=function,
        reason=reason,
        attempts=5,
        subject=event.nats_subject,
        stream_sequence=source.seq or 0,
        event=event.model_dump(mode="json", exclude_none=True),
    )
    dead = CloudEvent.of(content, source="/test")
    return (await js.publish(dead.nats_subject, dead.to_json(), headers={"Nats-Msg-Id": dead.nats_msg_id})).seq


async def messages(here: AdminWorld, stream: str) -> int:
    """Return how many messages a stream holds."""
    return int((await here.jetstream.stream_info(stream)).state.messages)


async def test_no_dead_letters_is_an_empty_list(here: AdminWorld) -> None:
    """A stream that never had a letter, and one that had all removed, must both be shown as empty."""
    empty: dict[str, object] = {"items": [], "next": None}
    assert (await here.api.get("/api/dead-letters")).json() == empty
    sequence = await dies(here, 1)
    await here.api.post(f"/api/dead-letters/{sequence}/redrive")
    assert (await here.api.get("/api/dead-letters")).json() == empty
    answer = (await here.api.post("/api/dead-letters/redrive", json={"all": True})).json()
    assert answer == {"redriven": [], "failed": {}, "next": None}


async def test_a_dead_letter_is_sent_again_and_removed(here: AdminWorld) -> None:
    """The original event must be in its stream again in spite of the duplicate window, and the letter gone."""
    sequence = await dies(here, 1)
    shown = (await here.api.get(f"/api/dead-letters/{sequence}")).json()
    assert (shown["destination"], shown["reason"], shown["attempts"]) == ("pacs", "no route to host", 5)
    assert shown["event"]["data"]["delivery_id"] == requested(1).delivery_id
    answer = await here.api.post(f"/api/dead-letters/{sequence}/redrive")
    assert answer.json()["redriven"] == [str(sequence)]
    again = await here.jetstream.get_last_msg("DELIVERIES", "dicom.delivery.requested.pacs")
    assert (again.seq, CloudEvent.model_validate_json(again.data or b"").id) == (2, requested(1).delivery_id)
    assert here.index.delivery(requested(1).delivery_id).state is DeliveryState.REQUESTED
    assert (await here.api.get(f"/api/dead-letters/{sequence}")).status_code == 404
    assert (await here.api.post(f"/api/dead-letters/{sequence}/redrive")).status_code == 404
    assert await messages(here, "DELIVERIES") == 2


async def test_events_of_other_kinds_are_sent_again_too(here: AdminWorld) -> None:
    """An instance that could not be parsed must be able to go its way after the repair."""
    event = CloudEvent.of(InstanceStored(**received(1).model_dump()), source="/test")
    await JetStreamPublisher(here.jetstream).publish(event)
    sequence = await letter(here.jetstream, event, "parse-instance", "unexpected TypeError")
    listed = (await here.api.get("/api/dead-letters", params={"function": "parse-instance"})).json()["items"]
    assert [(one["sequence"], one["sha256"], one["destination"]) for one in listed] == [
        (sequence, received(1).sha256, None)
    ]
    assert (await here.api.post(f"/api/dead-letters/{sequence}/redrive")).status_code == 200
    assert await messages(here, "INSTANCES") == 2


async def test_the_list_is_newest_first_in_pages_across_gaps(here: AdminWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """Removed letters must not end the list early, nor a page repeat or skip one."""
    monkeypatch.setattr(dead_letters, "READ_AT_ONCE", 3)
    monkeypatch.setattr(dead_letters, "SCAN_LIMIT", 4)
    sequences = [await dies(here, number, f"pacs-{turn}") for turn in range(4) for number in range(1, 6)]
    for sequence in sequences[3:17]:
        await here.jetstream.delete_msg("DEADLETTERS", sequence)
    seen: list[int] = []
    before, asked = None, 0
    while asked == 0 or before is not None:
        params = {"limit": 2} | ({"before": before} if before else {})
        part = (await here.api.get("/api/dead-letters", params=params)).json()
        seen += [one["sequence"] for one in part["items"]]
        before, asked = part["next"], asked + 1
        assert asked < 30
    assert seen == sorted([*sequences[:3], *sequences[17:]], reverse=True)


async def test_many_are_sent_again_by_filter(here: AdminWorld) -> None:
    """After a repair of one destination, its letters go, and no other's."""
    mine = [await dies(here, number, "pacs", "No Route to host") for number in (1, 2, 3)]
    others = [await dies(here, 1, "archive"), await dies(here, 4, "pacs", "refused 0xA900")]
    order = {"destination": "pacs", "reason": "no route"}
    answer = (await here.api.post("/api/dead-letters/redrive", json=order)).json()
    assert sorted(answer["redriven"], key=int) == [str(one) for one in mine]
    left = (await here.api.get("/api/dead-letters")).json()["items"]
    assert [one["sequence"] for one in left] == sorted(others, reverse=True)


async def test_a_summary_that_leaves_something_out_says_so(here: AdminWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """A count that is too low must not be taken for all there is, be it for too many reasons or too many letters."""
    for number in (1, 2, 3):
        await dies(here, number, reason=f"reason {number % 2}")
    summary = (await here.api.get("/api/dead-letters/summary")).json()
    assert [(group["reason"], group["count"]) for group in summary["groups"]] == [("reason 1", 2), ("reason 0", 1)]
    assert summary["groups"][0]["first_at"] < summary["groups"][0]["last_at"]
    assert summary["complete"] is True
    with monkeypatch.context() as few_reasons:
        few_reasons.setattr(dead_letter_routes, "MOST_GROUPS", 1)
        assert (await here.api.get("/api/dead-letters/summary")).json()["complete"] is False
    monkeypatch.setattr(dead_letters, "SCAN_LIMIT", 1)
    monkeypatch.setattr(dead_letters, "READ_AT_ONCE", 1)
    monkeypatch.setattr(dead_letters, "SUMMARY_PAGES", 2)
    assert (await here.api.get("/api/dead-letters/summary")).json()["complete"] is False


async def test_sending_everything_again_must_be_said(here: AdminWorld) -> None:
    """An empty order is more likely a mistake than a wish to send everything."""
    sequence = await dies(here, 1)
    assert (await here.api.post("/api/dead-letters/redrive", json={})).status_code == 409
    assert (await here.api.post("/api/dead-letters/redrive", json={"functon": "x"})).status_code == 422
    assert await messages(here, "DEADLETTERS") == 1
    answer = (await here.api.post("/api/dead-letters/redrive", json={"all": True})).json()
    assert answer == {"redriven": [str(sequence)], "failed": {}, "next": None}


async def test_named_letters_report_each_failure(here: AdminWorld) -> None:
    """Of several, those that cannot be sent again must be named with the reason, and stay."""
    sequence = await dies(here, 1)
    garbage = (await here.jetstream.publish("deadletter.other", b"not an event")).seq
    answer = await here.api.post("/api/dead-letters/redrive", json={"sequences": [sequence, garbage, 999, sequence]})
    assert answer.json()["redriven"] == [str(sequence)]
    assert set(answer.json()["failed"]) == {str(garbage), "999"}
    shown = (await here.api.get(f"/api/dead-letters/{garbage}")).json()
    assert (shown["subject"], shown["event"]) == ("deadletter.other", {})


async def test_a_delivery_made_meanwhile_is_not_made_twice(here: AdminWorld) -> None:
    """An old letter of a delivery that succeeded since is only put away."""
    sequence = await dies(here, 1)
    delivered = requested(1).delivery_id
    here.index.delivery_attempted([DeliveryAttempt(delivered, AttemptOutcome.DELIVERED)])
    assert (await here.api.post(f"/api/dead-letters/{sequence}/redrive")).status_code == 200
    assert here.index.delivery(delivered).state is DeliveryState.DELIVERED
    assert (await messages(here, "DEADLETTERS"), await messages(here, "DELIVERIES")) == (0, 1)


async def test_without_an_acknowledgement_the_letter_stays(here: AdminWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """A letter may go only when the stream has the event; until then it is the only copy of the wish."""
    sequence = await dies(here, 1)

    async def lost(*_args: object, **_options: object) -> None:
        raise TimeoutError

    with monkeypatch.context() as patched:
        patched.setattr(JetStreamContext, "publish", lost)
        assert (await here.api.post(f"/api/dead-letters/{sequence}/redrive")).status_code == 503
    assert here.index.delivery(requested(1).delivery_id).state is DeliveryState.DEAD_LETTER
    assert (await here.api.post(f"/api/dead-letters/{sequence}/redrive")).status_code == 200
    assert here.index.delivery(requested(1).delivery_id).state is DeliveryState.REQUESTED


async def test_a_lost_acknowledgement_does_not_send_twice(here: AdminWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the event arrived but its acknowledgement did not, asking again must not double it."""
    sequence = await dies(here, 1)
    publish = JetStreamContext.publish

    async def answer_lost(self: JetStreamContext, *args: object, **options: object) -> None:
        await publish(self, *args, **options)  # type: ignore[arg-type]
        raise TimeoutError

    with monkeypatch.context() as patched:
        patched.setattr(JetStreamContext, "publish", answer_lost)
        assert (await here.api.post(f"/api/dead-letters/{sequence}/redrive")).status_code == 503
    assert (await here.api.post(f"/api/dead-letters/{sequence}/redrive")).status_code == 200
    assert await messages(here, "DELIVERIES") == 2


async def test_failed_and_dead_deliveries_are_sent_again(here: AdminWorld) -> None:
    """A delivery refused for good has no dead letter; it must be sent again from the index alone."""
    sequence = await dies(here, 1)
    failed, dead, waiting = requested(2).delivery_id, requested(1).delivery_id, requested(3).delivery_id
    here.index.request_deliveries([requested(2), requested(3)], {failed: "b" * 32})
    here.index.delivery_attempted([DeliveryAttempt(failed, AttemptOutcome.FAILED, reason="refused")])
    for delivery in (failed, dead):
        assert (await here.api.post(f"/api/deliveries/{delivery}/redrive")).json()["redriven"] == [delivery]
        assert here.index.delivery(delivery).state is DeliveryState.REQUESTED
    refused = await here.api.post(f"/api/deliveries/{waiting}/redrive")
    assert refused.status_code == 409
    assert "requested" in refused.json()["error"]
    assert (await here.api.get(f"/api/dead-letters/{sequence}")).status_code == 404
    sent = await here.jetstream.get_msg("DELIVERIES", 2)
    event = CloudEvent.model_validate_json(sent.data or b"")
    assert payload_of(event) == requested(2).model_copy(
        update={"instance": here.index.instance(received(2).sha256).received()}
    )
    assert (event.traceparent or "").split("-")[1] == "b" * 32
    assert await messages(here, "DELIVERIES") == 3


async def test_without_a_broker_nothing_changes(nats_server: tuple[object, Settings], index_url: str) -> None:
    """With the broker down the API must say so at once, and leave the index as it is."""
    from tests.support.servers import Running

    server, settings = nats_server
    assert isinstance(server, Running)
    async with world(settings, index_url) as here:
        await connected(here)
        await ensure_streams(here.jetstream)
        here.fill(2)
        sequence = await dies(here, 1)
        server.stop()
        assert (await here.api.get("/api/dead-letters")).status_code == 503
        assert (await here.api.post(f"/api/dead-letters/{sequence}/redrive")).status_code == 503
        assert here.index.delivery(requested(1).delivery_id).state is DeliveryState.DEAD_LETTER
        server.start()
        while (await here.api.post(f"/api/dead-letters/{sequence}/redrive")).status_code == 503:
            await here.api.get("/ready")
        assert here.index.delivery(requested(1).delivery_id).state is DeliveryState.REQUESTED


def route(here: AdminWorld, *names: str) -> None:
    """Put a routing with these destinations in force."""
    destinations = [
        {"name": name, "type": "dimse", "aet": "A", "host": "127.0.0.1", "port": number}
        for number, name in enumerate(names, 1)
    ]
    document = Routing.model_validate({"destinations": destinations})
    here.index.save_routing(document, here.index.routing().version, "test")


async def dismiss(here: AdminWorld, **order: object) -> dict[str, object]:
    """Dismiss dead letters; return the answer."""
    answer = await here.api.post("/api/dead-letters/dismiss", json={"note": "PACS retired", **order})
    assert answer.status_code == 200, answer.text
    found: dict[str, object] = answer.json()
    return found


async def test_what_is_for_a_destination_that_is_gone_can_be_dismissed(here: AdminWorld) -> None:
    """Else it needs attention for ever; who said so and why stays on the timeline, and nothing else is dismissed."""
    route(here, "pacs")
    kept, gone = await dies(here, 1), await dies(here, 2, "retired")
    answer = await dismiss(here, sequences=[kept, gone, 99])
    assert answer["dismissed"] == [str(gone)]
    assert "in the routing" in answer["failed"][str(kept)]  # type: ignore[index]
    assert "99" in answer["failed"]  # type: ignore[operator]
    assert await messages(here, "DEADLETTERS") == 1
    row = here.index.delivery(requested(2, "retired").delivery_id)
    assert (row.state, row.reason) == (DeliveryState.DISMISSED, "by admin API PACS retired")
    assert ("dismissed", "by admin API PACS retired") in [
        (step.step, step.detail) for step in here.index.timeline(received(2).sha256)
    ]
    assert {one.destination for one in here.index.backlog()} == {"pacs"}
    again = (await here.api.post("/api/dead-letters/dismiss", json={"note": "", "sequences": [kept]})).status_code
    assert again == 422, "without a reason nothing is dismissed"


async def test_a_destination_s_are_dismissed_all_at_once_with_or_without_a_letter(here: AdminWorld) -> None:
    """A letter that the broker lost must not keep its delivery on the list for ever."""
    route(here, "pacs")
    sequences = [await dies(here, number, "retired") for number in (1, 2, 3)]
    await here.jetstream.delete_msg("DEADLETTERS", sequences[0])
    answer = await dismiss(here, destination="retired")
    lost = requested(1, "retired").delivery_id
    assert answer == {"dismissed": [*map(str, sequences[1:]), lost], "failed": {}, "next": None}
    assert here.index.backlog() == []


async def test_what_a_decision_set_aside_can_be_dismissed(here: AdminWorld) -> None:
    """Sent again, it would replace the accepted bytes at a destination that is there."""
    route(here, "pacs")
    other = replace(indexed(1), received=received(1).model_copy(update={"sha256": "f" * 64}))
    here.index.upsert_instances([other])
    sequence = await dies(here, 1)
    assert (await dismiss(here, sequences=[sequence]))["dismissed"] == []
    here.index.decide("f" * 64, Verdict.ACCEPTED, "me")
    assert (await dismiss(here, sequences=[sequence]))["dismissed"] == [str(sequence)]


async def test_what_is_no_delivery_is_not_dismissed(here: AdminWorld) -> None:
    """An instance that could not be parsed is in no other list: its letter is all that says so."""
    event = CloudEvent.of(InstanceStored(**received(1).model_dump()), source="/test")
    await JetStreamPublisher(here.jetstream).publish(event)
    sequence = await letter(here.jetstream, event, "parse-instance", "unexpected TypeError")
    answer = await dismiss(here, all=True)
    assert (answer["dismissed"], list(answer["failed"])) == ([], [str(sequence)])  # type: ignore[call-overload]
