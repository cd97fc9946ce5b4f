"""What tests of forwarding need: an instance in a store, the request to deliver it, and a crash in between."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bucky.cloudevents import CloudEvent, utc_now
from bucky.dicom.part10 import FileMeta, file_header
from bucky.errors import IndexUnavailable
from bucky.events import DeliveryRequested, ReceivedInstance
from bucky.forwarding import Secrets, Senders
from bucky.index import DeliveryState, Index
from bucky.routing.crosswalk import Crosswalks
from bucky.routing.destinations import Destination, DimseDestination
from bucky.routing.document import Routing
from bucky.serve.contract import BatchResult
from bucky.serve.handlers import load_handler, make_context
from bucky.store.keys import object_key
from bucky.store.objects import MemoryObjectStore, put_bytes
from bucky.text.identifiers import delivery_id
from bucky.trace import new_traceparent
from forward_instances.handler import handle_batch

CT, MR = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.4"
EXPLICIT = "1.2.840.10008.1.2.1"
CONTEXT = make_context(load_handler("forward_instances.handler"))
SENDERS = Senders(Secrets(Path("/nowhere")))
NO_CROSSWALKS = Crosswalks(Path("/nonexistent"))


def save_destination(index: Index, destination: Destination) -> None:
    """Make this the routing's only destination."""
    index.save_routing(Routing(destinations=(destination,)), index.routing().version, "test")


def route_to(index: Index, port: int, **changes: Any) -> None:
    """Make `pacs` the destination at this port."""
    fields = {"name": "pacs", "type": "dimse", "aet": "DEMO", "host": "127.0.0.1", "port": port, **changes}
    destination = DimseDestination.model_validate(fields)
    save_destination(index, destination)


def uid_of(number: int) -> str:
    """Return the SOP Instance UID of an instance that `request` makes."""
    return f"1.2.3.{number}"


def request(
    objects: MemoryObjectStore,
    number: int,
    sop_class: str = CT,
    size: int = 2000,
    destination: str = "pacs",
    data_set: bytes = b"",
    uid: str = "",
) -> CloudEvent:
    """Store an instance and return the request to deliver it."""
    data_set = data_set or number.to_bytes(4, "big") * (size // 4)
    sha256, uid = hashlib.sha256(data_set).hexdigest(), uid or uid_of(number)
    stored = file_header(FileMeta(sop_class, uid, EXPLICIT)) + data_set
    key = object_key("1.2", "1.2.3", uid, sha256)
    put_bytes(objects, key, stored)
    instance = ReceivedInstance(
        study_instance_uid="1.2",
        series_instance_uid="1.2.3",
        sop_instance_uid=uid,
        sop_class_uid=sop_class,
        transfer_syntax_uid=EXPLICIT,
        sha256=sha256,
        size=len(stored),
        bucket="bucky",
        key=key,
        calling_aet="CT1",
        called_aet="BUCKY",
        source_address="127.0.0.1",
        association_id="a",
        received_at=utc_now(),
    )
    payload = DeliveryRequested(
        delivery_id=delivery_id(sha256, destination, 1),
        destination=destination,
        rule="all",
        rule_version=1,
        instance=instance,
    )
    return CloudEvent.of(payload, source="/test", traceparent=new_traceparent())


def state(index: Index, event: CloudEvent) -> DeliveryState:
    """Return where the delivery stands."""
    return index.delivery(event.id).state


def forward(
    events: Sequence[CloudEvent],
    objects: MemoryObjectStore,
    index: "Index | CrashingIndex",
    senders: Senders,
    crosswalks: Crosswalks = NO_CROSSWALKS,
) -> BatchResult:
    """Run the function on a batch."""
    return handle_batch(events, CONTEXT, objects, index, crosswalks, senders)  # type: ignore[arg-type]


class CrashingIndex:
    """An index whose database goes away between the sending and the recording."""

    def __init__(self, index: Index) -> None:
        self._index = index

    def __getattr__(self, name: str) -> Any:
        return getattr(self._index, name)

    def delivery_attempted(self, _attempts: object) -> None:
        """Fail as a database that is gone does."""
        raise IndexUnavailable("the index database did not answer")
