"""Deliveries that are open although nobody works on them."""

import asyncio
from datetime import datetime

from bucky.cloudevents import CloudEvent, DeadLettered, utc_now
from bucky.errors import NotFound
from bucky.events import DeliveryRequested, ProcessingRequested, payload_of
from bucky.index import DeliveryRow, DeliveryState, Index
from bucky.trace import within
from keeper.findings import Did, FindingKind, ReconcileReport
from keeper.republisher import SOURCE, Republisher
from keeper.waiting import read, waiting_ids

CARRIED_OUT_BY = {"forward-instances": DeliveryRequested.TYPE, "process-instances": ProcessingRequested.TYPE}
NO_LETTER = "the destination refused it for good; no dead letter was found: send this delivery again by its id"


async def reconcile_deliveries(index: Index, publisher: Republisher, report: ReconcileReport, before: datetime) -> int:
    """Compare the open deliveries with the streams; return how many there are."""
    streams: _Streams | None = None
    looked_at, after = 0, ""
    while page := await asyncio.to_thread(index.unsettled_deliveries, before, after=after):
        after, looked_at = page[-1].delivery_id, looked_at + len(page)
        if streams is None:
            streams = await _Streams.of(publisher)
        for row in page:
            if row.delivery_id not in streams.waiting:
                await _settle(row, streams.letters.get(row.delivery_id), index, publisher, report)
    return looked_at


class _Streams:
    """What the streams know of deliveries: those asked for and not finished, and the dead letters."""

    def __init__(self, waiting: set[str], letters: dict[str, DeadLettered]) -> None:
        self.waiting, self.letters = waiting, letters

    @classmethod
    async def of(cls, publisher: Republisher) -> "_Streams":
        js = publisher.js
        waiting: set[str] = set()
        for function, event_type in CARRIED_OUT_BY.items():
            waiting |= await waiting_ids(js, "DELIVERIES", f"{event_type}.>", function)
        letters: dict[str, DeadLettered] = {}
        async for one in read(js, "DEADLETTERS", f"{DeadLettered.TYPE}.>"):
            if one.event.type != DeadLettered.TYPE:
                continue
            dead = payload_of(one.event)
            if isinstance(dead, DeadLettered) and dead.event.get("type") in CARRIED_OUT_BY.values():
                letters[str(dead.event.get("id"))] = dead
        return cls(waiting, letters)


async def _settle(
    row: DeliveryRow, letter: DeadLettered | None, index: Index, publisher: Republisher, report: ReconcileReport
) -> None:
    if letter is not None:
        report.add(FindingKind.DEAD_LETTER_NOT_RECORDED, row.delivery_id, Did.RECORDED)
        if not report.dry_run:
            await asyncio.to_thread(index.dead_letter, row.delivery_id, letter.reason, letter.attempts, utc_now())
    elif row.state is DeliveryState.FAILED:
        report.add(FindingKind.FAILURE_WITHOUT_LETTER, row.delivery_id, Did.RECORDED)
        if not report.dry_run:
            reason = f"{row.reason} ({NO_LETTER})" if row.reason else NO_LETTER
            await asyncio.to_thread(index.dead_letter, row.delivery_id, reason, row.attempts, utc_now())
    else:
        await _ask_again(row, index, publisher, report)


async def _ask_again(row: DeliveryRow, index: Index, publisher: Republisher, report: ReconcileReport) -> None:
    try:
        instance = await asyncio.to_thread(index.instance, row.sha256)
    except NotFound:
        report.add(FindingKind.DELIVERY_WITHOUT_INSTANCE, row.delivery_id)
        return
    report.add(FindingKind.REQUEST_LOST, row.delivery_id, Did.PUBLISHED)
    if not report.dry_run:
        request = row.request(instance.received())
        await publisher.publish(CloudEvent.of(request, source=SOURCE, traceparent=within(row.trace_id)))
