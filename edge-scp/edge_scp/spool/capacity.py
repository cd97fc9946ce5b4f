"""How much the spool holds, kept by several processes on one shared page without a lock.

Each process writes its own words and reads all. A receiver counts the bytes it has *taken* and those it has
*announced* to the uploader; the uploader counts what it *holds*, and how much of each receiver's it has
*adopted*. The spool holds what the uploader holds, and what receivers took that it has not yet adopted:
whichever process dies, at any moment, what it leaves on the page stays true.
"""

import mmap
import os
import time
from collections.abc import Callable
from enum import IntEnum
from typing import NamedTuple, Self

from bucky.errors import Retriable
from bucky.settings import Settings
from edge_scp.spool.disk import Disk

WORKER_IDS = 64
_WORD = 8
_WORKER_WORDS = 6
_FREE_SPACE_SECONDS = 0.2
# A process may take this much, or a fraction of the room, before it looks at the others' words again.
_ALLOWANCE = 8 * 1024 * 1024
_SHARE = 64


class SpoolFull(Retriable):
    """There is no room for another instance until some have been released."""


class _Word(IntEnum):
    """The counters of one worker id; all only ever grow, but for TAKEN when bytes are given back."""

    TAKEN = 0  # by the receiver: bytes written to files, kept or not yet
    ANNOUNCED_BYTES = 1  # by the receiver: bytes of instances kept, of which the uploader was told
    ANNOUNCED = 2  # by the receiver: instances kept
    MISSED = 3  # by the receiver: times that the uploader could not be told
    ADOPTED_BYTES = 4  # by the uploader: bytes of TAKEN that it now counts itself
    ADOPTED = 5  # by the uploader: instances of ANNOUNCED that it now counts itself


class _Head(IntEnum):
    """The counters of all; the uploader writes all but REFUSING."""

    REFUSING = 0  # whoever finds the spool full, or empty enough again: they all find the same
    HELD_BYTES = 1
    HELD = 2
    OLDEST_NS = 3
    QUARANTINED = 4


_WORKERS_START = len(_Head)


class Notified(NamedTuple):
    """How much a receiver has kept since the edge started."""

    size: int
    instances: int


class SharedCounters:
    """The shared page. A word is eight aligned bytes, which a machine writes whole."""

    def __init__(self, descriptor: int = -1) -> None:
        self._page = memoryview(mmap.mmap(descriptor, self.size())).cast("q")

    @staticmethod
    def size() -> int:
        """Return the page's size in bytes."""
        return (_WORKERS_START + WORKER_IDS * _WORKER_WORDS) * _WORD

    @classmethod
    def create(cls) -> tuple["SharedCounters", int]:
        """Return a new page, and a descriptor by which other processes open the same one."""
        descriptor = os.memfd_create("bucky-spool-counters")
        os.ftruncate(descriptor, cls.size())
        return cls(descriptor), descriptor

    @property
    def words(self) -> memoryview:
        """Return the page, for a process's own words."""
        return self._page

    @property
    def refusing(self) -> bool:
        """Tell whether the spool was full and has not become empty enough since."""
        return bool(self._page[_Head.REFUSING])

    @refusing.setter
    def refusing(self, value: bool) -> None:
        self._page[_Head.REFUSING] = int(value)

    @property
    def held_bytes(self) -> int:
        """Return the bytes in the spool, those of instances still arriving included."""
        page = self._page
        taken, adopted = page[_at(0, _Word.TAKEN) :: _WORKER_WORDS], page[_at(0, _Word.ADOPTED_BYTES) :: _WORKER_WORDS]
        return page[_Head.HELD_BYTES] + sum(taken) - sum(adopted)

    @property
    def instances(self) -> int:
        """Return how many acknowledged instances are in the spool."""
        page = self._page
        announced, adopted = (
            page[_at(0, _Word.ANNOUNCED) :: _WORKER_WORDS],
            page[_at(0, _Word.ADOPTED) :: _WORKER_WORDS],
        )
        return page[_Head.HELD] + sum(announced) - sum(adopted)

    @property
    def oldest_seconds(self) -> float:
        """Return the age of the oldest instance the uploader holds."""
        oldest = self._page[_Head.OLDEST_NS]
        return max(0.0, (time.time_ns() - oldest) / 1e9) if oldest else 0.0

    @property
    def quarantined(self) -> int:
        """Return how many files were set aside."""
        return self._page[_Head.QUARANTINED]

    def hold(self, *, instances: int, size: int, oldest_ns: int, quarantined: int) -> None:
        """Note what the uploader holds."""
        self._page[_Head.HELD], self._page[_Head.HELD_BYTES] = instances, size
        self._page[_Head.OLDEST_NS], self._page[_Head.QUARANTINED] = oldest_ns, quarantined

    def adopt(self, worker_id: int, announced: Notified) -> None:
        """Note that the uploader now counts itself what a receiver had announced at some time."""
        page = self._page
        for word, value in zip((_Word.ADOPTED_BYTES, _Word.ADOPTED), announced, strict=True):
            page[_at(worker_id, word)] = max(value, page[_at(worker_id, word)])

    def adopt_all(self, worker_id: int) -> None:
        """Note that this worker is gone, and that the uploader counts all it spooled."""
        self._page[_at(worker_id, _Word.ADOPTED_BYTES)] = self._page[_at(worker_id, _Word.TAKEN)]
        self._page[_at(worker_id, _Word.ADOPTED)] = self._page[_at(worker_id, _Word.ANNOUNCED)]

    def settled(self, worker_id: int) -> bool:
        """Tell whether nothing of a worker id awaits the uploader, so that a new worker may have it."""
        page = self._page
        return (
            page[_at(worker_id, _Word.TAKEN)] == page[_at(worker_id, _Word.ADOPTED_BYTES)]
            and page[_at(worker_id, _Word.ANNOUNCED)] == page[_at(worker_id, _Word.ADOPTED)]
        )

    def begin(self, worker_id: int) -> None:
        """Start a worker with a settled worker id, from where the last one ended."""
        self._page[_at(worker_id, _Word.ANNOUNCED_BYTES)] = self._page[_at(worker_id, _Word.TAKEN)]

    def announce(self, worker_id: int, size: int) -> Notified:
        """Count one more instance kept; return all a receiver kept so far."""
        self._page[_at(worker_id, _Word.ANNOUNCED_BYTES)] += size
        self._page[_at(worker_id, _Word.ANNOUNCED)] += 1
        return self.announced(worker_id)

    def announced(self, worker_id: int) -> Notified:
        """Return all a receiver announced so far."""
        page = self._page
        return Notified(page[_at(worker_id, _Word.ANNOUNCED_BYTES)], page[_at(worker_id, _Word.ANNOUNCED)])

    def all_announced(self) -> list[Notified]:
        """Return what each worker id announced so far."""
        return [self.announced(worker_id) for worker_id in range(WORKER_IDS)]

    def miss(self, worker_id: int) -> None:
        """Note that the uploader could not be told, and has to look into the folder."""
        self._page[_at(worker_id, _Word.MISSED)] += 1

    @property
    def missed(self) -> int:
        """Return how often the uploader could not be told."""
        return sum(self._page[_at(0, _Word.MISSED) :: _WORKER_WORDS])


