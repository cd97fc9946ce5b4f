"""Keeps one set of consumers per function in step with the functions there are."""

import asyncio
import time
from dataclasses import dataclass, field
from typing import Any

from nats.aio.client import Client
from nats.errors import Error as NatsError
from nats.js import JetStreamContext

from bucky.broker.batch_publisher import BatchPublisher
from bucky.broker.connection import jetstream
from bucky.cloudevents import URGENT
from bucky.errors import BrokerUnavailable
from bucky.log import get_logger
from jetstream_connector.annotations import AnnotationError, Subscription, parse
from jetstream_connector.attempts import AttemptStore
from jetstream_connector.calls import FunctionClient
from jetstream_connector.consumer import Consumer, Place
from jetstream_connector.discovery import Directory, DirectoryUnavailable, FunctionSubscription
from jetstream_connector.dispatch import Dispatcher, FunctionHealth
from jetstream_connector.metrics import Metrics
from jetstream_connector.priority_scheduler import PriorityScheduler
from jetstream_connector.publisher import EventPublisher
from jetstream_connector.subjects import is_wildcard, matches
from jetstream_connector.topology import stream_of
from jetstream_connector.wellbeing import Wellbeing

MOST_PARTITIONS = 500
DRAIN_SECONDS = 20.0
NORMAL_SECONDS = 600.0


@dataclass
class Subscriber:
    """One function: what it asked for, its consumers by subject, how it is."""

    name: str
    subscription: Subscription | None = None
    error: str | None = None
    scheduler: PriorityScheduler = field(default_factory=lambda: PriorityScheduler(1))
    health: FunctionHealth = field(default_factory=FunctionHealth)
    consumers: dict[str, Consumer] = field(default_factory=dict)


