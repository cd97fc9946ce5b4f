"""Reading headers, many at a time: in threads of this process, or in processes of their own.

Parsing a header takes longer than fetching it, and threads of one process do not parse side by side.
"""

import multiprocessing
import os
import threading
from collections.abc import Sequence
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing.connection import wait
from types import TracebackType
from typing import Protocol, Self

from bucky.index import InstanceRows
from bucky.settings import Settings
from bucky.store.objects import ObjectStore, S3ObjectStore
from keeper.bucket_studies import InstanceObject, read_instance

# Measured: `python -m bench.reindex --reads 0x8 1x4 2x2 2x4 4x4`.
PROCESSES = os.cpu_count() or 1
THREADS = 4

Rows = list[InstanceRows | None]


class Reader(Protocol):
    """Reads objects; None stands for one that is no DICOM file or is not there any more."""

    def read(self, objects: Sequence[InstanceObject]) -> Future[Rows]:
        """Begin to read these together."""

    def __enter__(self) -> Self:
        """Return itself."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Give up what was not read."""


class DirectReader:
    """Reads in threads of this process."""

    def __init__(self, objects: ObjectStore, bucket: str, threads: int = THREADS) -> None:
        self._objects, self._bucket = objects, bucket
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="read")

    def read(self, objects: Sequence[InstanceObject]) -> Future[Rows]:
        """Begin to read these, one after the other."""
        return self._pool.submit(lambda: [_read(self._objects, one, self._bucket) for one in objects])

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.shutdown(cancel_futures=True)


class ProcessReader:
    """Reads in processes, each with some threads, so that it parses while it waits for the store."""

    def __init__(self, settings: Settings, processes: int = PROCESSES, threads: int = THREADS) -> None:
        self._pool = ProcessPoolExecutor(
            processes,
            mp_context=multiprocessing.get_context("spawn"),
            initializer=_begin_process,
            initargs=(settings, threads),
        )

    def read(self, objects: Sequence[InstanceObject]) -> Future[Rows]:
        """Begin to read these in one of the processes."""
        return self._pool.submit(_read_in_process, objects)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.shutdown(cancel_futures=True)


def _read(objects: ObjectStore, one: InstanceObject, bucket: str) -> InstanceRows | None:
    read = read_instance(objects, one, bucket)
    return None if read is None else InstanceRows.of(read)


_process: "tuple[ObjectStore, str, ThreadPoolExecutor] | None" = None
"""What a reading process works with; the pool gives its functions no other way to keep anything."""


def _begin_process(settings: Settings, threads: int) -> None:
    global _process
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _process = S3ObjectStore(settings), settings.store_bucket, ThreadPoolExecutor(threads)


def _end_with_parent() -> None:
    """End when the parent was killed: the pool's own processes would wait for ever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)


def _read_in_process(objects: Sequence[InstanceObject]) -> Rows:
    if _process is None:
        raise RuntimeError("the reading process was not begun")
    store, bucket, pool = _process
    return list(pool.map(lambda one: _read(store, one, bucket), objects))
