"""Carry spooled instances to the object store and the broker, then release them.

Each instance: PUT, publish `InstanceStored` and await its PubAck, wait for the durability barrier, delete.
Nothing is deleted before all three; each may be repeated, since keys and event ids are the content's.

The bytes are not hashed again on the way: their SHA-256 is in the record since they were received, and the
store compares a checksum of what it gets with one made of what is read here.
"""

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

from bucky.broker.connection import Publisher
from bucky.cloudevents import CloudEvent
from bucky.errors import InvalidInstance
from bucky.log import get_logger
from bucky.store.barrier import Barrier
from bucky.store.local_cache import LocalCache
from bucky.store.objects import ObjectStore
from edge_scp.metrics import UploaderMetrics
from edge_scp.spool.entries import Spool
from edge_scp.spool.entry import Entry
from edge_scp.spool.record import CorruptRecord, SpoolRecord, read_record, verify
from edge_scp.upload.dependency import Dependency, Unavailable

SOURCE = "/bucky/edge"
# What ended within this time of the oldest shares its barrier.
BATCH_SECONDS = 1.0
# How long the first that ended waits for others, to be released with them.
LINGER_SECONDS = 0.1
RETRY_SECONDS = 5.0
# Instances that may wait for the broker with their objects stored: enough to make full batches of their
# events, few enough to upload again when the edge restarts meanwhile.
MOST_CARRIED = 500

log = get_logger("edge")


@dataclass(frozen=True, slots=True)
class Uploaded:
    """An entry whose object and event are out, waiting for the barrier; times are monotonic seconds."""

    entry: Entry
    record: SpoolRecord
    started_at: float
    uploaded_at: float


class Unfit(Exception):
    """An entry cannot be uploaded, and never will; that says nothing of the store."""


