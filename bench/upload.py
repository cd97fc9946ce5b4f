"""Measure the way from the spool to store and broker, with its alternatives: `python -m bench.upload --help`.

Three parts: clients that only PUT, publishers that only publish, and the whole uploader from a full spool to
an empty one. CPU is this process's own; stores and broker share the machine, so compare ratios, not rates.
"""

import argparse
import asyncio
import contextlib
import io
import secrets
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import urllib3
from minio import Minio
from rich.console import Console
from rich.table import Table

from bench.usage import wait_for_calm
from bucky import log
from bucky.broker.batch_publisher import BatchPublisher
from bucky.broker.connection import JetStreamPublisher, Publisher, connect, disconnect
from bucky.broker.streams import ensure_streams
from bucky.cloudevents import CloudEvent
from bucky.dicom.identity import Identity
from bucky.settings import Settings
from bucky.store.barrier import NoBarrier
from bucky.store.objects import S3ObjectStore
from edge_scp.metrics import UploaderMetrics
from edge_scp.spool.disk import Disk
from edge_scp.upload.dependency import Dependency
from edge_scp.upload.uploader import Uploader
from local_stack.servers import REPOSITORY, built
from tests.support.edge.spool_world import SpoolWorld
from tests.support.servers import STORES, make_nats, make_store

# The object stores, as `make_store` knows them.
_TOOLS = {"SeaweedFS": "seaweedfs", "Versity S3 Gateway": "versitygw", "MinIO": "minio"}

Put = Callable[[str, bytes], None]


@dataclass(frozen=True)
class Run:
    """What one run did."""

    count: int
    wall_seconds: float
    cpu_seconds: float


class Stopwatch:
    """Measures a number of instances or events from when it is made."""

    def __init__(self) -> None:
        self._wall, self._cpu = time.monotonic(), time.process_time()

    def stop(self, count: int) -> Run:
        """Return what was measured."""
        return Run(count, time.monotonic() - self._wall, time.process_time() - self._cpu)


def main() -> None:
    """Measure and show."""
    options = _options()
    log.configure("error")
    console = Console(width=None if sys.stdout.isatty() else 120)
    sizes = [int(size) for size in options.sizes.split(",")]
    in_flight = [int(number) for number in options.in_flight.split(",")]
    for store in _stores(console) if {"put", "uploader"} & set(options.parts) else ():
        with _settings(store) as settings:
            for size in sizes if "put" in options.parts else ():
                _show(console, f"PUT, {store}, {size:,} bytes", _puts(settings, size, in_flight, options))
            if "uploader" in options.parts:
                title = f"uploader, {store}, {sizes[-1]:,} bytes"
                _show(console, title, _uploaders(settings, sizes[-1], in_flight, options))
    if "publish" not in options.parts:
        return
    with _broker() as settings:
        _show(console, "publish and await acknowledgements", asyncio.run(_publishes(settings, options)))


def _puts(settings: Settings, size: int, in_flight: list[int], options: argparse.Namespace) -> dict[str, list[Run]]:
    rows: dict[str, list[Run]] = {}
    content = secrets.token_bytes(size)
    for threads in in_flight:
        for _ in range(options.rounds):
            for name, put in _clients(settings).items():
                wait_for_calm(options.patience)
                rows.setdefault(f"{threads:3} in flight: {name}", []).append(
                    _put_all(put, content, threads, options.count)
                )
    return rows


def _put_all(put: Put, content: bytes, threads: int, count: int) -> Run:
    with ThreadPoolExecutor(threads) as pool:
        # Connections, first.
        list(pool.map(lambda number: put(f"warm/{number}", content), range(threads)))
        watch = Stopwatch()
        list(pool.map(lambda _: put(f"bench/{secrets.token_hex(8)}", content), range(count)))
        return watch.stop(count)


def _clients(settings: Settings) -> dict[str, Put]:
    """Return ours, with each checksum, and the client that was used before, which hashes in Python."""

    def ours(checksum: str) -> Put:
        store = S3ObjectStore(settings.model_copy(update={"store_checksum": checksum}))
        return lambda key, content: store.put(key, io.BytesIO(content), len(content))

    # As it was used: with a pool as large as what is in flight.
    other = Minio(
        urlsplit(settings.store_endpoint).netloc,
        access_key=settings.store_access_key.get_secret_value(),
        secret_key=settings.store_secret_key.get_secret_value(),
        secure=False,
        region=settings.store_region,
        http_client=urllib3.PoolManager(maxsize=64, timeout=60, retries=False),
    )

    def minio(key: str, content: bytes) -> None:
        other.put_object(settings.store_bucket, key, io.BytesIO(content), len(content))

    return {"obstore, CRC64NVME": ours("crc64nvme"), "obstore, SHA-256": ours("sha256"), "minio-py, SHA-256": minio}


def _uploaders(
    settings: Settings, size: int, in_flight: list[int], options: argparse.Namespace
) -> dict[str, list[Run]]:
    rows: dict[str, list[Run]] = {}
    with _broker() as broker:
        together = settings.model_copy(
            update={name: getattr(broker, name) for name in ("nats_url", "nats_user", "nats_password")}
        )
        for concurrency in in_flight:
            for _ in range(options.rounds):
                wait_for_calm(options.patience)
                run = asyncio.run(_upload_all(together, concurrency, size, options.count))
                rows.setdefault(f"{concurrency:3} in flight", []).append(run)
    return rows


