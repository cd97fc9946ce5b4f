"""A stack whose processes talk over wires with a trip in them."""

import os
import signal
import socket
import threading
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from bucky.dimse import Outcome, Peer, StoreResult, store_all
from local_stack.demo_routing import ensure_demo_routing
from local_stack.layout import Home
from tests.support.dicom.sample_instances import Sample, samples
from tests.support.dimse.dimse_proxy import Act, DimseProxy
from tests.support.faults.steps import HALF, UNSYNCED, Boundary
from tests.support.faults.wire import HttpWire, NatsWire, TripWire, watched
from tests.support.servers import Running, ServersUnderTest, make_nats, make_store
from tests.support.stack.running_stack import RunningStack
from tests.support.waiting import eventually

INSTANCES = 3


@dataclass
class Killed:
    """What was sent when somebody was killed."""

    boundary: Boundary
    sent: Sequence[Sample]
    acknowledged: set[int] = field(default_factory=set)


class SteppedStack:
    """A running stack, and the means to kill one of it at an exact message."""

    def __init__(self, folder: Path, servers: ServersUnderTest) -> None:
        self.trip = TripWire()
        self._home = Home(folder / "home")
        with ExitStack() as closing:
            environ, others = self._outer_servers(folder, servers, closing)
            gateway = HttpWire(self._provider_port, self.trip, _call)
            gateway.open()
            closing.callback(gateway.close)
            # Without slots and the local cache: files that wait for their sync, and reads of the store, can be caught.
            own = {"BUCKY_GATEWAY_URL": gateway.url, "BUCKY_SPOOL_SLOTS": "0", "BUCKY_LOCAL_CACHE_DIR": ""}
            self.stack = RunningStack(self._home.path, {**environ, **own})
            closing.callback(self.stack.stop)
            self.stack.others |= others
            self.edge = watched(DimseProxy(lambda: _connected(self.stack.ports.dicom)), "receive", self.trip)
            self.destination = watched(DimseProxy(lambda: _connected(self.stack.ports.destination)), "send", self.trip)
            for proxy in (self.edge, self.destination):
                proxy.open()
                closing.callback(proxy.close)
            ensure_demo_routing(self.stack.api, self.destination.port)
            self._closing = closing.pop_all()

    def close(self) -> None:
        """Stop everything."""
        self._closing.close()

    def kill_at(self, boundary: Boundary) -> Killed:
        """Send a study as a modality does, until all is acknowledged, and kill somebody on its way."""
        killed = Killed(boundary, samples(INSTANCES))
        words = (killed.sent[0].study_instance_uid.encode(), *(one.sop_instance_uid.encode() for one in killed.sent))
        prepare = {HALF: self._at_half, UNSYNCED: self._before_the_sync}.get(boundary.kind)
        if prepare is None:
            self.trip.arm(boundary.kind, words, lambda: self.stack.kill(boundary.victim))
        else:
            prepare(boundary)
        self._send(killed)
        eventually(self.trip.fired.is_set, f"{boundary.kind} came by")
        assert self.trip.failure is None, self.trip.failure
        return killed

    def _send(self, killed: Killed) -> None:
        peer = Peer("BUCKY", "127.0.0.1", self.edge.port, calling_aet="STEPS", timeout=30)

        def all_acknowledged() -> bool:
            waiting = [index for index in range(INSTANCES) if index not in killed.acknowledged]

            def noted(index: int, result: StoreResult) -> None:
                if result.outcome is Outcome.STORED:
                    killed.acknowledged.add(waiting[index])

            store_all(peer, [killed.sent[index].outgoing for index in waiting], on_result=noted)
            return len(killed.acknowledged) == INSTANCES

        eventually(all_acknowledged, "every instance is acknowledged")

    def _at_half(self, boundary: Boundary) -> None:
        """Kill when half a data set is with the edge."""
        passing = self.edge.on_request
        self.trip.fired.clear()

        def kill() -> None:
            self.stack.kill(boundary.victim)
            self.trip.fired.set()

        def half(_request: object) -> Act:
            self.edge.on_request, self.edge.on_half = passing, kill
            return Act.HANG

        self.edge.on_request = half

    def _before_the_sync(self, boundary: Boundary) -> None:
        """Hold the committer, and kill when an instance has its name in the spool and waits for the sync."""
        (committer,) = self.stack.edge_pids("commit_worker")
        ready = self.stack.home.spool / "ready"
        before = set(ready.iterdir())
        self.trip.fired.clear()
        os.kill(committer, signal.SIGSTOP)

        def watch() -> None:
            try:
                eventually(lambda: bool(set(ready.iterdir()) - before), "a file waits for the sync")
                self.stack.kill(boundary.victim)
            except BaseException as error:  # noqa: BLE001 - told to the test, whose thread this is not
                self.trip.failure = error
            finally:
                if boundary.victim == "edge receivers":
                    os.kill(committer, signal.SIGCONT)
                self.trip.fired.set()

        threading.Thread(target=watch, daemon=True).start()

    def _outer_servers(
        self, folder: Path, servers: ServersUnderTest, closing: ExitStack
    ) -> tuple[dict[str, str], dict[str, Running]]:
        """Start a broker and, unless this run is about one, a store, each behind a wire; return the way to them."""
        nats, nats_settings = make_nats(folder)
        closing.callback(nats.stop)
        running = {"nats-server": nats}
        environ = dict(servers.environ)
        if "BUCKY_STORE_ENDPOINT" in environ:
            endpoint = environ["BUCKY_STORE_ENDPOINT"]
            running["object-store"] = servers.running["object-store"]
        else:
            running["object-store"], settings = make_store(folder)
            closing.callback(running["object-store"].stop)
            endpoint = settings.store_endpoint
            environ |= {
                "BUCKY_STORE_ACCESS_KEY": settings.store_access_key.get_secret_value(),
                "BUCKY_STORE_SECRET_KEY": settings.store_secret_key.get_secret_value(),
                "BUCKY_STORE_BARRIER": "delay",
                "BUCKY_STORE_BARRIER_SECONDS": "1",
            }
        store = HttpWire(lambda: _port(endpoint), self.trip, lambda method, _path: f"store {method}")
        store.open()
        closing.callback(store.close)
        broker = NatsWire(_port(nats_settings.nats_url), self.trip)
        closing.callback(broker.close)
        environ |= {
            "BUCKY_STORE_ENDPOINT": store.url,
            "BUCKY_NATS_URL": broker.url,
            "BUCKY_NATS_USER": nats_settings.nats_user,
            "BUCKY_NATS_PASSWORD": nats_settings.nats_password.get_secret_value(),
        }
        return environ, running

    def _provider_port(self) -> int:
        record = self._home.read_record()
        if record is None:
            raise ConnectionRefusedError
        return int(record["ports"]["provider"])


def _call(method: str, path: str) -> str:
    """Return the kind of a request to the gateway."""
    return f"call {path.removeprefix('/function/')}" if method == "POST" else method


def _port(url: str) -> int:
    port = urlsplit(url).port
    assert port is not None
    return port


def _connected(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port))
