"""Group commit: one sync for all instances that wait, whichever receiver has them.

A file that is whole has its name in `ready/` when its receiver asks for it. One `syncfs` puts the bytes and
names of all that wait on the disk; then the receivers are told, who tell the uploader and answer the senders.
While one group is synced the next one gathers. A crash in between leaves files that nobody was told of; they
are whole and are uploaded, or they are torn and their footers tell (docs/adr/0014).

A failed sync is reported once, but may have been for the bytes of any file begun before it: so none of those
is acknowledged any more. That is what the epoch is for: it changes with each failure, and a receiver fails
every file that was begun in another.
"""

import time
from collections.abc import Callable

from bucky.log import get_logger
from edge_scp.spool.disk import Disk
from edge_scp.spool.sync_queue import SyncQueue

log = get_logger("edge")

Committed = Callable[[int, float], None]


class Syncer:
    """The committer's work. `ready` is a descriptor of the folder, kept open for good.

    `committed` is told of each group: how many instances, and the seconds that its sync took.
    """

    def __init__(self, board: SyncQueue, disk: Disk, ready: int, committed: Committed) -> None:
        self._board, self._disk, self._ready, self._committed = board, disk, ready, committed
        # A predecessor may have been told of a failure and have told nobody, or not all.
        self._epoch = board.next_epoch()
        self._dealt = [each.files for each in board.all_dealt()]
        self._answer_all(board.all_asked())

    def work(self) -> None:
        """Make durable what receivers have asked for by now."""
        asked = self._board.all_asked()
        instances = sum(asked) - sum(self._dealt)
        if not instances:
            return
        started = time.perf_counter()
        try:
            self._disk.sync_file_system(self._ready)
        except OSError as error:
            self._failed(asked, instances, error)
            return
        seconds = time.perf_counter() - started
        for receiver, files in enumerate(asked):
            if files != self._dealt[receiver]:
                self._answer(receiver, files)
        self._committed(instances, seconds)

    def _failed(self, asked: list[int], instances: int, error: OSError) -> None:
        self._epoch = self._board.next_epoch()
        self._answer_all(asked)
        log.error("sync.failed", error=error.strerror or repr(error), instances=instances)

    def _answer_all(self, asked: list[int]) -> None:
        for receiver, files in enumerate(asked):
            self._answer(receiver, files)

    def _answer(self, receiver: int, files: int) -> None:
        self._dealt[receiver] = files
        self._board.answer(receiver, files, self._epoch)
