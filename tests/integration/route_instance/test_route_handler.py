"""route-instance against a real index: decisions are recorded once and returned until they are settled."""

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest

from bucky.cloudevents import CloudEvent, utc_now
from bucky.events import DeliveryRequested, InstanceIndexed, payload_of
from bucky.index import AttemptOutcome, DeliveryAttempt, DeliveryState, Index, IndexedInstance
from bucky.log import get_logger
from bucky.routing.document import Routing
from bucky.serve.handlers import Context
from bucky.text.identifiers import delivery_id
from route_instance.handler import handle_batch
from tests.support.index.rows import digest, header, indexed

CONTEXT = Context("route-instance", get_logger("test"))
TRACE = "00-" + "ab" * 16 + "-" + "cd" * 8 + "-01"
ROUTING = """
destinations:
  - {name: pacs, type: dimse, aet: PACS, host: 127.0.0.1, port: 104}
  - {name: research, type: dimse, aet: RESEARCH, host: 127.0.0.1, port: 105}
rules:
  - {name: everything, destinations: [pacs]}
  - name: thorax
    when: {all: [{attribute: Modality, equals: CT}, {association: calling_aet, equals: CT1}]}
    destinations: [research, pacs]
"""


@pytest.fixture
def index(index_url: str) -> Iterator[Index]:
    """An index with two destinations and two rules."""
    index = Index.open(index_url)
    index.migrate()
    index.save_routing(Routing.from_yaml(ROUTING), 0, "test")
    yield index
    index.close()


def test_each_instance_goes_where_the_rules_say(index: Index) -> None:
    """Attributes come from the index, the association from the event; every decision names its rule and version."""
    ct = _index(index, indexed("ct", header(Modality="CT")))
    other_sender = _index(index, indexed("ct2", header(Modality="CT"), calling_aet="CT2"))
    unreadable = _index(index, indexed("unreadable"))
    result = handle_batch([ct, other_sender, unreadable], CONTEXT, index)
    assert result.failures == ()
    assert [
        (_delivery(one).instance.sha256, _delivery(one).destination, _delivery(one).rule) for one in result.events
    ] == [
        (digest("ct"), "pacs", "everything"),
        (digest("ct"), "research", "thorax"),
        (digest("ct2"), "pacs", "everything"),
        (digest("unreadable"), "pacs", "everything"),
    ]
    assert {row.delivery_id for row in index.deliveries()} == {one.id for one in result.events}
    assert {one.id for one in result.events} >= {delivery_id(digest("ct"), "research", 1)}


def test_deciding_again_heals_a_crash_and_repeats_nothing(index: Index) -> None:
    """An event that comes again returns what is not settled yet, and nothing that was delivered or given up."""
    event = _index(index, indexed("ct", header(Modality="CT")))
    first = handle_batch([event, event], CONTEXT, index)
    second = handle_batch([event], CONTEXT, index)
    assert [one.nats_msg_id for one in second.events] == [one.nats_msg_id for one in first.events]
    pacs, research = (delivery_id(digest("ct"), name, 1) for name in ("pacs", "research"))
    index.delivery_attempted([DeliveryAttempt(pacs, AttemptOutcome.DELIVERED)])
    index.dead_letter(research, "refused", attempts=3)
    assert handle_batch([event], CONTEXT, index).events == ()
    assert len(index.deliveries()) == 2


def test_a_newer_version_sends_nothing_a_second_time(index: Index) -> None:
    """An event that comes again after a change of rules repeats what never left, and what now goes otherwise."""
    event = _index(index, indexed("mr"))
    (first,) = handle_batch([event], CONTEXT, index).events
    index.save_routing(Routing.from_yaml(ROUTING.replace("everything,", "all,")), 1, "test")
    (again,) = handle_batch([event], CONTEXT, index).events
    assert (again.nats_msg_id, _delivery(again).rule_version) == (first.nats_msg_id, 1)
    index.delivery_attempted([DeliveryAttempt(first.id, AttemptOutcome.RETRYING, "no route")])
    assert handle_batch([event], CONTEXT, index).events == ()
    index.delivery_attempted([DeliveryAttempt(first.id, AttemptOutcome.DELIVERED)])
    assert handle_batch([event], CONTEXT, index).events == ()
    changing = ROUTING.replace("everything,", "all, priority: urgent, morph: [{delete: PatientName}],")
    index.save_routing(Routing.from_yaml(changing), 2, "test")
    (changed,) = handle_batch([event], CONTEXT, index).events
    assert (_delivery(changed).rule_version, _delivery(changed).priority) == (3, "urgent")
    assert _delivery(changed).morph_sha256 == Routing.from_yaml(changing).morph_sha256("all")
    row = index.delivery(changed.id)
    assert (row.priority, row.morph_sha256, row.rule) == ("urgent", _delivery(changed).morph_sha256, "all")


