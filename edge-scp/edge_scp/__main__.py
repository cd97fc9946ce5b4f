"""The edge: receive over DICOM, keep on disk, acknowledge, upload, announce, release. Wired here."""

import asyncio
import contextlib
import logging
import os
import sys
import threading
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from bucky import log
from bucky.errors import BuckyError
from bucky.objects import S3ObjectStore
from bucky.serve.server import HttpServer, stop_signal
from bucky.settings import Settings
from edge_scp.barrier import barrier_of
from edge_scp.broker_link import BrokerLink
from edge_scp.dependency import Dependency, Unavailable
from edge_scp.health import health_app
from edge_scp.listener import DicomListener
from edge_scp.metrics import Metrics
from edge_scp.receiver import Receiver
from edge_scp.spool import Spool
from edge_scp.uploader import Uploader

DRAIN_SECONDS = 10.0
CHECK_SECONDS = 10.0
# An upload under way when the edge stops is given this long; the spool still has its instance.
EXIT_SECONDS = 3.0


async def serve(settings: Settings) -> None:
    """Wire the process, run it until SIGTERM, and drain it."""
    logger = log.get_logger("edge")
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(settings.upload_concurrency + 8))
    stop = stop_signal()

    spool = Spool.of(settings)
    spool.open()
    metrics = Metrics(spool)
    objects = S3ObjectStore(settings)
    link = BrokerLink(settings)
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
    )
    receiver = Receiver(spool, metrics)
    listeners = [DicomListener(listener, settings, receiver, metrics) for listener in settings.edge_listeners]
    page = HttpServer(health_app(listeners, spool, (store, broker), metrics), "127.0.0.1", settings.edge_http_port)

    await page.start()
    for listener in listeners:
        listener.start()
    logger.info(
        "edge.started",
        listeners=[f"{listener.aet}:{listener.port}" for listener in listeners],
        http_port=page.port,
        resumed=spool.state().instances,
    )
    working = asyncio.gather(
        uploader.run(),
        _watch(store, lambda: asyncio.to_thread(objects.check)),
        _watch(broker, link.check),
    )
    try:
        await _first_of(stop, working)
    finally:
        drained = await _drain(listeners)
        working.cancel()
        await asyncio.gather(working, return_exceptions=True)
        await link.close()
        await page.stop()
        spool.close()
        logger.info("edge.stopped", drained=drained, spooled=spool.state().instances)
        _exit_even_if_a_thread_hangs(0 if stop.is_set() else 1)


async def _first_of(stop: asyncio.Event, working: asyncio.Future[Any]) -> None:
    """Return at the stop signal; raise what ended the work, which ends by itself only when it is broken."""
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait([stopping, working], return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    if working.done():
        await working


async def _drain(listeners: Sequence[DicomListener]) -> bool:
    """Accept nothing new and let open associations finish; tell whether none had to be aborted."""
    await asyncio.gather(*(asyncio.to_thread(listener.stop_accepting) for listener in listeners))
    finished = await asyncio.gather(*(asyncio.to_thread(listener.drain, DRAIN_SECONDS) for listener in listeners))
    return all(finished)


async def _watch(dependency: Dependency, check: Callable[[], Awaitable[None]]) -> None:
    """Keep the health page true while nothing is uploaded, and prepare the dependency at start."""
    while True:
        with contextlib.suppress(Unavailable):
            await dependency.call(check)
        await asyncio.sleep(CHECK_SECONDS)


def _exit_even_if_a_thread_hangs(code: int) -> None:
    timer = threading.Timer(EXIT_SECONDS, os._exit, (code,))
    timer.daemon = True
    timer.start()


def main() -> None:
    """Read the settings and serve; a sentence on stderr says why when that cannot be."""
    try:
        settings = Settings.load(os.environ)
        log.configure(settings.log_level)
        # It logs tracebacks of what peers do wrong; the edge has its own line for each association.
        logging.getLogger("pynetdicom").setLevel(logging.CRITICAL)
        asyncio.run(serve(settings))
    except BuckyError as error:
        sys.exit(f"edge_scp: {error}")


if __name__ == "__main__":
    main()
