"""A stage for the connector's tests: a real nats-server, and a scripted gateway with functions that misbehave."""

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import nats
from nats.aio.client import Client
from nats.js import JetStreamContext
from nats.js.api import StreamConfig
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from bucky.broker.connection import connect, jetstream
from bucky.cloudevents import CloudEvent
from bucky.runtime.http_server import HttpServer
from bucky.runtime.ports import free_port
from bucky.runtime.tls import trust
from bucky.settings import Settings
from jetstream_connector.calls import GatewayClient
from jetstream_connector.connector import Connector
from jetstream_connector.discovery import GatewayDirectory
from jetstream_connector.metrics import Metrics
from local_stack.servers import REPOSITORY
from tests.support.waiting import PATIENCE, until

Batch = list[dict[str, Any]]
Behaviour = Callable[[Batch], Awaitable[Response]]

STREAMS = (
    StreamConfig(name="WORK", subjects=["work.>"], duplicate_window=600.0),
    StreamConfig(name="RESULTS", subjects=["result.>"], duplicate_window=600.0, allow_atomic=True),
    StreamConfig(name="DEADLETTERS", subjects=["deadletter.>"], duplicate_window=600.0),
)


def names(prefix: str, count: int) -> list[str]:
    """Return event ids."""
    return [f"{prefix}{number:04}" for number in range(count)]


def answer(failures: Iterable[dict[str, Any]] = (), events: Iterable[CloudEvent] = ()) -> Response:
    """Return an answer that keeps the contract."""
    return JSONResponse(
        {
            "batchItemFailures": list(failures),
            "events": [event.model_dump(mode="json", exclude_none=True) for event in events],
        }
    )


def failure(identifier: str, *, retryable: bool, **extra: Any) -> dict[str, Any]:
    """Return one item's failure."""
    return {"itemIdentifier": identifier, "retryable": retryable, "reason": "scripted", **extra}


def result_of(identifier: str, kind: str = "result.made", key: str | None = None) -> CloudEvent:
    """Return the event that a function makes of an event."""
    return CloudEvent(id=identifier, source="/scripted", type=kind, partitionkey=key)


async def succeed(_batch: Batch) -> Response:
    """Process everything."""
    return answer()


@dataclass
class Gateway:
    """A gateway whose functions do as they are told; `calls` remembers what each was sent."""

    port: int = field(default_factory=free_port)
    functions: dict[str, dict[str, str]] = field(default_factory=dict)
    behaviours: dict[str, Behaviour] = field(default_factory=dict)
    calls: list[tuple[str, list[str]]] = field(default_factory=list)
    _server: HttpServer | None = None

    @property
    def url(self) -> str:
        """The gateway's address."""
        return f"http://127.0.0.1:{self.port}"

    def deploy(self, name: str, behaviour: Behaviour = succeed, **annotations: str) -> None:
        """Deploy a function; `batch_size=…` is the annotation `jetstream.batch-size`."""
        named = {
            key if key == "topic" else "jetstream." + key.replace("_", "-"): value for key, value in annotations.items()
        }
        self.functions[name], self.behaviours[name] = named, behaviour

    def ids(self, name: str) -> list[list[str]]:
        """Return the event ids of each call of a function."""
        return [ids for called, ids in self.calls if called == name]

    async def start(self) -> None:
        """Listen."""
        routes = [
            Route("/system/functions", self._list),
            Route("/function/{name}", self._call, methods=["POST"]),
        ]
        self._server = HttpServer(Starlette(routes=routes), "127.0.0.1", self.port)
        await self._server.start()

    async def stop(self) -> None:
        """Refuse connections from now on."""
        if self._server is not None:
            await self._server.stop()
            self._server = None

    async def _list(self, _request: Request) -> Response:
        return JSONResponse(
            [{"name": name, "annotations": annotations} for name, annotations in self.functions.items()]
        )

    async def _call(self, request: Request) -> Response:
        name = request.path_params["name"]
        batch = await request.json()
        self.calls.append((name, [event["id"] for event in batch]))
        behaviour = self.behaviours.get(name)
        return await behaviour(batch) if behaviour else Response(status_code=404)


