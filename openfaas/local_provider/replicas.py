"""Keeps the wanted number of replicas of one deployment running, and knows which are ready."""

import asyncio
from collections import deque
from collections.abc import Callable
from http import HTTPStatus
from urllib.parse import quote

from bucky.log import get_logger
from bucky.runtime.backoff import Backoff
from bucky.runtime.connection_pool import CallFailed
from local_provider.logs import FunctionLog
from local_provider.process import HOST, Command, Replica

FIRST_BACKOFF_SECONDS = 0.2
LONGEST_BACKOFF_SECONDS = 10.0
STEADY_SECONDS = 10.0
RECENT_SECONDS = 600.0
PROBE_SECONDS = 0.1
READY_PROBE_SECONDS = 1.0
PROBE_TIMEOUT_SECONDS = 5.0
MOST_ANSWER_BYTES = 64 * 1024
FAILED_PROBES = 2

_log = get_logger("provider")


class ReplicaSet:
    """Replicas of one deployment; each is started again when it ends, after a growing wait."""

    def __init__(
        self,
        command: Command,
        log: FunctionLog,
        on_fault: Callable[[BaseException], None],
    ) -> None:
        self._command = command
        self._function_log = log
        self._on_fault = on_fault
        self._keepers: list[asyncio.Task[None]] = []
        self._running: list[Replica] = []
        self._turn = 0
        self._changed = asyncio.Event()
        self._ends: deque[float] = deque(maxlen=1000)

    @property
    def recent_restarts(self) -> int:
        """How often a replica ended by itself in the last `RECENT_SECONDS`."""
        since = asyncio.get_running_loop().time() - RECENT_SECONDS
        return sum(end >= since for end in self._ends)

    @property
    def available(self) -> int:
        """The number of replicas that are ready."""
        return sum(replica.ready for replica in self._running)

    @property
    def pids(self) -> tuple[int, ...]:
        """The process ids of the running replicas."""
        return tuple(replica.pid for replica in self._running)

    def pick(self) -> Replica | None:
        """Return the next ready replica in turn, or None."""
        ready = [replica for replica in self._running if replica.ready]
        if not ready:
            return None
        self._turn = (self._turn + 1) % len(ready)
        return ready[self._turn]

    async def scale(self, count: int) -> None:
        """Start or stop replicas until `count` are kept running."""
        while len(self._keepers) < count:
            keeper = asyncio.create_task(self._keep())
            keeper.add_done_callback(self._report)
            self._keepers.append(keeper)
        surplus, self._keepers = self._keepers[count:], self._keepers[:count]
        for keeper in surplus:
            keeper.cancel()
        if surplus:
            await asyncio.wait(surplus)
        self._announce()

    async def stop(self) -> None:
        """Drain and end every replica."""
        await self.scale(0)

    async def wait_ready(self) -> None:
        """Wait until every wanted replica is ready."""
        while self.available < len(self._keepers):
            self._changed.clear()
            await self._changed.wait()

    async def _keep(self) -> None:
        loop = asyncio.get_running_loop()
        backoff = Backoff(FIRST_BACKOFF_SECONDS, LONGEST_BACKOFF_SECONDS)
        while True:
            started = loop.time()
            await self._run_once()
            if loop.time() - started > STEADY_SECONDS:
                backoff.reset()
            await asyncio.sleep(backoff.next())

    async def _run_once(self) -> None:
        name = self._command.name
        try:
            replica = await Replica.start(self._command, self._function_log)
        except OSError as error:
            self._ends.append(asyncio.get_running_loop().time())
            _log.error("replica.not_started", function=name, reason=error.strerror)
            return
        _log.info("replica.started", function=name, instance=replica.instance, pid=replica.pid)
        self._running.append(replica)
        probe = asyncio.create_task(self._probe(replica))
        probe.add_done_callback(self._report)
        try:
            code = await replica.wait()
            self._ends.append(asyncio.get_running_loop().time())
            _log.warning("replica.ended", function=name, instance=replica.instance, exit_code=code)
            self._function_log.append(replica.instance, f"ended with exit code {code}; starting it again")
        except asyncio.CancelledError:
            await replica.stop()
            _log.info("replica.stopped", function=name, instance=replica.instance)
            raise
        finally:
            probe.cancel()
            self._running.remove(replica)
            self._announce()

    async def _probe(self, replica: Replica) -> None:
        failures = 0
        while True:
            if await self._says_ready(replica):
                failures = 0
                ready = True
            else:
                failures += 1
                ready = replica.ready and failures < FAILED_PROBES
            if ready != replica.ready:
                replica.ready = ready
                _log.info(
                    "replica ready" if ready else "replica not ready",
                    function=self._command.name,
                    instance=replica.instance,
                )
                self._announce()
            await asyncio.sleep(READY_PROBE_SECONDS if ready else PROBE_SECONDS)

    async def _says_ready(self, replica: Replica) -> bool:
        head = f"GET {quote(self._command.ready_path, safe='/?&=%')} HTTP/1.1\r\nHost: {HOST}".encode()
        try:
            answer = await replica.calls.call(head, b"", silence=PROBE_TIMEOUT_SECONDS, most_bytes=MOST_ANSWER_BYTES)
        except CallFailed:
            return False
        return answer.status == HTTPStatus.OK

    def _announce(self) -> None:
        self._changed.set()

    def _report(self, task: "asyncio.Task[None]") -> None:
        # These tasks never end by themselves: a fault of ours must not leave a function unattended.
        fault = None if task.cancelled() else task.exception()
        if fault is not None:
            self._on_fault(fault)
