"""One system the edge depends on: is it there, and when to try again. One log line per change."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from bucky.cloudevents import utc_now
from bucky.errors import BuckyError
from bucky.log import get_logger
from bucky.runtime.backoff import Backoff
from bucky.runtime.circuit_breaker import CircuitBreaker

FIRST_WAIT_SECONDS = 0.2
LONGEST_WAIT_SECONDS = 5.0
# Longer than any attempt takes: after it, nothing is left that would be tried again by itself.
WORK_SECONDS = 150.0

T = TypeVar("T")
log = get_logger("edge")


class Unavailable(Exception):
    """The attempt failed; the dependency knows why and has logged it if that is new."""


class Dependency:
    """Guards calls to one outside system.

    While it is up, calls run side by side. While it is down, one call at a time probes it, after a wait
    with jitter that doubles up to `LONGEST_WAIT_SECONDS`. `prepare` runs before the first call and again
    after every failure: what must exist there may be gone.
    """

    def __init__(self, name: str, prepare: Callable[[], Awaitable[None]]) -> None:
        self.name = name
        self.error: str | None = "not reached yet"
        self.since = utc_now()
        self._prepare = prepare
        self._prepared = False
        self._failures = 0
        self._breaker = CircuitBreaker(Backoff(FIRST_WAIT_SECONDS, LONGEST_WAIT_SECONDS, jitter=True))
        self._probing = asyncio.Lock()
        self._refused_at: float | None = None

    @property
    def ok(self) -> bool:
        """Tell whether the last attempt succeeded."""
        return self.error is None

    def state(self) -> dict[str, Any]:
        """Return what the health page shows."""
        since = None if self.ok else self.since.isoformat(timespec="seconds")
        return {"ok": self.ok, "error": self.error, "since": since}

    async def call(self, work: Callable[[], Awaitable[T]]) -> T:
        """Run the work, or raise `Unavailable`; a `BuckyError` counts as its being down."""
        try:
            result = await self._guarded(work)
        except Unavailable:
            self._refused_at = time.monotonic()
            raise
        self._refused_at = None
        return result

    async def check(self, work: Callable[[], Awaitable[None]]) -> None:
        """Look whether it is there, or raise `Unavailable`; after real work has failed, only work says that it is.

        A server can answer, and keep nothing, as one does whose disk is full.
        """
        if self._refused_at is None or time.monotonic() - self._refused_at > WORK_SECONDS:
            await self._guarded(work)

    async def _guarded(self, work: Callable[[], Awaitable[T]]) -> T:
        if not self.ok:
            async with self._probing:
                # Up again meanwhile: then no longer one by one.
                if not self.ok:
                    await asyncio.sleep(self._breaker.wait(time.monotonic()))
                    return await self._attempt(work)
        return await self._attempt(work)

    async def _attempt(self, work: Callable[[], Awaitable[T]]) -> T:
        called_at = time.monotonic()
        try:
            if not self._prepared:
                await self._prepare()
                self._prepared = True
            result = await work()
        except BuckyError as error:
            self._failed(error, called_at)
            raise Unavailable(self.name) from error
        self._succeeded()
        return result

    def _failed(self, error: BuckyError, called_at: float) -> None:
        reason = f"{type(error).__name__}: {error}"
        if self._failures == 0:
            if self.error is None:
                self.since = utc_now()
            log.warning("dependency.down", dependency=self.name, reason=reason)
        self._failures += self._breaker.down(called_at, time.monotonic())
        self._prepared = False
        self.error = reason

    def _succeeded(self) -> None:
        if not self.ok:
            log.info("dependency.up", dependency=self.name, attempts=self._failures + 1)
        self._failures = 0
        self._breaker.answered()
        self.error = None
