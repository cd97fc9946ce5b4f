"""How a receiver has its files made durable: in a group with all others, each by itself, or not at all."""

import asyncio
import queue
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol

from bucky.errors import Retriable
from edge_scp.spool.disk import Disk
from edge_scp.spool.file import SpoolFile, not_synced, refused
from edge_scp.spool.sync_queue import SyncQueue

SyncMode = Literal["group", "file", "none"]

# The committer answers at once, or it is gone and its successor does.
_LAST_ANSWER_SECONDS = 10.0


@dataclass(slots=True)
class Commit:
    """A whole file with its name that waits to be durable; `ended` is called when it is, or failed.

    `epoch` is the committer's when the file was begun.
    """

    file: SpoolFile
    epoch: int
    ended: Callable[["Commit"], None]
    failure: Retriable | None = None


# Takes what is durable or has failed.
Deliver = Callable[[list[Commit]], None]


class Committer(Protocol):
    """Makes files durable. `deliver` is called in the event loop, for as many files at a time as can be."""

    deliver: Deliver

    @property
    def epoch(self) -> int:
        """Return a number that changes when the disk fails: files of another epoch are not acknowledged."""

    def submit(self, commit: Commit) -> None:
        """Make a file durable; never blocks."""

    def close(self) -> None:
        """Finish what was submitted, and end."""


class GroupCommitter:
    """Asks the process that syncs for all receivers (`syncer`).

    In an event loop `answered` is to be called when `answers` is readable.
    """

    def __init__(self, board: SyncQueue, receiver: int) -> None:
        self.deliver: Deliver
        self._board, self._receiver = board, receiver
        self._asked = board.asked(receiver)
        # What was asked for last; the answers come in the same order.
        self._waiting: deque[Commit] = deque()

    @property
    def epoch(self) -> int:
        """Return the epoch."""
        return self._board.dealt(self._receiver).epoch

    @property
    def answers(self) -> int:
        """Return the descriptor that tells of answers."""
        return self._board.answers(self._receiver)

    def submit(self, commit: Commit) -> None:
        """Ask."""
        self._asked += 1
        self._waiting.append(commit)
        self._board.ask(self._receiver, self._asked)

    def answered(self) -> None:
        """Deliver what the committer has dealt with."""
        self._board.hear_answer(self._receiver)
        dealt = self._board.dealt(self._receiver)
        still_waiting = self._asked - dealt.files
        ended = [self._waiting.popleft() for _ in range(len(self._waiting) - still_waiting)]
        for commit in ended:
            if commit.epoch != dealt.epoch:
                commit.failure = not_synced()
        if ended:
            self.deliver(ended)

    def close(self) -> None:
        """Wait for the last answers."""
        while self._waiting and self._board.hear_answer(self._receiver, _LAST_ANSWER_SECONDS):
            self.answered()


class NoCommitter:
    """Makes nothing durable, and says so at once: for benchmarks."""

    def __init__(self) -> None:
        self.deliver: Deliver
        self.epoch = 0

    def submit(self, commit: Commit) -> None:
        """Deliver."""
        self.deliver([commit])

    def close(self) -> None:
        """Nothing is left."""


class FileCommitter:
    """A thread that syncs each file, and their names together, where a sync of the file system takes too long."""

    def __init__(self, disk: Disk, ready: int) -> None:
        self.deliver: Deliver
        self._disk, self._ready = disk, ready
        self._loop = asyncio.get_running_loop()
        self._epoch = 0
        self._waiting: queue.SimpleQueue[Commit | None] = queue.SimpleQueue()
        self._worker = threading.Thread(target=self._run, name="committer", daemon=True)
        self._worker.start()

    @property
    def epoch(self) -> int:
        """Return the epoch."""
        return self._epoch

    def submit(self, commit: Commit) -> None:
        """Hand over to the thread."""
        self._waiting.put(commit)

    def close(self) -> None:
        """Wait for the thread."""
        self._waiting.put(None)
        self._worker.join()

    def _run(self) -> None:
        while group := self._next_group():
            self._make_durable(group)
            self._loop.call_soon_threadsafe(self.deliver, group)

    def _next_group(self) -> list[Commit]:
        """Wait for one, and take all that wait with it; none at the end."""
        group: list[Commit] = []
        while not group or not self._waiting.empty():
            commit = self._waiting.get()
            if commit is None:
                if group:
                    self._waiting.put(None)
                break
            group.append(commit)
        return group

    def _make_durable(self, group: list[Commit]) -> None:
        failure: Retriable | None = None
        try:
            for commit in group:
                self._disk.sync(commit.file.descriptor)
            self._disk.sync(self._ready)
        except OSError as error:
            self._epoch += 1
            failure = refused(error)
        for commit in group:
            if failure is not None or commit.epoch != self._epoch:
                commit.failure = failure or not_synced()
