"""Whether to call a function at all: open while it is down, tried now and then until it answers."""

from enum import StrEnum

FIRST_WAIT_SECONDS = 0.5
LONGEST_WAIT_SECONDS = 30.0


class State(StrEnum):
    """Closed lets everything through, open nothing, half-open one event per consumer."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half-open"


class Breaker:
    """A circuit breaker; every time is in seconds of one monotonic clock, given by the caller."""

    def __init__(self) -> None:
        self._opened_at: float | None = None
        self._wait = 0.0

    def state(self, now: float) -> State:
        """Return the state at this moment."""
        if self._opened_at is None:
            return State.CLOSED
        return State.OPEN if self.wait(now) > 0 else State.HALF_OPEN

    def wait(self, now: float) -> float:
        """Return the seconds until a call may be made; 0 when now."""
        if self._opened_at is None:
            return 0.0
        return max(0.0, self._opened_at + self._wait - now)

    def down(self, called_at: float, now: float, wait: float | None = None) -> None:
        """Note that a call found it down; a call from before the opening says nothing new.

        It is tried again after `wait` seconds, or, when nobody said, after a wait that doubles.
        """
        if self._opened_at is not None and called_at < self._opened_at:
            return
        doubled = min(max(self._wait * 2, FIRST_WAIT_SECONDS), LONGEST_WAIT_SECONDS)
        self._wait = doubled if wait is None else wait
        self._opened_at = now

    def answered(self) -> None:
        """Note that it answered: it is there."""
        self._opened_at = None
        self._wait = 0.0