class _UnsyncedDisk(Disk):
    """A disk that nothing waits for: what fills the spool is not measured."""

    def sync_file_system(self, descriptor: int) -> None:
        """Leave it to the operating system."""


async def _upload_all(settings: Settings, concurrency: int, size: int, count: int) -> Run:
    """Empty a spool that was filled before."""
    client = await connect(settings, "bench")
    await ensure_streams(client.jetstream())
    objects = S3ObjectStore(settings)
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(concurrency + 8))

    async def nothing() -> None:
        return None

    with tempfile.TemporaryDirectory(dir=_folder()) as folder:
        world = SpoolWorld(Path(folder), max_bytes=1 << 40, disk=_UnsyncedDisk())
        for number in range(count):
            identity = Identity("1.2.840.10008.5.1.4.1.1.2", f"1.2.3.{number}", "1.2.3", "1.2.33")
            world.keep(secrets.token_bytes(size), identity)
        uploader = Uploader(
            world.spool,
            objects,
            BatchPublisher(client),
            NoBarrier(),
            UploaderMetrics(),
            store=Dependency("store", lambda: asyncio.to_thread(objects.ensure_bucket)),
            broker=Dependency("broker", nothing),
            bucket=settings.store_bucket,
            concurrency=concurrency,
        )
        watch = Stopwatch()
        task = asyncio.create_task(uploader.run())
        while world.spool.instances:  # noqa: ASYNC110 - released by a thread
            await asyncio.sleep(0.01)
        run = watch.stop(count)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        world.close()
    await disconnect(client)
    return run


async def _publishes(settings: Settings, options: argparse.Namespace) -> dict[str, list[Run]]:
    client = await connect(settings, "bench")
    await ensure_streams(client.jetstream())
    publishers: dict[str, Publisher] = {
        "single publishes": JetStreamPublisher(client.jetstream()),
        "atomic batches": BatchPublisher(client),
    }
    rows: dict[str, list[Run]] = {}
    for at_once in (1, 8, 16, 32, 100, 500):
        for _ in range(options.rounds):
            for name, publisher in publishers.items():
                wait_for_calm(options.patience)
                run = await _publish_for(publisher.publish, at_once, 1.0)
                rows.setdefault(f"{at_once:3} in flight: {name}", []).append(run)
    await disconnect(client)
    return rows


async def _publish_for(publish: Callable[[CloudEvent], Awaitable[None]], at_once: int, seconds: float) -> Run:
    count = 0
    watch, until = Stopwatch(), time.monotonic() + seconds

    async def work() -> None:
        nonlocal count
        while time.monotonic() < until:
            data = {"text": "x" * 800}
            await publish(
                CloudEvent(id=secrets.token_hex(32), source="/bench", type="dicom.instance.stored", data=data)
            )
            count += 1

    await asyncio.gather(*(work() for _ in range(at_once)))
    return watch.stop(count)


def _show(console: Console, title: str, rows: dict[str, list[Run]]) -> None:
    """Print medians, and how each compares with the first row of its kind."""
    table = Table(title=title, title_justify="left", title_style="bold", header_style="dim")
    table.add_column("")
    for column in ("per second", "ratio", "CPU ms each", "ratio"):
        table.add_column(column, justify="right")
    first: dict[str, tuple[float, float]] = {}
    for name, runs in rows.items():
        rate = statistics.median(run.count / run.wall_seconds for run in runs)
        cpu = statistics.median(1000 * run.cpu_seconds / run.count for run in runs)
        group = name.partition(":")[0] if ":" in name else ""
        first_rate, first_cpu = first.setdefault(group, (rate, cpu))
        table.add_row(name, f"{rate:,.0f}", f"{rate / first_rate:.2f}", f"{cpu:.3f}", f"{cpu / first_cpu:.2f}")
    console.print(table)


def _stores(console: Console) -> list[str]:
    missing = {name: tool for name, tool in _TOOLS.items() if tool in STORES and built(tool) is None}
    for name, tool in missing.items():
        console.print(f"[red]{name} is left out: it was not built (tools/build {tool})")
    return [name for name in _TOOLS if name not in missing]


@contextlib.contextmanager
def _settings(store: str) -> Iterator[Settings]:
    """Run a store for a while."""
    with tempfile.TemporaryDirectory(dir=_folder()) as folder:
        server, settings = make_store(Path(folder), _TOOLS[store])
        try:
            S3ObjectStore(settings).ensure_bucket()
            yield settings
        finally:
            server.stop()


@contextlib.contextmanager
def _broker() -> Iterator[Settings]:
    with tempfile.TemporaryDirectory(dir=_folder()) as folder:
        server, settings = make_nats(Path(folder))
        try:
            yield settings
        finally:
            server.stop()


def _folder() -> Path:
    """Return a folder on the disk: what is under /tmp may be in memory."""
    folder = REPOSITORY / ".cache" / "bench"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.upload", description=__doc__)
    parser.add_argument("parts", nargs="*", default=["put", "uploader", "publish"], help="put, uploader, publish: all")
    parser.add_argument("--sizes", default="20000,524288", help="bytes of an instance; the last also for the uploader")
    parser.add_argument("--in-flight", default="1,4,8,16", help="uploads at once")
    parser.add_argument("--count", type=int, default=200, help="instances of each run")
    parser.add_argument("--rounds", type=int, default=3, help="runs, of which the median is shown")
    parser.add_argument("--patience", type=float, default=1.0, help="seconds to wait for calm before each run")
    return parser.parse_args()


if __name__ == "__main__":
    main()
