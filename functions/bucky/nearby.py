"""Copies of what was stored just now, on the machine it came in at (docs/adr/0024).

The edge leaves each instance it has uploaded in a folder, under the last part of its key; functions on the same
machine read it there, and spare the object store two reads of nearly every instance. A copy is never more than
that: it may be missing at any time, and where it is, or is not what was asked for, the object store is asked.
"""

import contextlib
import os
import re
import threading
from collections.abc import Callable
from pathlib import Path

from bucky.objects import S3ObjectStore
from bucky.settings import Settings

_COPY = re.compile(r"[0-9a-f]{64}\.dcm")


class NearbyFirst(S3ObjectStore):
    """An S3 bucket that looks for a copy on this machine before it asks the server; `stored` never does."""

    def __init__(self, settings: Settings, folder: Path) -> None:
        super().__init__(settings)
        self.stored = S3ObjectStore(settings)
        self._folder = folder

    def get(self, key: str, offset: int = 0, length: int = 0) -> bytes:
        """Return part of an object; only a read of known length can be served from a copy."""
        found = self._read(key, offset, length) if length else b""
        return found if found and len(found) == length else self.stored.get(key, offset, length)

    def _read(self, key: str, offset: int, length: int) -> bytes:
        with contextlib.suppress(OSError):
            descriptor = os.open(self._folder / copy_name(key), os.O_RDONLY | os.O_CLOEXEC)
            try:
                return os.pread(descriptor, length, offset)
            finally:
                os.close(descriptor)
        return b""


class NearbyCopies:
    """The folder as the edge keeps it: at most `max_bytes`, the oldest go first, and none while the disk is short."""

    def __init__(self, folder: Path, max_bytes: int, min_free_bytes: int) -> None:
        self._folder, self._max_bytes, self._min_free_bytes = folder, max_bytes, min_free_bytes
        self._guard = threading.Lock()
        # The oldest first.
        self._sizes: dict[Path, int] = {}
        self._bytes = 0

    def open(self) -> None:
        """Make the folder, and remove the copies that a predecessor left; raise `OSError`."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for left in self._folder.iterdir():
            if _COPY.fullmatch(left.name):
                left.unlink(missing_ok=True)

    def keep(self, key: str, size: int, make: Callable[[Path], None]) -> None:
        """Have a copy made, a file of `size` bytes that begins with an object's bytes; raise `OSError`."""
        copy = self._folder / copy_name(key)
        with self._guard:
            if self._made_room(copy, size):
                make(copy)

    def _made_room(self, copy: Path, size: int) -> bool:
        if copy in self._sizes:
            return False
        space = os.statvfs(self._folder)
        room = self._max_bytes if space.f_bavail * space.f_frsize > self._min_free_bytes + self._max_bytes else 0
        while self._sizes and self._bytes + size > room:
            oldest = next(iter(self._sizes))
            self._bytes -= self._sizes.pop(oldest)
            oldest.unlink(missing_ok=True)
        if self._bytes + size > room:
            return False
        self._sizes[copy] = size
        self._bytes += size
        return True


def copy_name(key: str) -> str:
    """Return the name of an object's copy: its digest, which no two objects share."""
    return key.rpartition("/")[2]
