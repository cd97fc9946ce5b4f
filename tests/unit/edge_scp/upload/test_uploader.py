"""Between spool and outside: nothing is released early, nothing is given up, nobody is hammered."""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import pytest

from bucky.broker.connection import MemoryPublisher
from bucky.cloudevents import CloudEvent
from bucky.dicom.identity import Identity
from bucky.dicom.part10 import split
from bucky.errors import BuckyError, NotFound, Permanent, SettingsError, StoreUnavailable
from bucky.events import InstanceStored, payload_of
from bucky.settings import Settings
from bucky.store.barrier import Barrier, DelayBarrier, NoBarrier, SyncFsBarrier, barrier_of
from bucky.store.objects import MemoryObjectStore
from edge_scp.metrics import Rate, UploaderMetrics
from edge_scp.spool.record import SpoolRecord
from edge_scp.upload import dependency as dependency_module
from edge_scp.upload.dependency import Dependency, Unavailable
from edge_scp.upload.uploader import Uploader
from tests.support.edge.spool_world import SpoolWorld
from tests.support.waiting import until


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Back off in milliseconds, so that an outage in a test takes no longer than it must."""
    monkeypatch.setattr(dependency_module, "FIRST_WAIT_SECONDS", 0.002)
    monkeypatch.setattr(dependency_module, "LONGEST_WAIT_SECONDS", 0.02)


class Store(MemoryObjectStore):
    """The shipped fake, which can be told to fail, and counts."""

    def __init__(self) -> None:
        super().__init__()
        self.failure: BuckyError | None = None
        self.refused_key = ""
        self.attempts = 0
        self.ensured = 0

    def ensure_bucket(self) -> None:
        self.ensured += 1

    def put(self, key: str, content: BinaryIO, size: int) -> None:
        self.attempts += 1
        if self.failure is not None:
            raise self.failure
        if self.refused_key and self.refused_key in key:
            raise Permanent("the object store refused: AccessDenied")
        super().put(key, content, size)


class Broker(MemoryPublisher):
    """The shipped fake, which counts, and can be told to keep its callers waiting."""

    def __init__(self) -> None:
        super().__init__()
        self.held: asyncio.Event | None = None
        self.refused = self.waiting = 0

    async def publish(self, event: CloudEvent) -> None:
        self.refused += not self.available
        if self.held is not None:
            self.waiting += 1
            await self.held.wait()
        await super().publish(event)


class HeldBarrier:
    """A barrier that opens when the test says so."""

    def __init__(self) -> None:
        self.open = asyncio.Event()
        self.asked = 0

    async def passed(self, uploaded_at: float) -> None:
        assert uploaded_at > 0
        self.asked += 1
        await self.open.wait()


@dataclass
class Edge:
    """An uploader over fakes and a real spool."""

    world: SpoolWorld
    store: Store = field(default_factory=Store)
    publisher: Broker = field(default_factory=Broker)
    progress: Callable[[], dict[str, float]] = dict
    numbers: random.Random = field(default_factory=lambda: random.Random(1))

    def keep(self, sop_instance_uid: str = "1.2.3.4") -> SpoolRecord:
        """Acknowledge one instance."""
        identity = Identity("1.2.840.10008.5.1.4.1.1.7", sop_instance_uid, "1.2.3", "1.2.33")
        return self.world.keep(self.numbers.randbytes(5000), identity)

    def restart(self) -> None:
        """Start again on the same folder."""
        self.world.close()
        self.world = SpoolWorld(self.world.folder.path)

    @asynccontextmanager
    async def uploading(
        self, barrier: Barrier | None = None, prepare_broker: Callable[[], Awaitable[None]] | None = None
    ) -> AsyncIterator[tuple[Dependency, Dependency]]:
        """Run the uploader for the length of a block."""

        async def nothing() -> None:
            return None

        store = Dependency("store", lambda: asyncio.to_thread(self.store.ensure_bucket))
        broker = Dependency("broker", prepare_broker or nothing)
        uploader = Uploader(
            self.world.spool,
            self.store,
            self.publisher,
            barrier or NoBarrier(),
            UploaderMetrics(),
            store=store,
            broker=broker,
            bucket="bucky",
            concurrency=3,
        )
        self.progress = uploader.progress
        task = asyncio.create_task(uploader.run())
        try:
            yield store, broker
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


@pytest.fixture
def edge(tmp_path: Path) -> Iterator[Edge]:
    """An edge with an empty spool."""
    edge = Edge(SpoolWorld(tmp_path / "spool"))
    yield edge
    edge.world.close()


async def test_uploads_announces_and_releases(edge: Edge) -> None:
    """An instance ends in the bucket, byte for byte, is announced once, and leaves the spool."""
    async with edge.uploading():
        record = edge.keep()
        await until(lambda: edge.world.counters.instances == 0)
    content = edge.store.get(record.key)
    assert len(content) == record.object_size
    assert split(content)[0].sop_instance_uid == "1.2.3.4"
    (event,) = edge.publisher.events
    payload = payload_of(event)
    assert isinstance(payload, InstanceStored)
    assert (payload.sha256, payload.key, payload.size) == (record.sha256, record.key, record.object_size)
    assert event.traceparent == record.traceparent
    assert edge.world.counters.held_bytes == 0


async def test_released_only_after_the_barrier(edge: Edge) -> None:
    """While the store's bytes are not durable the spool keeps its own; one barrier serves all that wait."""
    barrier = HeldBarrier()
    async with edge.uploading(barrier):
        for number in range(6):
            edge.keep(f"1.2.3.{number}")
        await until(lambda: len(edge.publisher.events) == 6)
        await until(lambda: barrier.asked >= 1)
        assert edge.world.counters.instances == 6
        barrier.open.set()
        await until(lambda: edge.world.counters.instances == 0)
    assert barrier.asked <= 3


