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
    """The entries of a spool, in files or trays; one process uses it, from any of its threads."""

    def __init__(
        self, folder: SpoolFolder, ledger: SharedCounters, disk: Disk | None = None, trays: Slots | None = None
    ) -> None:
        self._disk, self._trays = disk or Disk(), trays
        self._folder, self._ledger = folder, ledger
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
                if self._trays is not None:
                    self._trays.reclaim(announcement.slot)
                self._ledger.adopt_all(announcement.slot)
            else:
                arrived.append(Entry(announcement.name, announcement.size, verified=True))
                adopted[announcement.slot] = announcement.announced
        self._queue(arrived)
        for slot, announced in adopted.items():
            self._ledger.adopt(slot, announced)
        if self._missed != self._ledger.missed:
            self._look()
        self.on_ready()

    def open_record(self, entry: Entry) -> BinaryIO:
        """Return an entry's record, as a file; from a tray, as one in memory."""
        trays = self._trays_of(entry)
        return self.path(entry).open("rb") if trays is None else trays.open(entry)

    def copy(self, entry: Entry, record: BinaryIO, target: Path) -> None:
        """Have an entry's open record in another file: by another name for its own, or written there, not synced."""
        if isinstance(record, BytesIO):
            with target.open("xb", buffering=0) as copy:
                copy.write(record.getbuffer())
        else:
            target.hardlink_to(self.path(entry))

    def path(self, entry: Entry) -> Path:
        """Return where the file of an entry is that is in no tray."""
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
        trays = self._trays_of(entry)
        if not (self.path(entry).exists() if trays is None else trays.holds(entry)):
            # Its sync failed after it was found in the folder; its sender was told to send it again.
            self._forget(entry)
            return
        with self._guard:
            self._waiting.append(entry)
        self.on_ready()

    def release(self, entry: Entry) -> None:
        """Delete an entry that is safe elsewhere."""
        trays = self._trays_of(entry)
        if trays is None:
            self._disk.unlink(self.path(entry))
        else:
            trays.release(entry)
        self._forget(entry)

    def set_aside(self, entry: Entry, reason: str) -> None:
        """Move an entry to the quarantine with the reason; nothing is deleted."""
        target = (self._folder.quarantine / entry.name).with_suffix(".dcm")
        trays = self._trays_of(entry)
        if trays is None:
            self._disk.rename(self.path(entry), target)
        else:
            with trays.open(entry) as record:
                self._disk.copy(record, target)
        target.with_suffix(".reason").write_text(reason + "\n", encoding="utf-8")
        self._folder.sync(self._folder.quarantine)
        if trays is not None:
            trays.release(entry)
        with self._guard:
            self._quarantined += 1
        self._forget(entry)

    def _look(self) -> None:
        """Queue whatever is in the folder and is not known yet, oldest first."""
        slots, self._missed = self._ledger.all_announced(), self._ledger.missed
        self._queue(sorted(self._found(), key=lambda entry: entry.name))
        # What was announced before the look is in the folder, or was in it and is known.
        for slot, announced in enumerate(slots):
            self._ledger.adopt(slot, announced)

    def _trays_of(self, entry: Entry) -> Slots | None:
        return self._trays if entry.name.endswith(SUFFIX) else None

    def _found(self) -> Iterator[Entry]:
        if self._trays is not None:
            yield from self._trays.found()
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
        self._ledger.hold(
            instances=len(self._entries),
            size=self._bytes,
            oldest_ns=oldest.received_ns if oldest is not None else 0,
            quarantined=self._quarantined,
        )
