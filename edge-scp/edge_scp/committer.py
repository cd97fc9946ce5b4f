"""Group commit: one sync for all instances that wait, then all their answers.

For each group: every file gets its name in `ready/`, one `syncfs` puts the bytes and names of all of them on
the disk, the uploader and then the senders are told. While one group is synced the next one gathers.
A crash in between leaves files that nobody was told of; they are whole and are uploaded, or they are torn and
their footers tell (docs/adr/0014).
"""

import contextlib
import errno
import os
import queue
import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from bucky.errors import Retriable
from edge_scp.announcements import Announcer
from edge_scp.disk import Disk
from edge_scp.spool_file import SpoolFile, refused
from edge_scp.spool_folder import SpoolFolder

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
    name: str = ""
    failure: Retriable | None = None


@dataclass(frozen=True, slots=True)
class Group:
    """How one group went, for the metrics."""

    commits: list[Commit]
    seconds: float


class Committer:
    """The thread that makes files durable; `submit` from the event loop, `close` at the end.

    `deliver` is handed each group in the committer's thread, and has it answered in the event loop's.
    """

    def __init__(
        self, disk: Disk, folder: SpoolFolder, sync: SyncMode, announcer: Announcer, deliver: Callable[[Group], None]
    ) -> None:
        self._disk, self._folder, self._sync = disk, folder, sync
        self._announcer, self._deliver = announcer, deliver
        self._epoch = 0
        self._waiting: queue.SimpleQueue[Commit | None] = queue.SimpleQueue()
        # Kept open for good: syncfs reports the errors since its descriptor was opened.
        self._ready = disk.open_folder(folder.ready)
        self._thread = threading.Thread(target=self._run, name="committer", daemon=True)
        self._thread.start()

    @property
    def epoch(self) -> int:
        """Return a number that grows when the disk fails.

        A failed sync is reported once, but may have been for the bytes of any file begun before it: none of
        those is acknowledged any more.
        """
        return self._epoch

    def submit(self, commit: Commit) -> None:
        """Make a file durable; never blocks."""
        self._waiting.put(commit)

    def close(self) -> None:
        """Finish what was submitted, and end."""
        self._waiting.put(None)
        self._thread.join()
        self._disk.close(self._ready)

    def _run(self) -> None:
        while (group := self._next_group()) is not None:
            started = time.perf_counter()
            self._commit(group)
            self._announcer.kept((commit.name, commit.file.size) for commit in group if commit.failure is None)
            self._deliver(Group(group, time.perf_counter() - started))

    def _next_group(self) -> list[Commit] | None:
        """Wait for one, and take all that wait with it; None at the end."""
        first = self._waiting.get()
        if first is None:
            return None
        group = [first]
        while len(group) < _LARGEST_GROUP and not self._waiting.empty():
            commit = self._waiting.get()
            if commit is None:
                self._waiting.put(None)
                break
            group.append(commit)
        return group

    def _commit(self, group: list[Commit]) -> None:
        for commit in group:
            self._name(commit)
        named = [commit for commit in group if commit.failure is None]
        try:
            if self._sync == "group" and named:
                self._disk.sync_file_system(self._ready)
            elif self._sync == "file" and named:
                self._disk.sync(self._ready)
        except OSError as error:
            self._epoch += 1
            for commit in named:
                self._fail(commit, error)

    def _name(self, commit: Commit) -> None:
        """Give a file its name; where each is synced by itself, its bytes are on the disk before."""
        commit.name = f"{time.time_ns():020d}-{secrets.token_hex(8)}.dcm"
        if commit.epoch != self._epoch:
            commit.failure = refused(OSError(errno.EIO, os.strerror(errno.EIO)))
            return
        try:
            if self._sync == "file":
                self._disk.sync(commit.file.descriptor)
            self._disk.link(commit.file.descriptor, self._ready, commit.name)
        except OSError as error:
            self._fail(commit, error)

    def _fail(self, commit: Commit, error: OSError) -> None:
        commit.failure = refused(error)
        # A disk that cannot even do this keeps the file; it is uploaded although its sender was told to resend.
        with contextlib.suppress(OSError):
            self._disk.unlink(self._folder.ready / commit.name)