@dataclass
class ConnectorWorld:
    """Everything a test touches."""

    settings: Settings
    gateway: Gateway
    client: Client
    js: JetStreamContext
    connector: Connector
    stop: asyncio.Event

    async def publish(self, subject: str, identifiers: Iterable[str], **attributes: Any) -> None:
        """Publish work; the subject is the event's type, its partition key, and `urgent` where it is."""
        if subject.endswith(".urgent"):
            attributes["priority"] = "urgent"
        kind, _, key = subject.removesuffix(".urgent").rpartition(".")
        for identifier in identifiers:
            event = CloudEvent(id=identifier, source="/test", type=kind, partitionkey=key, **attributes)
            assert event.nats_subject == subject
            await self.js.publish(subject, event.to_json(), headers={"Nats-Msg-Id": event.nats_msg_id})

    async def messages(self, stream: str) -> list[CloudEvent]:
        """Return all events of a stream."""
        info = await self.js.stream_info(stream)
        if not info.state.messages:
            return []
        first, last = info.state.first_seq, info.state.last_seq
        raw = [await self.js.get_msg(stream, sequence) for sequence in range(first, last + 1)]
        return [CloudEvent.model_validate_json(message.data or b"") for message in raw]

    async def settled(self, name: str, *, seconds: float = 20) -> None:
        """Wait until a function's consumers have nothing pending and nothing in hand."""

        async def done() -> bool:
            consumers = [
                info
                for info in await self.js.consumers_info("WORK")
                if (info.config.description or "").startswith(name + " on ")
            ]
            return bool(consumers) and all(not info.num_pending and not info.num_ack_pending for info in consumers)

        await until(done, seconds=seconds)

    def function(self, name: str) -> dict[str, Any]:
        """Return what the health page tells of a function."""
        shown: dict[str, Any] = self.connector.status()["functions"].get(name, {})
        return shown


@contextmanager
def process(module: str, environ: Mapping[str, str], log: Path) -> "Iterator[subprocess.Popen[bytes]]":
    """Run `python -m module` with these settings; kill it at the end."""
    with log.open("ab") as output:
        started = subprocess.Popen(
            [sys.executable, "-m", module],
            env={**os.environ, "PYTHONPATH": f"{os.environ.get('PYTHONPATH', '')}:{REPOSITORY}", **environ},
            stdout=output,
            stderr=output,
        )
    try:
        yield started
    finally:
        started.kill()
        started.wait()


async def ended(running: "subprocess.Popen[bytes]", seconds: float = PATIENCE) -> int:
    """Wait for a process to end and return its exit code."""
    await until(lambda: running.poll() is not None, seconds=seconds)
    return running.returncode


async def ready(url: str) -> None:
    """Wait until a page answers 200."""

    async def answers() -> bool:
        try:
            async with httpx.AsyncClient(trust_env=False, verify=trust("http:")) as client:
                return (await client.get(url)).status_code == 200
        except httpx.TransportError:
            return False

    await until(answers)


async def open_client(settings: Settings, *, streams: bool = True) -> Client:
    """Connect a test's own client, and make the streams."""
    client = await nats.connect(
        settings.nats_url, user=settings.nats_user, password=settings.nats_password.get_secret_value()
    )
    for stream in STREAMS if streams else ():
        await jetstream(client).add_stream(stream)
    return client


@asynccontextmanager
async def stage(settings: Settings, *, streams: bool = True) -> AsyncIterator[ConnectorWorld]:
    """Run a connector in this process against a real nats-server and a scripted gateway."""
    gateway = Gateway()
    await gateway.start()
    client = await open_client(settings, streams=streams)
    own = await connect(settings, "connector-under-test")
    directory, caller = GatewayDirectory(gateway.url, "admin", ""), GatewayClient(gateway.url)
    connector = Connector(own, directory, caller, Metrics(), 0.1)
    stop = asyncio.Event()
    running = asyncio.create_task(connector.run(stop))
    try:
        yield ConnectorWorld(settings, gateway, client, jetstream(client), connector, stop)
    finally:
        stop.set()
        await running
        await own.close()
        await client.close()
        await caller.close()
        await directory.close()
        await gateway.stop()
