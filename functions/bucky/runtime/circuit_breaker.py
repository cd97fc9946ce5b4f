"""Whether to call something at all: not while it is down, but for a trial now and then."""

from enum import StrEnum

from bucky.runtime.backoff import Backoff


class CircuitState(StrEnum):
    """Closed lets everything through, open nothing, half-open one trial."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half-open"


class CircuitBreaker:
    """A circuit breaker; every time is in seconds of one monotonic clock, given by the caller."""

    def __init__(self, backoff: Backoff) -> None:
        self._backoff = backoff
        self._opened_at: float | None = None
        self._wait = 0.0

    def state(self, now: float) -> CircuitState:
        """Return the state at this moment."""
        if self._opened_at is None:
            return CircuitState.CLOSED
        return CircuitState.OPEN if self.wait(now) > 0 else CircuitState.HALF_OPEN

    def wait(self, now: float) -> float:
        """Return the seconds until a call may be made; 0 when now."""
        if self._opened_at is None:
            return 0.0
        return max(0.0, self._opened_at + self._wait - now)

    def down(self, called_at: float, now: float, wait: float | None = None) -> bool:
        """Note that a call found it down; return False for one from before the opening, which says nothing new.

        It is tried again after `wait` seconds, or, when nobody said, after a wait that grows.
        """
        if self._opened_at is not None and called_at < self._opened_at:
            return False
        self._wait = self._backoff.next() if wait is None else wait
        self._opened_at = now
        return True

    def answered(self) -> None:
        """Note that it answered: it is there."""
        self._opened_at = None
        self._wait = 0.0
        self._backoff.reset()
