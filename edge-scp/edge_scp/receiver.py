"""Receive one instance: decide, spool, and only then answer. The edge's one failure policy for C-STORE.

Whatever carried the request (pynetdicom today) hands over a `StoreRequest` and sends back the `Answer`.
"""

import time
from dataclasses import dataclass

from bucky.events import utc_now
from bucky.identity import Identity
from bucky.log import get_logger
from bucky.part10 import FileMeta
from bucky.trace import child_of
from edge_scp.capacity import SpoolFull
from edge_scp.metrics import Metrics
from edge_scp.reception import Answer, Caller
from edge_scp.record import Record
from edge_scp.spool import Spool
from edge_scp.spool_writer import Provenance, SpoolFailed
from edge_scp.statuses import Status
from edge_scp.store_service import Refusal, StoreCommand, decide

log = get_logger("edge")


@dataclass(frozen=True, slots=True)
class StoreRequest:
    """One C-STORE request whose data set has arrived, still encoded."""

    command: StoreCommand
    caller: Caller
    data_set: memoryview


class Receiver:
    """Turns store requests into durable spool entries; safe to use from many threads."""

    def __init__(self, spool: Spool, metrics: Metrics) -> None:
        self._spool = spool
        self._metrics = metrics

    def receive(self, request: StoreRequest) -> Answer:
        """Answer success only when the instance would survive a power cut; never raise."""
        started = time.perf_counter()
        try:
            outcome = self._kept(request)
        except (SpoolFull, SpoolFailed) as error:
            outcome = Refusal(Status.OUT_OF_RESOURCES, str(error))
        except Exception:
            # An unforeseen failure must still be answered, and never as success.
            log.exception("instance.failed", association_id=request.caller.association_id)
            outcome = Refusal(Status.PROCESSING_FAILURE, "Unexpected error; see the receiver's log")
        seconds = time.perf_counter() - started
        if isinstance(outcome, Refusal):
            return self._refused(request, outcome, seconds)
        return self._acknowledged(outcome, seconds)

    def _kept(self, request: StoreRequest) -> Record | Refusal:
        decision = decide(request.command, request.data_set)
        if isinstance(decision, Refusal):
            return decision
        return self._spooled(request, decision)

    def _spooled(self, request: StoreRequest, identity: Identity) -> Record:
        caller = request.caller
        meta = FileMeta(
            sop_class_uid=identity.sop_class_uid,
            sop_instance_uid=identity.sop_instance_uid,
            transfer_syntax_uid=request.command.transfer_syntax_uid,
            calling_aet=caller.calling_aet,
            called_aet=caller.called_aet,
        )
        provenance = Provenance(
            calling_aet=caller.calling_aet,
            called_aet=caller.called_aet,
            source_address=caller.source_address,
            association_id=caller.association_id,
            received_at=utc_now(),
            traceparent=child_of(caller.traceparent),
        )
        with self._spool.begin(meta, expected_bytes=len(request.data_set)) as writer:
            writer.write(request.data_set)
            return writer.commit(identity, provenance)

    def _acknowledged(self, record: Record, seconds: float) -> Answer:
        size = record.object_size - record.data_set_offset
        self._metrics.received(Status.SUCCESS, size, seconds)
        log.info(
            "instance.acknowledged",
            study_instance_uid=record.study_instance_uid,
            series_instance_uid=record.series_instance_uid,
            sop_instance_uid=record.sop_instance_uid,
            sop_class_uid=record.sop_class_uid,
            transfer_syntax_uid=record.transfer_syntax_uid,
            sha256=record.sha256,
            bytes=size,
            duration_ms=round(seconds * 1000, 2),
            status=f"0x{Status.SUCCESS:04X}",
            calling_aet=record.calling_aet,
            association_id=record.association_id,
            traceparent=record.traceparent,
        )
        return Answer(Status.SUCCESS)

    def _refused(self, request: StoreRequest, refusal: Refusal, seconds: float) -> Answer:
        self._metrics.received(refusal.status, len(request.data_set), seconds)
        log.warning(
            "instance.refused",
            status=f"0x{refusal.status:04X}",
            reason=refusal.comment,
            sop_class_uid=request.command.abstract_syntax_uid,
            transfer_syntax_uid=request.command.transfer_syntax_uid,
            bytes=len(request.data_set),
            duration_ms=round(seconds * 1000, 2),
            calling_aet=request.caller.calling_aet,
            association_id=request.caller.association_id,
        )
        return Answer(refusal.status, refusal.error_comment)