class Uploader:
    """The loops between the spool and the outside; `run` until cancelled."""

    def __init__(
        self,
        spool: Spool,
        objects: ObjectStore,
        publisher: Publisher,
        barrier: Barrier,
        metrics: UploaderMetrics,
        *,
        store: Dependency,
        broker: Dependency,
        bucket: str,
        concurrency: int,
        local_cache: LocalCache | None = None,
    ) -> None:
        self._spool, self._objects, self._publisher = spool, objects, publisher
        self._barrier, self._metrics = barrier, metrics
        self._store, self._broker = store, broker
        self._bucket, self._local_cache = bucket, local_cache
        self._uploading = asyncio.Semaphore(concurrency)
        self._carried = asyncio.Semaphore(MOST_CARRIED + concurrency)
        self._under_way = 0
        self._arrived = asyncio.Event()
        self._uploaded: deque[Uploaded] = deque()
        self._release_due = asyncio.Event()

    async def run(self) -> None:
        """Upload and release until cancelled; an entry in work then stays in the spool."""
        loop = asyncio.get_running_loop()
        self._spool.on_ready = lambda: loop.call_soon_threadsafe(self._arrived.set)
        self._arrived.set()
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._release_loop())
                while True:
                    await self._carried.acquire()
                    await self._uploading.acquire()
                    group.create_task(self._carry(await self._next()))
        finally:
            self._spool.on_ready = lambda: None

    def progress(self) -> dict[str, float]:
        """Return what the health page shows: entries by how far they are, and bytes per second."""
        waiting = self._spool.waiting
        return {
            "waiting": waiting,
            "under_way": self._under_way,
            "until_barrier": max(0, self._spool.instances - waiting - self._under_way),
            "bytes_per_second": round(self._metrics.rate.at(time.monotonic())),
        }

    async def _carry(self, entry: Entry) -> None:
        """See one entry to the barrier, or back into the spool."""
        self._under_way += 1
        try:
            uploaded = await self._upload(entry)
            await self._publish(uploaded)
        except Unavailable:
            # Behind the others: should the store refuse this one alone, they go on.
            self._spool.give_back(entry)
        except Unfit as error:
            await self._set_aside(entry, str(error))
        except Exception:
            # The failure policy of uploads: whatever happened, the instance is tried again.
            log.exception("upload.failed", entry=entry.name)
            asyncio.get_running_loop().call_later(RETRY_SECONDS, self._spool.give_back, entry)
        else:
            self._uploaded.append(uploaded)
            self._release_due.set()
        finally:
            self._under_way -= 1
            self._carried.release()

    async def _next(self) -> Entry:
        while (entry := self._spool.take()) is None:
            self._arrived.clear()
            # Something may have arrived between the look and the clear.
            if (entry := self._spool.take()) is not None:
                break
            await self._arrived.wait()
        return entry

    async def _upload(self, entry: Entry) -> Uploaded:
        started = time.monotonic()
        try:
            record = await self._store.call(lambda: asyncio.to_thread(self._put, entry))
        finally:
            self._uploading.release()
        ended = time.monotonic()
        self._metrics.uploaded(record.object_size, ended - started)
        return Uploaded(entry, record, started, ended)

    async def _publish(self, uploaded: Uploaded) -> None:
        record = uploaded.record
        event = CloudEvent.of(record.stored(self._bucket), source=SOURCE, traceparent=record.traceparent)
        while True:
            # Held on to while the broker is away, so that its object is not uploaded again each time.
            with contextlib.suppress(Unavailable):
                return await self._broker.call(lambda: self._publisher.publish(event))

    def _put(self, entry: Entry) -> SpoolRecord:
        """Upload an entry, in a thread; its record is read once, and a copy stays in the local cache."""
        with self._spool.open_record(entry) as file:
            try:
                record = read_record(file) if entry.verified else verify(file)
                key = record.key
            except (InvalidInstance, CorruptRecord) as error:
                raise Unfit(str(error)) from error
            file.seek(0)
            self._objects.put(key, file, record.object_size)
            if self._local_cache is not None:
                try:
                    self._local_cache.keep(key, entry.size, partial(self._spool.copy, entry, file))
                except OSError as error:
                    # Only speed is lost: whoever reads asks the store.
                    log.warning("local_cache.unwritable", entry=entry.name, error=error.strerror)
            return record

    async def _set_aside(self, entry: Entry, reason: str) -> None:
        log.error("instance.set_aside", entry=entry.name, reason=reason)
        try:
            await asyncio.to_thread(self._spool.set_aside, entry, reason)
        except OSError as error:
            log.warning("spool.unwritable", entry=entry.name, error=str(error))

    async def _release_loop(self) -> None:
        while True:
            await self._release_due.wait()
            await asyncio.sleep(LINGER_SECONDS)
            self._release_due.clear()
            while self._uploaded:
                batch = list(self._next_batch())
                await self._barrier_passed(max(one.uploaded_at for one in batch))
                await asyncio.to_thread(self._release, batch)

    def _next_batch(self) -> Iterator[Uploaded]:
        # In the order of their acknowledgements, which is nearly that of their uploads.
        latest = self._uploaded[0].uploaded_at + BATCH_SECONDS
        while self._uploaded and self._uploaded[0].uploaded_at <= latest:
            yield self._uploaded.popleft()

    async def _barrier_passed(self, uploaded_at: float) -> None:
        while True:
            try:
                await self._barrier.passed(uploaded_at)
            except OSError as error:
                log.warning("barrier.failed", error=str(error))
                await asyncio.sleep(RETRY_SECONDS)
            else:
                return

    def _release(self, batch: list[Uploaded]) -> None:
        now = time.monotonic()
        for uploaded in batch:
            try:
                self._spool.release(uploaded.entry)
            except OSError as error:
                log.warning("spool.unwritable", entry=uploaded.entry.name, error=str(error))
                continue
            self._metrics.released()
            log.info(
                "instance.released",
                study_instance_uid=uploaded.record.study_instance_uid,
                series_instance_uid=uploaded.record.series_instance_uid,
                sop_instance_uid=uploaded.record.sop_instance_uid,
                sha256=uploaded.record.sha256,
                bytes=uploaded.record.object_size,
                upload_ms=round((uploaded.uploaded_at - uploaded.started_at) * 1000, 2),
                duration_ms=round((now - uploaded.started_at) * 1000, 2),
                traceparent=uploaded.record.traceparent,
            )
