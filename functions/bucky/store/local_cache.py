"""Objects as files on the machine they came in at, which spares the object store two reads of nearly every instance.

Either the object store is a gateway over a file system of this machine: then its own files are read (docs/adr/0027).
Or the edge leaves a copy of each instance it has uploaded in a folder, under the last part of its key (docs/adr/0024).
Neither is more than a shortcut: a file may be missing at any time, and where it is, or is not what was asked for, the
object store is asked.
"""

import contextlib
import os
import re
import threading
from collections.abc import Callable
from pathlib import Path

from bucky.settings import Settings
from bucky.store.keys import key_parts
from bucky.store.objects import S3ObjectStore

_COPY = re.compile(r"[0-9a-f]{64}\.dcm")


def cached_object_store(settings: Settings) -> S3ObjectStore:
    """Return the bucket, read from the local cache first where the settings name a folder for that."""
    if settings.store_files_dir:
        bucket = settings.store_files_dir / settings.store_bucket
        return CachedObjectStore(settings, lambda key: bucket / key if key_parts(key) else None)
    if settings.local_cache_dir:
        copies = settings.local_cache_dir
        return CachedObjectStore(settings, lambda key: copies / copy_name(key))
    return S3ObjectStore(settings)


class CachedObjectStore(S3ObjectStore):
    """An S3 bucket that looks for a file on this machine before it asks the server; `stored` never does.

    `find` says where the file of a key would be, None for nowhere.
    """

    def __init__(self, settings: Settings, find: Callable[[str], Path | None]) -> None:
        super().__init__(settings)
        self.stored = S3ObjectStore(settings)
        self._find = find

    def get(self, key: str, offset: int = 0, length: int = 0) -> bytes:
        """Return part of an object; only a read of known length can be served from a file."""
        found = self._read(key, offset, length) if length else b""
        return found if found and len(found) == length else self.stored.get(key, offset, length)

    def _read(self, key: str, offset: int, length: int) -> bytes:
        path = self._find(key)
        if path is None:
            return b""
        with contextlib.suppress(OSError):
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                return os.pread(descriptor, length, offset)
            finally:
                os.close(descriptor)
        return b""


class LocalCache:
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
