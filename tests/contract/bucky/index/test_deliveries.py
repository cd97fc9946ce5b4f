"""The index's promises about deliveries, the same on SQLite and PostgreSQL."""

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from itertools import product

import pytest

from bucky.cloudevents import utc_now
from bucky.errors import NotFound
from bucky.events import DeliveryRequested
from bucky.index import AttemptOutcome, DeliveryAttempt, DeliveryCount, DeliveryState, Index
from tests.support.index.rows import RECEIVED_AT, digest, requested

pytestmark = pytest.mark.index

DELIVERED, RETRYING, FAILED = AttemptOutcome.DELIVERED, AttemptOutcome.RETRYING, AttemptOutcome.FAILED
TAKEN = AttemptOutcome.UNCOMMITTED


def test_a_request_is_recorded_once(index: Index) -> None:
    """Asking twice is one delivery, still to be done both times, with what was known when it was asked."""
    request = requested("a")
    for _ in range(2):
        assert index.request_deliveries([request, request], {request.delivery_id: "cd" * 16}) == [request.delivery_id]
    (row,) = index.deliveries()
    assert (row.state, row.attempts, row.rule, row.rule_version) == (DeliveryState.REQUESTED, 0, "everything", 1)
    assert (row.sop_instance_uid, row.trace_id) == (request.instance.sop_instance_uid, "cd" * 16)
    assert (row.received_at, row.completed_at) == (RECEIVED_AT, None)


def test_attempts_are_counted_until_the_destination_answers(index: Index) -> None:
    """Each attempt shows: how many, why the last failed, what the destination said, and when it was done."""
    request = requested("a")
    index.request_deliveries([request])
    index.delivery_attempted([DeliveryAttempt(request.delivery_id, RETRYING, reason="connection refused")])
    row = index.delivery(request.delivery_id)
    assert (row.state, row.attempts, row.reason) == (DeliveryState.RETRYING, 1, "connection refused")
    assert index.request_deliveries([request]) == [request.delivery_id]
    done = utc_now()
    index.delivery_attempted([DeliveryAttempt(request.delivery_id, DELIVERED, detail="0x0000", at=done)])
    row = index.delivery(request.delivery_id)
    assert (row.state, row.attempts, row.reason, row.detail) == (DeliveryState.DELIVERED, 2, "", "0x0000")
    assert row.completed_at == done
    assert index.request_deliveries([request]) == []


# What a delivery is after an attempt or a dead letter, for each state it can be in before.
HAPPENING = (RETRYING, DELIVERED, FAILED, TAKEN, None)
NEXT = {
    state: dict(zip(HAPPENING, after, strict=True))
    for state, after in {
        DeliveryState.REQUESTED: ("retrying", "delivered", "failed", "uncommitted", "dead_letter"),
        DeliveryState.RETRYING: ("retrying", "delivered", "failed", "uncommitted", "dead_letter"),
        DeliveryState.UNCOMMITTED: ("uncommitted", "delivered", "uncommitted", "uncommitted", "uncommitted"),
        DeliveryState.FAILED: ("failed", "delivered", "failed", "uncommitted", "dead_letter"),
        DeliveryState.DEAD_LETTER: ("dead_letter", "delivered", "dead_letter", "uncommitted", "dead_letter"),
        DeliveryState.DELIVERED: ("delivered",) * 5,
    }.items()
}


def test_every_transition(index: Index) -> None:
    """No report, however late, takes back a destination's success or revives what was given up by itself."""
    for state, happening in product(NEXT, [*AttemptOutcome, None]):
        delivery = _brought_to(index, state, requested(f"{state}-{happening}"))
        _happen(index, delivery, happening)
        assert index.delivery(delivery).state == NEXT[state][happening], f"{state} then {happening}"


def test_late_reports_leave_the_record_of_a_success(index: Index) -> None:
    """A duplicate attempt that reports after the success changes neither its time nor its detail."""
    request = requested("a")
    index.request_deliveries([request])
    index.delivery_attempted([DeliveryAttempt(request.delivery_id, DELIVERED, detail="0x0000")])
    before = index.delivery(request.delivery_id)
    index.delivery_attempted([DeliveryAttempt(request.delivery_id, one, reason="late") for one in AttemptOutcome])
    assert not index.dead_letter(request.delivery_id, "late", attempts=9)
    assert index.delivery(request.delivery_id) == before


def test_redriving_starts_again_and_ignores_the_old_dead_letter(index: Index) -> None:
    """A redriven delivery is to be done again; its old dead letter, coming a second time, does not end it."""
    request = requested("a")
    index.request_deliveries([request])
    died = utc_now()
    assert index.dead_letter(request.delivery_id, "no route", attempts=5, at=died)
    assert index.request_deliveries([request]) == []
    assert index.redriven([request.delivery_id, "0" * 64]) == [request.delivery_id]
    assert index.request_deliveries([request]) == [request.delivery_id]
    assert not index.dead_letter(request.delivery_id, "no route", attempts=5, at=died)
    row = index.delivery(request.delivery_id)
    assert (row.state, row.attempts, row.reason) == (DeliveryState.REQUESTED, 5, "no route")
    assert index.dead_letter(request.delivery_id, "again", attempts=3, at=utc_now())
    assert index.delivery(request.delivery_id).reason == "again"


