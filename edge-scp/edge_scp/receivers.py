"""The receivers of an edge, as the parent has them: who gets the next connection, and what a dead one leaves."""

import asyncio
import os
import socket
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import cycle

from bucky.settings import Settings
from edge_scp.announcements import announce_end
from edge_scp.capacity import SLOTS, Ledger
from edge_scp.channel import Message
from edge_scp.children import Child, Shared
from edge_scp.connections import Connections, Verdict
from edge_scp.listening import Hand

_MOST_BY_DEFAULT = 4
_RETRY_SECONDS = 0.5

# Which listener, from which address, and whether it is served.
_Key = tuple[int, str, Verdict]


@dataclass
class _Load:
    """The connections one receiver has."""

    open: Counter[_Key] = field(default_factory=Counter)

    @property
    def total(self) -> int:
        return self.open.total()


class Receivers:
    """The pool; `counts` are the listeners' counts, which connections that end are taken from."""

    def __init__(self, settings: Settings, shared: Shared, ledger: Ledger, announcing: int) -> None:
        self.counts: list[Connections] = []
        self._ledger, self._announcing = ledger, announcing
        self._slots = cycle(range(SLOTS))
        self._used: set[int] = set()
        self._gone: set[int] = set()
        self._loads = [_Load() for _ in range(process_count(settings))]
        self.children = [self._child(number, shared) for number in range(len(self._loads))]

    def hand_for(self, listener: int) -> Hand:
        """Return what hands a listener's connections to the receiver that has fewest."""

        def hand(connection: socket.socket, address: str, verdict: Verdict) -> bool:
            message = {"listener": listener, "address": address, "verdict": verdict.value}
            for number in self._by_load():
                if self.children[number].ready and self.children[number].send(message, connection):
                    self._loads[number].open[listener, address, verdict] += 1
                    return True
            return False

        return hand

    def uploader_restarted(self) -> None:
        """Announce again the receivers that are gone: the uploader may have died before it had looked."""
        self._gone |= {slot for slot in range(SLOTS) if slot not in self._used and not self._ledger.settled(slot)}
        self._announce_gone()

    async def drain(self, seconds: float, grace_seconds: float) -> bool:
        """Let open associations finish; tell whether none was cut short."""
        ends = (child.stop({"drain": seconds}, seconds + grace_seconds) for child in self.children)
        return all(await asyncio.gather(*ends))

    def _by_load(self) -> Iterator[int]:
        return iter(sorted(range(len(self._loads)), key=lambda number: self._loads[number].total))

    def _child(self, number: int, shared: Shared) -> Child:
        return Child(
            f"receiver-{number}",
            "edge_scp.receiving",
            shared,
            self._announcing,
            number=number,
            begin=self._free_slot,
            heard=lambda message: self._heard(number, message),
            ended=lambda slot: self._ended(number, slot),
        )

    def _free_slot(self) -> int:
        """Return a slot that nothing is left in, as long as there is one, and not the one used last."""
        free = [slot for slot, _ in zip(self._slots, range(SLOTS), strict=False) if slot not in self._used]
        slot = next((slot for slot in free if self._ledger.settled(slot)), free[0])
        while next(self._slots) != slot:
            pass
        self._used.add(slot)
        self._ledger.begin(slot)
        return slot

    def _heard(self, number: int, message: Message) -> None:
        key = message["listener"], message["closed"], Verdict(message["verdict"])
        self._closed(number, key)

    def _closed(self, number: int, key: _Key) -> None:
        listener, address, verdict = key
        self._loads[number].open[key] -= 1
        self.counts[listener].closed(address, verdict)

    def _ended(self, number: int, slot: int) -> None:
        for key in list(self._loads[number].open.elements()):
            self._closed(number, key)
        self._used.discard(slot)
        self._gone.add(slot)
        self._announce_gone()

    def _announce_gone(self) -> None:
        for slot in tuple(self._gone):
            if announce_end(self._announcing, slot):
                self._gone.discard(slot)
        if self._gone:
            asyncio.get_running_loop().call_later(_RETRY_SECONDS, self._announce_gone)


def process_count(settings: Settings) -> int:
    """Return how many processes receive."""
    return settings.edge_processes or min(_MOST_BY_DEFAULT, len(os.sched_getaffinity(0)))
