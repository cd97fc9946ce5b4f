"""When an upload counts as durable: an S3 server's `200` often comes before its fsync.

Until the barrier has passed, the edge's spool keeps its copy, and what a function made is not announced. After
a restart whatever is not announced is uploaded again, so no barrier has state to lose.
"""

import asyncio
import ctypes
import errno
import os
import time
from pathlib import Path
from typing import Protocol

from bucky.errors import SettingsError
from bucky.settings import Settings

_LIBC = ctypes.CDLL(None, use_errno=True)


class Barrier(Protocol):
    """Waits until uploads are durable."""

    async def passed(self, uploaded_at: float) -> None:
        """Return once all uploads that ended by `uploaded_at` (monotonic seconds) are durable."""


class NoBarrier:
    """For a store whose `200` is durable, as AWS S3's is."""

    async def passed(self, uploaded_at: float) -> None:
        """Return at once."""


class DelayBarrier:
    """Keeps each upload for a while: longer than the store takes to write back its cache."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    async def passed(self, uploaded_at: float) -> None:
        """Return when the delay since the upload is over."""
        await asyncio.sleep(max(0.0, uploaded_at + self._seconds - time.monotonic()))


class SyncFsBarrier:
    """Syncs the store's file system, once for all uploads that wait (Linux, syncfs(2))."""

    def __init__(self, path: Path) -> None:
        self._path = path

    async def passed(self, uploaded_at: float) -> None:  # noqa: ARG002 - all that is written is synced
        """Return when the file system is on the disk; raise `OSError` when it says otherwise."""
        await asyncio.to_thread(self._sync)

    def _sync(self) -> None:
        descriptor = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            if _LIBC.syncfs(descriptor) != 0:
                number = ctypes.get_errno() or errno.EIO
                raise OSError(number, os.strerror(number))
        finally:
            os.close(descriptor)


def barrier_of(settings: Settings) -> Barrier:
    """Return the barrier the settings ask for; raise `SettingsError` when its path is missing."""
    if settings.store_barrier == "none":
        return NoBarrier()
    if settings.store_barrier == "delay":
        return DelayBarrier(settings.store_barrier_seconds)
    if settings.store_barrier_path is None or not settings.store_barrier_path.exists():
        raise SettingsError("BUCKY_STORE_BARRIER_PATH: the barrier `syncfs` needs a path on the store's disk")
    return SyncFsBarrier(settings.store_barrier_path)
