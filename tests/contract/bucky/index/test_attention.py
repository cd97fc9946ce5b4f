"""What the index knows of that needs attention."""

from datetime import timedelta

import pytest

from bucky.cloudevents import utc_now
from bucky.index import AttemptOutcome, DeliveryAttempt, DeliveryState, Index, Noticed, Routed
from bucky.routing.corrections import Verdict
from tests.support.services.admin_world import indexed, received, requested

DAY = timedelta(days=1)


def test_the_backlog_says_how_much_waits_and_since_when(index: Index) -> None:
    """What was delivered is none of it."""
    index.request_deliveries([requested(number) for number in (1, 2, 3, 4)])
    outcomes = (AttemptOutcome.DELIVERED, AttemptOutcome.FAILED, AttemptOutcome.RETRYING)
    index.delivery_attempted(
        [DeliveryAttempt(requested(number).delivery_id, outcome) for number, outcome in enumerate(outcomes, 1)]
    )
    found = {one.state: (one.destination, one.count) for one in index.backlog()}
    assert found == dict.fromkeys((DeliveryState.FAILED, DeliveryState.RETRYING, DeliveryState.REQUESTED), ("pacs", 1))
    waiting = next(one for one in index.backlog() if one.state is DeliveryState.REQUESTED)
    assert waiting.since == index.delivery(requested(4).delivery_id).requested_at


@pytest.mark.parametrize("goes", [False, True])
def test_what_no_rule_matched_is_counted(index: Index, goes: bool) -> None:
    """Neither what a rule matched counts, nor what a later rule or a replay sent after all."""
    index.upsert_instances([indexed(1), indexed(2)])
    routed = [Routed(received(1).sha256, 1, 0, matched=False), Routed(received(2).sha256, 1, 0)]
    index.request_deliveries([requested(1)] if goes else [], routed=routed)
    found = index.unmatched(utc_now() - DAY, utc_now() + DAY)
    assert found.count == (0 if goes else 1)
    assert (found.since is None) is goes
    assert index.unmatched(utc_now() - 2 * DAY, utc_now() - DAY) == Noticed(0, None)


def test_open_conflicts_are_counted(index: Index) -> None:
    """The same UID with other bytes is kept apart and seen until somebody has decided, whatever that leaves apart."""
    assert index.conflicts_noticed() == Noticed(0, None)
    first, second = indexed(1), indexed(2)
    twin = second.received.model_copy(update={"sop_instance_uid": first.received.sop_instance_uid})
    index.upsert_instances([first])
    index.upsert_instances([type(second)(twin, second.header)])
    assert index.conflicts_noticed() == Noticed(1, twin.received_at)
    index.decide(twin.sha256, Verdict.ACCEPTED, "me")
    assert index.conflicts_noticed() == Noticed(0, None)
    index.decide(twin.sha256, Verdict.REOPENED, "me")
    assert index.conflicts_noticed().count == 1
