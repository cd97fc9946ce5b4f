"""Asking one destination for its commitment, in as many transactions as there are."""

from collections.abc import Sequence
from datetime import timedelta

from bucky.cloudevents import CloudEvent, utc_now
from bucky.dimse.commitment import CommitmentReport
from bucky.dimse.commitment_scu import Transaction, ask_for_commitment
from bucky.errors import DestinationUnavailable
from bucky.events import CommitmentRequested
from bucky.forwarding.dimse import peer_of
from bucky.forwarding.places import Places
from bucky.forwarding.secrets import Secrets
from bucky.index import DeliveryRow, DeliveryState, Index
from bucky.routing.destinations import Commitment, DimseDestination
from bucky.serve.contract import ItemFailure
from bucky.serve.handlers import Context
from commit_deliveries.settling import Settling

Request = tuple[CloudEvent, CommitmentRequested]


class Asking:
    """Asks a destination, by its name; `events` is what happened on the way."""

    def __init__(self, ctx: Context, index: Index, secrets: Secrets, places: Places, name: str) -> None:
        self.events: list[CloudEvent] = []
        self._ctx, self._index, self._name = ctx, index, name
        self._secrets, self._places = secrets, places
        self._causes: dict[str, CloudEvent] = {}  # of the transactions to be asked in now
        self._asked: set[str] = set()
        self._destination = index.routing().document.destination(name)
        self._settling = Settling(ctx, index, self._destination)

    def ask(self, requests: Sequence[Request]) -> list[ItemFailure]:
        """Ask in every transaction that still waits and was not asked in; return those that must wait, and why."""
        destination = self._destination
        if not isinstance(destination, DimseDestination) or destination.commitment is None:
            for event, request in requests:
                self._take_its_word(event, request.transaction_uid)
            return []
        transactions = [one for event, request in requests if (one := self._transaction(event, request)) is not None]
        if not transactions:
            return []
        try:
            self._call(destination, destination.commitment, transactions)
        except DestinationUnavailable as error:
            wait = [self._causes[uid].id for uid, _ in transactions if uid not in self._asked]
            return [
                ItemFailure(
                    item_identifier=name,
                    retryable=True,
                    retry_after=error.retry_after,
                    attempted=False,
                    reason=str(error),
                )
                for name in wait
            ]
        return []

    def _transaction(self, event: CloudEvent, request: CommitmentRequested) -> Transaction | None:
        uid = request.transaction_uid
        waiting = self._waiting(uid)
        if uid in self._causes or not waiting or any(row.commitment_asked_at is not None for row in waiting):
            self.events += self._settling.told(event, uid)
            return None
        references = self._index.commitment_references(uid)
        if not references:
            self._index.commitment_noted(uid, "it cannot be asked for: the index has lost the instances")
            return None
        self._causes[uid] = event
        return uid, [(one.sop_class_uid, one.sop_instance_uid) for one in references]

    def _call(self, destination: DimseDestination, commitment: Commitment, transactions: Sequence[Transaction]) -> None:
        def asked(uid: str, trouble: str) -> None:
            due_at = utc_now() + timedelta(seconds=commitment.answer_within_seconds)
            said = trouble or f"it was asked for; an answer is due by {due_at:%Y-%m-%d %H:%M} UTC"
            self._index.commitment_asked(uid, due_at, said)
            self._asked.add(uid)
            self._ctx.log.info("commitment.asked", destination=self._name, transaction_uid=uid, reason=trouble)

        def reported(report: CommitmentReport) -> None:
            # It may be about an earlier transaction, but not about another destination's.
            uid, rows = report.transaction_uid, self._index.in_transaction(report.transaction_uid)
            if rows and rows[0].destination == self._name:
                cause = self._causes.get(uid) or next(iter(self._causes.values()))
                self.events += self._settling.settled(cause, uid, report.committed, report.failed)

        self._places.check(destination)
        ask_for_commitment(
            peer_of(destination, self._secrets),
            transactions,
            asked=asked,
            reported=reported,
            linger=commitment.linger_seconds,
        )

    def _take_its_word(self, event: CloudEvent, uid: str) -> None:
        """Count as delivered what was taken by a destination that is not to commit to it any more."""
        taken = [row.sop_instance_uid for row in self._waiting(uid)]
        self.events += self._settling.settled(event, uid, taken, {})

    def _waiting(self, uid: str) -> list[DeliveryRow]:
        return [row for row in self._index.in_transaction(uid) if row.state is DeliveryState.UNCOMMITTED]
