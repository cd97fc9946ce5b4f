"""The edge's Prometheus metrics; labels are statuses and outcomes, never names or UIDs."""

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from edge_scp.spool import Spool
from edge_scp.statuses import Status


class Metrics:
    """One registry per process, so that tests can run many edges."""

    def __init__(self, spool: Spool) -> None:
        self.registry = CollectorRegistry()
        self._requests = Counter(
            "bucky_edge_store_requests", "C-STORE requests answered", ["status"], registry=self.registry
        )
        self._bytes = Counter("bucky_edge_acknowledged_bytes", "Data set bytes acknowledged", registry=self.registry)
        self._seconds = Histogram(
            "bucky_edge_store_seconds",
            "Time from a whole data set to its answer",
            buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1, 5),
            registry=self.registry,
        )
        self._associations = Counter(
            "bucky_edge_associations", "Association requests", ["outcome"], registry=self.registry
        )
        self._released = Counter("bucky_edge_released", "Instances released from the spool", registry=self.registry)
        self.registry.register(_SpoolCollector(spool))

    def received(self, status: Status, size: int, seconds: float) -> None:
        """Count one answered C-STORE."""
        self._requests.labels(status.name.lower()).inc()
        self._seconds.observe(seconds)
        if status is Status.SUCCESS:
            self._bytes.inc(size)

    def association(self, outcome: str) -> None:
        """Count one association: accepted, rejected, released or aborted."""
        self._associations.labels(outcome).inc()

    def released(self) -> None:
        """Count one instance that is safe elsewhere and left the spool."""
        self._released.inc()


class _SpoolCollector(Collector):
    def __init__(self, spool: Spool) -> None:
        self._spool = spool

    def collect(self) -> Iterator[Metric]:
        """Measure the spool when somebody looks."""
        state = self._spool.state()
        for name, text, value in (
            ("instances", "Instances in the spool", state.instances),
            ("bytes", "Bytes in the spool", state.bytes),
            ("oldest_seconds", "Age of the oldest instance in the spool", state.oldest_seconds),
            ("quarantined", "Instances set aside in the spool", state.quarantined),
            ("accepting", "Whether the spool takes another instance", float(state.accepting)),
        ):
            yield GaugeMetricFamily(f"bucky_edge_spool_{name}", text, value=value)
