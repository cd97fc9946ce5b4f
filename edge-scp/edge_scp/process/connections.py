"""How many connections are served at once, in all and for each peer: the parent's count, and who gives way.

A connection without an association yet holds its place only until somebody else needs it: then the oldest of the
address that has most of them is closed. So silent connections cannot keep callers out, from however few addresses.
Callers that have stored here before have a few places more, which nobody else gets.
"""

import time
from collections import Counter
from collections.abc import Callable
from enum import Enum
from typing import NamedTuple

from bucky.settings import Settings
from bucky.text.listeners import Listener
from edge_scp.association.admission import network_allowed

# Connections past a limit still get an A-ASSOCIATE-RJ that says why, up to this many on each listener.
REJECTED_AT_ONCE = 32
# For known callers, one more place for each of this number; each of them may have a few connections and get one.
RESERVED_SHARE = 4
FEW = 4
# A connection of an address that has no more than others may be silent for this part of ARTIM before it gives way.
_GRACE = 1 / 3
# Addresses that are remembered as known.
_REMEMBERED = 1024


class Handling(Enum):
    """What becomes of a connection that was accepted."""

    SERVE = "serve"
    REJECT = "reject"  # it may say what it wants, and is told that it is too many
    DROP = "drop"


class Admission(NamedTuple):
    """A verdict, and the number of the connection that gives way, if one must."""

    verdict: Handling
    evicted: int | None = None


class _Waiting(NamedTuple):
    address: str
    since: float


class Connections:
    """The open connections of one listener, by number: those that come later have higher ones."""

    def __init__(self, listener: Listener, settings: Settings, clock: Callable[[], float] = time.monotonic) -> None:
        self._listener = listener
        self._clock = clock
        self._grace_seconds = settings.edge_artim_seconds * _GRACE
        self._most = settings.edge_max_associations
        self._most_per_peer = settings.edge_max_associations_per_peer
        self._most_with_known = self._most + max(FEW, self._most // RESERVED_SHARE)
        # The addresses of those that are served, without an association since some time, and with one.
        self._waiting: dict[int, _Waiting] = {}
        self._associated: dict[int, str] = {}
        self._held: Counter[str] = Counter()
        self._rejecting: set[int] = set()
        self._known: dict[str, None] = {}

    @property
    def serving(self) -> int:
        """Return how many are served."""
        return len(self._waiting) + len(self._associated)

    def admission(self, address: str) -> Admission:
        """Decide about one more connection; strangers to the listener's networks take no place of a peer."""
        if network_allowed(self._listener, address):
            if self._room(address):
                return Admission(Handling.SERVE)
            evicted = self._gives_way(address)
            if evicted is not None:
                return Admission(Handling.SERVE, evicted)
        return Admission(Handling.REJECT if len(self._rejecting) < REJECTED_AT_ONCE else Handling.DROP)

    def opened(self, number: int, address: str, verdict: Handling) -> None:
        """Count a connection that was handed to a receiver."""
        if verdict is Handling.SERVE:
            self._waiting[number] = _Waiting(address, self._clock())
            self._held[address] += 1
        else:
            self._rejecting.add(number)

    def associated(self, number: int, address: str, *, is_now: bool) -> None:
        """Note that a connection has an association now, or has it no longer and is still open.

        One that was evicted meanwhile has its place again: its association was accepted before it heard of that.
        """
        if number in self._rejecting or (not is_now and number not in self._associated):
            return
        if self._waiting.pop(number, None) is None and self._associated.pop(number, None) is None:
            self._held[address] += 1
        if is_now:
            self._associated[number] = address
        else:
            self._waiting[number] = _Waiting(address, self._clock())

    def evicted(self, number: int) -> None:
        """Free the place of a connection that gives way, and is about to be closed."""
        self._give_back(self._waiting.pop(number).address)

    def closed(self, number: int, address: str, *, stored: bool = False) -> None:
        """Count a connection that is over; its address is known from now on if something was `stored` over it."""
        if self._waiting.pop(number, None) is not None or self._associated.pop(number, None) is not None:
            self._give_back(address)
        self._rejecting.discard(number)
        if stored:
            self._known.pop(address, None)
            self._known[address] = None
            if len(self._known) > _REMEMBERED:
                del self._known[next(iter(self._known))]

    def _give_back(self, address: str) -> None:
        self._held[address] -= 1
        if not self._held[address]:
            del self._held[address]

    def _room(self, address: str) -> bool:
        if self._held[address] >= self._most_per_peer:
            return False
        return self.serving < (self._most_with_known if self._known_with_few(address) else self._most)

    def _known_with_few(self, address: str) -> bool:
        return address in self._known and self._held[address] < FEW

    def _gives_way(self, newcomer: str) -> int | None:
        """Return which waiting connection is closed for one more: the oldest of the address that has most of them."""
        counts = Counter(each.address for each in self._waiting.values())
        counts[newcomer] += 1
        silent_since = self._clock() - self._grace_seconds
        candidates = [
            (-counts[address], number)
            for number, (address, since) in self._waiting.items()
            if self._may_give_way(address, newcomer, counts, silent=since <= silent_since)
        ]
        return min(candidates)[1] if candidates else None

    def _may_give_way(self, address: str, newcomer: str, counts: Counter[str], *, silent: bool) -> bool:
        """Tell whether an address may lose a connection to a newcomer: not one that has fewer, or known with few.

        A newcomer that has as many as it may gets no place but its own. One that has not been silent for long gives
        way only where its address has clearly more: a burst of callers is told that it is too many.
        """
        if address == newcomer:
            return silent
        if self._held[newcomer] >= self._most_per_peer or self._known_with_few(address):
            return False
        more = counts[address] - counts[newcomer]
        return more > FEW or (more >= 0 and silent)
