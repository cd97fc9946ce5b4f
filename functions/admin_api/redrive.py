"""Sending again: a delivery that failed, or an event that became a dead letter.

The order matters. First the index says "requested", because the forwarder skips what is settled; then
the event is published; only when the stream has it is the dead letter removed. Whatever breaks in
between leaves the letter where it is, and sending it again is harmless.
"""

import asyncio

from admin_api.dead_letters import DeadLetter, DeadLetterBox, Filter
from bucky.errors import BuckyError, NotFound, Permanent
from bucky.events import CloudEvent
from bucky.index import AttemptOutcome, DeliveryAttempt, DeliveryRow, DeliveryState, Index
from bucky.trace import within

SOURCE = "/bucky/admin-api"
STUCK = {DeliveryState.FAILED, DeliveryState.DEAD_LETTER}


async def redrive_letter(box: DeadLetterBox, index: Index, letter: DeadLetter) -> None:
    """Send a dead letter's event again and remove the letter; a delivery made meanwhile is not made twice."""
    delivery = letter.delivery
    if delivery is None or letter.content is None:
        await box.send_again(letter)
    elif not await asyncio.to_thread(_is_delivered, index, delivery.delivery_id):
        await asyncio.to_thread(index.redriven, [delivery.delivery_id])
        try:
            await box.send_again(letter)
        except BuckyError:
            content = letter.content
            await asyncio.to_thread(index.dead_letter, delivery.delivery_id, content.reason, content.attempts)
            raise
    await box.remove(letter)


async def redrive_delivery(box: DeadLetterBox, index: Index, delivery_id: str) -> None:
    """Send a failed or dead-lettered delivery again; raise `Permanent` when it is neither."""
    row = await asyncio.to_thread(index.delivery, delivery_id)
    if row.state not in STUCK:
        raise Permanent(f"The delivery is {row.state}; only a failed or dead-lettered one can be sent again.")
    letter = await _letter_of(box, row) if row.state is DeliveryState.DEAD_LETTER else None
    if letter is not None:
        await redrive_letter(box, index, letter)
        return
    event = await asyncio.to_thread(_requested, index, row)
    await asyncio.to_thread(index.redriven, [delivery_id])
    try:
        # The time of the failure tells this sending from earlier ones, and is the same for a double click.
        await box.publish(event, event.nats_subject, f"redrive-{row.updated_at.timestamp()}")
    except BuckyError:
        again = DeliveryAttempt(delivery_id, AttemptOutcome.FAILED, row.reason, row.detail)
        await asyncio.to_thread(index.delivery_attempted, [again])
        raise


def _is_delivered(index: Index, delivery_id: str) -> bool:
    try:
        return index.delivery(delivery_id).state is DeliveryState.DELIVERED
    except NotFound:  # an index that was rebuilt knows no deliveries
        return False


async def _letter_of(box: DeadLetterBox, row: DeliveryRow) -> DeadLetter | None:
    before: int | None = None
    while True:
        page = await box.page(Filter(destination=row.destination), limit=200, before=before)
        for letter in page.letters:
            if letter.delivery is not None and letter.delivery.delivery_id == row.delivery_id:
                return letter
        if page.before is None:
            return None
        before = page.before


def _requested(index: Index, row: DeliveryRow) -> CloudEvent:
    payload = row.request(index.instance(row.sha256).received())
    return CloudEvent.of(payload, source=SOURCE, traceparent=within(row.trace_id))
