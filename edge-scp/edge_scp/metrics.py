"""The edge's Prometheus metrics; labels are statuses and outcomes, never names or UIDs.

Each process has its own registry. The parent asks for their pages and shows them as one (`metrics_page`).
"""

import math
import time
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from itertools import accumulate

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from edge_scp.association.statuses import Status
from edge_scp.spool.capacity import SharedCounters
from edge_scp.spool.slots import Slots

RATE_SECONDS = 10.0
_LATENCIES = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0)


class ReceiverMetrics:
    """What a receiver counts, in its event loop's thread; for each instance plainly, without the library's locks."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.registry.register(_StoreCollector(self))
        self.requests = dict.fromkeys(Status, 0)
        self.acknowledged_bytes = 0
        self.latencies = [0] * (len(_LATENCIES) + 1)
        self.seconds = 0.0
        self._associations = Counter(
            "bucky_edge_associations", "Association requests", ["outcome"], registry=self.registry
        )

    def kept(self, size: int, seconds: Sequence[float]) -> None:
        """Count C-STOREs that were answered with success: the seconds that each took, and their bytes in all."""
        self.acknowledged_bytes += size
        self._answered(Status.SUCCESS, seconds)

    def refused(self, status: Status, seconds: float) -> None:
        """Count one that was refused."""
        self._answered(status, (seconds,))

    def _answered(self, status: Status, seconds: Sequence[float]) -> None:
        self.requests[status] += len(seconds)
        self.seconds += sum(seconds)
        for each in seconds:
            self.latencies[bisect_left(_LATENCIES, each)] += 1

    def association(self, outcome: str) -> None:
        """Count one association: accepted, rejected, released or aborted."""
        self._associations.labels(outcome).inc()


class _StoreCollector(Collector):
    def __init__(self, metrics: ReceiverMetrics) -> None:
        self._metrics = metrics

    def describe(self) -> list[Metric]:
        """Tell nothing yet: registering does not collect."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Show what was counted."""
        metrics = self._metrics
        requests = CounterMetricFamily("bucky_edge_store_requests", "C-STORE requests answered", labels=["status"])
        for status, count in metrics.requests.items():
            requests.add_metric([status.name.lower()], count)
        yield requests
        text = "Data set bytes acknowledged"
        yield CounterMetricFamily("bucky_edge_acknowledged_bytes", text, metrics.acknowledged_bytes)
        bounds = [*map(str, _LATENCIES), "+Inf"]
        buckets = list(zip(bounds, accumulate(metrics.latencies), strict=True))
        text = "Time from a whole data set to its answer"
        yield HistogramMetricFamily("bucky_edge_store_seconds", text, buckets=buckets, sum_value=metrics.seconds)


class CommitterMetrics:
    """What the committer counts."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._group_size = Histogram(
            "bucky_edge_commit_group_size",
            "Instances made durable by one sync",
            buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256),
            registry=self.registry,
        )
        self._seconds = Histogram(
            "bucky_edge_commit_seconds", "Time of one sync", buckets=_LATENCIES, registry=self.registry
        )

    def committed(self, instances: int, seconds: float) -> None:
        """Count one group commit."""
        self._group_size.observe(instances)
        self._seconds.observe(seconds)


class Rate:
    """Bytes per second over about the last `RATE_SECONDS`, older ones counting less and less."""

    def __init__(self) -> None:
        self._rate = self._noted_at = 0.0

    def add(self, size: int, now: float) -> None:
        """Note bytes that passed at a time (monotonic seconds)."""
        self._rate, self._noted_at = self.at(now) + size / RATE_SECONDS, now

    def at(self, now: float) -> float:
        """Return the rate at a time."""
        return self._rate * math.exp((self._noted_at - now) / RATE_SECONDS)


class UploaderMetrics:
    """What the uploader counts."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._released = Counter("bucky_edge_released", "Instances released from the spool", registry=self.registry)
        self._bytes = Counter("bucky_edge_uploaded_bytes", "Bytes the object store took", registry=self.registry)
        self._seconds = Histogram(
            "bucky_edge_upload_seconds", "Time of one upload", buckets=_LATENCIES, registry=self.registry
        )
        self.rate = Rate()

    def uploaded(self, size: int, seconds: float) -> None:
        """Count one object that the store took."""
        self._bytes.inc(size)
        self._seconds.observe(seconds)
        self.rate.add(size, time.monotonic())

    def released(self) -> None:
        """Count one instance that is safe elsewhere and left the spool."""
        self._released.inc()


class ParentMetrics:
    """What the parent counts, and the shared state of the spool."""

    def __init__(self, counters: SharedCounters, slots: Slots | None = None) -> None:
        self.registry = CollectorRegistry()
        self._refused = Counter(
            "bucky_edge_connections_refused", "Connections not served", ["reason"], registry=self.registry
        )
        self._restarts = Counter(
            "bucky_edge_process_restarts", "Processes that ended and were started again", ["process"],
            registry=self.registry,
        )  # fmt: skip
        self.registry.register(_SpoolCollector(counters, slots))

    def refused(self, reason: str) -> None:
        """Count one connection that was not served."""
        self._refused.labels(reason).inc()

    def restarted(self, process: str) -> None:
        """Count one restart."""
        self._restarts.labels(process).inc()


class _SpoolCollector(Collector):
    def __init__(self, counters: SharedCounters, slots: Slots | None) -> None:
        self._counters, self._slots = counters, slots

    def collect(self) -> Iterator[Metric]:
        """Measure the spool when somebody looks."""
        counters = self._counters
        for name, text, value in (
            ("instances", "Instances in the spool", counters.instances),
            ("bytes", "Bytes in the spool", counters.held_bytes),
            ("oldest_seconds", "Age of the oldest instance in the spool", counters.oldest_seconds),
            ("quarantined", "Instances set aside in the spool", counters.quarantined),
            ("accepting", "Whether the spool takes another instance", float(not counters.refusing)),
            ("free_slots", "Slots in the spool that are free", self._slots.free if self._slots else 0),
        ):
            yield GaugeMetricFamily(f"bucky_edge_spool_{name}", text, value=value)
