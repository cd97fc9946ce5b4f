"""Asks DICOM nodes to commit to keeping what they took (PS3.4 Annex J), and records what they report.

    the event                            becomes
    dicom.commitment.requested.<name>    an N-ACTION to the destination, whose report may come on the same association
    dicom.commitment.reported            the report that came to the edge, if the destination itself sent it

What a report settles, and what is then published, is in `settling`. No answer at all is the keeper's to notice.
"""

from collections import defaultdict
from collections.abc import Sequence

from bucky.cloudevents import CloudEvent
from bucky.errors import Permanent
from bucky.events import CommitmentReported, CommitmentRequested, payload_of
from bucky.forwarding.places import Places
from bucky.forwarding.secrets import Secrets
from bucky.index import Index
from bucky.serve.contract import BatchResult, ItemFailure
from bucky.serve.handlers import Context, failure_of
from commit_deliveries.asking import Asking
from commit_deliveries.reporters import may_report
from commit_deliveries.settling import Settling


def handle_batch(
    events: Sequence[CloudEvent],
    ctx: Context,
    index: Index,
    destination_secrets: Secrets,
    destination_places: Places,
) -> BatchResult:
    """Ask for what is to be asked for, and settle what was reported; doing either again changes nothing."""
    failures: list[ItemFailure] = []
    returned: list[CloudEvent] = []
    to_ask: dict[str, list[tuple[CloudEvent, CommitmentRequested]]] = defaultdict(list)
    for event in events:
        try:
            payload = _payload(event)
        except Permanent as error:
            failures.append(failure_of(event.id, error))
            continue
        if isinstance(payload, CommitmentRequested):
            to_ask[payload.destination].append((event, payload))
        else:
            returned += _reported(ctx, index, event, payload)
    for name, group in to_ask.items():
        asking = Asking(ctx, index, destination_secrets, destination_places, name)
        failures += asking.ask(group)
        returned += asking.events
    return BatchResult(failures=tuple(failures), events=tuple(returned))


def _payload(event: CloudEvent) -> CommitmentRequested | CommitmentReported:
    payload = payload_of(event)
    if not isinstance(payload, CommitmentRequested | CommitmentReported):
        raise Permanent(f"an event of type {event.type} is not about a commitment")
    return payload


def _reported(ctx: Context, index: Index, event: CloudEvent, told: CommitmentReported) -> list[CloudEvent]:
    """Settle a report that came to the edge; one that nobody waits for, or somebody else sent, changes nothing."""
    uid, rows = told.transaction_uid, index.in_transaction(told.transaction_uid)
    about = {"transaction_uid": uid, "calling_aet": told.calling_aet, "source_address": told.source_address}
    if not rows:
        ctx.log.info("commitment.not_awaited", **about)
        return []
    destination = index.routing().document.destination(rows[0].destination)
    objection = may_report(destination, told)
    if objection:
        ctx.log.warning("commitment.not_believed", destination=rows[0].destination, reason=objection, **about)
        index.commitment_noted(uid, f"a report was not believed: {objection}")
        return []
    failed = {one.sop_instance_uid: one.reason for one in told.failed}
    return Settling(ctx, index, destination).settled(event, uid, told.committed, failed)
