"""The long-lived processes side by side, each server of theirs behind a line that can be broken."""

import json
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from bucky.dimse import Outcome, store_all
from bucky.runtime.ports import free_port
from bucky.settings import Settings
from local_stack.process import Program, http_ok, start, stop, wait_ready
from tests.support.dicom.sample_instances import samples
from tests.support.edge.edge_process import EdgeProcess
from tests.support.faults.dependencies import ROWS
from tests.support.network.faulty_line import FaultyLine
from tests.support.network.pausable_server import PausableServer
from tests.support.network.plain_http import get
from tests.support.servers import OWN_STORE, Running, make_nats, make_store
from tests.support.services.command_line import environment
from tests.support.waiting import eventually

KEY = "key-of-the-test"


class Gateway(PausableServer):
    """A gateway with one function, which notes the events it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[str] = set()

    @property
    def port(self) -> int:
        """Where it listens."""
        return self._port

    def moved(self) -> int:
        """Listen on another port from the next opening on; return which."""
        self._port = free_port()
        return self._port

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        """Answer one request."""
        body = request.rfile.read(int(request.headers.get("Content-Length") or 0))
        answer: Any = {"status": "ok"}
        if request.path == "/system/functions":
            answer = [{"name": "note", "annotations": {"topic": "dicom.instance.stored", "jetstream.timeout": "3s"}}]
        elif request.path == "/function/note":
            self.seen |= {event["id"] for event in json.loads(body)}
            answer = {"batchItemFailures": [], "events": []}
        content = json.dumps(answer).encode()
        request.send_response(200)
        request.send_header("Content-Type", "application/json")
        request.send_header("Content-Length", str(len(content)))
        request.end_headers()
        request.wfile.write(content)


class Stranger(PausableServer):
    """A server that refuses whoever asks, as one does for wrong keys."""

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        """Refuse one request."""
        request.rfile.read(int(request.headers.get("Content-Length") or 0))
        content = b"<Error><Code>InvalidAccessKeyId</Code></Error>"
        request.send_response(403)
        request.send_header("Content-Length", str(len(content)))
        request.end_headers()
        if request.command != "HEAD":
            request.wfile.write(content)


class Plant:
    """Everything the matrix needs: servers, lines to them by the name of the dependency, and the processes."""

    def __init__(self, folder: Path, ending: ExitStack) -> None:
        self._folder, self._ending = folder, ending
        self.gateway, self.stranger = Gateway(), Stranger()
        self.nats, nats_settings = make_nats(folder)
        ending.callback(self.nats.stop)
        self.store, store_settings = make_store(folder, OWN_STORE)
        ending.callback(self.store.stop)
        for server in (self.gateway, self.stranger):
            server.open()
            ending.callback(server.close)
        ports = {
            "broker": urlsplit(nats_settings.nats_url).port or 0,
            "store": urlsplit(store_settings.store_endpoint).port or 0,
            "gateway": self.gateway.port,
        }
        self.ports = ports
        self.lines = {name: ending.enter_context(FaultyLine(port)) for name, port in ports.items()}
        self.sent: set[str] = set()
        self._begin(nats_settings, store_settings)

    def _begin(self, broker: Settings, store: Settings) -> None:
        broker = broker.model_copy(update={"nats_url": f"nats://127.0.0.1:{self.lines['broker'].port}"})
        store = store.model_copy(update={"store_endpoint": f"http://127.0.0.1:{self.lines['store'].port}"})
        self.edge = EdgeProcess(self._folder, store, broker, store_answer_seconds=3)
        self.edge.start()
        self._ending.callback(self.edge.stop)
        connector, keeper, admin = free_port(), free_port(), free_port()
        self.pages = {
            "connector": f"http://127.0.0.1:{connector}/health",
            "keeper": f"http://127.0.0.1:{keeper}/health",
            "admin API": f"http://127.0.0.1:{admin}/health",
        }
        environ = {
            **environment(store, f"sqlite:///{self._folder / 'index.db'}"),
            "BUCKY_NATS_URL": broker.nats_url,
            "BUCKY_NATS_PASSWORD": broker.nats_password.get_secret_value(),
            "BUCKY_GATEWAY_URL": f"http://127.0.0.1:{self.lines['gateway'].port}",
            "BUCKY_API_KEY": KEY,
            "BUCKY_CONNECTOR_HTTP_PORT": str(connector),
            "BUCKY_CONNECTOR_REFRESH_SECONDS": "0.5",
            "BUCKY_KEEPER_HTTP_PORT": str(keeper),
            "BUCKY_ADMIN_PORT": str(admin),
            "BUCKY_CONNECTOR_HEALTH_URL": self.pages["connector"],
            "BUCKY_KEEPER_HEALTH_URL": self.pages["keeper"],
            "BUCKY_EDGE_HEALTH_URL": f"http://127.0.0.1:{self.edge.http_port}/health",
        }
        modules = {"connector": "jetstream_connector", "keeper": "keeper", "admin API": "admin_api"}
        programs = {
            name: Program(module, (sys.executable, "-m", module), http_ok(self.pages[name], any_status=True), environ)
            for name, module in modules.items()
        }
        self.processes = {name: start(program, self._log(name)) for name, program in programs.items()}
        for name, program in programs.items():
            self._ending.callback(stop, self.processes[name], 5)
            wait_ready(program, self.processes[name], self._log(name))

    def well(self, process: str, dependency: str) -> bool:
        """Return what a process says of a server it depends on."""
        if process == "edge (uploader)":
            return bool(self.edge.health()[dependency]["ok"])
        page = get(self.pages[process]).json()
        if process == "admin API":
            return bool(page["parts"]["functions" if dependency == "gateway" else dependency] == "up")
        return not any(trouble["part"] == dependency for trouble in page["trouble"])

    def until_all_say(self, *, well: bool, dependencies: set[str]) -> None:
        """Wait until every process says of every server it depends on that it is well, or that it is not."""
        for row in ROWS:
            if row.dependency in dependencies:
                said = f"the {row.process} says that the {row.dependency} is {'' if well else 'not '}well"
                eventually(lambda row=row: self.well(row.process, row.dependency) is well, said)  # type: ignore[misc]

    def send(self, count: int = 1) -> None:
        """Send instances, each of which must be answered with success whatever is away."""
        items = samples(count)
        results = store_all(self.edge.peer(), [item.outgoing for item in items])
        assert {result.outcome for result in results} == {Outcome.STORED}
        self.sent |= {item.sha256 for item in items}

    def until_all_arrived(self) -> None:
        """Wait until the function at the end has got the event of each instance."""
        eventually(lambda: self.sent <= self.gateway.seen, "every instance went the whole way")

    def same_processes(self) -> bool:
        """Say whether no process has ended, of the edge's children neither."""
        ended = [name for name, process in self.processes.items() if process.poll() is not None]
        return not ended and not any(child["restarts"] for child in self.edge.children().values())

    def move(self) -> None:
        """Have the broker and the gateway, which do not run just now, listen somewhere else when they start."""
        old, new = str(self.ports["broker"]), free_port()
        argv = tuple(str(new) if word == old else word for word in self.nats.program.argv)
        self.nats.program = replace(self.nats.program, argv=argv)
        self.ports |= {"broker": new, "gateway": self.gateway.moved()}

    def servers(self) -> tuple[Running, ...]:
        """Return the servers that can be killed and started again."""
        return self.nats, self.store

    def _log(self, name: str) -> Path:
        return self._folder / f"{name}.log"


@contextmanager
def plant(folder: Path) -> Iterator[Plant]:
    """Run it for the length of a block."""
    with ExitStack() as ending:
        yield Plant(folder, ending)
