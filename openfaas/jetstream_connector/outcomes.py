"""Decides, from what a function answered, what becomes of each message. Pure: carries nothing out.

| Answer | What it means | What becomes of the messages |
|---|---|---|
| 200, contract kept | each event has its outcome | ack; retry; or dead letter (see below) |
| 200, contract broken; 202, 204… | the function is wrong | a failed attempt for each |
| 500, 504, a call that takes too long | the function failed | a failed attempt for each, with backoff |
| 400, 413, 422 | it refuses the request | halve the batch and call again; a lone one is a dead letter |
| 429, 503 | it is busy | wait, smaller batches; no attempt is burned |
| 502, or the connection was lost | it is down, or died of this | wait; no attempt is burned (see below) |
| any other, or it cannot be reached | it, or the way to it, is down | wait; no attempt is burned |

An attempt that failed for a batch of several says little about each of them: they are tried again one by
one, and only a failure alone can make a dead letter.

An event that the function says it did not attempt burns no attempt. When nothing of a batch got through and
something was not attempted, the verdict has a `pause`: what the events lead to is away, closed or busy.

A process that dies of one event (out of memory, a crash in C) looks like infrastructure that is down. The
difference: others are answered. An event that was sent alone and lost the connection, while others were
answered in between, `LOSSES_PER_ATTEMPT` times as often as it has attempts, is a dead letter after all.

An event that is a dead letter itself never becomes another one: it is tried for as long as that can help,
and dropped with an error in the log when it cannot; it is kept in its stream either way.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from bucky.cloudevents import CloudEvent
from bucky.serve.contract import BatchResult, ItemFailure
from jetstream_connector.pause import LONGEST_WAIT_SECONDS as LONGEST_HOLD_SECONDS
from jetstream_connector.pause import PauseRequest
from jetstream_connector.subjects import is_subject

LOSSES_PER_ATTEMPT = 3
REASON_CHARACTERS = 500
LONGEST_WAIT_SECONDS = 86_400.0
_REFUSED = {400, 413, 422}
_BUSY = {429, 503}


class CallFault(StrEnum):
    """Why there is no answer."""

    UNREACHABLE = "unreachable"
    LOST = "lost"
    TIMED_OUT = "timed out"


@dataclass(frozen=True)
class Reply:
    """What came back of a call: an HTTP answer, or the trouble that prevented it."""

    status: int = 0
    body: bytes = b""
    retry_after: float | None = None
    trouble: CallFault | None = None
    detail: str = ""


@dataclass(frozen=True)
class Item:
    """One message of the batch: its event's id, and what happened to it before."""

    identifier: str
    attempts: int = 0
    losses: int = 0
    others_fine: bool = False
    is_dead_letter: bool = False


@dataclass(frozen=True)
class Policy:
    """How often to try, how long to wait (seconds), how large an event may be (bytes)."""

    max_attempts: int = 5
    backoff: tuple[float, ...] = (1.0, 5.0, 30.0, 120.0)
    max_event_bytes: int = 1_000_000

    def wait(self, attempts: int) -> float:
        """Return the wait after this many failed attempts."""
        return self.backoff[min(max(attempts, 1), len(self.backoff)) - 1]


@dataclass(frozen=True)
class Ack:
    """The function processed it."""


@dataclass(frozen=True)
class Retry:
    """Send it again after `delay`; alone, when its neighbours must not suffer for it."""

    delay: float
    reason: str
    counted: bool = False
    alone: bool = False
    lost: bool = False


@dataclass(frozen=True)
class Undeliverable:
    """It will not be tried again by itself."""

    reason: str
    attempts: int


@dataclass(frozen=True)
class Drop:
    """A dead letter that its function refuses: it stays in its stream, and only there."""

    reason: str


Action = Ack | Retry | Undeliverable | Drop


class Condition(StrEnum):
    """How the function is."""

    HEALTHY = "healthy"
    BUSY = "busy"
    DOWN = "down"


@dataclass(frozen=True)
class BatchOutcome:
    """One action for each item, in order; or none and `split`. `events` are to be published first.

    `through` says that one of the items was processed, or judged for good.
    """

    condition: Condition
    actions: tuple[Action, ...] = ()
    events: tuple[CloudEvent, ...] = ()
    split: bool = False
    reason: str = ""
    pause: PauseRequest | None = None
    through: bool = False


def decide(reply: Reply, items: Sequence[Item], policy: Policy) -> BatchOutcome:
    """Return what becomes of each item of a batch."""
    if reply.trouble is CallFault.UNREACHABLE:
        return _wait(Condition.DOWN, items, f"the function cannot be reached: {reply.detail}")
    if reply.trouble is CallFault.LOST or reply.status == 502:
        return _lost(items, policy, reply)
    if reply.trouble is CallFault.TIMED_OUT:
        return _failed(items, policy, f"the function did not answer in time: {reply.detail}")
    if reply.status == 200:
        return _answered(reply.body, items, policy)
    if reply.status in _REFUSED:
        return _refused(items, _said(reply))
    if reply.status in _BUSY:
        return _wait(Condition.BUSY, items, _said(reply))
    if reply.status >= 500 or 200 < reply.status < 300:
        return _failed(items, policy, _said(reply))
    return _wait(Condition.DOWN, items, _said(reply))


