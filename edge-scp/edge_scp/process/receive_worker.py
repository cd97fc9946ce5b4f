"""A receiver: one process that serves associations and writes what they bring to the spool. Wired here.

Started by `edge_scp.__main__`, which hands it accepted connections over a channel.
"""

import asyncio
import gc
import socket
from collections.abc import Callable
from functools import partial

from prometheus_client import generate_latest

from bucky import log
from bucky.settings import Settings
from edge_scp.association import limits as upper_layer
from edge_scp.association.acceptor import Acceptor, ConnectionState, NativeServer, Told
from edge_scp.association.admission import TOO_MANY_ASSOCIATIONS
from edge_scp.association.connection import receive_buffer
from edge_scp.association.sink import CommitmentSink, Sink
from edge_scp.association.storage_syntaxes import Syntaxes
from edge_scp.metrics import ReceiverMetrics
from edge_scp.process.channel import Channel, Message
from edge_scp.process.connections import Handling
from edge_scp.process.pool import process_count
from edge_scp.process.supervisor import WorkerContext, end_at_once, run
from edge_scp.receive.commitment_reports import CommitmentReports
from edge_scp.receive.fast_path import FastPathSelector, WorkerSlots, native_loop
from edge_scp.receive.store_handler import StoreHandler
from edge_scp.spool.capacity import Capacity, SharedCounters, SpoolLimits
from edge_scp.spool.folder import SpoolFolder
from edge_scp.spool.group_commit import Committer, GroupCommitter
from edge_scp.spool.notifications import Notifier
from edge_scp.spool.sync_queue import SyncQueue
from edge_scp.upload.broker_link import UploadPublisher


async def receive(selector: FastPathSelector, settings: Settings, inherited: WorkerContext) -> bool:
    """Wire the process and serve until the parent says to drain; tell whether no association was cut short."""
    counters = SharedCounters(inherited.counters)
    metrics = ReceiverMetrics()
    capacity = Capacity(counters, inherited.worker_id, SpoolLimits.of(settings, counters))
    folder = SpoolFolder(settings.spool_dir)
    receiver = StoreHandler(
        folder,
        capacity,
        Notifier(inherited.announcements, counters, inherited.worker_id),
        committer_of(inherited),
        metrics,
    )
    queue = SyncQueue(inherited.board).fast_path_end(inherited.number)
    slots = WorkerSlots(folder.slots, inherited.slots, inherited.number, process_count(settings), inherited.worker_id)
    fast_path = native_loop(
        settings, selector, receiver, capacity, counters=inherited.counters, queue=queue, slots=slots
    )
    log.get_logger("edge").info("receiver.started", fast_path=fast_path is not None)
    broker = UploadPublisher(settings)
    acceptors = Acceptors(settings, receiver, metrics, fast_path, CommitmentReports(broker))
    draining: asyncio.Future[float] = asyncio.get_running_loop().create_future()

    def received(message: Message, connection: socket.socket | None) -> None:
        if "address" in message:
            number = message["number"]
            if connection is None:
                # The kernel drops it when this process has as many descriptors as it may.
                channel.send({"closed": number, "stored": False})
            else:
                told = partial(_tell, channel, number)
                verdict = Handling(message["verdict"])
                acceptors.serve(message["listener"], connection, number, message["address"], verdict, told)
        elif "evict" in message:
            acceptors.evict(message["evict"])
        elif "ask" in message:
            channel.send({"answer": {"page": generate_latest(metrics.registry).decode()}, "number": message["number"]})
        elif "drain" in message and not draining.done():
            draining.set_result(message["drain"])

    channel = Channel(inherited.parent(), received, end_at_once)
    # What was imported stays: looking through it again and again for garbage was a third of the work.
    gc.freeze()
    channel.send({"ready": True})
    drained = await acceptors.drain(await draining)
    if fast_path is not None:
        fast_path.close()
    receiver.close()
    await broker.close()
    return drained


def _tell(channel: Channel, number: int, standing: ConnectionState, stored: bool) -> None:
    """Tell the parent how a connection stands."""
    if standing is ConnectionState.CLOSED:
        channel.send({"closed": number, "stored": stored})
    else:
        channel.send({"number": number, "associated": standing is ConnectionState.ASSOCIATED})


def committer_of(inherited: WorkerContext) -> Committer:
    """Return what makes files durable, wired to the running loop."""
    committer = GroupCommitter(SyncQueue(inherited.board), inherited.number)
    asyncio.get_running_loop().add_reader(committer.answers, committer.answered)
    return committer


class Acceptors:
    """What serves the connections of every listener, and what turns away those that are too many."""

    def __init__(
        self,
        settings: Settings,
        sink: Sink,
        metrics: ReceiverMetrics,
        fast_path: NativeServer | None = None,
        reports: CommitmentSink | None = None,
    ) -> None:
        limits, syntaxes, buffer = upper_layer.AssociationLimits.of(settings), Syntaxes(settings), receive_buffer()
        self._serving = [
            Acceptor(listener, limits, syntaxes, sink, metrics, buffer=buffer, fast_path=fast_path, reports=reports)
            for listener in settings.edge_listeners
        ]
        self._rejecting = [
            Acceptor(listener, limits, syntaxes, sink, metrics, buffer=buffer, obstacle=lambda: TOO_MANY_ASSOCIATIONS)
            for listener in settings.edge_listeners
        ]
        self._evictions: dict[int, Callable[[], None]] = {}

    def serve(
        self, listener: int, connection: socket.socket, number: int, address: str, verdict: Handling, told: Told
    ) -> None:
        """Serve a connection, or reject what it asks for; `told` hears how it stands, and at last that it is closed."""
        acceptors = self._serving if verdict is Handling.SERVE else self._rejecting

        def stands(standing: ConnectionState, stored: bool) -> None:
            if standing is ConnectionState.CLOSED:
                self._evictions.pop(number, None)
            told(standing, stored)

        # It may be closed before the call returns, or is until the loop's next turn.
        self._evictions[number] = lambda: None
        evict = acceptors[listener].serve(connection, address, stands)
        if number in self._evictions:
            self._evictions[number] = evict

    @property
    def all(self) -> tuple[Acceptor, ...]:
        """Return the acceptors."""
        return (*self._serving, *self._rejecting)

    def evict(self, number: int) -> None:
        """Close a connection that has no association."""
        evict = self._evictions.get(number)
        if evict is not None:
            evict()

    async def drain(self, seconds: float) -> bool:
        """Let open associations finish for a time, and end the rest; tell whether none was cut short."""
        drained = await asyncio.gather(*(each.drain(seconds) for each in self.all))
        return all(drained)


def main() -> None:
    """Receive; a failure nobody foresaw ends the process, and the parent starts another."""
    selector = FastPathSelector()
    run(partial(receive, selector), lambda: asyncio.SelectorEventLoop(selector))


if __name__ == "__main__":
    main()
