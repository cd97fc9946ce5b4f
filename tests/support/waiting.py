"""Waiting for what a test needs to come true: bounded generously, since a busy machine is slower and not wrong."""

import asyncio
import time
from collections.abc import Awaitable, Callable

PATIENCE = 120.0
"""Seconds until a condition counts as never coming true. Nothing is faster for being waited for less."""


def eventually(condition: Callable[[], bool], what: str = "", seconds: float = PATIENCE) -> None:
    """Poll until the condition holds, or fail saying what was waited for."""
    deadline = time.monotonic() + seconds
    pause = 0.005
    while not condition():
        assert time.monotonic() < deadline, f"after {seconds:.0f} s still not true: {what or _place(condition)}"
        time.sleep(pause)
        pause = min(pause * 1.3, 0.2)


async def until(
    condition: Callable[[], Awaitable[bool] | bool], what: str = "", seconds: float = PATIENCE, pause: float = 0.01
) -> None:
    """Poll until the condition holds while the event loop goes on, or fail saying what was waited for."""
    deadline = time.monotonic() + seconds
    while True:
        outcome = condition()
        if outcome if isinstance(outcome, bool) else await outcome:
            return
        assert time.monotonic() < deadline, f"after {seconds:.0f} s still not true: {what or _place(condition)}"
        await asyncio.sleep(pause)


def _place(condition: Callable[[], object]) -> str:
    code = getattr(condition, "__code__", None)
    return f"the condition of {code.co_filename}, line {code.co_firstlineno}" if code else repr(condition)
