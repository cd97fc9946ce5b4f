"""Looks after deliveries that nobody else will: late commitments, what is to be sent again, what waits too long.

When each is due is in its row, so no restart forgets one. What has failed for good is asked for once more: the
forwarder answers that it failed, which makes it a dead letter as any other.
"""

import asyncio
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from bucky.broker.connection import Publisher
from bucky.cloudevents import CloudEvent, utc_now
from bucky.dicom.uids import new_uid
from bucky.events import CommitmentRequested
from bucky.index import DeliveryRow, DeliveryState, Index
from bucky.log import get_logger
from bucky.routing.destinations import GIVE_UP_AFTER_HOURS, Commitment, commitment_of
from bucky.routing.document import Routing
from bucky.trace import within
from keeper.republisher import SOURCE
from keeper.steady_clock import SteadyClock

# A request to ask for a commitment is checked after this time, and then at growing intervals.
ASKING_SECONDS = 900.0
# Who has just started knows ages by the clock on the wall only: it watches for this time before it gives anything up.
WATCHED_SECONDS = 3600.0
WAITING = (DeliveryState.REQUESTED, DeliveryState.RETRYING)

log = get_logger("keeper")


@dataclass(slots=True)
class LookedAfter:
    """How many deliveries were asked about again, sent again, and given up."""

    asked: int = 0
    sent: int = 0
    given_up: int = 0


