"""How a receiver makes its files durable: in a group with all others."""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from bucky.errors import Retriable
from edge_scp.spool.file import SpoolFile, not_synced
from edge_scp.spool.sync_queue import SyncQueue

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
