"""The sync queue: receivers submit files to the commit worker, which answers when they are durable.

It is one shared page of counters, and an eventfd for each side. A receiver counts the files that it has submitted;
the commit worker answers how many of those it has completed, and in which epoch of the disk. The page outlives every
process, so whoever is restarted continues with it.
"""

import contextlib
import mmap
import os
import select
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

_WORD = 8
# The epoch; then for each receiver the files it submitted, and the answer.
_HEAD_WORDS, _WORDS = 1, 2
# The answer's count and epoch are in one word, which is written and read as a whole. The epoch wraps around.
_EPOCH_BITS = 16
EPOCHS = 1 << _EPOCH_BITS


class Completed(NamedTuple):
    """The commit worker's answer: files completed, and the epoch, which changes when the disk fails."""

    files: int
    epoch: int


class SyncQueueEnd(NamedTuple):
    """One receiver's end of the queue: the page, two words on it, and the eventfds of the commit worker and its own."""

    page: int
    submitted: int
    completed: int
    requests: int
    replies: int


@dataclass(frozen=True, slots=True)
class SyncQueueDescriptors:
    """The descriptors by which processes share a queue: the page, the commit worker's eventfd, and each receiver's."""

    page: int
    asking: int
    answering: tuple[int, ...]

    @classmethod
    def create(cls, receivers: int) -> "SyncQueueDescriptors":
        """Create a queue for a number of receivers."""
        page = os.memfd_create("bucky-sync-queue")
        os.ftruncate(page, _size(receivers))
        eventfds = [os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK) for _ in range(receivers + 1)]
        return cls(page, eventfds[0], tuple(eventfds[1:]))

    def __iter__(self) -> Iterator[int]:
        return iter((self.page, self.asking, *self.answering))

    @classmethod
    def of(cls, descriptors: Sequence[int]) -> "SyncQueueDescriptors":
        """Read them in the order in which `iter` returns them."""
        page, asking, *answering = descriptors
        return cls(page, asking, tuple(answering))


class SyncQueue:
    """The queue in one of its processes. A word is eight aligned bytes, which a machine writes as a whole."""

    def __init__(self, descriptors: SyncQueueDescriptors) -> None:
        self._descriptors = descriptors
        self._page = memoryview(mmap.mmap(descriptors.page, _size(len(descriptors.answering)))).cast("q")
        self._asked, self._dealt = self._page[_HEAD_WORDS::_WORDS], self._page[_HEAD_WORDS + 1 :: _WORDS]

    # The receivers' side.

    def asked(self, receiver: int) -> int:
        """Return how many files a receiver has submitted so far."""
        return self._asked[receiver]

    def ask(self, receiver: int, files: int) -> None:
        """Submit files, of which there are now this many in all, and notify the commit worker."""
        self._asked[receiver] = files
        os.eventfd_write(self._descriptors.asking, 1)

    def dealt(self, receiver: int) -> Completed:
        """Return how far the commit worker has come with a receiver's files."""
        return Completed(*divmod(self._dealt[receiver], EPOCHS))

    def fast_path_end(self, receiver: int) -> SyncQueueEnd:
        """Return the end of a receiver's fast path, which submits files of its own."""
        number = len(self._descriptors.answering) // 2 + receiver
        submitted = _HEAD_WORDS + number * _WORDS
        return SyncQueueEnd(
            self._descriptors.page, submitted, submitted + 1, self._descriptors.asking, self.answers(number)
        )

    def answers(self, receiver: int) -> int:
        """Return the descriptor that becomes readable when a receiver is answered."""
        return self._descriptors.answering[receiver]

    def hear_answer(self, receiver: int, seconds: float = 0.0) -> bool:
        """Wait until a receiver is notified, and clear that; return False if it was not in time."""
        return _wait(self._descriptors.answering[receiver], seconds)

    # The commit worker's side.

    @property
    def questions(self) -> int:
        """Return the descriptor that becomes readable when a receiver submits files."""
        return self._descriptors.asking

    def hear_questions(self, seconds: float = 0.0) -> bool:
        """Wait until the commit worker is notified, and clear that; return False if it was not in time."""
        return _wait(self._descriptors.asking, seconds)

    def all_asked(self) -> list[int]:
        """Return how many files each receiver has submitted so far."""
        return self._asked.tolist()

    def all_dealt(self) -> list[Completed]:
        """Return how far the commit worker has come with each receiver."""
        return [Completed(*divmod(word, EPOCHS)) for word in self._dealt]

    def next_epoch(self) -> int:
        """Begin another epoch, of which no receiver has been told, and return it."""
        self._page[0] += 1
        return self._page[0]

    def answer(self, receiver: int, files: int, epoch: int) -> None:
        """Answer one receiver, and notify it."""
        self._dealt[receiver] = files << _EPOCH_BITS | epoch % EPOCHS
        os.eventfd_write(self._descriptors.answering[receiver], 1)


def _size(receivers: int) -> int:
    return (_HEAD_WORDS + receivers * _WORDS) * _WORD


def _wait(eventfd: int, seconds: float) -> bool:
    if seconds:
        polled = select.poll()
        polled.register(eventfd, select.POLLIN)
        if not polled.poll(seconds * 1000):
            return False
    with contextlib.suppress(BlockingIOError):
        os.eventfd_read(eventfd)
        return True
    return False
