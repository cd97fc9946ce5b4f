"""Events: the wire format that everything else stands on."""

import json
import re

import pytest

from bucky.cloudevents import CloudEvent, utc_now
from bucky.errors import Permanent
from bucky.events import PAYLOADS, DeliveryCompleted, DeliveryRequested, InstanceStored, ReceivedInstance, payload_of
from bucky.text.identifiers import delivery_id
from bucky.trace import new_traceparent

STORED = InstanceStored(
    study_instance_uid="1.2",
    series_instance_uid="1.2.3",
    sop_instance_uid="1.2.3.4",
    sop_class_uid="1.2.840.10008.5.1.4.1.1.2",
    transfer_syntax_uid="1.2.840.10008.1.2.1",
    sha256="a" * 64,
    size=1000,
    bucket="bucky",
    key="studies/1.2/1.2.3/1.2.3.4/a.dcm",
    calling_aet="CT1",
    called_aet="BUCKY",
    source_address="10.0.0.1",
    association_id="x",
    received_at=utc_now(),
)
REQUESTED = DeliveryRequested(
    delivery_id=delivery_id("a" * 64, "pacs", 3),
    destination="pacs",
    rule="all",
    rule_version=3,
    instance=ReceivedInstance(**STORED.model_dump()),
)


@pytest.mark.parametrize("payload", [STORED, REQUESTED])
def test_round_trip(payload: InstanceStored | DeliveryRequested) -> None:
    """An event read back is the event that was written, with its trace."""
    event = CloudEvent.of(payload, source="/test", traceparent=new_traceparent())
    again = CloudEvent.model_validate_json(event.to_json())
    assert again == event
    assert payload_of(again).model_dump() == payload.model_dump()


def test_the_same_fact_is_the_same_message() -> None:
    """Ids are deterministic, and differ between types that share a stream."""
    first, second = (CloudEvent.of(STORED, source="/test") for _ in range(2))
    assert first.nats_msg_id == second.nats_msg_id == f"dicom.instance.stored/{'a' * 64}"
    requested = CloudEvent.of(REQUESTED, source="/test")
    assert requested.nats_subject == "dicom.delivery.requested.pacs"
    assert requested.nats_msg_id != first.nats_msg_id


def test_an_urgent_delivery_has_a_queue_of_its_own() -> None:
    """What is urgent must not wait behind routine deliveries to the same destination; its outcome is as any."""
    urgent = REQUESTED.model_copy(update={"priority": "urgent"})
    event = CloudEvent.model_validate_json(CloudEvent.of(urgent, source="/test").to_json())
    assert event.nats_subject == "dicom.delivery.requested.pacs.urgent"
    completed = DeliveryCompleted(**urgent.model_dump(), completed_at=utc_now())
    assert CloudEvent.of(completed, source="/test").nats_subject == "dicom.delivery.completed.pacs"


def test_an_extension_of_another_that_is_called_priority_does_no_harm() -> None:
    """An event of somebody else may use the name for a number; it is kept and changes nothing."""
    event = CloudEvent.model_validate({"id": "1", "source": "/x", "type": "other.made", "priority": 5})
    assert (event.nats_subject, json.loads(event.to_json())["priority"]) == ("other.made", 5)


def test_delivery_ids_differ_by_each_part() -> None:
    """Another digest, destination or rule version is another delivery."""
    ids = {delivery_id(s, d, v) for s in ("a" * 64, "b" * 64) for d in ("pacs", "pacs2") for v in (1, 12)}
    assert len(ids) == 8


def test_unknown_type_and_wrong_data_are_permanent() -> None:
    """What is not ours, or does not match its schema, is never tried again."""
    for event in (
        CloudEvent(id="1", source="/test", type="something.else", data={}),
        CloudEvent(id="1", source="/test", type="dicom.instance.stored", data={"sha256": "short"}),
    ):
        with pytest.raises(Permanent):
            payload_of(event)


def test_destination_cannot_break_out_of_its_subject() -> None:
    """A destination's name is one token of a NATS subject, whatever somebody calls it."""
    for name in ("a.b", "a>", "*", "A", "", "x" * 41):
        data = REQUESTED.model_dump() | {"destination": name}
        with pytest.raises(ValueError, match="destination"):
            DeliveryRequested.model_validate(data)


def test_no_payload_has_a_place_for_patient_attributes() -> None:
    """No field of any event is a patient attribute."""
    fields = json.dumps([payload.model_json_schema() for payload in PAYLOADS.values()])
    assert not re.search(r"patient|birth|accession", fields, re.IGNORECASE)
