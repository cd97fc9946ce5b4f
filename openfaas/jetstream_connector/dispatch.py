"""Carries a batch to its function and each message to its end; what becomes of it is decided in `outcomes`.

The order is the promise: events that the function returned are in their stream before any message that
caused them is acknowledged. Whatever fails in between leads to a redelivery, never to a loss.
"""

import time
from collections.abc import Iterable, Sequence

from nats.errors import Error as NatsError

from bucky.errors import BrokerUnavailable
from bucky.log import get_logger
from bucky.runtime.circuit_breaker import CircuitBreaker, CircuitState
from jetstream_connector.adaptive_limit import AdaptiveLimit
from jetstream_connector.annotations import Subscription
from jetstream_connector.calls import FunctionClient
from jetstream_connector.deadletters import dead_letter
from jetstream_connector.message import Message
from jetstream_connector.metrics import Metrics
from jetstream_connector.outcomes import (
    Ack,
    Action,
    BatchOutcome,
    Condition,
    Drop,
    Item,
    Policy,
    Retry,
    Undeliverable,
    decide,
)
from jetstream_connector.pause import Pause, PauseRequest, call_backoff
from jetstream_connector.publisher import EventPublisher

# Of a message, as the metrics name it.
OUTCOME = {Ack: "ack", Retry: "retry", Undeliverable: "deadletter", Drop: "drop"}


class FunctionHealth:
    """What the health page tells of one function; shared by its consumers."""

    def __init__(self) -> None:
        self.breaker = CircuitBreaker(call_backoff())
        self.answers = 0
        self.last_error: str | None = None


