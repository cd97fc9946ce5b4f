"""Slots: places of 1 MiB, in one file whose blocks are allocated already, for instances that fit (docs/adr/0025).

    header    one block: the 8 bytes `BUCKYTR1`, when the instance was received in nanoseconds since 1970 (uint64), the
              record's length (uint64), CRC-32 of these (uint32); zeros in a slot that is empty
    record    as `record` describes it

A receiver's fast path writes the record and then the header, past the page cache. Each is on the disk when its write
has completed: no name, size or journal changes. The uploader empties a slot by writing zeros over its header. The
owner of each slot is a byte in memory that all processes share; one process at a time may change it.
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
_HEADER = struct.Struct("<8sQQI")
# Slots that are prepared by one write.
_AT_ONCE = 8


class SlotState(IntEnum):
    """The state of a slot. One that is owned has OWNED and, added to it, the receiver's number in shared counters."""

    ABSENT = 0  # there is no such slot, or it may not be used
    FREE = 1  # a receiver may fill it
    HELD = 2  # it was found when the edge started, or left by a receiver that is gone
    BROKEN = 3  # what is on the disk is not known until the edge starts again
    OWNED = 16


def wanted(settings: Settings) -> int:
    """Return how many slots receivers can use: none without the fast path, which alone writes to them."""
    if not settings.edge_fast_path or find_spec("edge_scp._express") is None:
        return 0
    return min(settings.spool_slots, settings.spool_max_bytes // SLOT_BYTES)


class Slots:
    """The slots of a spool, as all processes but the receivers see them."""

    def __init__(self, path: Path, page: int) -> None:
        self._states = memoryview(mmap.mmap(page, 0))
        self._reading = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        os.posix_fadvise(self._reading, 0, 0, os.POSIX_FADV_RANDOM)
        self._writing = os.open(path, os.O_WRONLY | os.O_DIRECT | os.O_DSYNC | os.O_CLOEXEC)
        self._empty = mmap.mmap(-1, HEADER_BYTES)

    @classmethod
    def start(cls, path: Path, count: int) -> "tuple[Slots | None, int]":
        """Open the slots when the edge starts; return them, and for other processes the descriptor of their states.

        Returns None if there are none and none are wanted, or if the file system cannot write past its cache.
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
        used = [index for index in range(there) if slots._header(index) is not None]
        for index in range(min(there, count)):
            slots._states[index] = SlotState.FREE
        for index in used:
            slots._states[index] = SlotState.HELD
        os.truncate(path, min(there, max([count, *(index + 1 for index in used)])) * SLOT_BYTES)
        return slots, page

    @classmethod
    def shared(cls, path: Path, page: int) -> "Slots | None":
        """Open the slots that the edge's first process has started."""
        return cls(path, page) if os.fstat(page).st_size else None

    def prepare(self, count: int, room: Callable[[], bool]) -> None:
        """Allocate the slots that are missing, until there is no room for more."""
        zeros = mmap.mmap(-1, _AT_ONCE * SLOT_BYTES)
        there = os.fstat(self._writing).st_size // SLOT_BYTES
        for index in range(min(there, count)):
            if self._states[index] == SlotState.ABSENT:
                # Allocated by an uploader that was killed before it said so.
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
        """Iterate over the entries in slots."""
        for index, state in enumerate(bytes(self._states)):
            if state in (SlotState.ABSENT, SlotState.FREE):
                continue
            header = self._header(index)
            if header is not None:
                yield Entry(f"{header[0]:020d}-{index}{SUFFIX}", header[1], verified=False)
            elif state == SlotState.HELD:
                # Emptied by an uploader that was killed before it said so.
                self._states[index] = SlotState.FREE

    def reclaim(self, worker_id: int) -> None:
        """Take over the slots of a receiver that is gone; what it had not finished was not acknowledged."""
        for index, state in enumerate(bytes(self._states)):
            if state == SlotState.OWNED + worker_id:
                self._states[index] = SlotState.FREE if self._header(index) is None else SlotState.HELD

    def holds(self, entry: Entry) -> bool:
        """Tell whether an entry is still in its slot."""
        return self._header(_index(entry)) == (entry.received_ns, entry.size)

    def open(self, entry: Entry) -> io.BytesIO:
        """Return an entry's whole record; raise `FileNotFoundError` if its slot does not hold it any more."""
        if not self.holds(entry):
            raise FileNotFoundError(errno.ENOENT, "the slot does not hold it any more", entry.name)
        return io.BytesIO(os.pread(self._reading, entry.size, _index(entry) * SLOT_BYTES + HEADER_BYTES))

    def release(self, entry: Entry) -> None:
        """Empty an entry's slot unless it holds another by now; it is free once that is on the disk."""
        index = _index(entry)
        if not self.holds(entry):
            return
        os.pwrite(self._writing, self._empty, index * SLOT_BYTES)
        os.posix_fadvise(self._reading, index * SLOT_BYTES, SLOT_BYTES, os.POSIX_FADV_DONTNEED)
        self._states[index] = SlotState.FREE

    def close(self) -> None:
        """Close the file, which keeps what it holds."""
        for descriptor in (self._reading, self._writing):
            os.close(descriptor)

    def _header(self, index: int) -> tuple[int, int] | None:
        """Return when a slot's record was received, and its length; None if the slot is empty or its header damaged."""
        header = os.pread(self._reading, _HEADER.size, index * SLOT_BYTES)
        if len(header) < _HEADER.size:
            return None
        magic, when, size, checksum = _HEADER.unpack(header)
        whole = magic == _MAGIC and checksum == zlib.crc32(header[:-4]) and size <= SLOT_BYTES - HEADER_BYTES
        return (when, size) if whole else None


def _index(entry: Entry) -> int:
    return int(entry.name.removesuffix(SUFFIX).rpartition("-")[2])
