"""Dismissing dead letters that nothing can be sent for any more: their destination is gone, or other bytes count.

First the index says who said so and why, then the letter is removed: whatever breaks in between, dismissing it again
does the rest.
"""

import asyncio
from collections.abc import Collection, Sequence

from admin_api.dead_letters import DeadLetterBox, StoredDeadLetter
from bucky.errors import Permanent
from bucky.index import DeliveryState, Index
from bucky.log import get_logger
from bucky.routing.document import Routing

AUTHOR = "admin API"
AT_ONCE = 500

log = get_logger("admin-api")


class NotDismissed(Permanent):
    """The dead letter can still be sent, or stands for an instance that nothing else stands for."""


async def dismiss_letters(
    box: DeadLetterBox, index: Index, letters: Sequence[StoredDeadLetter], note: str
) -> dict[int, Permanent]:
    """Dismiss letters and remove them; return those that may not be, with the reason.

    Raises `Retriable` when the broker or the index is away: then some may have been dismissed.
    """
    failed = await asyncio.to_thread(_refusals, index, letters)
    good = [letter for letter in letters if letter.sequence not in failed]
    ids = [letter.delivery.delivery_id for letter in good if letter.delivery is not None]
    await asyncio.to_thread(index.dismiss_deliveries, ids, AUTHOR, note)
    for letter in good:
        await box.remove(letter)
        name = letter.delivery.delivery_id if letter.delivery is not None else None
        log.info("dead_letter.dismissed", sequence=letter.sequence, delivery_id=name)
    return failed


def dismiss_without_letters(index: Index, destination: str, note: str) -> list[str]:
    """Dismiss what was given up for a destination that is gone and has no letter in the broker; return the ids."""
    if not destination or index.routing().document.is_there(destination):
        return []
    dismissed: list[str] = []
    while rows := index.deliveries(state=DeliveryState.DEAD_LETTER, destination=destination, limit=AT_ONCE):
        dismissed += index.dismiss_deliveries([row.delivery_id for row in rows], AUTHOR, note)
    return dismissed


def why_kept(letter: StoredDeadLetter, routing: Routing, set_aside: Collection[str], delivered: Collection[str]) -> str:
    """Return why a letter may not be dismissed; an empty text when it may. Pure.

    `set_aside` are the digests that other bytes count in place of, `delivered` the ids of deliveries that were made.
    """
    delivery = letter.delivery
    if delivery is None:
        return (
            f"Dead letter {letter.sequence} is no delivery: what it is about went no further. Put right what its "
            "reason names, and send it again."
        )
    if delivery.delivery_id in delivered or delivery.instance.sha256 in set_aside:
        return ""
    if routing.is_there(delivery.destination):
        return (
            f"Dead letter {letter.sequence} is for {delivery.destination}, which is in the routing and does not have "
            "it: send it again, or remove the destination first."
        )
    return ""


def _refusals(index: Index, letters: Sequence[StoredDeadLetter]) -> dict[int, Permanent]:
    deliveries = [letter.delivery for letter in letters if letter.delivery is not None]
    rows = index.instances_by_digest({one.instance.sha256 for one in deliveries})
    set_aside = {row.sha256 for row in rows.values() if row.conflict and row.decision is not None}
    delivered = index.delivered([one.delivery_id for one in deliveries])
    routing = index.routing().document
    whys = {letter.sequence: why_kept(letter, routing, set_aside, delivered) for letter in letters}
    return {sequence: NotDismissed(why) for sequence, why in whys.items() if why}