class Dispatcher:
    """Dispatches the batches of one consumer."""

    def __init__(
        self,
        function: str,
        subject: str,
        subscription: Subscription,
        caller: FunctionClient,
        publisher: EventPublisher,
        health: FunctionHealth,
        metrics: Metrics,
    ) -> None:
        self._function, self._subject = function, subject
        self._subscription = subscription
        self._caller = caller
        self._publisher = publisher
        self._health = health
        self._metrics = metrics
        self._log = get_logger("connector")
        self._policy = Policy(subscription.max_attempts, subscription.backoff, publisher.max_event_bytes)
        self._limit = AdaptiveLimit(subscription.batch_size, subscription.concurrency)
        self._broker = CircuitBreaker(call_backoff())
        self.pause = Pause()
        self.stopping = False

    @property
    def concurrency(self) -> int:
        """Calls that may be in flight at once, as things are."""
        return self._limit.concurrency

    def wait(self) -> float:
        """Return the seconds until something may be sent again; 0 when now."""
        now = time.monotonic()
        waits = (self._health.breaker, self._broker, self._limit, self.pause)
        return max(one.wait(now) for one in waits)

    def batch_size(self) -> int:
        """Return how many messages to send: one while it is unsure that anything can be done with them."""
        now = time.monotonic()
        breakers = (self._health.breaker, self._broker, self.pause)
        unsure = any(one.state(now) is CircuitState.HALF_OPEN for one in breakers)
        return 1 if unsure else self._limit.batch_size

    async def dispatch(self, messages: Sequence[Message]) -> None:
        """See each message to its end. The failure policy for the broker: what fails is delivered again."""
        started = time.monotonic()
        try:
            for message in messages:
                await self._publisher.attempts.load(message)
            malformed = [message for message in messages if message.event is None]
            if malformed:
                gone = Undeliverable("it is not a CloudEvent", 1)
                await self._settle(malformed, [self._unless_dead(message, gone) for message in malformed])
            for group in _groups(message for message in messages if message.event is not None):
                await self._deliver(group)
        except (BrokerUnavailable, NatsError, OSError) as error:
            self._health.last_error = f"the broker: {error}"
            self._log.warning("connector.broker", function=self._function, error=str(error))
            self._broker.down(started, time.monotonic())
            for message in messages:
                await self._put_back(message)

    async def _deliver(self, group: Sequence[Message]) -> None:
        """Call the function with a group and carry out the verdict, in halves when it refuses the whole."""
        if self.stopping or self.wait() > 0:
            for message in group:
                await self._put_back(message)
            return
        verdict = await self._call(group)
        if verdict.split:
            middle = len(group) // 2
            await self._deliver(group[:middle])
            await self._deliver(group[middle:])
            return
        await self._publisher.publish(verdict.events)
        self._metrics.published.labels(self._function).inc(len(verdict.events))
        await self._settle(group, verdict.actions)

    async def _call(self, group: Sequence[Message]) -> BatchOutcome:
        called_at = time.monotonic()
        items = [self._item(message) for message in group]
        reply = await self._caller.call(
            self._function, [message.raw.data for message in group], self._subscription.timeout
        )
        now = time.monotonic()
        verdict = decide(reply, items, self._policy)
        self._learn(verdict, called_at, now, reply.retry_after, answered=reply.status == 200)
        result = str(reply.status) if reply.trouble is None else reply.trouble.value
        self._metrics.calls.labels(self._function, result).observe(now - called_at)
        self._metrics.batch.labels(self._function).observe(len(group))
        self._log.info(
            "connector.batch",
            function=self._function,
            result=result,
            condition=verdict.condition.value,
            items=len(group),
            **_counts(verdict),
            events=len(verdict.events),
            duration_ms=round((now - called_at) * 1000, 1),
            **({"reason": verdict.reason} if verdict.reason else {}),
        )
        return verdict

    def _learn(
        self, verdict: BatchOutcome, called_at: float, now: float, retry_after: float | None, *, answered: bool
    ) -> None:
        """Tell the circuit breaker, the limit and the health page how the function is."""
        reasons = [verdict.reason] + [getattr(action, "reason", "") for action in verdict.actions]
        self._health.last_error = next((reason for reason in reasons if reason), self._health.last_error)
        if verdict.condition is Condition.DOWN:
            self._health.breaker.down(called_at, now)
        else:
            self._health.breaker.answered()
        if verdict.condition is Condition.BUSY:
            self._limit.busy(called_at, now, retry_after)
        if answered:
            self._health.answers += 1
            self._limit.answered()
            self._pause_or_go_on(verdict, called_at, now)
        self._metrics.open.labels(self._function).set(verdict.condition is Condition.DOWN)

    def _pause_or_go_on(self, verdict: BatchOutcome, called_at: float, now: float) -> None:
        """Pause what the function cannot attempt; only something that gets through ends a pause."""
        if verdict.through:
            self.pause.end()
            return
        request = verdict.pause
        if request is None and self.pause.reason is not None:
            request = PauseRequest(self.pause.reason)
        if request is None:
            return
        if self.pause.reason != request.reason:
            self._log.warning("connector.held", function=self._function, subject=self._subject, reason=request.reason)
        self.pause.begin(request, called_at, now)
        self._metrics.holds.labels(self._function, self._subject).inc()

    def _item(self, message: Message) -> Item:
        record = message.record
        return Item(
            identifier=message.event.id if message.event else "",
            attempts=record.attempts,
            losses=record.losses,
            others_fine=record.lost_at is not None and self._health.answers > record.lost_at,
            is_dead_letter=message.is_dead_letter,
        )

    async def _settle(self, group: Sequence[Message], actions: Sequence[Action]) -> None:
        """Carry out one action for each message."""
        for message, action in zip(group, actions, strict=True):
            await self._carry_out(message, action)
            self._metrics.messages.labels(self._function, OUTCOME[type(action)]).inc()
        await self._publisher.flush()
        self._broker.answered()
        if all(isinstance(action, Ack) for action in actions):
            self._health.last_error = None

    async def _carry_out(self, message: Message, action: Action) -> None:
        match action:
            case Ack():
                await message.raw.ack()
                await self._publisher.attempts.forget(message)
            case Retry():
                await self._retry(message, action)
            case Undeliverable(reason, attempts):
                letter = dead_letter(self._function, message, reason, attempts, self._publisher.max_event_bytes)
                await self._publisher.publish([letter])
                await message.raw.term()
                await self._publisher.attempts.forget(message)
                self._log.error("connector.dead_letter", **self._named(message), reason=reason, attempts=attempts)
            case Drop(reason):
                await message.raw.term()
                await self._publisher.attempts.forget(message)
                self._log.error("connector.dead_letter_dropped", **self._named(message), reason=reason)

    async def _retry(self, message: Message, retry: Retry) -> None:
        record, item = message.record, self._item(message)
        if retry.lost:
            record.losses += item.others_fine
            record.lost_at = self._health.answers
        record.attempts += retry.counted
        # Failing for itself after all: it may travel with others again.
        record.alone = retry.alone or (record.alone and not retry.counted)
        await self._publisher.attempts.save(message, durable=retry.counted or (retry.lost and item.others_fine))
        # What may have killed the function comes back after others have had the chance to be answered.
        wait = self.wait() * (2 if retry.alone else 1)
        await message.raw.nak(delay=max(retry.delay, wait))

    async def _put_back(self, message: Message) -> None:
        """Hand a message back without judging it; when even that fails, its ack wait does it."""
        if message.raw.is_acked:
            return
        try:
            await self._publisher.attempts.save(message, durable=False)
            await message.raw.nak(delay=self.wait())
        except (BrokerUnavailable, NatsError, OSError) as error:
            self._log.warning("connector.broker", function=self._function, error=str(error))

    def _unless_dead(self, message: Message, gone: Undeliverable) -> Action:
        return Drop(gone.reason) if message.is_dead_letter else gone

    def _named(self, message: Message) -> dict[str, object]:
        return {
            "function": self._function,
            "subject": message.raw.subject,
            "sequence": message.sequence,
            "event_id": message.event.id if message.event else None,
        }


def _groups(messages: Iterable[Message]) -> list[list[Message]]:
    """Put messages in batches: suspects alone, and never two events with one id together.

    The contract names an event by its id only, so two with the same id could not be told apart.
    """
    together: list[dict[str, Message]] = []
    alone: list[list[Message]] = []
    for message in messages:
        identifier = message.event.id if message.event else ""
        if message.record.alone:
            alone.append([message])
            continue
        for batch in together:
            if identifier not in batch:
                batch[identifier] = message
                break
        else:
            together.append({identifier: message})
    return [list(batch.values()) for batch in together] + alone


def _counts(verdict: BatchOutcome) -> dict[str, int]:
    kinds = {"acked": Ack, "retried": Retry, "dead": Undeliverable, "dropped": Drop}
    return {name: sum(isinstance(action, kind) for action in verdict.actions) for name, kind in kinds.items()}