def test_deliveries_page_without_gap_or_overlap(index: Index) -> None:
    """Paging by the last id shows every delivery once, the last requested first."""
    for number in range(3):
        index.request_deliveries([requested(f"{number}-{one}") for one in range(3)])
    pages, after = [], None
    while page := index.deliveries(limit=2, after=after):
        pages.append(page)
        after = page[-1].delivery_id
    rows = [row for page in pages for row in page]
    assert len({row.delivery_id for row in rows}) == len(rows) == 9
    assert [row.requested_at for row in rows] == sorted((row.requested_at for row in rows), reverse=True)


def test_filters_and_counts(index: Index) -> None:
    """Deliveries are found by state, destination, study and digest, and counted by destination and state."""
    batch = [requested("a"), requested("b"), requested("a", "archive")]
    index.request_deliveries(batch)
    index.delivery_attempted([DeliveryAttempt(batch[0].delivery_id, DELIVERED)])
    assert [row.delivery_id for row in index.deliveries(state=DeliveryState.DELIVERED)] == [batch[0].delivery_id]
    assert [row.delivery_id for row in index.deliveries(destination="archive")] == [batch[2].delivery_id]
    assert len(index.deliveries(sha256=batch[0].instance.sha256)) == 2
    assert (len(index.deliveries(study_uid="1.2")), index.deliveries(study_uid="9")) == (3, [])
    assert index.delivery_counts() == [
        DeliveryCount("archive", DeliveryState.REQUESTED, 1),
        DeliveryCount("pacs", DeliveryState.DELIVERED, 1),
        DeliveryCount("pacs", DeliveryState.REQUESTED, 1),
    ]
    with pytest.raises(NotFound):
        index.delivery("0" * 64)


def test_what_a_rule_made_of_a_delivery_is_kept(index: Index) -> None:
    """How urgent it is, which changes were asked for and what went are on record; a refusal records nothing sent."""
    asked = requested("a").model_copy(update={"priority": "urgent", "morph_sha256": digest("morph")})
    index.request_deliveries([asked, requested("b")])
    index.delivery_attempted(
        [
            DeliveryAttempt(asked.delivery_id, AttemptOutcome.DELIVERED, sent_sha256=digest("sent")),
            DeliveryAttempt(requested("b").delivery_id, AttemptOutcome.FAILED),
        ]
    )
    rows = {row.sha256: row for row in index.deliveries_of([digest("a"), digest("b"), digest("none")])}
    a, b = rows[digest("a")], rows[digest("b")]
    assert (a.priority, a.morph_sha256, a.sent_sha256) == ("urgent", digest("morph"), digest("sent"))
    assert (b.priority, b.morph_sha256, b.sent_sha256) == ("routine", None, None)


def test_hostile_reasons_are_stored(index: Index) -> None:
    """Whatever a destination answers, NUL and lone surrogates included, its answer does not lose the outcome."""
    request = requested("a")
    index.request_deliveries([request])
    reason = "no\x00\ud800" + "x" * 10_000
    index.delivery_attempted([DeliveryAttempt(request.delivery_id, FAILED, reason=reason, at=utc_now())])
    row = index.delivery(request.delivery_id)
    assert row.state is DeliveryState.FAILED
    assert row.reason.startswith("no\ufffd")


def test_concurrent_reports_do_not_deadlock_or_lose_attempts(index: Index) -> None:
    """Eight workers that report on the same deliveries in different orders lose no attempt."""
    requests = [requested(str(number)) for number in range(20)]
    index.request_deliveries(requests)

    def report(worker: int) -> None:
        order = requests if worker % 2 else requests[::-1]
        index.request_deliveries(order)
        index.delivery_attempted([DeliveryAttempt(one.delivery_id, RETRYING) for one in order])

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(report, range(8)))
    assert {row.attempts for row in index.deliveries()} == {8}


def test_times_keep_their_instant(index: Index) -> None:
    """A time given in another zone is the same instant when it is read, on both databases."""
    request = requested("a")
    index.request_deliveries([request])
    at = utc_now() + timedelta(hours=1)
    index.delivery_attempted([DeliveryAttempt(request.delivery_id, DELIVERED, at=at.astimezone())])
    assert index.delivery(request.delivery_id).completed_at == at


def _brought_to(index: Index, state: DeliveryState, request: DeliveryRequested) -> str:
    delivery_id = request.delivery_id
    index.request_deliveries([request])
    if state is DeliveryState.DEAD_LETTER:
        index.dead_letter(delivery_id, "test", attempts=1)
    elif state is not DeliveryState.REQUESTED:
        index.delivery_attempted([DeliveryAttempt(delivery_id, AttemptOutcome(state.value))])
    assert index.delivery(delivery_id).state is state
    return delivery_id


def _happen(index: Index, delivery_id: str, happening: AttemptOutcome | None) -> None:
    if happening is None:
        index.dead_letter(delivery_id, "test", attempts=1)
    else:
        index.delivery_attempted([DeliveryAttempt(delivery_id, happening)])