@pytest.mark.parametrize(
    "failure",
    [
        StoreUnavailable("no answer"),
        Permanent("the object store refused: InvalidAccessKeyId"),
        NotFound("the object store has no bucket"),
    ],
)
async def test_trouble_with_the_store_sets_nothing_aside(edge: Edge, failure: BuckyError) -> None:
    """Store down, wrong keys or no bucket: instances wait for as long as it takes, then all are stored."""
    edge.store.failure = failure
    async with edge.uploading() as (store, _):
        for number in range(5):
            edge.keep(f"1.2.3.{number}")
        await until(lambda: edge.store.attempts > 8)
        assert not store.ok
        assert edge.world.counters.instances == 5
        assert edge.world.counters.quarantined == 0
        edge.store.failure = None
        await until(lambda: edge.world.counters.instances == 0)
        assert store.ok
    assert len(list(edge.store.keys())) == 5
    assert len(edge.publisher.events) == 5
    assert edge.store.ensured > 1


async def test_broker_down_uploads_no_object_twice(edge: Edge) -> None:
    """While the broker is away the store is not sent the same objects again and again."""
    edge.publisher.available = False
    async with edge.uploading() as (_, broker):
        for number in range(10):
            edge.keep(f"1.2.3.{number}")
        await until(lambda: edge.store.attempts == 10)
        await until(lambda: not broker.ok)
        assert edge.world.counters.instances == 10
        edge.publisher.available = True
        await until(lambda: edge.world.counters.instances == 0)
    assert edge.store.attempts == 10
    assert len(edge.publisher.events) == 10


async def test_no_more_is_uploaded_than_may_wait_for_the_broker(edge: Edge, monkeypatch: pytest.MonkeyPatch) -> None:
    """What waits for the broker, and would be uploaded again after a restart, is bounded."""
    monkeypatch.setattr("edge_scp.upload.uploader.MOST_CARRIED", 2)
    edge.publisher.available = False
    async with edge.uploading() as (_, broker):
        for number in range(10):
            edge.keep(f"1.2.3.{number}")
        await until(lambda: edge.publisher.refused >= 10)
        assert not broker.ok
        # Three at once, and two more.
        assert edge.store.attempts == 5
        edge.publisher.available = True
        await until(lambda: edge.world.counters.instances == 0)
    assert edge.store.attempts == len(edge.publisher.events) == 10


