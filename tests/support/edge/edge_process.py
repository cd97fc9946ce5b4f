"""An edge under test: the real process on free ports, or its listener alone inside the test."""

import asyncio
import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import nats
from pynetdicom.association import Association

from bucky.broker.connection import jetstream
from bucky.cloudevents import CloudEvent
from bucky.dimse import Peer
from bucky.runtime.ports import free_port
from bucky.settings import Settings
from bucky.text.listeners import Listener
from edge_scp.association.acceptor import ConnectionState
from edge_scp.metrics import ReceiverMetrics
from edge_scp.process.connections import Handling
from edge_scp.process.port import Port
from edge_scp.process.receive_worker import Acceptors
from edge_scp.receive.fast_path import FastPathSelector, WorkerSlots, native_loop
from edge_scp.spool.record import SpoolRecord, verify
from local_stack.process import Program, http_ok, start, stop, wait_ready
from tests.support.edge.quiet import until_quiet
from tests.support.edge.spool_world import SLOT, SpoolWorld
from tests.support.network.plain_http import get
from tests.support.waiting import PATIENCE, eventually

NOWHERE = "127.0.0.1:9"


class EdgeProcess:
    """`python -m edge_scp`, which can be killed and started again on the same spool."""

    def __init__(
        self,
        folder: Path,
        store: Settings | None,
        broker: Settings | None,
        *,
        python_path: Path | None = None,
        **more: object,
    ) -> None:
        self.port, self.http_port = free_port(), free_port()
        self.spool = folder / "spool"
        self.log = folder / "edge.log"
        self._url = f"http://127.0.0.1:{self.http_port}/health"
        env = {
            "BUCKY_EDGE_LISTENERS": json.dumps([{"port": self.port}]),
            "BUCKY_EDGE_HTTP_PORT": str(self.http_port),
            "BUCKY_SPOOL_DIR": str(self.spool),
            "BUCKY_SPOOL_MIN_FREE_BYTES": "0",
            "BUCKY_SPOOL_SLOTS": "0",
            "BUCKY_STORE_BARRIER": "none",
            "BUCKY_STORE_ENDPOINT": f"http://{NOWHERE}",
            "BUCKY_NATS_URL": f"nats://{NOWHERE}",
        }
        if store is not None:
            env["BUCKY_STORE_ENDPOINT"] = store.store_endpoint
            env["BUCKY_STORE_BUCKET"] = store.store_bucket
            env["BUCKY_STORE_ACCESS_KEY"] = store.store_access_key.get_secret_value()
            env["BUCKY_STORE_SECRET_KEY"] = store.store_secret_key.get_secret_value()
        if broker is not None:
            env["BUCKY_NATS_URL"] = broker.nats_url
            env["BUCKY_NATS_PASSWORD"] = broker.nats_password.get_secret_value()
        if python_path is not None:
            env["PYTHONPATH"] = str(python_path)
        env |= {f"BUCKY_{name.upper()}": str(value) for name, value in more.items()}
        self._program = Program(
            name="edge",
            argv=(sys.executable, "-m", "edge_scp"),
            env=env,
            ready=http_ok(self._url, any_status=True),
        )
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it and wait until it answers."""
        self.process = start(self._program, self.log)
        wait_ready(self._program, self.process, self.log)

    def kill(self) -> None:
        """End it at once, as `kill -9` does."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def terminate(self) -> None:
        """Send SIGTERM."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)

    def stop(self) -> None:
        """End it by SIGTERM, however it is."""
        if self.process is not None:
            stop(self.process, 15)

    def health(self) -> dict[str, Any]:
        """Return its health page."""
        body: dict[str, Any] = get(self._url).json()
        return body

    def metrics(self) -> str:
        """Return its metrics page."""
        return get(f"http://127.0.0.1:{self.http_port}/metrics").text

    def children(self) -> dict[str, dict[str, Any]]:
        """Return what the health page says of each child, by their names."""
        return {child["name"]: child for child in self.health()["processes"]}

    def until_serving(self, connections: int, *, seconds: float = PATIENCE) -> None:
        """Return once the listener counts so many connections, no more and no fewer."""

        def serving() -> bool:
            return bool(self.health()["listeners"][0]["associations"] == connections)

        eventually(serving, f"{connections} connections are served", seconds=seconds)

    def assert_finishes(self, association: Association) -> None:
        """Finish what is open after SIGTERM: it is served to its end, and then the edge ends well."""
        assert association.send_c_echo().Status == 0
        association.release()
        assert self.process is not None
        assert self.process.wait(10) == 0
        stopped = self.log_lines()[-1]
        assert (stopped["event"], stopped["drained"]) == ("edge.stopped", True)

    def health_status(self) -> int:
        """Return the health page's HTTP status."""
        return get(self._url).status_code

    def spooled(self) -> int:
        """Return how many instances are in its spool: its folder knows before the health page does, which is told."""
        in_folder = len(list((self.spool / "ready").iterdir()))
        return max(in_folder, int(self.health()["spool"]["instances"]))

    def until_counted(self, instances: int) -> dict[str, Any]:
        """Return the health page once it counts so many instances in the spool."""

        def counted() -> bool:
            return bool(self.health()["spool"]["instances"] == instances)

        eventually(counted, f"the health page counts {instances} in the spool")
        return self.health()

    def peer(self) -> Peer:
        """Return its address for senders."""
        return Peer("BUCKY", "127.0.0.1", self.port, calling_aet="TEST", timeout=PATIENCE)

    def log_lines(self) -> list[dict[str, Any]]:
        """Return its log."""
        return [json.loads(line) for line in self.log.read_text().splitlines() if line.startswith("{")]


