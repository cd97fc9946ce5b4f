"""Reads the headers of stored instances and puts them in the index.

An instance is never left out of the index because its header cannot be read in full: what can be read is
indexed, `header_error` says what could not, and the instance is routed all the same. Events are returned
for known instances too: after a crash between the index's commit and the publishing, that heals the rest.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from bucky.cloudevents import CloudEvent, Payload
from bucky.errors import Permanent, Retriable, StoreUnavailable
from bucky.events import InstanceConflicted, InstanceIndexed, InstanceStored, payload_of
from bucky.index import Index, IndexedInstance, UpsertResult
from bucky.serve.contract import BatchResult, ItemFailure
from bucky.serve.handlers import Context, failure_of
from bucky.store.headers import read_attributes
from bucky.store.objects import ObjectStore
from bucky.trace import trace_id

READS_AT_ONCE = 8
# Kept from batch to batch: starting its threads costs as much as reading from the local cache.
_readers = ThreadPoolExecutor(READS_AT_ONCE, "read")


@dataclass(frozen=True, slots=True)
class _Read:
    """An event and what came of reading its instance: the instance, or the failure."""

    event: CloudEvent
    instance: IndexedInstance | None = None
    failure: ItemFailure | None = None


def handle_batch(events: Sequence[CloudEvent], ctx: Context, objects: ObjectStore, index: Index) -> BatchResult:
    """Index a batch in one transaction; an instance the store cannot give now is tried again alone."""
    reads = list(_readers.map(lambda event: _read(event, objects), events))
    read = [(one.event, one.instance) for one in reads if one.instance is not None]
    results = index.upsert_instances([instance for _, instance in read])
    happened = [
        ctx.event(_indexed(instance, result), cause) for (cause, instance), result in zip(read, results, strict=True)
    ]
    for (_, instance), result in zip(read, results, strict=True):
        ctx.log.info(
            "instance.indexed",
            sop_instance_uid=instance.received.sop_instance_uid,
            sha256=result.sha256,
            outcome=str(result.outcome),
            header_error=instance.header_error,
            trace_id=instance.trace_id,
        )
    failures = tuple(one.failure for one in reads if one.failure is not None)
    for failure in failures:
        ctx.log.warning("instance.not_indexed", event_id=failure.item_identifier, reason=failure.reason)
    return BatchResult(failures=failures, events=tuple(happened))


def _read(event: CloudEvent, objects: ObjectStore) -> _Read:
    try:
        return _Read(event, instance=_parsed(event, _stored(event), objects))
    except (Permanent, Retriable) as error:
        return _Read(event, failure=failure_of(event.id, error))


def _stored(event: CloudEvent) -> InstanceStored:
    payload = payload_of(event)
    if not isinstance(payload, InstanceStored):
        raise Permanent(f"parse-instance takes {InstanceStored.TYPE} events, not {event.type}")
    return payload


def _parsed(event: CloudEvent, stored: InstanceStored, objects: ObjectStore) -> IndexedInstance:
    """Return the instance with as much of its header as can be read."""
    try:
        read = read_attributes(objects, stored.key, stored.size)
    except Permanent as error:
        # Never the instance's fault: an object that the store lost comes again from the spool.
        raise StoreUnavailable(f"the object cannot be read, although it was stored: {error}") from error
    return IndexedInstance(stored, read.model, read.problem, trace_id(event.traceparent), stored_at=event.time)


def _indexed(instance: IndexedInstance, result: UpsertResult) -> Payload:
    received = instance.received.model_dump()
    if result.existing_sha256 is not None:
        return InstanceConflicted(**received, existing_sha256=result.existing_sha256)
    return InstanceIndexed(**received)
