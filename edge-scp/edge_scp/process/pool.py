"""The receivers of an edge, as the parent has them: who gets the next connection, and what a dead one leaves."""

import asyncio
import os
import socket
from collections.abc import Iterator
from itertools import cycle
from typing import NamedTuple

from bucky.settings import Settings
from edge_scp.process.channel import Message
from edge_scp.process.connections import Connections, Handling
from edge_scp.process.supervisor import Shared, Worker
from edge_scp.spool.capacity import WORKER_IDS, SharedCounters
from edge_scp.spool.notifications import notify_end

_MOST_BY_DEFAULT = 4
_RETRY_SECONDS = 0.5


class _Handed(NamedTuple):
    """A connection that a receiver has: of which listener, and from which address."""

    listener: int
    address: str


class WorkerPool:
    """The pool; `counts` are the listeners' counts, which connections that end are taken from."""

    def __init__(self, settings: Settings, shared: Shared, counters: SharedCounters, announcing: int) -> None:
        self.counts: list[Connections] = []
        self._counters, self._announcing = counters, announcing
        self._worker_ids = cycle(range(WORKER_IDS))
        self._used: set[int] = set()
        self._gone: set[int] = set()
        # By receiver, and there by the connection's number.
        self._handed: list[dict[int, _Handed]] = [{} for _ in range(process_count(settings))]
        self.children = [self._child(number, shared) for number in range(len(self._handed))]

    def of(self, listener: int) -> "ListenerPool":
        """Return the pool as one listener's port has it."""
        return ListenerPool(self, listener)

    def hand(self, handed: _Handed, connection: socket.socket, number: int, verdict: Handling) -> bool:
        """Pass a connection to the receiver that has fewest; return False when there is none."""
        message = {"number": number, "verdict": verdict.value, **handed._asdict()}
        for receiver in self._by_load():
            if self.children[receiver].ready and self.children[receiver].send(message, connection):
                self._handed[receiver][number] = handed
                return True
        return False

    def evict(self, number: int) -> None:
        """Have the receiver that has a connection close it, unless it has an association by now."""
        for child, handed in zip(self.children, self._handed, strict=True):
            if number in handed:
                child.send({"evict": number})

    def uploader_restarted(self) -> None:
        """Announce again the receivers that are gone: the uploader may have died before it had looked."""
        self._gone |= {
            worker_id
            for worker_id in range(WORKER_IDS)
            if worker_id not in self._used and not self._counters.settled(worker_id)
        }
        self._announce_gone()

    async def drain(self, seconds: float, grace_seconds: float) -> bool:
        """Let open associations finish; tell whether none was cut short."""
        ends = (child.stop({"drain": seconds}, seconds + grace_seconds) for child in self.children)
        return all(await asyncio.gather(*ends))

    def _by_load(self) -> Iterator[int]:
        return iter(sorted(range(len(self._handed)), key=lambda receiver: len(self._handed[receiver])))

    def _child(self, number: int, shared: Shared) -> Worker:
        return Worker(
            f"receiver-{number}",
            "edge_scp.process.receive_worker",
            shared,
            self._announcing,
            number=number,
            begin=self._free_slot,
            heard=lambda message: self._heard(number, message),
            ended=lambda worker_id: self._ended(number, worker_id),
        )

    def _free_slot(self) -> int:
        """Return a worker id of which nothing awaits the uploader, if there is one, and not the one used last."""
        free = [
            worker_id
            for worker_id, _ in zip(self._worker_ids, range(WORKER_IDS), strict=False)
            if worker_id not in self._used
        ]
        worker_id = next((worker_id for worker_id in free if self._counters.settled(worker_id)), free[0])
        while next(self._worker_ids) != worker_id:
            pass
        self._used.add(worker_id)
        self._counters.begin(worker_id)
        return worker_id

    def _heard(self, receiver: int, message: Message) -> None:
        if "closed" in message:
            listener, address = self._handed[receiver].pop(message["closed"])
            self.counts[listener].closed(message["closed"], address, stored=message["stored"])
        else:
            listener, address = self._handed[receiver][message["number"]]
            self.counts[listener].associated(message["number"], address, is_now=message["associated"])

    def _ended(self, receiver: int, worker_id: int) -> None:
        handed, self._handed[receiver] = self._handed[receiver], {}
        for number, (listener, address) in handed.items():
            self.counts[listener].closed(number, address)
        self._used.discard(worker_id)
        self._gone.add(worker_id)
        self._announce_gone()

    def _announce_gone(self) -> None:
        for worker_id in tuple(self._gone):
            if notify_end(self._announcing, worker_id):
                self._gone.discard(worker_id)
        if self._gone:
            asyncio.get_running_loop().call_later(_RETRY_SECONDS, self._announce_gone)


class ListenerPool:
    """The receivers, for the connections of one listener."""

    def __init__(self, receivers: WorkerPool, listener: int) -> None:
        self._receivers, self._listener = receivers, listener

    def hand(self, number: int, connection: socket.socket, address: str, verdict: Handling) -> bool:
        """Pass a connection to the receiver that has fewest; return False when there is none."""
        return self._receivers.hand(_Handed(self._listener, address), connection, number, verdict)

    def evict(self, number: int) -> None:
        """Have a connection closed, unless it has an association by now."""
        self._receivers.evict(number)


def process_count(settings: Settings) -> int:
    """Return how many processes receive."""
    return settings.edge_processes or min(_MOST_BY_DEFAULT, len(os.sched_getaffinity(0)))
