"""How much to send at once: halved when the function is busy, grown again as it answers (AIMD)."""

from bucky.runtime.backoff import Backoff

FIRST_PAUSE_SECONDS = 0.25
LONGEST_PAUSE_SECONDS = 30.0
# What a function asks for by Retry-After is believed up to here.
LONGEST_ASKED_SECONDS = 600.0


class AdaptiveLimit:
    """One consumer's batch size and concurrency, between 1 and what its annotations allow."""

    def __init__(self, batch_size: int, concurrency: int) -> None:
        self._most_batch, self._most_concurrency = batch_size, concurrency
        self.batch_size, self.concurrency = batch_size, concurrency
        self._backoff = Backoff(FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS)
        self._busy_at = float("-inf")
        self._resume_at = float("-inf")

    def wait(self, now: float) -> float:
        """Return the seconds until the next call may be made; 0 when now."""
        return max(0.0, self._resume_at - now)

    def busy(self, called_at: float, now: float, retry_after: float | None) -> None:
        """Halve and pause; calls that were under way at the last halving say nothing new."""
        if called_at < self._busy_at:
            return
        self.batch_size = max(1, self.batch_size // 2)
        self.concurrency = max(1, self.concurrency // 2)
        self._busy_at = now
        self._resume_at = now + max(self._backoff.next(), min(retry_after or 0.0, LONGEST_ASKED_SECONDS))

    def answered(self) -> None:
        """Grow by a tenth of what is allowed, at least by one."""
        self._backoff.reset()
        self.batch_size = min(self._most_batch, self.batch_size + max(1, self._most_batch // 10))
        self.concurrency = min(self._most_concurrency, self.concurrency + 1)
