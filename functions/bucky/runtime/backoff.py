"""Waiting longer after each failure in a row: the one back-off of all that try again."""

import random
from dataclasses import dataclass, field


@dataclass
class Backoff:
    """Waits in seconds: `first`, then `factor` times more after each, up to `longest`.

    With `jitter`, each is between half of that and all of it, so that those who failed together do not meet again.
    """

    first: float
    longest: float
    factor: float = 2.0
    jitter: bool = False
    _last: float = field(default=0.0, init=False)

    def next(self) -> float:
        """Return how long to wait after one more failure."""
        self._last = min(max(self._last * self.factor, self.first), self.longest)
        return random.uniform(self._last / 2, self._last) if self.jitter else self._last  # noqa: S311 - no secret

    def reset(self) -> None:
        """Begin again: it worked."""
        self._last = 0.0
