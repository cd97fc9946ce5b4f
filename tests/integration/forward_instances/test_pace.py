"""Forwarding within a destination's hours and bandwidth, to a real SCP, over a real index."""

import io
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import REGISTRY

from bucky.cloudevents import CloudEvent
from bucky.errors import IndexUnavailable
from bucky.index import DeliveryState, Index
from bucky.serve.contract import BatchResult
from bucky.store.objects import MemoryObjectStore
from forward_instances.pace import CappedReader, Meter
from local_stack.destination import Destination
from tests.support.functions.forwarding import SENDERS, forward, request, route_to, state


def hours(opens_in: timedelta, lasts: timedelta = timedelta(hours=2), **more: Any) -> dict[str, Any]:
    """Return a schedule, in UTC, of one window a day that opens at a distance from now."""
    opens = datetime.now(UTC) + opens_in
    window = {"from": f"{opens:%H:%M}", "to": f"{opens + lasts:%H:%M}"}
    return {"time_zone": "UTC", "windows": [window], **more}


def urgent(event: CloudEvent) -> CloudEvent:
    """Return the request as an urgent one."""
    return event.model_copy(update={"data": {**event.data, "priority": "urgent"}, "priority": "urgent"})


def waiting(result: BatchResult) -> list[tuple[bool, bool]]:
    """Return, for each failure, whether it may be tried again and whether it was attempted."""
    return [(failure.retryable, failure.attempted) for failure in result.failures]


def test_outside_its_hours_a_destination_gets_nothing_and_it_says_until_when(tmp_path: Path, index: Index) -> None:
    """Protects the hours of a destination: nothing goes, no attempt is counted, the reason and the time are there."""
    objects = MemoryObjectStore()
    events = [request(objects, number) for number in range(3)]
    with Destination(tmp_path) as destination:
        route_to(index, destination.port, schedule=hours(timedelta(hours=3)))
        result = forward(events, objects, index, SENDERS)
        assert destination.count == 0
    assert waiting(result) == [(True, False)] * 3
    retry_after = result.failures[0].retry_after
    assert retry_after is not None
    assert 2.9 * 3600 < retry_after <= 3 * 3600
    row = index.delivery(events[0].id)
    assert (row.state, row.attempts) == (DeliveryState.RETRYING, 0)
    opens = datetime.now(UTC) + timedelta(seconds=retry_after)
    assert row.reason == result.failures[0].reason
    assert f"{opens:%Y-%m-%d %H:%M} (UTC)" in row.reason


def test_urgent_deliveries_pass_the_hours_and_the_others_of_the_batch_wait(tmp_path: Path, index: Index) -> None:
    """Protects urgent studies from off-peak hours, unless the destination wants those to wait too."""
    objects = MemoryObjectStore()
    routine, quick = request(objects, 1), urgent(request(objects, 2))
    with Destination(tmp_path) as destination:
        route_to(index, destination.port, schedule=hours(timedelta(hours=3), urgent="waits"))
        assert waiting(forward([quick], objects, index, SENDERS)) == [(True, False)]
        route_to(index, destination.port, schedule=hours(timedelta(hours=3)))
        result = forward([routine, quick], objects, index, SENDERS)
        assert destination.count == 1
    assert [failure.item_identifier for failure in result.failures] == [routine.id]
    assert state(index, quick) is DeliveryState.DELIVERED


def test_within_its_hours_a_destination_gets_everything(tmp_path: Path, index: Index) -> None:
    """Protects the open hours from being taken for closed ones."""
    objects = MemoryObjectStore()
    with Destination(tmp_path) as destination:
        route_to(index, destination.port, schedule=hours(-timedelta(hours=1)))
        assert forward([request(objects, 1)], objects, index, SENDERS).failures == ()


def waited() -> float:
    """Return the seconds for which deliveries have waited for bandwidth so far."""
    return REGISTRY.get_sample_value("bucky_forward_cap_wait_seconds_total", {"destination": "pacs"}) or 0.0


def test_a_batch_is_sent_no_faster_than_the_cap(tmp_path: Path, index: Index) -> None:
    """Protects a thin line: a second's worth over the first piece takes a second, whatever the associations."""
    objects = MemoryObjectStore()
    events = [request(objects, number, size=40_000) for number in range(10)]
    with Destination(tmp_path) as destination:
        route_to(index, destination.port, max_bytes_per_second=200_000, max_associations=4)
        began, before = time.monotonic(), waited()
        assert forward(events, objects, index, SENDERS).failures == ()
        took = time.monotonic() - began
        assert len(destination.received()) == 10
    # Four hundred kilobytes, less the first piece, which goes at once.
    assert took >= 1.4
    assert 1 < waited() - before < 4


def test_replicas_share_the_cap(tmp_path: Path, index: Index, index_url: str) -> None:
    """Protects a thin line from a second replica: both together keep to it."""
    objects = MemoryObjectStore()
    events = [request(objects, number, size=40_000) for number in range(10)]
    other = Index.open(index_url)
    with Destination(tmp_path) as destination, ThreadPoolExecutor(2) as pool:
        route_to(index, destination.port, max_bytes_per_second=200_000)
        began = time.monotonic()
        halves = [
            pool.submit(forward, events[:5], objects, index, SENDERS),
            pool.submit(forward, events[5:], objects, other, SENDERS),
        ]
        assert [half.result().failures for half in halves] == [(), ()]
        took = time.monotonic() - began
        assert len(destination.received()) == 10
    other.close()
    assert took >= 1.4


def test_many_small_batches_use_the_whole_bandwidth(tmp_path: Path, index: Index) -> None:
    """Protects throughput under a cap: what a batch does not need is not taken from the next."""
    objects = MemoryObjectStore()
    with Destination(tmp_path) as destination:
        route_to(index, destination.port, max_bytes_per_second=1_000_000)
        before = waited()
        for number in range(10):
            assert forward([request(objects, number, size=4000)], objects, index, SENDERS).failures == ()
        assert waited() - before < 0.5


class Clock:
    """Time that passes only by sleeping."""

    def __init__(self) -> None:
        self.now = 0.0

    def sleep(self, seconds: float) -> None:
        """Let time pass."""
        self.now += seconds


def test_without_the_index_a_sender_keeps_to_the_cap_by_itself() -> None:
    """Protects a thin line while the index is away: the cap is one sender's then, and it holds."""
    clock = Clock()

    def take(_name: str, _count: int, _rate: int) -> float:
        raise IndexUnavailable("the index database did not answer")

    reader = io.BufferedReader(
        CappedReader(io.BytesIO(b"x" * 100_000), Meter("pacs", 10_000, 100_000, take, clock.sleep))
    )
    assert reader.read() == b"x" * 100_000
    assert clock.now == pytest.approx(10, rel=0.1)


def test_a_capped_stream_is_the_stream_it_caps() -> None:
    """Protects the bytes: pieces of any size, sought or not, come as they are, and both streams are closed."""
    content = io.BytesIO(bytes(range(256)) * 100)
    reader = io.BufferedReader(CappedReader(content, Meter("pacs", 1_000_000, 0, lambda *_: 0.0)))
    assert (reader.read(10), reader.read(3), reader.tell()) == (bytes(range(10)), b"\x0a\x0b\x0c", 13)
    reader.seek(-2, io.SEEK_END)
    assert reader.read() == b"\xfe\xff"
    reader.seek(0)
    assert len(reader.read()) == 25_600
    reader.close()
    assert content.closed
