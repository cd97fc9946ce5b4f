"""Receivers and the committer they share, each with its own view of the board, over a disk that does as it is told."""

import errno
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from edge_scp.spool.disk import Disk
from edge_scp.spool.file import SpoolFile
from edge_scp.spool.group_commit import Commit, GroupCommitter
from edge_scp.spool.sync_queue import SyncQueue, SyncQueueDescriptors
from edge_scp.spool.syncer import Syncer

RECEIVERS = 3


class Killed(BaseException):
    """The committer is killed here."""


class File(SpoolFile):
    """A file, of which only the times matter at which it was begun, and asked for."""

    def __init__(self, begun: int) -> None:
        self.begun = begun
        self.asked = 0


class Ticks:
    """A clock that only moves on when it is read."""

    def __init__(self) -> None:
        self._now = 0

    def __call__(self) -> int:
        self._now += 1
        return self._now


@dataclass
class ScriptedDisk(Disk):
    """A disk whose next sync goes as told, and that remembers when the syncs were that succeeded or failed."""

    now: Ticks
    fails: bool = False
    killed: bool = False
    during: Callable[[], None] = lambda: None
    succeeded: list[tuple[int, int]] = field(default_factory=list)
    failed: list[int] = field(default_factory=list)

    def sync_file_system(self, descriptor: int) -> None:
        assert descriptor == -1
        begun = self.now()
        self.during()
        if self.killed:
            raise Killed
        if self.fails:
            self.failed.append(self.now())
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        self.succeeded.append((begun, self.now()))

    def made_durable(self, file: File) -> bool:
        """Tell whether a sync that began after the file was asked for succeeded, with no failure since its start."""
        return any(
            begun > file.asked and not any(file.begun < failed < ended for failed in self.failed)
            for begun, ended in self.succeeded
        )


class CommitterBoard(SyncQueue):
    """The committer's side of the board; it can be killed before any of its answers."""

    answers_left = -1

    def answer(self, receiver: int, files: int, epoch: int) -> None:
        if self.answers_left == 0:
            raise Killed
        self.answers_left -= 1
        super().answer(receiver, files, epoch)


class ReceiverSide:
    """One receiver process: files it has begun, those it asked for, and those that ended, in order."""

    def __init__(self, board: SyncQueue, number: int, now: Ticks) -> None:
        self.committer = GroupCommitter(board, number)
        self.committer.deliver = self._delivered
        self._now = now
        self.open: list[Commit] = []
        self.asked: list[Commit] = []
        self.ended: list[Commit] = []
        self.deliveries = 0

    def begin(self) -> Commit:
        """Begin a file."""
        commit = Commit(File(self._now()), self.committer.epoch, lambda _commit: None)
        self.open.append(commit)
        return commit

    def ask(self, *commits: Commit) -> None:
        """Ask for files that are whole."""
        for commit in commits:
            self.open.remove(commit)
            file_of(commit).asked = self._now()
            self.asked.append(commit)
            self.committer.submit(commit)

    def keep(self, files: int = 1) -> list[Commit]:
        """Begin files and ask for them."""
        commits = [self.begin() for _ in range(files)]
        self.ask(*commits)
        return commits

    def hear(self) -> list[Commit]:
        """Hear the answer, if there is one; return what has ended so far."""
        self.committer.answered()
        return self.ended

    def _delivered(self, commits: list[Commit]) -> None:
        self.deliveries += 1
        self.ended += commits


class Edge:
    """Receivers and their committer, each with its own view of one board, over one disk."""

    def __init__(self, descriptors: SyncQueueDescriptors) -> None:
        self._descriptors = descriptors
        self.now = Ticks()
        self.disk = ScriptedDisk(self.now)
        self.groups: list[int] = []
        self.receivers = [self.receiver(number) for number in range(RECEIVERS)]
        self.board = CommitterBoard(descriptors)
        self.syncer: Syncer | None = None
        self.start()

    def receiver(self, number: int) -> ReceiverSide:
        """Return a new receiver process at a number."""
        return ReceiverSide(SyncQueue(self._descriptors), number, self.now)

    def start(self) -> None:
        """Start a committer, the last one being gone."""
        self.syncer = None
        self.syncer = Syncer(self.board, self.disk, -1, lambda instances, _seconds: self.groups.append(instances))

    def work(self, *, fails: bool = False) -> None:
        """Have the committer do what it was asked for."""
        assert self.syncer is not None
        self.disk.fails = fails
        self.board.hear_questions()
        self.syncer.work()
        self.disk.fails = False


@contextmanager
def an_edge(epoch: int = 0) -> Iterator[Edge]:
    """Run an edge for the length of a block; it has seen so many epochs already."""
    descriptors = SyncQueueDescriptors.create(RECEIVERS)
    # The page's first word is the epoch.
    os.pwrite(descriptors.page, epoch.to_bytes(8, sys.byteorder), 0)
    for receiver in range(RECEIVERS):
        SyncQueue(descriptors).answer(receiver, 0, epoch)
    try:
        yield Edge(descriptors)
    finally:
        for descriptor in descriptors:
            os.close(descriptor)


def file_of(commit: Commit) -> File:
    """Return the file as this test made it."""
    assert isinstance(commit.file, File)
    return commit.file


def failures(commits: list[Commit]) -> list[bool]:
    """Tell of each whether it failed."""
    return [commit.failure is not None for commit in commits]
