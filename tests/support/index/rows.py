"""Instances and delivery requests made for tests of the index."""

import hashlib
from datetime import UTC, datetime
from typing import Any

from bucky.events import DeliveryRequested, ReceivedInstance
from bucky.index import IndexedInstance
from bucky.text.identifiers import delivery_id

RECEIVED_AT = datetime(2026, 11, 1, 12, tzinfo=UTC)


def received(name: str, **changes: Any) -> ReceivedInstance:
    """Return an instance of study 1.2, series 1.2.3, whose bytes and SOP Instance UID the name decides."""
    number = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big")
    values = {
        "study_instance_uid": "1.2",
        "series_instance_uid": "1.2.3",
        "sop_instance_uid": f"1.2.3.{number}",
        "sop_class_uid": "1.2.840.10008.5.1.4.1.1.2",
        "transfer_syntax_uid": "1.2.840.10008.1.2.1",
        "sha256": digest(name),
        "size": 1000,
        "bucket": "bucky",
        "key": f"studies/1.2/{name}",
        "calling_aet": "CT1",
        "called_aet": "BUCKY",
        "source_address": "127.0.0.1",
        "association_id": "a1",
        "received_at": RECEIVED_AT,
    }
    return ReceivedInstance.model_validate(values | changes)


def indexed(name: str, header: dict[str, Any] | None = None, **changes: Any) -> IndexedInstance:
    """Return an instance to index."""
    return IndexedInstance(received(name, **changes), header or {}, trace_id="ab" * 16)


def requested(name: str, destination: str = "pacs", version: int = 1) -> DeliveryRequested:
    """Return the request to deliver the instance of this name."""
    return DeliveryRequested(
        delivery_id=delivery_id(digest(name), destination, version),
        destination=destination,
        rule="everything",
        rule_version=version,
        instance=received(name),
    )


def digest(name: str) -> str:
    """Return the digest of the instance of this name."""
    return hashlib.sha256(name.encode()).hexdigest()


def header(**values: Any) -> dict[str, Any]:
    """Return a DICOM JSON model object from keywords and single values."""
    from pydicom.datadict import dictionary_VR, tag_for_keyword

    model = {}
    for keyword, value in values.items():
        tag = tag_for_keyword(keyword)
        assert tag is not None
        vr = dictionary_VR(tag)
        model[f"{tag:08X}"] = {"vr": vr, "Value": [{"Alphabetic": value} if vr == "PN" else value]}
    return model