def test_what_failed_under_an_old_version_is_tried_by_a_new_one(index: Index) -> None:
    """A dead letter of an earlier version does not keep a corrected one from sending."""
    event = _index(index, indexed("mr"))
    (first,) = handle_batch([event], CONTEXT, index).events
    index.dead_letter(first.id, "refused", attempts=3)
    index.save_routing(Routing.from_yaml(ROUTING.replace("everything,", "all,")), 1, "test")
    (second,) = handle_batch([event], CONTEXT, index).events
    assert _delivery(second).rule_version == 2


def test_the_subject_and_the_trace_follow(index: Index) -> None:
    """A delivery is published on its destination's own subject, within the trace of the association."""
    (event,) = handle_batch([_index(index, indexed("mr"))], CONTEXT, index).events
    assert event.nats_subject == "dicom.delivery.requested.pacs"
    assert (event.traceparent or "").split("-")[1] == "ab" * 16
    assert index.delivery(event.id).trace_id == "ab" * 16


def test_an_urgent_rule_makes_an_urgent_delivery(index: Index) -> None:
    """The priority of a rule must reach the queue, and the function that sends."""
    routing = index.routing()
    rules = [{**rule.model_dump(by_alias=True), "priority": "urgent"} for rule in routing.document.rules]
    urgent = Routing.model_validate({**routing.document.model_dump(by_alias=True), "rules": rules})
    index.save_routing(urgent, routing.version, "test")
    (event,) = handle_batch([_index(index, indexed("mr"))], CONTEXT, index).events
    assert event.nats_subject == "dicom.delivery.requested.pacs.urgent"
    assert _delivery(event).priority == "urgent"


def test_an_instance_the_index_lost_is_tried_again(index: Index) -> None:
    """While an index is rebuilt, routing waits for the instance instead of deciding without its header."""
    known = _index(index, indexed("a"))
    unknown = _event(indexed("b"))
    result = handle_batch([unknown, known], CONTEXT, index)
    assert [(one.item_identifier, one.retryable) for one in result.failures] == [(digest("b"), True)]
    assert [_delivery(one).instance.sha256 for one in result.events] == [digest("a")]


def test_without_rules_nothing_is_requested(index: Index) -> None:
    """An empty routing keeps instances where they are, without failing."""
    index.save_routing(Routing(), 1, "test")
    result = handle_batch([_index(index, indexed("a"))], CONTEXT, index)
    assert (result.failures, result.events, index.deliveries()) == ((), (), [])
    day = timedelta(days=1)
    assert index.unmatched(utc_now() - day, utc_now() + day).count == 1


def test_a_rule_that_keeps_matches(index: Index) -> None:
    """Who says by a rule that instances go nowhere is not told again and again that no rule matched them."""
    kept = Routing.model_validate({"match": "first", "rules": [{"name": "keep"}]})
    index.save_routing(kept, 1, "test")
    assert handle_batch([_index(index, indexed("a"))], CONTEXT, index).events == ()
    day = timedelta(days=1)
    assert index.unmatched(utc_now() - day, utc_now() + day).count == 0


def test_a_disabled_destination_gets_nothing_new(index: Index) -> None:
    """Disabling a destination stops new deliveries; those requested before stay to be done."""
    before = _index(index, indexed("before"))
    handle_batch([before], CONTEXT, index)
    disabled = ROUTING.replace("port: 104}", "port: 104, enabled: false}")
    index.save_routing(Routing.from_yaml(disabled), 1, "test")
    assert handle_batch([_index(index, indexed("after"))], CONTEXT, index).events == ()
    assert [row.state for row in index.deliveries()] == [DeliveryState.REQUESTED]


def test_a_foreign_event_is_refused_alone(index: Index) -> None:
    """An event of another type is refused for good and hinders no other."""
    foreign = CloudEvent(id="f", source="/x", type="org.example.thing", data={})
    result = handle_batch([foreign, _index(index, indexed("a"))], CONTEXT, index)
    assert [(one.item_identifier, one.retryable) for one in result.failures] == [("f", False)]
    assert len(result.events) == 1


def _index(index: Index, instance: IndexedInstance) -> CloudEvent:
    index.upsert_instances([instance])
    return _event(instance)


def _event(instance: IndexedInstance) -> CloudEvent:
    payload = InstanceIndexed(**instance.received.model_dump())
    return CloudEvent.of(payload, source="/test", traceparent=TRACE)


def _delivery(event: CloudEvent) -> Any:
    payload = payload_of(event)
    assert isinstance(payload, DeliveryRequested)
    return payload
