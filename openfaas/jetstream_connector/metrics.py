"""What Prometheus reads at /metrics."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest


class Metrics:
    """The connector's counters, by function."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self.messages = Counter(
            "jetstream_connector_messages_total",
            "Messages settled or sent back, by outcome",
            ["function", "outcome"],
            registry=self._registry,
        )
        self.calls = Histogram(
            "jetstream_connector_call_seconds",
            "Time of a call, by what came of it",
            ["function", "result"],
            registry=self._registry,
        )
        self.batch = Histogram(
            "jetstream_connector_batch_events",
            "Events in a call",
            ["function"],
            buckets=(1, 2, 5, 10, 20, 50, 100, 200, 500, 1000),
            registry=self._registry,
        )
        self.published = Counter(
            "jetstream_connector_published_total",
            "Events published for functions",
            ["function"],
            registry=self._registry,
        )
        self.pending = Gauge(
            "jetstream_connector_pending",
            "Messages not yet delivered",
            ["function", "subject"],
            registry=self._registry,
        )
        self.ack_pending = Gauge(
            "jetstream_connector_ack_pending",
            "Messages delivered and not settled",
            ["function", "subject"],
            registry=self._registry,
        )
        self.open = Gauge(
            "jetstream_connector_breaker_open",
            "1 while a function is not called because it is down",
            ["function"],
            registry=self._registry,
        )

        self.in_flight = Gauge(
            "jetstream_connector_in_flight",
            "Calls in flight",
            ["function"],
            registry=self._registry,
        )
        self.turns = Counter(
            "jetstream_connector_turns_total",
            "Batches that got their turn, by priority",
            ["function", "priority"],
            registry=self._registry,
        )
        self.turn_wait = Histogram(
            "jetstream_connector_turn_wait_seconds",
            "Wait of a batch for its turn, by priority",
            ["function", "priority"],
            registry=self._registry,
        )
        self.heartbeats = Counter(
            "jetstream_connector_heartbeats_total",
            "Signs to the broker that a message is being worked on",
            ["function"],
            registry=self._registry,
        )
        self.holds = Counter(
            "jetstream_connector_holds_total",
            "Times a subject was put off because what it leads to is away, closed or busy",
            ["function", "subject"],
            registry=self._registry,
        )
        self.held = Gauge(
            "jetstream_connector_held_until_timestamp_seconds",
            "When a subject that is put off is expected to go on; 0 for one that goes",
            ["function", "subject"],
            registry=self._registry,
        )

    def page(self) -> bytes:
        """Return the exposition text."""
        return generate_latest(self._registry)