def _answered(body: bytes, items: Sequence[Item], policy: Policy) -> BatchOutcome:
    try:
        result = BatchResult.parse(body, {item.identifier for item in items})
        for event in result.events:
            _check_publishable(event, policy)
    except ValueError as error:
        # A validation error's own message repeats its input.
        reason = str(error) if type(error) is ValueError else type(error).__name__
        return _failed(items, policy, f"the function's answer breaks the contract: {reason}")
    failures = {failure.item_identifier: failure for failure in result.failures}
    actions = tuple(_of_item(item, failures.get(item.identifier), policy) for item in items)
    through = len(failures) < len(items) or not all(failure.retryable for failure in failures.values())
    pause = None if through else _pause(result.failures)
    return BatchOutcome(Condition.HEALTHY, actions, result.events, pause=pause, through=through)


def _pause(failures: Sequence[ItemFailure]) -> PauseRequest | None:
    """Return why, and for how long, nothing can be attempted; None when everything was."""
    waiting = [failure for failure in failures if not failure.attempted]
    if not waiting:
        return None
    asked = [failure.retry_after for failure in waiting if failure.retry_after is not None]
    return PauseRequest(waiting[0].reason[:REASON_CHARACTERS], min(asked) if asked else None)


def _of_item(item: Item, failure: ItemFailure | None, policy: Policy) -> Action:
    if failure is None:
        return Ack()
    if failure.retryable and not failure.attempted:
        wait = policy.wait(1) if failure.retry_after is None else min(failure.retry_after, LONGEST_HOLD_SECONDS)
        return Retry(wait, failure.reason[:REASON_CHARACTERS])
    if failure.retryable:
        return _attempt(item, policy, failure.reason, failure.retry_after)
    return _hopeless(item, failure.reason, item.attempts + 1)


def _attempt(item: Item, policy: Policy, reason: str, retry_after: float | None = None) -> Action:
    """Count a failed attempt of an event that failed for itself."""
    attempts = item.attempts + 1
    if attempts >= policy.max_attempts and not item.is_dead_letter:
        return Undeliverable(reason[:REASON_CHARACTERS], attempts)
    wait = policy.wait(attempts) if retry_after is None else min(retry_after, LONGEST_WAIT_SECONDS)
    return Retry(wait, reason[:REASON_CHARACTERS], counted=True)


def _hopeless(item: Item, reason: str, attempts: int) -> Action:
    reason = reason[:REASON_CHARACTERS]
    return Drop(reason) if item.is_dead_letter else Undeliverable(reason, attempts)


def _failed(items: Sequence[Item], policy: Policy, reason: str) -> BatchOutcome:
    if len(items) == 1:
        return BatchOutcome(Condition.HEALTHY, (_attempt(items[0], policy, reason),), reason=reason)
    actions = tuple(Retry(policy.wait(item.attempts + 1), reason, counted=True, alone=True) for item in items)
    return BatchOutcome(Condition.HEALTHY, actions, reason=reason)


def _refused(items: Sequence[Item], reason: str) -> BatchOutcome:
    if len(items) > 1:
        return BatchOutcome(Condition.HEALTHY, split=True, reason=reason)
    (item,) = items
    return BatchOutcome(Condition.HEALTHY, (_hopeless(item, reason, item.attempts + 1),), reason=reason)


def _lost(items: Sequence[Item], policy: Policy, reply: Reply) -> BatchOutcome:
    reason = _said(reply) if reply.status else f"the connection was lost during the call: {reply.detail}"
    if len(items) > 1:
        return BatchOutcome(Condition.DOWN, tuple(Retry(0.0, reason, alone=True) for _ in items), reason=reason)
    (item,) = items
    losses = item.losses + item.others_fine
    if losses >= LOSSES_PER_ATTEMPT * policy.max_attempts:
        gone = f"{losses} calls with this event alone were lost while others were answered: {reason}"
        return BatchOutcome(Condition.HEALTHY, (_hopeless(item, gone, item.attempts),), reason=gone)
    wait = policy.wait(losses) if losses else 0.0
    return BatchOutcome(Condition.DOWN, (Retry(wait, reason, alone=True, lost=True),), reason=reason)


def _wait(condition: Condition, items: Sequence[Item], reason: str) -> BatchOutcome:
    return BatchOutcome(condition, tuple(Retry(0.0, reason) for _ in items), reason=reason)


def _check_publishable(event: CloudEvent, policy: Policy) -> None:
    if not is_subject(event.nats_subject):
        raise ValueError(f"the subject {event.nats_subject[:80]!r} of an event cannot be published on")
    if len(event.to_json()) > policy.max_event_bytes:
        raise ValueError(f"an event is larger than {policy.max_event_bytes} bytes")
    if any(character in event.nats_msg_id for character in "\r\n"):
        raise ValueError("the id of an event holds a line break")


def _said(reply: Reply) -> str:
    """Return the status, and the `error` of a JSON body: anything else may hold what was sent."""
    said = f"the function answered {reply.status}"
    try:
        body = json.loads(reply.body[:10_000])
    except ValueError:
        return said
    error = body.get("error") if isinstance(body, dict) else None
    return f"{said}: {error[:REASON_CHARACTERS]}" if isinstance(error, str) else said
