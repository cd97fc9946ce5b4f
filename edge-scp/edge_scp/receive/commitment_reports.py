"""Reports on storage commitments that destinations bring: read, published, and only then answered (PS3.4 §J.3.3).

They are not spooled. One that the broker does not get is answered as a failure, and what it was about is asked for
again: nothing counts as delivered without it.
"""

import asyncio
from collections.abc import Callable
from typing import Protocol

from bucky.cloudevents import CloudEvent
from bucky.dimse.commitment import CommitmentReport, InvalidReport, read_report
from bucky.errors import BrokerUnavailable
from bucky.events import CommitmentReported, NotCommitted
from bucky.log import get_logger
from bucky.trace import child_of
from edge_scp.association.sink import Requestor, StoreStatus
from edge_scp.association.statuses import Status

SOURCE = "/bucky/edge"
# Far more than we ask for at once; as an event it still fits into a message.
MAX_REPORT = 512 * 1024

log = get_logger("edge")


class Link(Protocol):
    """The way to the broker: `prepare` connects where that is needed; both raise `BrokerUnavailable`."""

    async def prepare(self) -> None:
        """Connect."""

    async def publish(self, event: CloudEvent) -> None:
        """Return once the stream has the event."""


class CommitmentReports:
    """Takes the reports of one process; in the running loop's thread only. It connects when the first one comes."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._connected = False
        self._publishing: set[asyncio.Task[None]] = set()

    def report(self, event_type: int, transfer_syntax_uid: str, caller: Requestor) -> "_Arriving":
        """Start a report."""
        return _Arriving(self, event_type, transfer_syntax_uid, caller)

    def publish(self, report: CommitmentReport, caller: Requestor, answered: Callable[[StoreStatus], None]) -> None:
        """Publish a report, and answer it when the broker has it."""
        task = asyncio.get_running_loop().create_task(self._published(report, caller, answered))
        self._publishing.add(task)
        task.add_done_callback(self._publishing.discard)

    async def _published(
        self, report: CommitmentReport, caller: Requestor, answered: Callable[[StoreStatus], None]
    ) -> None:
        try:
            event = _event(report, caller)
            if not self._connected:
                await self._link.prepare()
                self._connected = True
            await self._link.publish(event)
            answer = StoreStatus(Status.SUCCESS)
        except BrokerUnavailable as error:
            answer = StoreStatus(Status.PROCESSING_FAILURE, "the report cannot be passed on now; report again later")
            log.warning("commitment.not_passed_on", reason=str(error), transaction_uid=report.transaction_uid)
        except Exception:
            # An unforeseen failure must still be answered.
            log.exception("commitment.failed", association_id=caller.association_id)
            answer = StoreStatus(Status.PROCESSING_FAILURE, "Unexpected error; see the receiver's log")
        else:
            log.info(
                "commitment.reported",
                transaction_uid=report.transaction_uid,
                committed=len(report.committed),
                failed=len(report.failed),
                calling_aet=caller.calling_aet,
                source_address=caller.source_address,
                association_id=caller.association_id,
            )
        answered(answer)


class _Arriving:
    """The `IncomingInstance` of one report."""

    def __init__(
        self, reports: CommitmentReports, event_type: int, transfer_syntax_uid: str, caller: Requestor
    ) -> None:
        self._reports, self._event_type, self._transfer_syntax_uid = reports, event_type, transfer_syntax_uid
        self._caller = caller
        self._data_set = bytearray()
        self._too_large = False

    def write(self, *fragments: memoryview) -> None:
        """Take fragments, up to the most that a report may have."""
        self._too_large = self._too_large or len(self._data_set) + sum(map(len, fragments)) > MAX_REPORT
        if not self._too_large:
            for fragment in fragments:
                self._data_set += fragment

    def finish(self, answered: Callable[[StoreStatus], None]) -> None:
        """Read what came and publish it, or answer what is wrong with it."""
        loop = asyncio.get_running_loop()
        if self._too_large:
            loop.call_soon(answered, StoreStatus(Status.RESOURCE_LIMITATION, "the report is larger than any can be"))
            return
        try:
            report = read_report(self._event_type, bytes(self._data_set), self._transfer_syntax_uid)
        except InvalidReport as error:
            log.warning("commitment.invalid", reason=str(error), association_id=self._caller.association_id)
            loop.call_soon(answered, StoreStatus(Status(error.status), str(error)[:64]))
            return
        self._reports.publish(report, self._caller, answered)

    def abandon(self) -> None:
        """Forget it; what was passed on already is true all the same."""


def _event(report: CommitmentReport, caller: Requestor) -> CloudEvent:
    payload = CommitmentReported(
        transaction_uid=report.transaction_uid,
        committed=report.committed,
        failed=tuple(NotCommitted(sop_instance_uid=uid, reason=reason) for uid, reason in report.failed.items()),
        calling_aet=caller.calling_aet,
        called_aet=caller.called_aet,
        source_address=caller.source_address,
        association_id=caller.association_id,
    )
    return CloudEvent.of(payload, source=SOURCE, traceparent=child_of(caller.traceparent))
