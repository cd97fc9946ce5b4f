"""Slots: places of 1 MiB, in one file whose blocks exist already, for instances that fit (docs/adr/0025).

    header     one block: the 8 bytes `BUCKYTR1`, when it was received in nanoseconds since 1970 (uint64), the record's
              length (uint64), CRC-32 of these (uint32); zeros in a slot that is empty
    record    as `record` has it

A receiver's fast path writes the record and then the header, past the page cache, and each is on the disk when
that has ended: no name, size or journal changes. The uploader empties a slot by writing zeros over its header.
Who has a slot stands on a page that all processes share; one process at a time may change what it says of a slot.
"""

import errno
import io
import mmap
import os
import struct
import zlib
from collections.abc import Callable, Iterator
from enum import IntEnum
from importlib.util import find_spec
from pathlib import Path

from bucky.settings import Settings
from edge_scp.spool.entry import Entry

SLOT_BYTES = 1024 * 1024
HEADER_BYTES = 4096
SUFFIX = ".slot"
_MAGIC = b"BUCKYTR1"
_LABEL = struct.Struct("<8sQQI")
# Slots that are prepared by one write.
_AT_ONCE = 8


class SlotState(IntEnum):
    """What the page says of a slot; from OWNED on, by how much more: the receiver's worker id in the counters."""

    ABSENT = 0  # there is no such slot, or none that may be used
    FREE = 1  # for the receiver whose it is to take
    HELD = 2  # found when the edge started, or a receiver's that is gone
    BROKEN = 3  # what is on the disk is not known until the edge starts again
    OWNED = 16


def wanted(settings: Settings) -> int:
    """Return how many slots the receivers can use: none without the fast path, which alone writes to them."""
    if not settings.edge_fast_path or find_spec("edge_scp._express") is None:
        return 0
    return min(settings.spool_slots, settings.spool_max_bytes // SLOT_BYTES)


class Slots:
    """The slots of a spool, as all but the receivers see them."""

    def __init__(self, path: Path, page: int) -> None:
        self._states = memoryview(mmap.mmap(page, 0))
        self._reading = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        os.posix_fadvise(self._reading, 0, 0, os.POSIX_FADV_RANDOM)
        self._writing = os.open(path, os.O_WRONLY | os.O_DIRECT | os.O_DSYNC | os.O_CLOEXEC)
        self._empty = mmap.mmap(-1, HEADER_BYTES)

    @classmethod
    def start(cls, path: Path, count: int) -> "tuple[Slots | None, int]":
        """Open the slots when the edge starts; return them, and their page's descriptor for the other processes.

        None where there are none and shall be none, or where the file system cannot write past its cache.
        """
        page = os.memfd_create("bucky-spool-slots")
        if not count and not path.exists():
            return None, page
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
        there = path.stat().st_size // SLOT_BYTES
        try:
            os.ftruncate(page, max(count, there))
            slots = cls(path, page)
        except OSError:
            os.ftruncate(page, 0)
            return None, page
        used = [index for index in range(there) if slots._label(index) is not None]
        for index in range(min(there, count)):
            slots._states[index] = SlotState.FREE
        for index in used:
            slots._states[index] = SlotState.HELD
        os.truncate(path, min(there, max([count, *(index + 1 for index in used)])) * SLOT_BYTES)
        return slots, page

    @classmethod
    def shared(cls, path: Path, page: int) -> "Slots | None":
        """Open what the edge's first process started."""
        return cls(path, page) if os.fstat(page).st_size else None

    def prepare(self, count: int, room: Callable[[], bool]) -> None:
        """Write the slots that are not there yet, until there is no room for more."""
        zeros = mmap.mmap(-1, _AT_ONCE * SLOT_BYTES)
        there = os.fstat(self._writing).st_size // SLOT_BYTES
        for index in range(min(there, count)):
            if self._states[index] == SlotState.ABSENT:
                # Written by an uploader that did not live to say so.
                self._states[index] = SlotState.FREE
        for first in range(there, count, _AT_ONCE):
            if not room():
                return
            slots = min(_AT_ONCE, count - first)
            written = os.pwrite(self._writing, memoryview(zeros)[: slots * SLOT_BYTES], first * SLOT_BYTES)
            for index in range(first, first + written // SLOT_BYTES):
                self._states[index] = SlotState.FREE

    @property
    def free(self) -> int:
        """Return how many slots are free."""
        return bytes(self._states).count(SlotState.FREE)

    def found(self) -> Iterator[Entry]:
        """Iterate over what is in slots."""
        for index, state in enumerate(bytes(self._states)):
            if state in (SlotState.ABSENT, SlotState.FREE):
                continue
            header = self._label(index)
            if header is not None:
                yield Entry(f"{header[0]:020d}-{index}{SUFFIX}", header[1], verified=False)
            elif state == SlotState.HELD:
                # It was emptied by an uploader that did not live to say so.
                self._states[index] = SlotState.FREE

    def reclaim(self, worker_id: int) -> None:
        """Take over the slots of a receiver that is gone; what it had not finished was not acknowledged."""
        for index, state in enumerate(bytes(self._states)):
            if state == SlotState.OWNED + worker_id:
                self._states[index] = SlotState.FREE if self._label(index) is None else SlotState.HELD

    def holds(self, entry: Entry) -> bool:
        """Tell whether an entry is still in its slot."""
        return self._label(_index(entry)) == (entry.received_ns, entry.size)

    def open(self, entry: Entry) -> io.BytesIO:
        """Return an entry's record, read at once; raise `FileNotFoundError` when it is not in its slot any more."""
        if not self.holds(entry):
            raise FileNotFoundError(errno.ENOENT, "the slot does not hold it any more", entry.name)
        return io.BytesIO(os.pread(self._reading, entry.size, _index(entry) * SLOT_BYTES + HEADER_BYTES))

    def release(self, entry: Entry) -> None:
        """Empty an entry's slot, unless it holds another by now; it is free when that is on the disk."""
        index = _index(entry)
        if not self.holds(entry):
            return
        os.pwrite(self._writing, self._empty, index * SLOT_BYTES)
        os.posix_fadvise(self._reading, index * SLOT_BYTES, SLOT_BYTES, os.POSIX_FADV_DONTNEED)
        self._states[index] = SlotState.FREE

    def close(self) -> None:
        """Close the file; what is in it stays."""
        for descriptor in (self._reading, self._writing):
            os.close(descriptor)

    def _label(self, index: int) -> tuple[int, int] | None:
        """Return when what is in a slot was received and how long it is; None if nothing is."""
        header = os.pread(self._reading, _LABEL.size, index * SLOT_BYTES)
        if len(header) < _LABEL.size:
            return None
        magic, when, size, checksum = _LABEL.unpack(header)
        whole = magic == _MAGIC and checksum == zlib.crc32(header[:-4]) and size <= SLOT_BYTES - HEADER_BYTES
        return (when, size) if whole else None


def _index(entry: Entry) -> int:
    return int(entry.name.removesuffix(SUFFIX).rpartition("-")[2])
