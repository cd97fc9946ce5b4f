"""The committer: one process that syncs the spool for all receivers, so that their groups are one. Wired here.

Started by `edge_scp.__main__`; a process because a receiver's event loop and a thread that syncs would pass
the interpreter to and fro for each instance, at the cost of all other work on it.
"""

import asyncio
import os
import socket
import threading

from prometheus_client import generate_latest

from bucky import log
from bucky.settings import Settings
from edge_scp.metrics import CommitterMetrics
from edge_scp.process.channel import Channel, Message
from edge_scp.process.supervisor import WorkerContext, end_at_once, run
from edge_scp.spool.disk import Disk
from edge_scp.spool.folder import SpoolFolder
from edge_scp.spool.sync_queue import SyncQueue
from edge_scp.spool.syncer import Syncer

# How long nobody may ask before it is looked whether they did: the bell tells of all, so this may be long.
QUIET_SECONDS = 60.0


async def commit(settings: Settings, inherited: WorkerContext) -> None:
    """Wire the process and work until the parent says to stop."""
    disk, metrics = Disk(), CommitterMetrics()
    board = SyncQueue(inherited.board)
    stop = asyncio.Event()

    def received(message: Message, _connection: socket.socket | None) -> None:
        if "ask" in message:
            channel.send({"answer": {"page": generate_latest(metrics.registry).decode()}, "number": message["number"]})
        elif "stop" in message:
            stop.set()

    channel = Channel(inherited.parent(), received, end_at_once)
    ready = disk.open_folder(SpoolFolder(settings.spool_dir).ready)
    syncer = Syncer(board, disk, ready, metrics.committed)
    threading.Thread(target=_serve, args=(board, syncer), name="committer", daemon=True).start()
    channel.send({"ready": True})
    await stop.wait()


def _serve(board: SyncQueue, syncer: Syncer) -> None:
    """Work whenever the bell rings. All senders wait for this, so no event loop is in the way."""
    logger = log.get_logger("edge")
    try:
        while True:
            board.hear_questions(QUIET_SECONDS)
            syncer.work()
    except Exception as error:
        # Receivers are left without an answer; the successor gives one.
        logger.exception("committer.failed", error=repr(error))
        os._exit(1)


if __name__ == "__main__":
    run(commit)
