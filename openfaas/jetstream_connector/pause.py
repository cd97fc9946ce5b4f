"""Whether a subject is worth trying: shut when what it leads to is away, closed or at its limit.

It is the function that says so, of its events (`"attempted": false`); other subjects go on. Pure, but for
the clock on the wall, which the health page shows.
"""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from bucky.runtime.backoff import Backoff
from bucky.runtime.circuit_breaker import CircuitBreaker, CircuitState

# A function that says "in ten hours" is asked again earlier: somebody may have changed its mind.
LONGEST_WAIT_SECONDS = 60.0


def call_backoff() -> Backoff:
    """Return the waits before one more event is tried, in seconds."""
    return Backoff(first=0.5, longest=30.0)


@dataclass(frozen=True)
class PauseRequest:
    """The function's word that nothing of a batch got through; `retry_after` is in seconds, if it said so."""

    reason: str
    retry_after: float | None = None


class Pause:
    """One consumer's pause; every time is in seconds of one monotonic clock, but for `until`."""

    def __init__(self) -> None:
        self._breaker = CircuitBreaker(call_backoff())
        self.reason: str | None = None
        self.until: datetime | None = None
        self.by_schedule = False

    def state(self, now: float) -> CircuitState:
        """Return closed (in the sense of a circuit) while all goes through."""
        return self._breaker.state(now)

    def wait(self, now: float) -> float:
        """Return the seconds until one event may be tried; 0 when now."""
        return self._breaker.wait(now)

    def begin(self, request: PauseRequest, called_at: float, now: float) -> None:
        """Let nothing through for a while: as long as was said, within bounds, or a wait that doubles."""
        asked = None if request.retry_after is None else min(max(request.retry_after, 0.05), LONGEST_WAIT_SECONDS)
        self._breaker.down(called_at, now, asked)
        self.reason = request.reason
        wait = self.wait(now) if request.retry_after is None else request.retry_after
        self.until = datetime.now(UTC) + timedelta(seconds=wait)
        # What is away is asked for again within a minute; what says "in ten hours" has its hours.
        self.by_schedule = wait > LONGEST_WAIT_SECONDS

    def end(self) -> None:
        """Note that something got through."""
        self._breaker.answered()
        self.reason = self.until = None
        self.by_schedule = False
