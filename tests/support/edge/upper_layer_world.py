"""An upper layer under test: a listener in an event loop of its own, over a sink that keeps what it gets in memory."""

import asyncio
import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any

from bucky.settings import Settings
from bucky.text.listeners import Listener
from edge_scp.association.acceptor import Acceptor
from edge_scp.association.admission import Rejection
from edge_scp.association.limits import AssociationLimits
from edge_scp.association.sink import CommitmentSink, Requestor, StoreStatus
from edge_scp.association.statuses import Status
from edge_scp.association.storage_syntaxes import Syntaxes
from edge_scp.association.store_service import Refusal, StoreCommand
from tests.support.waiting import PATIENCE

SYNTAXES = Syntaxes(Settings())


class Instance:
    """One C-STORE as the sink saw it."""

    def __init__(self, sink: "MemorySink", command: StoreCommand, caller: Requestor) -> None:
        self.command, self.caller = command, caller
        self.data_set = bytearray()
        self.finished = self.abandoned = False
        self._sink = sink
        self._answered: Callable[[StoreStatus], None] | None = None

    def write(self, *fragments: memoryview) -> None:
        """Keep a copy of the fragments."""
        assert not self.finished
        assert not self.abandoned
        self.data_set += b"".join(fragments)

    def finish(self, answered: Callable[[StoreStatus], None]) -> None:
        """Answer on the loop's next turn, as a real sink would, or when the test says."""
        self.finished = True
        self._answered = answered
        if not self._sink.holding:
            asyncio.get_running_loop().call_soon(self.answer)

    def abandon(self) -> None:
        """Note it."""
        assert not self.finished
        self.abandoned = True

    def answer(self) -> None:
        """Answer with what the sink answers."""
        answered, self._answered = self._answered, None
        assert answered is not None
        answered(self._sink.answer)


class MemorySink:
    """Keeps instances; `holding` leaves them unanswered."""

    def __init__(self) -> None:
        self.instances: list[Instance] = []
        self.answer = StoreStatus(Status.SUCCESS)
        self.holding = False

    def begin(self, command: StoreCommand, caller: Requestor) -> Instance:
        """Begin an instance."""
        instance = Instance(self, command, caller)
        self.instances.append(instance)
        return instance

    def refuse(self, command: StoreCommand, caller: Requestor, refusal: Refusal, received: int) -> Instance:
        """Go on with an instance that the fast path refused; nothing here has one."""
        raise AssertionError(f"{command}, {caller}: {refusal} after {received} bytes")


class Outcomes:
    """Counts associations by outcome."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()

    def association(self, outcome: str) -> None:
        """Count one."""
        self.counts[outcome] += 1


class UpperLayerWorld:
    """A running upper layer and all that can be seen of it."""

    def __init__(self, listener: Listener, limits: AssociationLimits, reports: CommitmentSink | None = None) -> None:
        self._reports = reports
        self.sink = MemorySink()
        self.outcomes = Outcomes()
        self.obstacle: Rejection | None = None
        self.errors: list[dict[str, Any]] = []
        self.acceptor: Acceptor
        self.loop = asyncio.new_event_loop()
        self._listener, self._limits = listener, limits
        self._socket = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port = int(self._socket.getsockname()[1])
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._stop = asyncio.Event()
        self._ready = threading.Event()

    def start(self) -> None:
        """Accept connections from now on."""
        self._thread.start()
        assert self._ready.wait(5)

    def stop(self) -> None:
        """End, whatever is open."""
        self.loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(10)
        assert not self._thread.is_alive()
        self._socket.close()

    def call(self, function: Callable[[], Any]) -> Any:
        """Call a function in the loop's thread and return its result."""

        async def called() -> Any:
            return function()

        return asyncio.run_coroutine_threadsafe(called(), self.loop).result(5)

    def drain(self, seconds: float) -> "Future[bool]":
        """Begin to drain, and return what will be known when it is done."""
        return asyncio.run_coroutine_threadsafe(self.acceptor.drain(seconds), self.loop)

    @property
    def connections(self) -> int:
        """Return how many connections are open."""
        return self.acceptor.connections

    def connect(self) -> socket.socket:
        """Return a new connection to it, with the patience of tests."""
        return socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE)

    def _run(self) -> None:
        self.loop.set_exception_handler(lambda _loop, context: self.errors.append(context))
        with asyncio.Runner(loop_factory=lambda: self.loop) as runner:
            runner.run(self._serve())

    async def _serve(self) -> None:
        self.acceptor = Acceptor(
            self._listener,
            self._limits,
            SYNTAXES,
            self.sink,
            self.outcomes,
            obstacle=lambda: self.obstacle,
            reports=self._reports,
        )
        self._socket.setblocking(False)
        accepting = asyncio.create_task(self._accept())
        self._ready.set()
        await self._stop.wait()
        accepting.cancel()
        await self.acceptor.drain(0.0)

    async def _accept(self) -> None:
        while True:
            accepted, address = await self.loop.sock_accept(self._socket)
            self.acceptor.serve(accepted, address[0], lambda _standing, _stored: None)


@contextmanager
def stage(
    listener: Listener | None = None, reports: CommitmentSink | None = None, **limits: Any
) -> Iterator[UpperLayerWorld]:
    """Run an upper layer for the length of a block; nothing may go wrong in it unnoticed."""
    chosen = AssociationLimits(**({"sweep_seconds": 0.05} | limits))
    running = UpperLayerWorld(listener or Listener(port=0), chosen, reports)
    running.start()
    try:
        yield running
    finally:
        running.stop()
    assert not running.errors, running.errors
