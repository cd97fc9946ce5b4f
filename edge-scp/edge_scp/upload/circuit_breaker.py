"""One system the edge depends on: is it there, and when to try again. One log line per change."""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from bucky.cloudevents import utc_now
from bucky.errors import BuckyError
from bucky.log import get_logger

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
                    if self._failures:
                        await asyncio.sleep(self._wait_seconds())
                    return await self._attempt(work, probe=True)
        return await self._attempt(work, probe=False)

    async def _attempt(self, work: Callable[[], Awaitable[T]], *, probe: bool) -> T:
        try:
            if not self._prepared:
                await self._prepare()
                self._prepared = True
            result = await work()
        except BuckyError as error:
            self._failed(error, probe=probe)
            raise Unavailable(self.name) from error
        self._succeeded()
        return result

    def _wait_seconds(self) -> float:
        longest = min(LONGEST_WAIT_SECONDS, FIRST_WAIT_SECONDS * 2 ** min(self._failures - 1, 10))
        return random.uniform(longest / 2, longest)  # noqa: S311 - jitter is no secret

    def _failed(self, error: BuckyError, *, probe: bool) -> None:
        reason = f"{type(error).__name__}: {error}"
        if self._failures == 0:
            if self.error is None:
                self.since = utc_now()
            log.warning("dependency.down", dependency=self.name, reason=reason)
        # Calls that were under way when the first one failed say nothing new.
        if self._failures == 0 or probe:
            self._failures += 1
        self._prepared = False
        self.error = reason

    def _succeeded(self) -> None:
        if not self.ok:
            log.info("dependency.up", dependency=self.name, attempts=self._failures + 1)
        self._failures = 0
        self.error = None