class Connector:
    """Discovers functions and runs their consumers."""

    def __init__(
        self,
        client: Client,
        directory: Directory,
        caller: FunctionClient,
        metrics: Metrics,
        refresh_seconds: float,
        replicas: int = 1,
        normal_seconds: float = NORMAL_SECONDS,
    ) -> None:
        self._wellbeing = Wellbeing(normal_seconds)
        self._client = client
        self._js: JetStreamContext = jetstream(client)
        self._directory, self._caller, self._metrics = directory, caller, metrics
        self._refresh_seconds = refresh_seconds
        self._publisher = EventPublisher(
            client, BatchPublisher(client), AttemptStore(self._js, replicas), self._published
        )
        self._log = get_logger("connector")
        self._subscribers: dict[str, Subscriber] = {}
        self._leaving: set[asyncio.Task[None]] = set()
        self._error: str | None = "functions are being discovered"

    async def run(self, stop: asyncio.Event) -> None:
        """Refresh until told to stop, then drain."""
        while not stop.is_set():
            await self.refresh()
            try:
                await asyncio.wait_for(stop.wait(), self._refresh_seconds)
            except TimeoutError:
                continue
        await self.stop()

    async def refresh(self) -> None:
        """Make the consumers match the functions; when those cannot be listed, leave all as it is."""
        try:
            functions = await self._directory.functions()
        except DirectoryUnavailable as error:
            if self._error != str(error):
                self._log.warning("connector.directory", error=str(error))
            self._error = str(error)
            functions = []
        else:
            self._error = None
            for name in self._subscribers.keys() - {function.name for function in functions}:
                self._log.info("connector.function_gone", function=name)
                self._leave(self._subscribers.pop(name))
        for function in functions:
            self._apply(function)
        if self._client.is_connected:
            await asyncio.gather(*(self._partition(one) for one in self._subscribers.values()))
        await asyncio.gather(
            *(
                consumer.inspect()
                for one in list(self._subscribers.values())
                for consumer in list(one.consumers.values())
            )
        )
        self._measure()
        self._look()

    async def stop(self) -> None:
        """Stop every consumer; what is in flight has `DRAIN_SECONDS` to finish."""
        for subscriber in self._subscribers.values():
            self._leave(subscriber)
        if self._leaving:
            await asyncio.gather(*self._leaving)
        if self._client.is_connected:
            await self._publisher.flush()

    def status(self) -> dict[str, Any]:
        """Return what the health page shows."""
        trouble = self._error or (None if self._client.is_connected else "NATS is not connected")
        self._look()
        troubles = self._wellbeing.listed()
        return {
            "status": "unavailable" if trouble is not None else "degraded" if troubles else "ok",
            "error": trouble,
            "trouble": troubles,
            "functions": {name: _shown(one) for name, one in sorted(self._subscribers.items())},
        }

    def _look(self) -> None:
        broker = self._publisher.refused if self._client.is_connected else "NATS is not connected"
        subscribers = self._subscribers.items()
        self._wellbeing.look(
            broker, self._error, ((name, one.health, one.consumers.values()) for name, one in subscribers)
        )

    def _apply(self, function: FunctionSubscription) -> None:
        """Take note of a function as it is deployed now."""
        subscription, error = None, None
        try:
            subscription = parse(function.annotations or {})
        except AnnotationError as wrong:
            error = str(wrong)
        known = self._subscribers.get(function.name)
        if known is not None and (known.subscription, known.error) == (subscription, error):
            return
        if known is not None:
            self._leave(known)
            del self._subscribers[function.name]
        if subscription is None and error is None:
            return
        if error is not None:
            self._log.error("connector.annotation", function=function.name, error=error)
        else:
            self._log.info("connector.function", function=function.name, subscription=subscription)
        subscriber = Subscriber(function.name, subscription, error)
        self._subscribers[function.name] = subscriber
        if subscription is not None:
            subscriber.scheduler = PriorityScheduler(subscription.concurrency, subscription.max_in_flight)
            for topic, urgent in subscription.all_topics():
                if not (subscription.partitioned and is_wildcard(topic)):
                    self._consume(subscriber, subscription, topic, urgent=urgent)

    async def _partition(self, subscriber: Subscriber) -> None:
        """Give each subject that is in the stream a consumer of its own."""
        subscription = subscriber.subscription
        if subscription is None or not subscription.partitioned:
            return
        for topic, urgent in subscription.all_topics():
            if not is_wildcard(topic):
                continue
            try:
                stream = await stream_of(self._client, topic)
                info = await self._js.stream_info(stream, subjects_filter=topic)
            except (BrokerUnavailable, NatsError, OSError) as error:
                subscriber.health.last_error = f"{topic}: {error or type(error).__name__}"
                continue
            for subject in sorted(info.state.subjects or {}):
                self._consume(subscriber, subscription, subject, urgent=urgent)

    def _published(self, subject: str) -> None:
        """Start at once on a subject that did not exist before."""
        for subscriber in self._subscribers.values():
            subscription = subscriber.subscription
            if subscription is None or not subscription.partitioned:
                continue
            for topic, urgent in subscription.all_topics():
                if is_wildcard(topic) and matches(topic, subject):
                    self._consume(subscriber, subscription, subject, urgent=urgent)

    def _consume(self, subscriber: Subscriber, subscription: Subscription, subject: str, *, urgent: bool) -> None:
        if subject in subscriber.consumers:
            return
        if len(subscriber.consumers) >= MOST_PARTITIONS:
            subscriber.health.last_error = (
                f"more than {MOST_PARTITIONS} subjects: {subject} gets no consumer; use a coarser partition key"
            )
            self._log.error("connector.partitions", function=subscriber.name, subject=subject)
            return
        dispatcher = Dispatcher(
            subscriber.name, subject, subscription, self._caller, self._publisher, subscriber.health, self._metrics
        )
        group = subject.removesuffix(f".{URGENT}") if urgent else subject
        place = Place(subscriber.scheduler, group, urgent, self._metrics)
        consumer = Consumer(self._client, self._js, subscriber.name, subject, subscription, dispatcher, place)
        subscriber.consumers[subject] = consumer
        consumer.start()

    def _leave(self, subscriber: Subscriber) -> None:
        """Stop a function's consumers in the background; their durable positions stay at the broker."""
        for consumer in subscriber.consumers.values():
            task = asyncio.create_task(consumer.stop(DRAIN_SECONDS))
            self._leaving.add(task)
            task.add_done_callback(self._leaving.discard)
        subscriber.consumers.clear()

    def _measure(self) -> None:
        for subscriber in self._subscribers.values():
            for subject, consumer in subscriber.consumers.items():
                self._metrics.pending.labels(subscriber.name, subject).set(consumer.pending or 0)
                self._metrics.ack_pending.labels(subscriber.name, subject).set(consumer.ack_pending or 0)
                until = consumer.dispatcher.pause.until
                self._metrics.held.labels(subscriber.name, subject).set(until.timestamp() if until else 0)
            self._metrics.in_flight.labels(subscriber.name).set(subscriber.scheduler.in_flight)


def _shown(subscriber: Subscriber) -> dict[str, Any]:
    return {
        "status": "ok" if subscriber.error is None else "invalid",
        "error": subscriber.error,
        "breaker": subscriber.health.breaker.state(time.monotonic()).value,
        "last_error": subscriber.health.last_error,
        "in_flight": subscriber.scheduler.in_flight,
        "consumers": [_shown_consumer(consumer) for consumer in subscriber.consumers.values()],
    }


def _shown_consumer(consumer: Consumer) -> dict[str, Any]:
    pause = consumer.dispatcher.pause
    return {
        "subject": consumer.subject,
        "durable": consumer.durable,
        "priority": URGENT if consumer.urgent else "routine",
        "pending": consumer.pending,
        "ack_pending": consumer.ack_pending,
        "last_error": consumer.last_error,
        "held": pause.reason,
        "held_until": pause.until.isoformat(timespec="seconds") if pause.until else None,
    }
