"""The table of outcomes: what each answer of a function means for its messages."""

import json
from typing import Any

import pytest

from jetstream_connector.outcomes import (
    LOSSES_PER_ATTEMPT,
    Ack,
    BatchOutcome,
    CallFault,
    Condition,
    Drop,
    Item,
    Policy,
    Reply,
    Retry,
    Undeliverable,
    decide,
)
from jetstream_connector.pause import PauseRequest

POLICY = Policy(max_attempts=3, backoff=(1.0, 5.0), max_event_bytes=10_000)
TWO = (Item("a"), Item("b", attempts=1))


def answer(*failures: dict[str, Any], events: tuple[dict[str, Any], ...] = ()) -> Reply:
    """Return a 200 that keeps the contract."""
    return Reply(200, json.dumps({"batchItemFailures": failures, "events": events}).encode())


def failure(identifier: str, retryable: bool, **extra: Any) -> dict[str, Any]:
    """Return one item's failure."""
    return {"itemIdentifier": identifier, "retryable": retryable, "reason": "why", **extra}


def retries(verdict: BatchOutcome) -> list[Retry]:
    """Return the actions, all of which are retries."""
    assert all(isinstance(action, Retry) for action in verdict.actions)
    return [action for action in verdict.actions if isinstance(action, Retry)]


def test_each_item_of_a_kept_contract_has_its_own_action() -> None:
    """Protects per-item outcomes: acks, backoff by attempt, the wait asked for, dead letters."""
    items = (
        Item("fine"),
        Item("first", attempts=0),
        Item("second", attempts=1),
        Item("asked", attempts=1),
        Item("last", attempts=2),
        Item("never", attempts=0),
    )
    verdict = decide(
        answer(
            failure("first", True),
            failure("second", True),
            failure("asked", True, retryAfter=99),
            failure("last", True),
            failure("never", False),
        ),
        items,
        POLICY,
    )
    assert verdict.condition is Condition.HEALTHY
    assert verdict.actions == (
        Ack(),
        Retry(1.0, "why", counted=True),
        Retry(5.0, "why", counted=True),
        Retry(99.0, "why", counted=True),
        Undeliverable("why", 3),
        Undeliverable("why", 1),
    )


def test_a_wait_asked_for_is_bounded() -> None:
    """Protects against a function that puts an event off for ever."""
    (retry,) = retries(decide(answer(failure("a", True, retryAfter=1e12)), (Item("a"),), POLICY))
    assert retry.delay == 86_400


EVENT = {"specversion": "1.0", "id": "1", "source": "/f", "type": "made"}


@pytest.mark.parametrize(
    "reply",
    [
        Reply(200, b""),
        Reply(200, b"<html>"),
        Reply(200, b"{}"),
        Reply(200, b'{"batchItemFailures": []}'),
        answer(failure("stranger", True)),
        answer(events=({**EVENT, "id": ""},)),
        answer(events=({**EVENT, "type": "with blank"},)),
        answer(events=({**EVENT, "type": "all.*"},)),
        answer(events=({**EVENT, "partitionkey": "a..b"},)),
        answer(events=({**EVENT, "id": "line\r\nbreak"},)),
        answer(events=({**EVENT, "data": "x" * 10_001},)),
        Reply(202),
        Reply(204),
        Reply(500),
        Reply(504),
        Reply(507),
        Reply(trouble=CallFault.TIMED_OUT),
    ],
)
def test_a_failed_call_costs_each_an_attempt_but_only_a_lone_event_can_die_of_it(reply: Reply) -> None:
    """Protects neighbours: after a batch failed as a whole each is tried alone, whatever its attempts."""
    several = decide(reply, (Item("a"), Item("b", attempts=2)), POLICY)
    assert [(retry.counted, retry.alone, retry.delay) for retry in retries(several)] == [
        (True, True, 1.0),
        (True, True, 5.0),
    ]
    assert several.events == ()
    (lone,) = retries(decide(reply, (Item("a"),), POLICY))
    assert (lone.counted, lone.delay) == (True, 1.0)
    (last,) = decide(reply, (Item("a", attempts=2),), POLICY).actions
    assert isinstance(last, Undeliverable)
    assert last.attempts == 3


@pytest.mark.parametrize("status", [400, 413, 422])
def test_a_refused_batch_is_split_and_a_lone_offender_is_a_dead_letter(status: int) -> None:
    """Protects the rest of a batch, and names the reason that the function gave."""
    reply = Reply(status, b'{"error": "no good"}')
    assert decide(reply, TWO, POLICY) == BatchOutcome(
        Condition.HEALTHY, split=True, reason=f"the function answered {status}: no good"
    )
    (action,) = decide(reply, TWO[:1], POLICY).actions
    assert action == Undeliverable(f"the function answered {status}: no good", 1)


@pytest.mark.parametrize("body", [b"PatientName Doe^John", b'["Doe"]', b'{"error": {"name": "Doe"}}', b"\xff"])
def test_a_reason_repeats_nothing_but_a_json_error(body: bytes) -> None:
    """Protects logs and dead letters from what an error page may repeat of its input."""
    assert "Doe" not in repr(decide(Reply(400, body), TWO[:1], POLICY))
    assert "Doe" not in repr(decide(Reply(200, body), TWO[:1], POLICY))


@pytest.mark.parametrize("status", [429, 503])
def test_a_busy_function_costs_no_attempt(status: int) -> None:
    """Protects events from a function that is overloaded, however often it says so."""
    for items in (TWO, TWO[:1], (Item("a", attempts=2),)):
        verdict = decide(Reply(status, b"", retry_after=3), items, POLICY)
        assert verdict.condition is Condition.BUSY
        assert not any(retry.counted or retry.alone for retry in retries(verdict))


