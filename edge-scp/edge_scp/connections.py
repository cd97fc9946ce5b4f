"""How many connections are served at once, in all and for each peer: the parent's count."""

from collections import Counter
from enum import Enum

from bucky.settings import Listener, Settings
from edge_scp.admission import network_allowed

# Connections past a limit still get an A-ASSOCIATE-RJ that says why, up to this many on each listener.
REJECTED_AT_ONCE = 32


class Verdict(Enum):
    """What becomes of a connection that was accepted."""

    SERVE = "serve"
    REJECT = "reject"  # it may say what it wants, and is told that it is too many
    DROP = "drop"


class Connections:
    """The open connections of one listener, by peer address."""

    def __init__(self, listener: Listener, settings: Settings) -> None:
        self._listener = listener
        self._most = settings.edge_max_associations
        self._most_per_peer = settings.edge_max_associations_per_peer
        self._served: Counter[str] = Counter()
        self._serving = self._rejecting = 0

    @property
    def serving(self) -> int:
        """Return how many are served."""
        return self._serving

    def verdict(self, address: str) -> Verdict:
        """Decide about one more connection; strangers to the listener's networks take no place of a peer."""
        room = self._serving < self._most and self._served[address] < self._most_per_peer
        if room and network_allowed(self._listener, address):
            return Verdict.SERVE
        return Verdict.REJECT if self._rejecting < REJECTED_AT_ONCE else Verdict.DROP

    def opened(self, address: str, verdict: Verdict) -> None:
        """Count a connection that was handed to a receiver."""
        if verdict is Verdict.SERVE:
            self._serving += 1
            self._served[address] += 1
        else:
            self._rejecting += 1

    def closed(self, address: str, verdict: Verdict) -> None:
        """Count a connection that is over."""
        if verdict is Verdict.SERVE:
            self._serving -= 1
            self._served[address] -= 1
            if not self._served[address]:
                del self._served[address]
        else:
            self._rejecting -= 1
