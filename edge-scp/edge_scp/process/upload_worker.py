"""The uploader: one process that carries what is in the spool to the object store and the broker. Wired here.

Started by `edge_scp.__main__`; apart from the receivers, so that its work never delays theirs.
"""

import asyncio
import contextlib
import os
import socket
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from prometheus_client import generate_latest

from bucky.errors import SettingsError
from bucky.log import get_logger
from bucky.settings import Settings
from bucky.store.barrier import barrier_of
from bucky.store.local_cache import LocalCache
from bucky.store.objects import S3ObjectStore
from edge_scp.metrics import UploaderMetrics
from edge_scp.process.channel import Channel, Message
from edge_scp.process.supervisor import WorkerContext, end_at_once, run
from edge_scp.spool.capacity import SharedCounters
from edge_scp.spool.disk import Disk
from edge_scp.spool.entries import Spool
from edge_scp.spool.folder import SpoolFolder
from edge_scp.spool.notifications import Notifications
from edge_scp.spool.slots import Slots, wanted
from edge_scp.upload.broker_link import UploadPublisher
from edge_scp.upload.dependency import Dependency, Unavailable
from edge_scp.upload.uploader import Uploader

log = get_logger("edge")

CHECK_SECONDS = 3.0
# With as many waiting, news of more is looked at less often: each look takes time from the receivers' cores.
PLENTY = 64
PLENTY_SECONDS = 0.05


async def upload(settings: Settings, inherited: WorkerContext) -> None:
    """Wire the process and work until the parent says to stop; what is not released then stays in the spool."""
    loop = asyncio.get_running_loop()
    loop.set_default_executor(ThreadPoolExecutor(settings.upload_concurrency + 8))
    folder = SpoolFolder(settings.spool_dir)
    slots = Slots.shared(folder.slots, inherited.slots)
    spool = Spool(folder, SharedCounters(inherited.counters), slots=slots)
    metrics = UploaderMetrics()
    objects = S3ObjectStore(settings)
    link = UploadPublisher(settings)
    store = Dependency("store", lambda: asyncio.to_thread(objects.ensure_bucket))
    broker = Dependency("broker", link.prepare)
    uploader = Uploader(
        spool,
        objects,
        link,
        barrier_of(settings),
        metrics,
        store=store,
        broker=broker,
        bucket=settings.store_bucket,
        concurrency=settings.upload_concurrency,
        local_cache=_local_cache(settings),
    )
    stop = asyncio.Event()

    def received(message: Message, _connection: socket.socket | None) -> None:
        if "ask" in message:
            states = {each.name: each.state() for each in (store, broker)}
            page = generate_latest(metrics.registry).decode()
            answer = {"page": page, "uploads": uploader.progress(), **states}
            channel.send({"answer": answer, "number": message["number"]})
        elif "stop" in message:
            stop.set()

    channel = Channel(inherited.parent(), received, end_at_once)
    spool.open()
    arrivals = Notifications(inherited.announcements)

    def announced() -> None:
        spool.arrived(arrivals.read())
        if spool.waiting > PLENTY:
            loop.remove_reader(inherited.announcements)
            loop.call_later(PLENTY_SECONDS, loop.add_reader, inherited.announcements, announced)

    loop.add_reader(inherited.announcements, announced)
    channel.send({"ready": True})
    working: asyncio.Future[Any] = asyncio.gather(
        uploader.run(),
        asyncio.to_thread(_prepare, slots, settings),
        _watch(store, lambda: asyncio.to_thread(objects.check)),
        _watch(broker, link.check),
    )
    stopping: asyncio.Future[Any] = asyncio.create_task(stop.wait())
    await asyncio.wait([stopping, working], return_when=asyncio.FIRST_COMPLETED)
    working.cancel()
    await asyncio.gather(working, return_exceptions=stop.is_set())
    await link.close()
    # An upload under way may hang for long; its instance is in the spool.
    os._exit(0)


def _prepare(slots: Slots | None, settings: Settings) -> None:
    """Make the slots that are not there yet, as long as the disk has more than is to stay free."""
    disk, least = Disk(), 2 * settings.spool_min_free_bytes
    try:
        if slots is not None:
            slots.prepare(wanted(settings), lambda: disk.free_bytes(settings.spool_dir) > least)
    except OSError as error:
        log.warning("slots.unprepared", error=str(error))


def _local_cache(settings: Settings) -> LocalCache | None:
    if settings.local_cache_dir is None or settings.store_files_dir is not None:
        return None
    copies = LocalCache(settings.local_cache_dir, settings.local_cache_max_bytes, settings.spool_min_free_bytes)
    try:
        copies.open()
    except OSError as error:
        raise SettingsError(
            f"BUCKY_LOCAL_CACHE_DIR: cannot use {settings.local_cache_dir}: {error.strerror}"
        ) from error
    if settings.local_cache_dir.stat().st_dev != settings.spool_dir.stat().st_dev:
        raise SettingsError(
            "BUCKY_LOCAL_CACHE_DIR must be on the file system of BUCKY_SPOOL_DIR: a copy is a second name"
        )
    return copies


async def _watch(dependency: Dependency, check: Callable[[], Awaitable[None]]) -> None:
    """Keep the health page true while nothing is uploaded, and prepare the dependency at start."""
    while True:
        with contextlib.suppress(Unavailable):
            await dependency.check(check)
        await asyncio.sleep(CHECK_SECONDS)


if __name__ == "__main__":
    run(upload)
