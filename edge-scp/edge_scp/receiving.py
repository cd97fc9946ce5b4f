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
from edge_scp.admission import TOO_MANY_ASSOCIATIONS
from edge_scp.announcements import Announcer
from edge_scp.broker_link import BrokerLink
from edge_scp.capacity import Capacity, Ledger, Limits
from edge_scp.channel import Channel, Message
from edge_scp.children import Inherited, end_at_once, run
from edge_scp.commit_board import CommitBoard
from edge_scp.commitment_reports import CommitmentReports
from edge_scp.committer import Committer, GroupCommitter
from edge_scp.connections import Verdict
from edge_scp.express import LaneSelector, TraysFor, lane_of
from edge_scp.metrics import ReceiverMetrics
from edge_scp.receiver import Receiver
from edge_scp.receivers import process_count
from edge_scp.reception import Reports, Sink
from edge_scp.spool_folder import SpoolFolder
from edge_scp.storage_syntaxes import Syntaxes
from edge_scp.upper_layer import limits as upper_layer
from edge_scp.upper_layer.acceptor import Acceptor, Lane, Standing, Told
from edge_scp.upper_layer.connection import receive_buffer


async def receive(selector: LaneSelector, settings: Settings, inherited: Inherited) -> bool:
    """Wire the process and serve until the parent says to drain; tell whether no association was cut short."""
    ledger = Ledger(inherited.ledger)
    metrics = ReceiverMetrics()
    capacity = Capacity(ledger, inherited.slot, Limits.of(settings, ledger))
    folder = SpoolFolder(settings.spool_dir)
    receiver = Receiver(
        folder,
        capacity,
        Announcer(inherited.announcements, ledger, inherited.slot),
        committer_of(inherited),
        metrics,
    )
    queue = CommitBoard(inherited.board).fast_path_end(inherited.number)
    trays = TraysFor(folder.trays, inherited.trays, inherited.number, process_count(settings), inherited.slot)
    lane = lane_of(settings, selector, receiver, capacity, counters=inherited.ledger, queue=queue, trays=trays)
    log.get_logger("edge").info("receiver.started", express=lane is not None)
    broker = BrokerLink(settings)
    acceptors = Acceptors(settings, receiver, metrics, lane, CommitmentReports(broker))
    draining: asyncio.Future[float] = asyncio.get_running_loop().create_future()

    def received(message: Message, connection: socket.socket | None) -> None:
        if "address" in message:
            number = message["number"]
            if connection is None:
                # The kernel drops it when this process has as many descriptors as it may.
                channel.send({"closed": number, "stored": False})
            else:
                told = partial(_tell, channel, number)
                verdict = Verdict(message["verdict"])
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
    if lane is not None:
        lane.close()
    receiver.close()
    await broker.close()
    return drained


def _tell(channel: Channel, number: int, standing: Standing, stored: bool) -> None:
    """Tell the parent how a connection stands."""
    if standing is Standing.CLOSED:
        channel.send({"closed": number, "stored": stored})
    else:
        channel.send({"number": number, "associated": standing is Standing.ASSOCIATED})


def committer_of(inherited: Inherited) -> Committer:
    """Return what makes files durable, wired to the running loop."""
    committer = GroupCommitter(CommitBoard(inherited.board), inherited.number)
    asyncio.get_running_loop().add_reader(committer.answers, committer.answered)
    return committer


class Acceptors:
    """What serves the connections of every listener, and what turns away those that are too many."""

    def __init__(
        self,
        settings: Settings,
        sink: Sink,
        metrics: ReceiverMetrics,
        lane: Lane | None = None,
        reports: Reports | None = None,
    ) -> None:
        limits, syntaxes, buffer = upper_layer.Limits.of(settings), Syntaxes(settings), receive_buffer()
        self._serving = [
            Acceptor(listener, limits, syntaxes, sink, metrics, buffer=buffer, lane=lane, reports=reports)
            for listener in settings.edge_listeners
        ]
        self._rejecting = [
            Acceptor(listener, limits, syntaxes, sink, metrics, buffer=buffer, obstacle=lambda: TOO_MANY_ASSOCIATIONS)
            for listener in settings.edge_listeners
        ]
        self._evictions: dict[int, Callable[[], None]] = {}

    def serve(
        self, listener: int, connection: socket.socket, number: int, address: str, verdict: Verdict, told: Told
    ) -> None:
        """Serve a connection, or reject what it asks for; `told` hears how it stands, and at last that it is closed."""
        acceptors = self._serving if verdict is Verdict.SERVE else self._rejecting

        def stands(standing: Standing, stored: bool) -> None:
            if standing is Standing.CLOSED:
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
        """Let open associations finish for so long, and end the rest; tell whether none was cut short."""
        drained = await asyncio.gather(*(each.drain(seconds) for each in self.all))
        return all(drained)


def main() -> None:
    """Receive; a failure nobody foresaw ends the process, and the parent starts another."""
    selector = LaneSelector()
    run(partial(receive, selector), lambda: asyncio.SelectorEventLoop(selector))


if __name__ == "__main__":
    main()
