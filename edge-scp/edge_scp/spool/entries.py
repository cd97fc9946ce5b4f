"""The spool as the uploader sees it: what the edge acknowledged and has not yet released, oldest first."""

import contextlib
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

from edge_scp.spool.capacity import Notified, SharedCounters
from edge_scp.spool.disk import Disk
from edge_scp.spool.entry import Entry
from edge_scp.spool.folder import SpoolFolder
from edge_scp.spool.notifications import Ended, Spooled
from edge_scp.spool.slots import SUFFIX, Slots


class Spool:
    """The entries of a spool, in files or slots; one process uses it, from any of its threads."""

    def __init__(
        self, folder: SpoolFolder, counters: SharedCounters, disk: Disk | None = None, slots: Slots | None = None
    ) -> None:
        self._disk, self._slots = disk or Disk(), slots
        self._folder, self._counters = folder, counters
        self._guard = threading.Lock()
        self._entries: dict[str, Entry] = {}
        self._waiting: deque[Entry] = deque()
        self._bytes = self._quarantined = 0
        self._missed = 0
        self.on_ready: Callable[[], object] = lambda: None

    def open(self) -> int:
        """Queue what is in the folder, oldest first, and return how many that is."""
        self._quarantined = sum(1 for _ in self._folder.quarantine.glob("*.dcm"))
        self._look()
        return len(self._entries)

    def arrived(self, announcements: Iterable[Spooled | Ended]) -> None:
        """Queue what receivers announced; look into the folder where they could not."""
        adopted: dict[int, Notified] = {}
        arrived: list[Entry] = []
        for announcement in announcements:
            if isinstance(announcement, Ended):
                self._look()
                if self._slots is not None:
                    self._slots.reclaim(announcement.worker_id)
                self._counters.adopt_all(announcement.worker_id)
            else:
                arrived.append(Entry(announcement.name, announcement.size, verified=True))
                adopted[announcement.worker_id] = announcement.announced
        self._queue(arrived)
        for worker_id, announced in adopted.items():
            self._counters.adopt(worker_id, announced)
        if self._missed != self._counters.missed:
            self._look()
        self.on_ready()

    def open_record(self, entry: Entry) -> BinaryIO:
        """Return an entry's record, as a file; from a slot, as one in memory."""
        slots = self._slots_of(entry)
        return self.path(entry).open("rb") if slots is None else slots.open(entry)

    def copy(self, entry: Entry, record: BinaryIO, target: Path) -> None:
        """Have an entry's open record in another file: by another name for its own, or written there, not synced."""
        if isinstance(record, BytesIO):
            with target.open("xb", buffering=0) as copy:
                copy.write(record.getbuffer())
        else:
            target.hardlink_to(self.path(entry))

    def path(self, entry: Entry) -> Path:
        """Return where the file of an entry is that is in no slot."""
        return self._folder.ready / entry.name

    @property
    def instances(self) -> int:
        """Return how many entries there are."""
        return len(self._entries)

    @property
    def waiting(self) -> int:
        """Return how many entries nobody has taken yet."""
        return len(self._waiting)

    def take(self) -> Entry | None:
        """Return the entry that has waited longest, or None; it stays in the spool until released."""
        with self._guard:
            return self._waiting.popleft() if self._waiting else None

    def give_back(self, entry: Entry) -> None:
        """Queue an entry again, behind those that wait."""
        slots = self._slots_of(entry)
        if not (self.path(entry).exists() if slots is None else slots.holds(entry)):
            # Its sync failed after it was found in the folder; its sender was told to send it again.
            self._forget(entry)
            return
        with self._guard:
            self._waiting.append(entry)
        self.on_ready()

    def release(self, entry: Entry) -> None:
        """Delete an entry that is safe elsewhere."""
        slots = self._slots_of(entry)
        if slots is None:
            self._disk.unlink(self.path(entry))
        else:
            slots.release(entry)
        self._forget(entry)

    def set_aside(self, entry: Entry, reason: str) -> None:
        """Move an entry to the quarantine with the reason; nothing is deleted."""
        target = (self._folder.quarantine / entry.name).with_suffix(".dcm")
        slots = self._slots_of(entry)
        if slots is None:
            self._disk.rename(self.path(entry), target)
        else:
            with slots.open(entry) as record:
                self._disk.copy(record, target)
        target.with_suffix(".reason").write_text(reason + "\n", encoding="utf-8")
        self._folder.sync(self._folder.quarantine)
        if slots is not None:
            slots.release(entry)
        with self._guard:
            self._quarantined += 1
        self._forget(entry)

    def _look(self) -> None:
        """Queue whatever is in the folder and is not known yet, oldest first."""
        announced_by, self._missed = self._counters.all_announced(), self._counters.missed
        self._queue(sorted(self._found(), key=lambda entry: entry.name))
        # What was announced before the look is in the folder, or was in it and is known.
        for worker_id, announced in enumerate(announced_by):
            self._counters.adopt(worker_id, announced)

    def _slots_of(self, entry: Entry) -> Slots | None:
        return self._slots if entry.name.endswith(SUFFIX) else None

    def _found(self) -> Iterator[Entry]:
        if self._slots is not None:
            yield from self._slots.found()
        with os.scandir(self._folder.ready) as files:
            for file in files:
                if file.name.endswith(".dcm") and file.name not in self._entries:
                    # Released meanwhile, it is gone.
                    with contextlib.suppress(FileNotFoundError):
                        yield Entry(file.name, file.stat().st_size, verified=False)

    def _queue(self, entries: Iterable[Entry]) -> None:
        with self._guard:
            for entry in entries:
                if entry.name not in self._entries:
                    self._entries[entry.name] = entry
                    self._waiting.append(entry)
                    self._bytes += entry.size
            self._note()

    def _forget(self, entry: Entry) -> None:
        with self._guard:
            if self._entries.pop(entry.name, None) is not None:
                self._bytes -= entry.size
            self._note()

    def _note(self) -> None:
        oldest = next(iter(self._entries.values()), None)
        self._counters.hold(
            instances=len(self._entries),
            size=self._bytes,
            oldest_ns=oldest.received_ns if oldest is not None else 0,
            quarantined=self._quarantined,
        )
