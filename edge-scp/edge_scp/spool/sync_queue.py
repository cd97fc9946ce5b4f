"""What receivers ask of the committer, and what it answers: one shared page, and a bell for each of them.

A receiver counts the files that it wants to be durable; the committer answers how many of those it has dealt
with, and in which epoch of the disk. The page outlives them both, so whoever is started anew goes on with it.
"""

import contextlib
import mmap
import os
import select
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

_WORD = 8
# The epoch; then for each receiver the files it asked for, and its answer.
_HEAD_WORDS, _WORDS = 1, 2
# The answer's count and epoch are one word, which is written and read whole. There, epochs begin again after so many.
_EPOCH_BITS = 16
EPOCHS = 1 << _EPOCH_BITS


class Completed(NamedTuple):
    """The committer's answer: files dealt with, and the epoch, which changes when the disk fails."""

    files: int
    epoch: int


@dataclass(frozen=True, slots=True)
class SyncQueueDescriptors:
    """By which processes share a board: the page, the committer's bell, and each receiver's."""

    page: int
    asking: int
    answering: tuple[int, ...]

    @classmethod
    def create(cls, receivers: int) -> "SyncQueueDescriptors":
        """Make a board for so many receivers."""
        page = os.memfd_create("bucky-commit-board")
        os.ftruncate(page, _size(receivers))
        bells = [os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK) for _ in range(receivers + 1)]
        return cls(page, bells[0], tuple(bells[1:]))

    def __iter__(self) -> Iterator[int]:
        return iter((self.page, self.asking, *self.answering))

    @classmethod
    def of(cls, descriptors: Sequence[int]) -> "SyncQueueDescriptors":
        """Read them as `iter` gave them."""
        page, asking, *answering = descriptors
        return cls(page, asking, tuple(answering))


class SyncQueue:
    """The page, in one of its processes; a word is eight aligned bytes, which a machine writes whole."""

    def __init__(self, descriptors: SyncQueueDescriptors) -> None:
        self._descriptors = descriptors
        self._page = memoryview(mmap.mmap(descriptors.page, _size(len(descriptors.answering)))).cast("q")
        self._asked, self._dealt = self._page[_HEAD_WORDS::_WORDS], self._page[_HEAD_WORDS + 1 :: _WORDS]

    # The receivers' side.

    def asked(self, receiver: int) -> int:
        """Return how many files a receiver has asked for so far."""
        return self._asked[receiver]

    def ask(self, receiver: int, files: int) -> None:
        """Ask for so many files in all, and ring."""
        self._asked[receiver] = files
        os.eventfd_write(self._descriptors.asking, 1)

    def dealt(self, receiver: int) -> Completed:
        """Return how far the committer has come with a receiver's files."""
        return Completed(*divmod(self._dealt[receiver], EPOCHS))

    def lane(self, receiver: int) -> tuple[int, int, int, int, int]:
        """Return what a receiver's express lane asks by: the page, its two words on it, and both bells."""
        asker = len(self._descriptors.answering) // 2 + receiver
        asked = _HEAD_WORDS + asker * _WORDS
        return self._descriptors.page, asked, asked + 1, self._descriptors.asking, self.answers(asker)

    def answers(self, receiver: int) -> int:
        """Return the descriptor that becomes readable when there is an answer for a receiver."""
        return self._descriptors.answering[receiver]

    def hear_answer(self, receiver: int, seconds: float = 0.0) -> bool:
        """Silence a receiver's bell, after waiting for it so long; return whether it had rung."""
        return _heard(self._descriptors.answering[receiver], seconds)

    # The committer's side.

    @property
    def questions(self) -> int:
        """Return the descriptor that becomes readable when a receiver asks."""
        return self._descriptors.asking

    def hear_questions(self, seconds: float = 0.0) -> bool:
        """Silence the committer's bell, after waiting for it so long; return whether it had rung."""
        return _heard(self._descriptors.asking, seconds)

    def all_asked(self) -> list[int]:
        """Return how many files each receiver has asked for so far."""
        return self._asked.tolist()

    def all_dealt(self) -> list[Completed]:
        """Return how far the committer has come with each receiver."""
        return [Completed(*divmod(word, EPOCHS)) for word in self._dealt]

    def next_epoch(self) -> int:
        """Begin another epoch, of which no receiver has been told, and return it."""
        self._page[0] += 1
        return self._page[0]

    def answer(self, receiver: int, files: int, epoch: int) -> None:
        """Answer one receiver, and ring."""
        self._dealt[receiver] = files << _EPOCH_BITS | epoch % EPOCHS
        os.eventfd_write(self._descriptors.answering[receiver], 1)


def _size(receivers: int) -> int:
    return (_HEAD_WORDS + receivers * _WORDS) * _WORD


def _heard(bell: int, seconds: float) -> bool:
    if seconds:
        ringing = select.poll()
        ringing.register(bell, select.POLLIN)
        if not ringing.poll(seconds * 1000):
            return False
    with contextlib.suppress(BlockingIOError):
        os.eventfd_read(bell)
        return True
    return False
