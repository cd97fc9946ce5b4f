"""What a destination's word on a transaction makes of its deliveries, and the events that tell of it."""

from collections.abc import Collection, Mapping
from datetime import timedelta

from bucky.broker.streams import DUPLICATE_WINDOW
from bucky.cloudevents import CloudEvent, utc_now
from bucky.dimse.commitment import failure_in_words
from bucky.events import Delivery, DeliveryCompleted
from bucky.index import DeliveryRow, DeliveryState, Index
from bucky.routing.destinations import Commitment, Destination, commitment_of
from bucky.serve.handlers import Context

# Of one that is not configured any more nothing is sent again but by hand.
_NOT_ASKED = Commitment(sends=1)
# What was settled so lately is told again, should it be heard of again: the function may have died before it could
# tell. The broker makes one message of that.
_TOLD_AGAIN = timedelta(seconds=DUPLICATE_WINDOW - 60)


class Settling:
    """Settles the transactions of one destination."""

    def __init__(self, ctx: Context, index: Index, destination: Destination | None) -> None:
        self._ctx, self._index = ctx, index
        self._commitment = commitment_of(destination) or _NOT_ASKED

    def settled(
        self, cause: CloudEvent, uid: str, committed: Collection[str], failed: Mapping[str, int | None]
    ) -> list[CloudEvent]:
        """Record a report; return what happened, and the requests whose deliveries have failed for good.

        What is to be sent again the keeper asks for when its time has come.
        """
        settlement = self._index.commitment_settled(
            uid,
            committed,
            {instance: failure_in_words(reason) for instance, reason in failed.items()},
            sends=self._commitment.sends,
            due_at=utc_now() + timedelta(seconds=self._commitment.resend_after_seconds),
        )
        self._ctx.log.info(
            "commitment.settled",
            transaction_uid=uid,
            delivered=len(settlement.delivered),
            to_send_again=len(settlement.to_send_again),
            given_up=len(settlement.given_up),
        )
        return self.told(cause, uid)

    def told(self, cause: CloudEvent, uid: str) -> list[CloudEvent]:
        """Return the events that tell what became of a transaction lately."""
        since = utc_now() - _TOLD_AGAIN
        over = {DeliveryState.DELIVERED, DeliveryState.FAILED}
        rows = [row for row in self._index.in_transaction(uid) if row.state in over and row.updated_at > since]
        instances = self._index.instances_by_digest({row.sha256 for row in rows}) if rows else {}
        return [
            self._event(cause, row, row.request(instances[row.sha256].received()))
            for row in rows
            if row.sha256 in instances  # without it the row still says what became of it
        ]

    def _event(self, cause: CloudEvent, row: DeliveryRow, request: Delivery) -> CloudEvent:
        if row.state is DeliveryState.FAILED:
            # The forwarder finds it failed and says so: that makes it a dead letter.
            return self._ctx.event(request, cause).once_more(f"commitment-{row.commitment_uid}")
        payload = DeliveryCompleted(
            **{name: getattr(request, name) for name in Delivery.model_fields},
            completed_at=row.completed_at or row.updated_at,
            detail="; ".join(filter(None, (row.reason, row.commitment))),
            sent_sha256=row.sent_sha256,
        )
        return self._ctx.event(payload, cause)