async def test_events_wait_for_no_upload(edge: Edge) -> None:
    """While events are on their way the next objects are uploaded, so that a slow broker gets full batches."""
    async with edge.uploading() as (_, broker):
        edge.keep("1.2.3.99")
        await until(lambda: broker.ok)
        edge.publisher.held = asyncio.Event()
        for number in range(20):
            edge.keep(f"1.2.3.{number}")
        await until(lambda: edge.publisher.waiting == 20)
        edge.publisher.held.set()
        await until(lambda: edge.world.counters.instances == 0)


async def test_progress_says_how_far_the_entries_are(edge: Edge) -> None:
    """The health page can tell a slow store from a slow broker from a long barrier."""
    barrier = HeldBarrier()
    async with edge.uploading(barrier):
        edge.keep("1.2.3.1")
        await until(lambda: barrier.asked == 1)
        progress = edge.progress()
        assert (progress["waiting"], progress["under_way"], progress["until_barrier"]) == (0, 0, 1)
        assert progress["bytes_per_second"] > 0
        edge.publisher.held = asyncio.Event()
        edge.keep("1.2.3.2")
        await until(lambda: edge.publisher.waiting == 1)
        progress = edge.progress()
        assert (progress["waiting"], progress["under_way"], progress["until_barrier"]) == (0, 1, 1)


async def test_one_refused_instance_does_not_stop_the_others(edge: Edge) -> None:
    """An object the store alone refuses stays spooled and is tried again; all others go through."""
    edge.store.refused_key = "/6.6.6/"
    async with edge.uploading():
        for number in range(4):
            edge.keep("6.6.6")
            edge.keep(f"1.2.3.{number}")
        await until(lambda: edge.world.counters.instances == 4)
        assert len(edge.publisher.events) == 4
        edge.store.refused_key = ""
        await until(lambda: edge.world.counters.instances == 0)
    assert edge.world.counters.quarantined == 0


async def test_changed_bytes_found_at_start_are_set_aside(edge: Edge, tmp_path: Path) -> None:
    """A spool file whose bytes changed while the edge was down is quarantined, never uploaded."""
    good, bad = edge.keep("1.2.3.1"), edge.keep("1.2.3.2")
    (path,) = [p for p in (tmp_path / "spool/ready").iterdir() if bad.sha256.encode() in p.read_bytes()]
    content = bytearray(path.read_bytes())
    content[bad.data_set_offset + 100] ^= 1
    path.write_bytes(content)
    edge.restart()
    async with edge.uploading():
        await until(lambda: edge.world.counters.instances == 0)
    assert list(edge.store.keys()) == [good.key]
    assert len(edge.publisher.events) == 1
    (reason,) = (tmp_path / "spool/quarantine").glob("*.reason")
    assert "SHA-256" in reason.read_text()


async def test_an_unforeseen_error_is_tried_again(edge: Edge, monkeypatch: pytest.MonkeyPatch) -> None:
    """A failure nobody foresaw keeps the instance and the uploader alive."""
    monkeypatch.setattr("edge_scp.upload.uploader.RETRY_SECONDS", 0.01)
    surprises = [RuntimeError("surprise"), OSError("spool disk")]
    put = edge.store.put

    def surprising(key: str, content: BinaryIO, size: int) -> None:
        if surprises:
            raise surprises.pop()
        put(key, content, size)

    monkeypatch.setattr(edge.store, "put", surprising)
    async with edge.uploading():
        edge.keep()
        await until(lambda: edge.world.counters.instances == 0)
    assert len(edge.publisher.events) == 1


async def test_stopping_keeps_what_is_not_released(edge: Edge) -> None:
    """An edge stopped between upload and release finds the instance again, and repeating harms nothing."""
    async with edge.uploading(HeldBarrier()):
        record = edge.keep()
        await until(lambda: len(edge.publisher.events) == 1)
    edge.restart()
    async with edge.uploading():
        await until(lambda: edge.world.counters.instances == 0)
    assert list(edge.store.keys()) == [record.key]
    assert len(edge.publisher.events) == 1


