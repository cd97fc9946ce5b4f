"""The edge: receive over DICOM, keep on disk, acknowledge, upload, announce, release. The parent is wired here.

This process accepts connections and hands each to the receiver that has fewest; it does nothing for each
instance. `receiving` and `uploading` are its children's pages like this one.
"""

import asyncio
import resource
from collections.abc import Coroutine, Iterable
from itertools import count
from typing import Any, NoReturn

from bucky import log
from bucky.runtime.http_server import HttpServer, stop_signal
from bucky.runtime.process import run_process
from bucky.settings import Settings
from bucky.store.barrier import barrier_of
from edge_scp.association.tls import server_context
from edge_scp.metrics import ParentMetrics
from edge_scp.process.health import EdgeState, health_app
from edge_scp.process.pool import WorkerPool, process_count
from edge_scp.process.port import Port
from edge_scp.process.supervisor import Shared, Worker
from edge_scp.spool.alarm import watch_spool
from edge_scp.spool.capacity import SharedCounters, SpoolLimits
from edge_scp.spool.entries import Spool
from edge_scp.spool.folder import SpoolFolder
from edge_scp.spool.notifications import open_pipe
from edge_scp.spool.slots import Slots, wanted
from edge_scp.spool.sync_queue import SyncQueueDescriptors

DRAIN_SECONDS = 10.0
# Receivers end those of their associations that do not finish; this is for the last words.
GRACE_SECONDS = 4.0
# An upload under way when the edge stops is given this long; the spool still has its instance.
EXIT_SECONDS = 3.0


async def serve(settings: Settings) -> None:
    """Wire the process, run it until SIGTERM, and drain it."""
    logger = log.get_logger("edge")
    stop = stop_signal()
    _check(settings)

    folder = SpoolFolder(settings.spool_dir)
    folder.make()
    lock = folder.lock()
    counters, counters_descriptor = SharedCounters.create()
    limits = SpoolLimits.of(settings, counters)
    slots, page = Slots.start(folder.slots, wanted(settings))
    resumed = Spool(folder, counters, slots=slots).open()
    arriving, announcing = open_pipe()
    metrics = ParentMetrics(counters, slots)
    board = SyncQueueDescriptors.create(2 * process_count(settings))
    shared = Shared(counters_descriptor, lock, page, board, metrics)
    receivers = WorkerPool(settings, shared, counters, announcing)
    uploader = Worker(
        "uploader",
        "edge_scp.process.upload_worker",
        shared,
        arriving,
        ended=lambda _worker_id: receivers.uploader_restarted(),
    )
    committer = Worker("committer", "edge_scp.process.commit_worker", shared, announcing)
    numbers = count()
    ports = [
        Port(listener, settings, receivers.of(number), metrics.refused, numbers)
        for number, listener in enumerate(settings.edge_listeners)
    ]
    receivers.counts = [port.connections for port in ports]
    state = EdgeState(ports, receivers.children, uploader, committer, counters, limits, settings.queue_normal_seconds)
    http = HttpServer(health_app(state, metrics), "127.0.0.1", settings.edge_http_port)

    children = (*receivers.children, uploader, committer)
    working = asyncio.gather(*(child.keep_running() for child in children), watch_spool(counters, limits))
    try:
        await _first_of(stop, working, _ready(children))
        if not stop.is_set():
            for port in ports:
                port.start()
            await http.start()
            logger.info(
                "edge.started",
                listeners=[f"{port.listener.aet}:{port.port}" for port in ports],
                http_port=http.port,
                receivers=len(receivers.children),
                resumed=resumed,
            )
            await _first_of(stop, working, stop.wait())
    finally:
        for port in ports:
            port.stop()
        drained = await receivers.drain(DRAIN_SECONDS, GRACE_SECONDS)
        for child in (committer, uploader):
            await child.stop({"stop": True}, EXIT_SECONDS)
        working.cancel()
        await asyncio.gather(working, return_exceptions=True)
        await http.stop()
        logger.info("edge.stopped", drained=drained, spooled=counters.instances)


def _check(settings: Settings) -> None:
    """Raise `SettingsError` for what a child could not start with."""
    barrier_of(settings)
    for listener in settings.edge_listeners:
        if listener.tls is not None:
            server_context(listener.tls)


async def _ready(children: Iterable[Worker]) -> None:
    """Return when all children are ready."""
    await asyncio.gather(*(child.until_ready() for child in children))


async def _first_of(stop: asyncio.Event, working: asyncio.Future[Any], awaited: Coroutine[Any, Any, Any]) -> None:
    """Return at the stop signal or when what is awaited is there; raise what ended the work."""
    others = [asyncio.create_task(stop.wait()), asyncio.create_task(awaited)]
    await asyncio.wait([*others, working], return_when=asyncio.FIRST_COMPLETED)
    for other in others:
        other.cancel()
    if working.done():
        await working


def _allow_descriptors() -> None:
    """Let this process and its children open as many descriptors as they may: a shell gives 1,024, for select()."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def main() -> NoReturn:
    """Run the process."""
    _allow_descriptors()
    run_process("edge_scp", serve)


if __name__ == "__main__":
    main()
