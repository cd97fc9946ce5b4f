"""The timeline: every step of an instance or a study, the same on SQLite and PostgreSQL."""

from collections.abc import Iterator
from datetime import timedelta

import pytest
from sqlalchemy import event

from bucky.errors import NotFound
from bucky.index import AttemptOutcome, DeliveryAttempt, Index, IndexedInstance, Routed, TimelineStep
from bucky.index.database import Database
from tests.support.index.rows import RECEIVED_AT, digest, indexed, received, requested

pytestmark = pytest.mark.index

TRACE = "ab" * 16
MINUTE = timedelta(minutes=1)


@pytest.fixture
def database(index_url: str) -> Iterator[Database]:
    """The database under the index, for looking at its statements."""
    database = Database(index_url)
    yield database
    database.close()


@pytest.fixture
def index(database: Database) -> Index:
    """A migrated index with two instances of study 1.2 indexed, one of them routed."""
    index = Index(database)
    index.migrate()
    stored_at = RECEIVED_AT + MINUTE
    both = [
        IndexedInstance(received(name, series_instance_uid=f"1.2.{n}"), {}, trace_id=TRACE, stored_at=stored_at)
        for n, name in enumerate("ab")
    ]
    index.upsert_instances(both)
    request = requested("a", version=7)
    index.request_deliveries([request], {request.delivery_id: TRACE}, [Routed(digest("a"), 7, 1)])
    return index


def _shown(steps: list[TimelineStep]) -> list[tuple[object, ...]]:
    return [(one.step, one.instances, one.times, one.destination, one.rule_version, one.detail) for one in steps]


def test_an_instance_from_its_association_to_its_delivery(index: Index) -> None:
    """Each step once, in time's order, with its time, attempts, rule, version and reason, under one trace id."""
    request, at = requested("a", version=7), RECEIVED_AT + timedelta(days=1000)
    retries = [
        DeliveryAttempt(request.delivery_id, AttemptOutcome.RETRYING, "refused", at=at + n * MINUTE) for n in range(3)
    ]
    index.delivery_attempted(retries)
    index.delivery_attempted(
        [DeliveryAttempt(request.delivery_id, AttemptOutcome.DELIVERED, detail="0x0000", at=at + 9 * MINUTE)]
    )
    found = index.timeline(digest("a"))
    assert _shown(found) == [
        ("received", 1, 1, None, None, "CT1 to BUCKY from 127.0.0.1, association a1"),
        ("stored", 1, 1, None, None, None),
        ("indexed", 1, 1, None, None, ""),
        ("routed", 1, 1, None, 7, ""),
        ("requested", 1, 1, "pacs", 7, None),
        ("retrying", 1, 3, "pacs", 7, "refused"),
        ("delivered", 1, 1, "pacs", 7, "0x0000"),
    ]
    assert {one.trace_id for one in found} == {TRACE}
    assert {one.sha256 for one in found} == {digest("a")}
    assert found[4].rule == "everything"
    assert [(one.at, one.until) for one in found if one.step == "retrying"] == [(at, at + 2 * MINUTE)]
    assert found[0].at == RECEIVED_AT
    assert found[-1].at == at + 9 * MINUTE
    assert [one.at for one in found] == sorted(one.at for one in found)
    assert index.timeline(received("a").sop_instance_uid) == found


def test_sending_again_forgets_nothing(index: Index) -> None:
    """A dead letter, its redrive, and a success before another redrive stay on record."""
    request, at = requested("a", version=7), RECEIVED_AT + timedelta(days=1000)
    index.delivery_attempted([DeliveryAttempt(request.delivery_id, AttemptOutcome.FAILED, "0x0122", at=at)])
    index.dead_letter(request.delivery_id, "0x0122", 1, at + MINUTE)
    index.redriven([request.delivery_id])
    index.delivery_attempted([DeliveryAttempt(request.delivery_id, AttemptOutcome.DELIVERED, detail="0x0000")])
    index.redriven([request.delivery_id])
    index.delivery_attempted([DeliveryAttempt(request.delivery_id, AttemptOutcome.RETRYING, "away")])
    steps = {one.step: one for one in index.timeline(digest("a"))}
    assert {"failed", "dead_letter", "redriven", "delivered", "retrying"} <= steps.keys()
    assert steps["delivered"].detail == "0x0000"
    assert [one.step for one in index.timeline(digest("a"))].count("redriven") == 2


def test_a_study_tells_how_many_took_a_step(index: Index) -> None:
    """Steps that say the same are one, counted, from the first to the last; `each` shows every instance's."""
    together = index.timeline("1.2")
    assert [(one.step, one.instances) for one in together] == [
        ("received", 2),
        ("stored", 2),
        ("indexed", 2),
        ("routed", 1),
        ("requested", 1),
    ]
    assert (together[0].sha256, together[0].series_instance_uid) == (None, None)
    assert (together[3].sha256, together[3].series_instance_uid) == (digest("a"), "1.2.0")
    each = index.timeline("1.2", each=True)
    assert sorted((one.step, one.sha256 == digest("a")) for one in each if one.step == "indexed") == [
        ("indexed", False),
        ("indexed", True),
    ]
    assert len(each) == 8
    pages = [index.timeline("1.2", each=True, limit=3, offset=offset) for offset in (0, 3, 6)]
    assert [one for page in pages for one in page] == each


def test_what_the_rules_said_is_there_also_when_they_said_no(index: Index) -> None:
    """An instance that no rule matched says so, with the version; one in a conflict says why it went no further."""
    index.request_deliveries([], routed=[Routed(digest("b"), 8, 0)])
    index.upsert_instances([indexed("c", sop_instance_uid=received("a").sop_instance_uid)])
    (routed,) = [one for one in index.timeline(digest("b")) if one.step == "routed"]
    assert (routed.rule_version, routed.detail) == (8, "no rule matched")
    conflict = index.timeline(digest("c"))[-1]
    assert (conflict.step, conflict.detail) == ("indexed", "conflict: other bytes came first")
    assert len(index.timeline(received("a").sop_instance_uid)) > len(index.timeline(digest("a")))


def test_the_steps_are_one_query(index: Index, database: Database) -> None:
    """Apart from finding out what the name stands for, one statement reads everything."""
    statements: list[str] = []
    event.listen(database.engine, "before_cursor_execute", lambda *call: statements.append(call[2]))
    index.timeline("1.2")
    assert len([one for one in statements if "delivery_steps" in one]) == 1
    assert len([one for one in statements if one.lstrip().startswith(("SELECT", "WITH"))]) <= 3


@pytest.mark.parametrize("name", ["1.2.99", "f" * 64])
def test_what_never_was_is_not_found(index: Index, name: str) -> None:
    """A wrong UID or digest is an error, not an empty history."""
    with pytest.raises(NotFound):
        index.timeline(name)


def test_a_delivery_outlives_its_instance(index: Index) -> None:
    """What was sent stays on record when the index was rebuilt without the instance."""
    gone = requested("gone")
    index.request_deliveries([gone])
    assert [one.step for one in index.timeline(digest("gone"))] == ["requested"]
