"""Who may call next: the limits of a group and of the function, and urgent before routine."""

import asyncio
from contextlib import AsyncExitStack

from jetstream_connector.priority_scheduler import URGENT_IN_A_ROW, PriorityScheduler


class Order:
    """Takes turns in the background and notes the order in which they were granted."""

    def __init__(self, scheduler: PriorityScheduler) -> None:
        self.scheduler = scheduler
        self.granted: list[str] = []
        self._release: dict[str, asyncio.Event] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}

    async def ask(self, name: str, group: str, *, urgent: bool = False) -> None:
        """Ask for a turn, and hold it until told otherwise."""
        self._release[name] = asyncio.Event()
        self._tasks[name] = asyncio.create_task(self._hold(name, group, urgent))
        await asyncio.sleep(0)

    async def _hold(self, name: str, group: str, urgent: bool) -> None:
        async with self.scheduler.turn(group, urgent=urgent):
            self.granted.append(name)
            await self._release[name].wait()

    async def end(self, name: str) -> None:
        """Let go of a turn."""
        self._release[name].set()
        await self._tasks[name]
        await asyncio.sleep(0)

    async def cancel(self, name: str) -> None:
        """End whoever asked, turn or no turn."""
        self._tasks[name].cancel()
        await asyncio.gather(self._tasks[name], return_exceptions=True)
        await asyncio.sleep(0)


async def test_a_lane_has_so_many_turns_at_once() -> None:
    """Protects a destination from more calls at once than it was given."""
    order = Order(PriorityScheduler(in_group=2))
    for name in ("a", "b", "c"):
        await order.ask(name, "pacs")
    assert order.granted == ["a", "b"]
    await order.end("a")
    assert order.granted == ["a", "b", "c"]


async def test_urgent_goes_before_routine_and_routine_does_not_starve() -> None:
    """Protects both: nine urgent and two routine batches of one group, one call at a time."""
    order = Order(PriorityScheduler(in_group=1))
    await order.ask("first", "pacs")
    for name in ("r1", "r2"):
        await order.ask(name, "pacs")
    for number in range(9):
        await order.ask(f"u{number}", "pacs", urgent=True)
    while len(order.granted) < 12:
        await order.end(order.granted[-1])
    assert URGENT_IN_A_ROW == 4
    assert order.granted == ["first", "u0", "u1", "u2", "u3", "r1", "u4", "u5", "u6", "u7", "r2", "u8"]


async def test_urgent_alone_never_waits_for_a_routine_that_is_not_there() -> None:
    """Protects an urgent flood from pauses in favour of nobody."""
    order = Order(PriorityScheduler(in_group=1))
    for number in range(12):
        await order.ask(f"u{number}", "pacs", urgent=True)
        await order.end(f"u{number}")
    assert len(order.granted) == 12


async def test_the_functions_limit_leaves_every_lane_its_first_call() -> None:
    """Protects a healthy destination from stuck ones, which hold all the turns there are for the function."""
    order = Order(PriorityScheduler(in_group=3, in_all=2))
    for name in ("s1", "s2", "s3"):
        await order.ask(name, "stuck")
    assert order.granted == ["s1", "s2"]
    await order.ask("f1", "fine")
    await order.ask("f2", "fine")
    assert order.granted == ["s1", "s2", "f1"]
    await order.end("f1")
    assert order.granted == ["s1", "s2", "f1", "f2"]
    assert order.scheduler.in_flight == 3
    for name in ("f2", "s1", "s2", "s3"):
        await order.end(name)
    assert order.scheduler.in_flight == 0


async def test_who_is_cancelled_gives_back_its_turn_or_its_place() -> None:
    """Protects the count of turns from a consumer that is stopped while it waits or calls."""
    order = Order(PriorityScheduler(in_group=1))
    for name in ("holds", "waits", "next"):
        await order.ask(name, "pacs")
    await order.cancel("waits")
    await order.cancel("holds")
    assert order.granted == ["holds", "next"]
    await order.end("next")
    assert order.scheduler.in_flight == 0


async def test_who_is_cancelled_at_the_moment_of_its_turn_gives_it_back() -> None:
    """Protects the last turn of a group from being lost between its grant and its use."""
    scheduler = PriorityScheduler(in_group=1)
    async with AsyncExitStack() as held:
        await held.enter_async_context(scheduler.turn("pacs", urgent=False))
        order = Order(scheduler)
        await order.ask("unlucky", "pacs")
    await order.cancel("unlucky")
    assert (order.granted, scheduler.in_flight) == ([], 0)
