"""Group commit: one sync for all instances that wait, then all their answers.

A file that is whole has its name in `ready/` when it comes here. One `syncfs` puts the bytes and names of all
that wait on the disk; then the uploader is told, and the senders are answered. While one group is synced the
next one gathers. A crash in between leaves files that nobody was told of; they are whole and are uploaded, or
they are torn and their footers tell (docs/adr/0014).
"""

import errno
import os
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from bucky.errors import Retriable
from edge_scp.announcements import Announcer
from edge_scp.disk import Disk
from edge_scp.spool_file import SpoolFile, refused

# So that one group never keeps its first sender waiting for its last for long.
_LARGEST_GROUP = 256

SyncMode = Literal["group", "file", "none"]


@dataclass(slots=True)
class Commit:
    """A whole file that waits for its sync; `ended` is for the event loop's thread to call when it is over.

    `epoch` is the committer's when the file was begun.
    """

    file: SpoolFile
    epoch: int
    ended: Callable[["Commit"], None]
    failure: Retriable | None = None


@dataclass(frozen=True, slots=True)
class Group:
    """How one group went, for the metrics."""

    commits: list[Commit]
    seconds: float


class Committer:
    """The thread that makes files durable; `submit` from the event loop, `close` at the end.

    `ready` is a descriptor of the folder, kept open for good: syncfs reports the errors since it was opened.
    `deliver` is handed each group in the committer's thread, and has it answered in the event loop's. All that
    can be done there is: two threads that both want the interpreter for each instance cost more than the work.
    """

    def __init__(
        self, disk: Disk, ready: int, sync: SyncMode, announcer: Announcer, deliver: Callable[[Group], None]
    ) -> None:
        self._disk, self._ready, self._sync = disk, ready, sync
        self._announcer, self._deliver = announcer, deliver
        self._epoch = 0
        self._waiting: queue.SimpleQueue[list[Commit] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="committer", daemon=True)
        self._thread.start()

    @property
    def epoch(self) -> int:
        """Return a number that grows when the disk fails.

        A failed sync is reported once, but may have been for the bytes of any file begun before it: none of
        those is acknowledged any more.
        """
        return self._epoch

    def submit(self, commits: list[Commit]) -> None:
        """Make files durable; never blocks. To wake the thread costs, so it is best done for several at once."""
        self._waiting.put(commits)

    def close(self) -> None:
        """Finish what was submitted, and end."""
        self._waiting.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (group := self._next_group()) is not None:
            started = time.perf_counter()
            self._make_durable(group)
            self._announcer.kept((commit.file.name, commit.file.size) for commit in group if commit.failure is None)
            self._deliver(Group(group, time.perf_counter() - started))

    def _next_group(self) -> list[Commit] | None:
        """Wait for one, and take all that wait with it; None at the end."""
        group = self._waiting.get()
        while group is not None and len(group) < _LARGEST_GROUP and not self._waiting.empty():
            more = self._waiting.get()
            if more is None:
                self._waiting.put(None)
                break
            group += more
        return group

    def _make_durable(self, group: list[Commit]) -> None:
        for commit in group:
            if commit.epoch != self._epoch:
                commit.failure = refused(OSError(errno.EIO, os.strerror(errno.EIO)))
        try:
            if self._sync == "group":
                self._disk.sync_file_system(self._ready)
            elif self._sync == "file":
                for commit in group:
                    self._disk.sync(commit.file.descriptor)
                self._disk.sync(self._ready)
        except OSError as error:
            self._epoch += 1
            for commit in group:
                commit.failure = refused(error)
