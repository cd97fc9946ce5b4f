"""Sending again: a delivery that failed, or an event that became a dead letter.

The order matters. First the index says "requested", because the forwarder skips what is settled; then
the event is published; only when the stream has it is the dead letter removed. Whatever breaks in
between leaves the letter where it is, and sending it again is harmless.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from admin_api.dead_letters import DeadLetterBox, Filter, StoredDeadLetter
from bucky.cloudevents import CloudEvent
from bucky.errors import BuckyError, Permanent
from bucky.index import AttemptOutcome, DeliveryAttempt, DeliveryRow, DeliveryState, Index
from bucky.trace import within

SOURCE = "/bucky/admin-api"
STUCK = {DeliveryState.FAILED, DeliveryState.DEAD_LETTER}


async def redrive_letters(
    box: DeadLetterBox, index: Index, letters: Sequence[StoredDeadLetter]
) -> dict[int, Permanent]:
    """Send dead letters' events again and remove the letters; return those that hold no event, with the reason.

    A delivery made meanwhile is not made twice. Raises `Retriable` when the broker or the index is away: then
    some may have been sent, and the others are as they were.
    """
    failed = {letter.sequence: Permanent(box.no_event(letter)) for letter in letters if letter.event is None}
    good = [letter for letter in letters if letter.sequence not in failed]
    ids = [letter.delivery.delivery_id for letter in good if letter.delivery is not None]
    delivered = await asyncio.to_thread(index.delivered, ids)
    to_send = [one for one in good if one.delivery is None or one.delivery.delivery_id not in delivered]
    await asyncio.to_thread(index.redriven, [one.delivery.delivery_id for one in to_send if one.delivery is not None])
    outcomes = await _at_once(box.send_again, to_send)
    unsent = {letter.sequence: error for letter, error in outcomes if error is not None}
    if unsent:
        await asyncio.to_thread(_dead_again, index, [letter for letter, error in outcomes if error is not None])
    removals = await _at_once(box.remove, [letter for letter in good if letter.sequence not in unsent])
    for error in (*unsent.values(), *(error for _, error in removals if error is not None)):
        raise error
    return failed


async def _at_once(
    do: Callable[[StoredDeadLetter], Awaitable[None]], letters: Sequence[StoredDeadLetter]
) -> list[tuple[StoredDeadLetter, BaseException | None]]:
    outcomes = await asyncio.gather(*(do(letter) for letter in letters), return_exceptions=True)
    return list(zip(letters, outcomes, strict=True))


def _dead_again(index: Index, letters: Sequence[StoredDeadLetter]) -> None:
    for letter in letters:
        if letter.delivery is not None and letter.content is not None:
            index.dead_letter(letter.delivery.delivery_id, letter.content.reason, letter.content.attempts)


async def redrive_delivery(box: DeadLetterBox, index: Index, delivery_id: str) -> None:
    """Send a failed or dead-lettered delivery again; raise `Permanent` when it is neither."""
    row = await asyncio.to_thread(index.delivery, delivery_id)
    if row.state not in STUCK:
        raise Permanent(f"The delivery is {row.state}; only a failed or dead-lettered one can be sent again.")
    letter = await _letter_of(box, row) if row.state is DeliveryState.DEAD_LETTER else None
    if letter is not None:
        await redrive_letters(box, index, [letter])
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


async def _letter_of(box: DeadLetterBox, row: DeliveryRow) -> StoredDeadLetter | None:
    before: int | None = None
    while True:
        page = await box.page(
            Filter(destination=row.destination, study=row.study_instance_uid), limit=200, before=before
        )
        for letter in page.letters:
            if letter.delivery is not None and letter.delivery.delivery_id == row.delivery_id:
                return letter
        if page.before is None:
            return None
        before = page.before


def _requested(index: Index, row: DeliveryRow) -> CloudEvent:
    payload = row.request(index.instance(row.sha256).received())
    return CloudEvent.of(payload, source=SOURCE, traceparent=within(row.trace_id))