@contextmanager
def edge_process(
    folder: Path,
    store: Settings | None = None,
    broker: Settings | None = None,
    *,
    python_path: Path | None = None,
    **more: object,
) -> Iterator[EdgeProcess]:
    """Run an edge for the length of a block; without store or broker it cannot reach one."""
    edge = EdgeProcess(folder, store, broker, python_path=python_path, **more)
    try:
        edge.start()
        yield edge
    finally:
        edge.stop()


async def stored_events(settings: Settings) -> list[CloudEvent]:
    """Return every `dicom.instance.stored` message in the stream, in order."""
    client = await nats.connect(
        settings.nats_url,
        user=settings.nats_user,
        password=settings.nats_password.get_secret_value(),
        connect_timeout=PATIENCE,
    )
    try:
        js = jetstream(client)
        info = await js.stream_info("INSTANCES")
        events = []
        for sequence in range(info.state.first_seq, info.state.last_seq + 1):
            message = await js.get_msg("INSTANCES", sequence)
            events.append(CloudEvent.model_validate_json(message.data or b""))
        return [event for event in events if event.type == "dicom.instance.stored"]
    finally:
        await client.close()


class ListenerAlone:
    """A port, a receiver and a spool that nobody uploads, in an event loop of their own."""

    def __init__(self, folder: Path, listener: Listener, settings: Settings, slots: int = 0) -> None:
        self.world = SpoolWorld(folder / "spool", max_bytes=settings.spool_max_bytes, slots=slots)
        self._listener, self._settings = listener, settings
        self._selector = FastPathSelector()
        self._loop = asyncio.SelectorEventLoop(self._selector)
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._port: Port
        self._acceptors: Acceptors
        self._ending = ExitStack()

    @property
    def port(self) -> int:
        """Its port."""
        return self._port.port

    @property
    def connections(self) -> int:
        """How many connections are served."""
        return self._port.connections.serving

    @property
    def instances(self) -> int:
        """How many instances were kept."""
        self._settle()
        return self.world.counters.instances

    def records(self) -> list[tuple[SpoolRecord, bytes]]:
        """Take every spooled instance: what is known of it, and its data set bytes."""
        self._settle()
        self.world.spool.arrived(self.world.arrivals.read())
        found = []
        while (entry := self.world.spool.take()) is not None:
            with self.world.spool.open_record(entry) as file:
                record = verify(file)
                file.seek(record.data_set_offset)
                found.append((record, file.read(record.object_size - record.data_set_offset)))
        return found

    def files(self) -> list[bytes]:
        """Take every spooled instance as a DICOM file, without what the spool adds to it."""
        self._settle()
        self.world.spool.arrived(self.world.arrivals.read())
        found = []
        while (entry := self.world.spool.take()) is not None:
            with self.world.spool.open_record(entry) as file:
                size = verify(file).object_size
                file.seek(0)
                found.append(file.read(size))
            self.world.spool.release(entry)
        return found

    def until_quiet(self, peer: socket.socket) -> None:
        """Return once all that a peer has sent is used up and answered."""
        until_quiet(self._loop, self._acceptors.all, peer)

    def until_synced(self) -> None:
        """Return once no instance waits to be durable, be its association over or not."""
        eventually(lambda: self.world.synced, "all is synced")
        # And the receiver was told.
        self._settle()

    def _settle(self) -> None:
        async def settle() -> None:
            self._receiver.settle()

        if self._thread.is_alive():
            asyncio.run_coroutine_threadsafe(settle(), self._loop).result(10)

    def start(self) -> None:
        """Accept connections; raise what keeps it from that."""
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._open(), self._loop).result(10)

    def drain(self, seconds: float) -> "Future[bool]":
        """Begin to let associations end, and return what will be known when they have."""
        return asyncio.run_coroutine_threadsafe(self._acceptors.drain(seconds), self._loop)

    def stop(self) -> None:
        """Drain and end."""
        if hasattr(self, "_acceptors"):
            asyncio.run_coroutine_threadsafe(self._close(), self._loop).result(20)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        self.world.close()

    async def _open(self) -> None:
        settings = self._settings.model_copy(update={"edge_listeners": (self._listener,)})
        self._port = Port(self._listener, settings, self, lambda _reason: None, itertools.count())
        metrics = ReceiverMetrics()
        self._receiver = self._ending.enter_context(self.world.receiving(metrics))
        self.fast_path = native_loop(
            settings.model_copy(update={"spool_dir": self.world.folder.path}),
            self._selector,
            self._receiver,
            self.world.capacity,
            counters=self.world.counters_descriptor,
            queue=self.world.fast_path_end,
            slots=WorkerSlots(self.world.folder.slots, self.world.slots_page, 0, 1, SLOT),
        )
        self._acceptors = Acceptors(settings, self._receiver, metrics, self.fast_path)
        self._port.start()

    def hand(self, number: int, connection: socket.socket, address: str, verdict: Handling) -> bool:
        """Serve a connection, as a receiver that its parent handed it to."""

        def told(standing: ConnectionState, stored: bool) -> None:
            if standing is ConnectionState.CLOSED:
                self._port.connections.closed(number, address, stored=stored)
            else:
                self._port.connections.associated(number, address, is_now=standing is ConnectionState.ASSOCIATED)

        # The port counts it when this has returned, and so in the loop's next turn.
        self._acceptors.serve(0, connection.dup(), number, address, verdict, told)
        return True

    def evict(self, number: int) -> None:
        """Close a connection that gives way."""
        self._acceptors.evict(number)

    async def _close(self) -> None:
        self._port.stop()
        await self._acceptors.drain(5)
        if self.fast_path is not None:
            self.fast_path.close()
        self._ending.close()


@contextmanager
def standing_still(pid: int) -> Iterator[None]:
    """Stop a process for the length of a block."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


@contextmanager
def listener_alone(
    folder: Path, listener: Listener | None = None, *, slots: int = 0, **settings: Any
) -> Iterator[ListenerAlone]:
    """Run a listener inside the test for the length of a block."""
    alone = ListenerAlone(folder, listener or Listener(port=0), Settings(**settings), slots)
    try:
        alone.start()
        yield alone
    finally:
        alone.stop()