class Overdue:
    """Looks after what is due when told to; several may do so for one index."""

    def __init__(self, index: Index, publisher: Publisher, clock: SteadyClock | None = None) -> None:
        self._index, self._publisher = index, publisher
        self._clock = clock or SteadyClock()
        self._tried_before: dict[str | None, datetime | None] = {}

    async def run(self) -> LookedAfter:
        """Look after everything that is due now."""
        done = LookedAfter()
        while rows := await asyncio.to_thread(self._index.due_deliveries):
            routing = (await asyncio.to_thread(self._index.routing)).document
            by_transaction: dict[tuple[str, str | None], list[DeliveryRow]] = defaultdict(list)
            for row in rows:
                if row.state is DeliveryState.UNCOMMITTED:
                    by_transaction[row.destination, row.commitment_uid].append(row)
            for (name, _), group in by_transaction.items():
                await self._late(routing, name, group, done)
            again = [row for row in rows if row.state is DeliveryState.RETRYING]
            await self._request(again)
            await asyncio.to_thread(self._index.put_off, again, None)
            done.sent += len(again)
        return done

    async def give_up(self) -> int:
        """Let fail what has waited to be sent for longer than its destination's limit; return how many.

        Age alone is no reason: the clock may have been set, or nothing have run. It must have been tried since.
        """
        routing = (await asyncio.to_thread(self._index.routing)).document
        limits: dict[str | None, float] = {one.name: one.give_up_after_hours for one in routing.destinations}
        limits[None] = GIVE_UP_AFTER_HOURS  # of destinations that are not there any more
        number = 0
        for name, hours in limits.items():
            number += await asyncio.to_thread(self._give_up, name, hours, [one for one in limits if one is not None])
        if number:
            log.warning("deliveries.given_up", deliveries=number)
        return number

    def _give_up(self, name: str | None, hours: float, known: Sequence[str]) -> int:
        number, before = 0, self._clock.ago(hours * 3600)
        if not self._tried_since_due(name, hours, known, before):
            return 0
        while rows := self._index.waiting_too_long(before, name, known):
            reasons = {row.delivery_id: _waited(row, hours) for row in rows}
            number += len(self._index.give_up(reasons, WAITING))
        return number

    def _tried_since_due(self, name: str | None, hours: float, known: Sequence[str], before: datetime) -> bool:
        """Say whether a destination was tried in vain after something was first seen to wait too long for it."""
        if not self._index.waiting_too_long(before, name, known, limit=1):
            self._tried_before.pop(name, None)
            return False
        tried = self._index.last_tried(name, known)
        tried_again = tried != self._tried_before.setdefault(name, tried)
        return tried_again and self._clock.running() >= min(hours * 3600, WATCHED_SECONDS)

    async def _late(self, routing: Routing, name: str, rows: Sequence[DeliveryRow], done: LookedAfter) -> None:
        """See to one transaction whose answer is late, or which was not asked for yet."""
        now, first = utc_now(), rows[0]
        destination = routing.destination(name)
        commitment = commitment_of(destination)
        since = first.waiting_since or first.updated_at
        hours = destination.give_up_after_hours if destination is not None else GIVE_UP_AFTER_HOURS
        if commitment is None or (first.commitment_asked_at is None and self._clock.passed(since) < hours * 3600):
            await self._ask(first, str(first.commitment_uid), f"due-{first.due_at}")
            due_at = now + max(timedelta(seconds=ASKING_SECONDS), now - since)
            await asyncio.to_thread(self._index.put_off, rows, due_at)
        elif first.commitment_asked_at is None:
            reason = f"its commitment could not be asked for within {_long(hours * 3600)}: {first.commitment}"
            await self._fail(rows, reason, done)
        elif (left := commitment.answer_within_seconds - self._clock.passed(first.commitment_asked_at)) > 0:
            # The clock was set meanwhile: the destination has not had the time it was given.
            await asyncio.to_thread(self._index.put_off, rows, now + timedelta(seconds=left))
        elif first.commitment_asks >= commitment.asks:
            await self._fail(rows, _unanswered(first, commitment), done)
        else:
            uid, due_at = new_uid(), now + timedelta(seconds=ASKING_SECONDS)
            said = f"{_unanswered(first, commitment)}; it is to be asked for again"
            if moved := await asyncio.to_thread(self._index.ask_anew, rows, uid, due_at, said):
                done.asked += len(moved)
                await self._ask(first, uid)

    async def _fail(self, rows: Sequence[DeliveryRow], reason: str, done: LookedAfter) -> None:
        reasons = {row.delivery_id: reason for row in rows}
        given_up = set(await asyncio.to_thread(self._index.give_up, reasons, (DeliveryState.UNCOMMITTED,)))
        done.given_up += len(given_up)
        await self._request([row for row in rows if row.delivery_id in given_up])

    async def _ask(self, row: DeliveryRow, uid: str, repetition: str = "") -> None:
        payload = CommitmentRequested(transaction_uid=uid, destination=row.destination)
        event = CloudEvent.of(payload, source=SOURCE, traceparent=within(row.trace_id))
        await self._publisher.publish(event.once_more(repetition) if repetition else event)

    async def _request(self, rows: Sequence[DeliveryRow]) -> None:
        """Have these looked at by the forwarder once more; one whose instance is lost stays as its row says."""
        if not rows:
            return
        instances = await asyncio.to_thread(self._index.instances_by_digest, {row.sha256 for row in rows})
        for row in rows:
            if row.sha256 in instances:
                request = row.request(instances[row.sha256].received())
                event = CloudEvent.of(request, source=SOURCE, traceparent=within(row.trace_id))
                await self._publisher.publish(event.once_more(f"commitment-{row.commitment_uid}"))


def _unanswered(row: DeliveryRow, commitment: Commitment) -> str:
    """Say that nothing was heard, and what was last said of it."""
    asks = row.commitment_asks
    times = "asked once" if asks == 1 else f"asked {asks} times"
    waited = _long(commitment.answer_within_seconds)
    last = f" ({row.commitment})" if row.commitment else ""
    return f"the destination took it, and did not commit to keeping it within {waited}, {times}{last}"


def _waited(row: DeliveryRow, hours: float) -> str:
    since: datetime = row.waiting_since or row.redriven_at or row.requested_at
    last = row.reason or "it was never tried"
    return f"given up after {_long(hours * 3600)}, waiting since {since:%Y-%m-%d %H:%M} UTC: {last}"


def _long(seconds: float) -> str:
    """Return a time as people say it."""
    for unit, length in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:g} {unit}"
    return f"{seconds:g} s"
