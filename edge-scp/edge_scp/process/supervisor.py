"""The parent's children: started, asked, stopped, and started again when they die."""

import asyncio
import contextlib
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from bucky.errors import SettingsError
from bucky.log import configure, get_logger
from bucky.runtime.backoff import Backoff
from bucky.runtime.garbage import freeze_loaded
from bucky.settings import Settings
from edge_scp.metrics import ParentMetrics
from edge_scp.process.channel import Channel, Message, channel_pair
from edge_scp.spool.sync_queue import SyncQueueDescriptors

log = get_logger("edge")

# What a child ends with when a setting cannot work; it has said so in a sentence (sysexits.h, EX_CONFIG).
EXIT_CONFIG = 78
FIRST_WAIT_SECONDS = 0.05
LONGEST_WAIT_SECONDS = 5.0
# A child that lived as long did not die of its start.
_SETTLED_SECONDS = 30.0
_ANSWER_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class WorkerContext:
    """What a child is given: its number among its kind, its worker id, and descriptors."""

    number: int
    worker_id: int
    channel: int
    counters: int
    announcements: int
    lock: int
    slots: int
    board: SyncQueueDescriptors

    @property
    def descriptors(self) -> tuple[int, ...]:
        """Return the descriptors."""
        return self.channel, self.counters, self.announcements, self.lock, self.slots, *self.board

    def arguments(self) -> list[str]:
        """Return them as command line arguments."""
        return [str(value) for value in (self.number, self.worker_id, *self.descriptors)]

    @classmethod
    def of(cls, arguments: list[str]) -> "WorkerContext":
        """Read them from command line arguments."""
        if len(arguments) < 9:
            raise SettingsError("this process is started by `python -m edge_scp`, not by hand")
        number, worker_id, channel, counters, announcements, lock, slots, *board = map(int, arguments)
        return cls(number, worker_id, channel, counters, announcements, lock, slots, SyncQueueDescriptors.of(board))

    def parent(self) -> socket.socket:
        """Return the child's end of its channel."""
        return socket.socket(fileno=self.channel)


@dataclass(frozen=True, slots=True)
class Shared:
    """The descriptors that all children inherit, and where their restarts are counted."""

    counters: int
    lock: int
    slots: int
    board: SyncQueueDescriptors
    metrics: ParentMetrics


class Worker:
    """A child process. `heard` gets its messages, `begin` gives it a worker id and `ended` is told that it is gone."""

    def __init__(
        self,
        name: str,
        module: str,
        shared: Shared,
        announcements: int,
        *,
        number: int = 0,
        begin: Callable[[], int] = lambda: 0,
        heard: Callable[[Message], None] = lambda _message: None,
        ended: Callable[[int], None] = lambda _worker_id: None,
    ) -> None:
        self.name = name
        self.restarts = 0
        self._module, self._number = module, number
        self._shared, self._announcements = shared, announcements
        self._begin, self._heard, self._ended = begin, heard, ended
        self._process: asyncio.subprocess.Process | None = None
        self._channel: Channel | None = None
        self._stopping = False
        self._ready = asyncio.Event()
        self._asked: dict[int, asyncio.Future[Message]] = {}
        self._questions = 0

    @property
    def ready(self) -> bool:
        """Tell whether it runs and has said that it is ready."""
        return self._ready.is_set()

    @property
    def pid(self) -> int | None:
        """Return its process id while it runs."""
        return self._process.pid if self._process is not None else None

    async def until_ready(self) -> None:
        """Return when it is ready."""
        await self._ready.wait()

    async def keep_running(self) -> None:
        """Start it, and start it again whenever it ends, until it is stopped; raise when it never can."""
        backoff = Backoff(FIRST_WAIT_SECONDS, LONGEST_WAIT_SECONDS, factor=4)
        while not self._stopping:
            started = time.monotonic()
            code = await self._run()
            if self._stopping:
                return
            if code == EXIT_CONFIG:
                raise SettingsError(f"the {self.name} process cannot start; it says why above")
            if time.monotonic() - started > _SETTLED_SECONDS:
                backoff.reset()
            wait = backoff.next()
            log.error("process.ended", process=self.name, code=code, restart_in_seconds=wait)
            self.restarts += 1
            self._shared.metrics.restarted(self.name)
            await asyncio.sleep(wait)

    def send(self, message: Message, connection: socket.socket | None = None) -> bool:
        """Send a message, and take the connection over; return False when there is no process to have it."""
        return self._channel is not None and self._channel.send(message, connection)

    async def ask(self, question: str) -> Message | None:
        """Return its answer, or None when it does not answer in time."""
        self._questions += 1
        number = self._questions
        answer: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
        self._asked[number] = answer
        try:
            # Questions do not wait: a child that hangs would have more of them with each look at the page.
            channel = self._channel
            if channel is not None and not channel.behind and channel.send({"ask": question, "number": number}):
                with contextlib.suppress(TimeoutError):
                    return await asyncio.wait_for(answer, _ANSWER_SECONDS)
            return None
        finally:
            del self._asked[number]

    async def stop(self, message: Message, seconds: float) -> bool:
        """Ask it to end; kill it when it has not within a time. Return whether it ended by itself, and well."""
        self._stopping = True
        process = self._process
        if process is None:
            return True
        self.send(message)
        with contextlib.suppress(TimeoutError):
            return await asyncio.wait_for(process.wait(), seconds) == 0
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGKILL)
        await process.wait()
        return False

    async def _run(self) -> int:
        worker_id = self._begin()
        ours, theirs = channel_pair()
        shared = self._shared
        inherited = WorkerContext(
            *(
                self._number,
                worker_id,
                theirs.fileno(),
                shared.counters,
                self._announcements,
                shared.lock,
                shared.slots,
            ),
            shared.board,
        )
        with theirs:
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", self._module, *inherited.arguments()),
                stdin=asyncio.subprocess.DEVNULL,
                pass_fds=inherited.descriptors,
            )
        self._channel = Channel(ours, self._received, self._ready.clear)
        try:
            return await self._process.wait()
        finally:
            self._ready.clear()
            self._channel.close()
            self._process = None
            self._ended(worker_id)

    def _received(self, message: Message, _connection: socket.socket | None) -> None:
        if "ready" in message:
            self._ready.set()
        elif "answer" in message:
            waiting = self._asked.get(message["number"])
            if waiting is not None and not waiting.done():
                waiting.set_result(message["answer"])
        else:
            self._heard(message)


def run(
    work: Callable[[Settings, WorkerContext], Coroutine[Any, Any, bool | None]],
    loop_factory: Callable[[], asyncio.AbstractEventLoop] | None = None,
) -> None:
    """Be a child: read the settings and work; unless that ends well, which is not False, the exit code is 1.

    SIGTERM and SIGINT, which a terminal or systemd sends to all, are the parent's: it says when to end.
    """
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    try:
        settings = Settings.load(os.environ)
        inherited = WorkerContext.of(sys.argv[1:])
        configure(settings.log_level)
        freeze_loaded()
        with asyncio.Runner(loop_factory=loop_factory) as runner:
            well = runner.run(work(settings, inherited))
    except SettingsError as error:
        sys.stderr.write(f"edge_scp: {error}\n")
        sys.exit(EXIT_CONFIG)
    sys.exit(1 if well is False else 0)


def end_at_once() -> None:
    """End this child, whose parent is gone."""
    os._exit(0)