@pytest.mark.parametrize(
    "reply",
    [Reply(trouble=CallFault.UNREACHABLE)]
    + [Reply(status) for status in (301, 401, 403, 404, 405, 408, 409, 415, 100)],
)
def test_what_cannot_be_reached_costs_no_attempt(reply: Reply) -> None:
    """Protects events from infrastructure: a missing function or gateway never makes a dead letter."""
    for items in (TWO, (Item("a", attempts=2, losses=99, others_fine=True),)):
        verdict = decide(reply, items, POLICY)
        assert verdict.condition is Condition.DOWN
        assert not any(retry.counted for retry in retries(verdict))


LOST = [Reply(502), Reply(trouble=CallFault.LOST)]


@pytest.mark.parametrize("reply", LOST)
def test_a_lost_call_costs_no_attempt_and_separates_the_suspects(reply: Reply) -> None:
    """Protects events from a function that is restarted, and their neighbours from one that kills it."""
    several = decide(reply, (Item("a", attempts=2), Item("b")), POLICY)
    assert several.condition is Condition.DOWN
    assert [(retry.counted, retry.alone) for retry in retries(several)] == [(False, True)] * 2
    (lone,) = retries(decide(reply, (Item("a", attempts=2, losses=100),), Policy(max_attempts=50)))
    assert (lone.counted, lone.alone, lone.lost) == (False, True, True)


@pytest.mark.parametrize("reply", LOST)
def test_an_event_that_alone_kills_its_function_again_and_again_is_a_dead_letter(reply: Reply) -> None:
    """Protects the function from an event it dies of: others are answered, this one never is."""
    enough = LOSSES_PER_ATTEMPT * POLICY.max_attempts
    not_yet = decide(reply, (Item("a", losses=enough - 2, others_fine=True),), POLICY)
    nobody_answered = decide(reply, (Item("a", losses=enough - 1, others_fine=False),), POLICY)
    now = decide(reply, (Item("a", losses=enough - 1, others_fine=True),), POLICY)
    assert (not_yet.condition, nobody_answered.condition) == (Condition.DOWN, Condition.DOWN)
    assert isinstance(now.actions[0], Undeliverable)


def test_a_dead_letter_never_makes_another() -> None:
    """Protects against loops: refused it is dropped, failing it is tried for as long as it takes."""
    item = Item("a", attempts=1_000, losses=1_000, others_fine=True, is_dead_letter=True)
    assert decide(Reply(422), (item,), POLICY).actions == (Drop("the function answered 422"),)
    assert decide(answer(failure("a", False)), (item,), POLICY).actions == (Drop("why"),)
    for reply in (Reply(500), answer(failure("a", True)), Reply(trouble=CallFault.TIMED_OUT)):
        (retry,) = retries(decide(reply, (item,), POLICY))
        assert retry.delay == 5.0
    assert isinstance(decide(Reply(502), (item,), POLICY).actions[0], Drop)


def test_the_events_of_an_answer_come_with_its_verdict() -> None:
    """Protects what a function returned beside failures: it is published all the same."""
    verdict = decide(answer(failure("b", True), events=(EVENT,)), TWO, POLICY)
    assert [event.nats_subject for event in verdict.events] == ["made"]


def test_every_status_gives_every_item_one_action_or_a_split() -> None:
    """Protects against a message that is forgotten: no answer leaves one without an action."""
    replies = [Reply(status, body) for status in range(100, 600) for body in (b"", b"{}", b"[1]")]
    for reply in [*replies, *(Reply(trouble=trouble) for trouble in CallFault)]:
        for count in (1, 2, 5):
            verdict = decide(reply, tuple(Item(str(number)) for number in range(count)), POLICY)
            assert len(verdict.actions) == (0 if verdict.split else count)
            assert not (verdict.split and count == 1)
            assert Ack() not in verdict.actions


def test_what_was_not_attempted_burns_no_attempt() -> None:
    """Protects events from a destination that is away: not even the last attempt is burned for nothing."""
    items = (Item("fine"), Item("waits", attempts=2), Item("later", attempts=2))
    verdict = decide(
        answer(failure("waits", True, attempted=False), failure("later", True, attempted=False, retryAfter=7)),
        items,
        POLICY,
    )
    assert verdict.actions == (Ack(), Retry(1.0, "why"), Retry(7.0, "why"))
    assert (verdict.pause, verdict.through) == (None, True)


def test_a_batch_of_which_nothing_got_through_is_a_hold() -> None:
    """Protects a subject from being tried again and again while its destination is away, with the shortest wait."""
    waits = [failure(name, True, attempted=False, retryAfter=wait) for name, wait in (("a", 90), ("b", 30))]
    verdict = decide(answer(*waits), TWO, POLICY)
    assert (verdict.pause, verdict.through) == (PauseRequest("why", 30.0), False)
    lost_one = decide(answer(failure("a", True), failure("b", True, attempted=False)), TWO, POLICY)
    assert lost_one.pause == PauseRequest("why", None)
    assert [action.counted for action in retries(lost_one)] == [True, False]


def test_attempts_that_failed_are_no_hold_and_a_refusal_gets_through() -> None:
    """Protects the difference between events that fail for themselves and a destination that is away."""
    assert decide(answer(failure("a", True), failure("b", True)), TWO, POLICY).pause is None
    refused = decide(answer(failure("a", False), failure("b", True, attempted=False)), TWO, POLICY)
    assert (refused.pause, refused.through) == (None, True)