def _at(worker_id: int, word: int) -> int:
    return _WORKERS_START + worker_id * _WORKER_WORDS + word


class SpoolLimits:
    """Whether there is room: refuses past the most it may hold until it holds clearly less."""

    def __init__(
        self,
        counters: SharedCounters,
        *,
        max_bytes: int,
        min_free_bytes: int,
        resume_fraction: float,
        free_bytes: Callable[[], int],
    ) -> None:
        self._counters = counters
        self._max, self._resume = max_bytes, int(max_bytes * resume_fraction)
        self._min_free, self._resume_free = min_free_bytes, int(min_free_bytes * (2 - resume_fraction))
        self._free_bytes = free_bytes
        self._looked_at = -_FREE_SPACE_SECONDS
        self._free = 0

    @classmethod
    def of(cls, settings: Settings, counters: SharedCounters) -> Self:
        """Return the limits the settings describe."""
        disk = Disk()
        return cls(
            counters,
            max_bytes=settings.spool_max_bytes,
            min_free_bytes=settings.spool_min_free_bytes,
            resume_fraction=settings.spool_resume_fraction,
            free_bytes=lambda: disk.free_bytes(settings.spool_dir),
        )

    def room(self) -> int:
        """Return the bytes that may be taken now, at most zero when there is no room; notes a change."""
        counters = self._counters
        held, free = counters.held_bytes, self._recent_free_bytes()
        if counters.refusing and (held > self._resume or free < self._resume_free):
            return 0
        room = min(self._max - held, free - self._min_free)
        if counters.refusing != (room <= 0):
            counters.refusing = room <= 0
        return room

    def obstacle(self) -> SpoolFull:
        """Return the refusal that says what there is too little of, and begin to refuse."""
        self._counters.refusing = True
        if self._recent_free_bytes() < self._resume_free:
            return SpoolFull("The spool's disk is nearly full; send again later")
        return SpoolFull("The spool is full; send again later")

    def _recent_free_bytes(self) -> int:
        now = time.monotonic()
        if now - self._looked_at >= _FREE_SPACE_SECONDS:
            self._free, self._looked_at = self._free_bytes(), now
        return self._free


class Capacity:
    """One receiver's account of the bytes it takes; used from its event loop's thread only."""

    def __init__(self, counters: SharedCounters, worker_id: int, limits: SpoolLimits) -> None:
        self._words, self._taken = counters.words, _at(worker_id, _Word.TAKEN)
        self._counters, self._limits = counters, limits
        self._allowance = 0

    @property
    def places(self) -> tuple[int, int]:
        """Return which words of the counters say that the spool refuses, and what this receiver has taken."""
        return _Head.REFUSING, self._taken

    def admit(self, size: int) -> None:
        """Take the first bytes of an instance, or raise `SpoolFull`."""
        if self._counters.refusing:
            self._allowance = 0
        self.take(size)

    def take(self, size: int) -> None:
        """Count bytes about to be written, or raise `SpoolFull` when they may not be."""
        if size > self._allowance:
            self._allowance = self.allowance(size)
        self._allowance -= size
        self._words[self._taken] += size

    def allowance(self, size: int) -> int:
        """Return how many bytes may be taken before asking again, these among them; or raise `SpoolFull`."""
        room = self._limits.room()
        if size > room:
            raise self._limits.obstacle()
        return max(size, min(_ALLOWANCE, room // _SHARE))

    def give_back(self, size: int) -> None:
        """Give back the bytes of a file that is not kept."""
        self._words[self._taken] -= size
