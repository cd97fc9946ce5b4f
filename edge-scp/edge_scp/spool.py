"""The durable spool: what the edge acknowledged and has not yet released.

    incoming/    being written, never acknowledged: deleted at start
    ready/       acknowledged; `<received, ns>-<random>.dcm`, so names sort by age
    quarantine/  what could not be trusted or stored, each with a `.reason`
    lock         held by the one process that owns the folder

An instance is acknowledged after: file fsync, rename into `ready/`, fsync of `ready/`.
"""

import errno
import fcntl
import secrets
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from bucky.errors import SettingsError
from bucky.part10 import FileMeta
from bucky.settings import Settings
from edge_scp.capacity import Capacity
from edge_scp.disk import Disk
from edge_scp.spool_writer import SpoolWriter


@dataclass(frozen=True, slots=True)
class Entry:
    """One acknowledged file; `size` is in bytes; `verified` is false for one found at start."""

    name: str
    size: int
    verified: bool

    @property
    def received_ns(self) -> int:
        """Return when it was received, in nanoseconds since 1970."""
        return int(self.name.partition("-")[0])


@dataclass(frozen=True, slots=True)
class SpoolState:
    """The spool at one moment: files, bytes, age of the oldest in seconds, and whether it takes more."""

    instances: int
    bytes: int
    oldest_seconds: float
    quarantined: int
    accepting: bool


class Spool:
    """The spool folder; safe to use from many threads."""

    def __init__(self, folder: Path, max_bytes: int, min_free_bytes: int, disk: Disk | None = None) -> None:
        self._disk = disk or Disk()
        self._folder = folder
        self._incoming = folder / "incoming"
        self._ready = folder / "ready"
        self._quarantine = folder / "quarantine"
        self._capacity = Capacity(max_bytes, min_free_bytes, lambda: self._disk.free_bytes(folder))
        self._guard = threading.Lock()
        self._entries: dict[str, Entry] = {}
        self._waiting: deque[Entry] = deque()
        self._quarantined = 0
        self._lock_file: IO[bytes] | None = None
        self.on_ready: Callable[[], object] = lambda: None

    @classmethod
    def of(cls, settings: Settings) -> "Spool":
        """Return the spool the settings describe."""
        return cls(settings.spool_dir, settings.spool_max_bytes, settings.spool_min_free_bytes)

    def open(self) -> None:
        """Take the folder, delete what was never acknowledged, and queue what was, oldest first."""
        try:
            self._make_folders()
        except OSError as error:
            raise SettingsError(f"BUCKY_SPOOL_DIR: cannot use {self._folder}: {error.strerror}") from error
        self._lock()
        for leftover in self._incoming.iterdir():
            self._disk.unlink(leftover)
        for path in sorted(self._ready.glob("*.dcm")):
            self._queue(Entry(path.name, path.stat().st_size, verified=False))
        for entry in self._waiting:
            self._capacity.adopt(entry.size)
        self._quarantined = sum(1 for _ in self._quarantine.glob("*.dcm"))

    def close(self) -> None:
        """Let another process take the folder."""
        if self._lock_file is not None:
            self._lock_file.close()

    def begin(self, meta: FileMeta, expected_bytes: int = 0) -> SpoolWriter:
        """Start an instance whose data set has about so many bytes; raise `SpoolFull` when there is no room."""
        name = f"{time.time_ns():020d}-{secrets.token_hex(8)}.dcm"
        return SpoolWriter(
            self._disk,
            self._capacity,
            incoming=self._incoming / name,
            ready=self._ready / name,
            meta=meta,
            expected_bytes=expected_bytes,
            on_commit=lambda size: self._committed(Entry(name, size, verified=True)),
        )

    def path(self, entry: Entry) -> Path:
        """Return where an entry's file is."""
        return self._ready / entry.name

    def take(self) -> Entry | None:
        """Return the entry that has waited longest, or None; it stays in the spool until released."""
        with self._guard:
            return self._waiting.popleft() if self._waiting else None

    def give_back(self, entry: Entry) -> None:
        """Queue an entry again, behind those that wait."""
        with self._guard:
            self._waiting.append(entry)
        self.on_ready()

    def release(self, entry: Entry) -> None:
        """Delete an entry that is safe elsewhere."""
        self._disk.unlink(self.path(entry))
        self._forget(entry)

    def set_aside(self, entry: Entry, reason: str) -> None:
        """Move an entry to the quarantine with the reason; nothing is deleted."""
        target = self._quarantine / entry.name
        self._disk.rename(self.path(entry), target)
        self._disk.sync_folder(self._quarantine)
        self._forget(entry)
        with self._guard:
            self._quarantined += 1
        target.with_suffix(".reason").write_text(reason + "\n", encoding="utf-8")

    def state(self) -> SpoolState:
        """Return the spool as it is now."""
        with self._guard:
            oldest = next(iter(self._entries.values()), None)
            instances, quarantined = len(self._entries), self._quarantined
        age = 0.0 if oldest is None else max(0.0, (time.time_ns() - oldest.received_ns) / 1e9)
        return SpoolState(instances, self._capacity.held, age, quarantined, self._capacity.has_room)

    def _committed(self, entry: Entry) -> None:
        self._queue(entry)
        self.on_ready()

    def _queue(self, entry: Entry) -> None:
        with self._guard:
            self._entries[entry.name] = entry
            self._waiting.append(entry)

    def _forget(self, entry: Entry) -> None:
        with self._guard:
            self._entries.pop(entry.name, None)
        self._capacity.release(entry.size)

    def _make_folders(self) -> None:
        for folder in (self._incoming, self._ready, self._quarantine):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._disk.sync_folder(self._folder)

    def _lock(self) -> None:
        self._lock_file = (self._folder / "lock").open("ab")
        try:
            fcntl.flock(self._lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._lock_file.close()
            if error.errno not in {errno.EWOULDBLOCK, errno.EACCES}:
                raise
            raise SettingsError(
                f"BUCKY_SPOOL_DIR: another edge uses {self._folder}; stop it or choose another folder"
            ) from None