async def test_down_is_probed_by_one_call_at_a_time() -> None:
    """A dependency that is down gets one probe at a time with growing waits, however many calls wait."""
    running = most = attempts = prepared = 0
    down = True

    async def prepare() -> None:
        nonlocal prepared
        prepared += 1

    async def work() -> str:
        nonlocal running, most, attempts
        running += 1
        attempts += 1
        most = max(most, running)
        await asyncio.sleep(0.001)
        running -= 1
        if down:
            raise StoreUnavailable("down")
        return "done"

    target = Dependency("store", prepare)

    async def persistent() -> str:
        while True:
            try:
                return await target.call(work)
            except Unavailable:
                continue

    tasks = [asyncio.create_task(persistent()) for _ in range(20)]
    await until(lambda: attempts >= 6)
    assert most == 1
    assert target.error == "StoreUnavailable: down"
    down = False
    assert await asyncio.gather(*tasks) == ["done"] * 20
    assert target.ok
    # Once before each probe; once it is up, no more.
    assert prepared == attempts - 19


async def test_those_who_waited_for_it_go_on_side_by_side() -> None:
    """Once a dependency is up again, what piled up is not worked off one by one."""
    running = most = attempts = 0
    down = True

    async def nothing() -> None:
        return None

    async def work() -> None:
        nonlocal running, most, attempts
        attempts += 1
        if down:
            raise StoreUnavailable("down")
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.01)
        running -= 1

    target = Dependency("broker", nothing)

    async def persistent() -> None:
        while True:
            with suppress(Unavailable):
                return await target.call(work)

    tasks = [asyncio.create_task(persistent()) for _ in range(20)]
    await until(lambda: attempts >= 3)
    down = False
    await asyncio.gather(*tasks)
    assert most == 19


async def test_the_rate_is_of_the_last_seconds() -> None:
    """The bytes per second shown are those of now: reached under load, and gone after it."""
    rate = Rate()
    for second in range(100):
        rate.add(1000, float(second))
    assert 900 < rate.at(99.0) < 1100
    assert rate.at(180.0) < 1


async def test_one_log_line_per_change(capfd: pytest.CaptureFixture[str]) -> None:
    """An outage is two log lines, not one per attempt."""
    down = True

    async def nothing() -> None:
        return None

    async def work() -> None:
        if down:
            raise StoreUnavailable("down")

    target = Dependency("store", nothing)
    for _ in range(5):
        with pytest.raises(Unavailable):
            await target.call(work)
    down = False
    await target.call(work)
    await target.call(work)
    text = "".join(capfd.readouterr())
    assert text.count("dependency.down") == 1
    assert text.count("dependency.up") == 1


async def test_barriers_are_what_the_settings_ask_for(tmp_path: Path) -> None:
    """Each barrier setting gives its barrier, a missing path is named, and the real syncfs is called."""
    assert isinstance(barrier_of(Settings(store_barrier="none")), NoBarrier)
    assert isinstance(barrier_of(Settings(store_barrier="delay")), DelayBarrier)
    synced = barrier_of(Settings(store_barrier="syncfs", store_barrier_path=tmp_path))
    assert isinstance(synced, SyncFsBarrier)
    await synced.passed(1.0)
    with pytest.raises(SettingsError, match="BUCKY_STORE_BARRIER_PATH"):
        barrier_of(Settings(store_barrier="syncfs", store_barrier_path=tmp_path / "missing"))
    with pytest.raises(OSError, match="missing"):
        await SyncFsBarrier(tmp_path / "missing").passed(1.0)


async def test_the_delay_counts_from_the_upload() -> None:
    """The delay barrier waits for what is left of the delay, and not at all when it is over."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    await DelayBarrier(0.05).passed(began)
    assert loop.time() - began >= 0.045
    again = loop.time()
    await DelayBarrier(0.05).passed(began)
    assert loop.time() - again < 0.04


def test_an_event_is_the_same_message_whoever_sends_it(edge: Edge) -> None:
    """The event's id is the content's digest, so uploading again after a restart announces nothing twice."""
    record = edge.keep()
    first = CloudEvent.of(record.stored("bucky"), source="/a")
    second = CloudEvent.of(record.stored("bucky"), source="/b")
    assert first.nats_msg_id == second.nats_msg_id
