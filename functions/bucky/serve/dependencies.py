"""The things a handler declared: opened once, in the background until they can be, and checked."""

import asyncio
import time
from typing import Any

from bucky.errors import BuckyError, Retriable
from bucky.log import get_logger
from bucky.runtime.backoff import Backoff
from bucky.serve.handlers import DEPENDENCIES, Handler
from bucky.settings import Settings

CHECK_SECONDS = 1.0
FIRST_WAIT_SECONDS, LONGEST_WAIT_SECONDS = 0.25, 10.0


class Dependencies:
    """Opens what a handler asks for; until then the function is alive but not ready."""

    def __init__(self, handler: Handler, settings: Settings) -> None:
        self._names = handler.dependencies
        self._settings = settings
        self._log = get_logger(handler.function)
        self._checked_at = float("-inf")
        self._trouble: str | None = None
        self._checking = asyncio.Lock()
        self.values: dict[str, Any] = {}
        self.opened = False

    async def open(self) -> None:
        """Open everything, trying again while that can help; raise when it cannot."""
        backoff = Backoff(FIRST_WAIT_SECONDS, LONGEST_WAIT_SECONDS)
        for name in self._names:
            while name not in self.values:
                try:
                    self.values[name] = await asyncio.to_thread(DEPENDENCIES[name].open, self._settings)
                except Retriable as error:
                    self._trouble = f"{name}: {error}"
                    self._log.warning("dependency.unavailable", dependency=name, reason=str(error))
                    await asyncio.sleep(backoff.next())
        self.opened = True

    async def trouble(self) -> str | None:
        """Return why the function is not ready, or None; asks at most once a second."""
        if not self.opened:
            return self._trouble or "its dependencies are being opened"
        async with self._checking:
            if time.monotonic() - self._checked_at > CHECK_SECONDS:
                self._trouble = await asyncio.to_thread(self._check)
                self._checked_at = time.monotonic()
            return self._trouble

    def _check(self) -> str | None:
        for name in self._names:
            check = DEPENDENCIES[name].check
            if check is None:
                continue
            try:
                check(self.values[name])
            except BuckyError as error:
                return f"{name}: {error}"
        return None

    async def close(self) -> None:
        """Close what needs closing."""
        for name, value in self.values.items():
            close = DEPENDENCIES[name].close
            if close is not None:
                await asyncio.to_thread(close, value)
